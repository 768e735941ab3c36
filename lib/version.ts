/** Longshore's own version; a test compares it with package.json. */
export const VERSION = '0.1.0';
/** The MLflow release whose protocol is spoken: what `GET /version` answers, because that is what its clients ask it for. */
export const MLFLOW_VERSION = '3.17.2';
