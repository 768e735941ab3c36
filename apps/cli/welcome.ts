/** What `up` prints once it is ready: lines to copy. */
import type { Config } from '../../lib/config.ts';

/** Where a client on this machine finds it: an address to listen on need not be one to connect to. */
function clientUrl(listening: string): string {
  const url = new URL(listening);
  if (url.hostname === '0.0.0.0' || url.hostname === '[::]') url.hostname = '127.0.0.1';
  return url.origin;
}

/** @param listening the API's URL */
export function welcome(config: Config, listening: string): string {
  const url = clientUrl(listening) + config.staticPrefix;
  const auth = config.authFile === undefined ? '' : ' -H "Authorization: Bearer $MLFLOW_TRACKING_TOKEN"';
  const lines = [
    `Longshore is ready: ${url}`,
    '',
    'An MLflow client finds its artifacts here:',
    `  export MLFLOW_TRACKING_URI=${url}`,
    'A tracking server of yours (mlflow server --no-serve-artifacts) keeps the artifacts of its runs here:',
    `  export MLFLOW_DEFAULT_ARTIFACT_ROOT=${url}/api/2.0/mlflow-artifacts/artifacts`,
    ...(auth ? ['With a token of yours:', '  export MLFLOW_TRACKING_TOKEN=…'] : []),
    '',
    'An upload that you need not wait for:',
    `  echo hello | curl -T -${auth} ${url}/api/v1/uploads/hello.txt`,
    '',
    'Ctrl-C stops it.',
  ];
  return `${lines.join('\n')}\n`;
}
