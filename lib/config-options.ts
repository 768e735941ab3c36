/**
 * Every setting, once: how it is read, its default, unit, flag, environment names and a sentence. The command line, the
 * README's table and `longshore doctor` are made from this.
 */
import { z } from 'zod';
import {
  bytes,
  duration,
  durationOrNone,
  flag,
  integer,
  list,
  oneOf,
  storeLimits,
  stores,
  text,
} from './config-values.ts';

export const GROUPS = ['Serving', 'Storage', 'Security', 'Transfers', 'Housekeeping', 'Logging'] as const;

export interface Option {
  /** Without the dashes; also the key in a config file, and upper-cased after `LONGSHORE_` an environment name. */
  readonly flag: string;
  /** What `--help` shows as its value; undefined: it takes none. */
  readonly value?: string;
  /** Further environment names, MLflow's where it has one; looked at after `LONGSHORE_<FLAG>`. */
  readonly env?: readonly string[];
  /** `ms` and `bytes` are also what a plain number in a config file means. */
  readonly unit?: 'ms' | 'bytes';
  readonly group: (typeof GROUPS)[number];
  readonly help: string;
  readonly repeatable?: true;
  /** It may carry a password: shown with user, password and query values blanked. */
  readonly secret?: true;
  /** A path on this machine: made absolute. */
  readonly path?: true;
}
/** The facts of each setting, by its schema. */
export const options = z.registry<Option>();

const GIB = 1024 ** 3;
const MIB = 1024 ** 2;
const SECOND = 1000;
const DAY = 86_400 * SECOND;
const uri = () => text('a folder, or a URI such as s3://bucket/prefix');
const file = () => text('a path on this machine');

/** In a default, stands for the data folder. */
export const DATA = '<data>';

export const configSchema = z.object({
  host: text('a host name or address', /^[A-Za-z0-9.:[\]_-]+$/)
    .default('127.0.0.1')
    .register(options, {
      flag: 'host',
      value: 'address',
      env: ['MLFLOW_HOST'],
      group: 'Serving',
      help: 'address to listen on',
    }),
  port: integer(0, 65_535)
    .default(5600)
    .register(options, {
      flag: 'port',
      value: 'number',
      env: ['MLFLOW_PORT'],
      group: 'Serving',
      help: 'port to listen on; 0: any free one',
    }),
  staticPrefix: text(
    'a path that starts with / and does not end with it, such as /mlflow',
    /^(\/[A-Za-z0-9._~-]+)*$/,
  )
    .default('')
    .register(options, {
      flag: 'static-prefix',
      value: 'path',
      env: ['MLFLOW_STATIC_PREFIX'],
      group: 'Serving',
      help: 'every route is also served below this path',
    }),
  workers: integer(0, 256)
    .default(2)
    .register(options, {
      flag: 'workers',
      value: 'number',
      env: ['MLFLOW_WORKERS'],
      group: 'Serving',
      help: 'worker processes that `up` runs',
    }),
  workerMetricsPort: integer(0, 65_535).default(0).register(options, {
    flag: 'worker-metrics-port',
    value: 'number',
    group: 'Serving',
    help: "port of a worker's /metrics, of the first one under `up` (the others count up); 0: any free one",
  }),

  dataFolder: file().default('./longshore-data').register(options, {
    flag: 'data',
    value: 'folder',
    group: 'Storage',
    path: true,
    help: 'everything that Longshore keeps, unless told otherwise; one owner at a time, local disk only',
  }),
  artifactsDestination: uri()
    .default(`${DATA}/artifacts`)
    .register(options, {
      flag: 'artifacts-destination',
      value: 'uri',
      env: ['MLFLOW_ARTIFACTS_DESTINATION'],
      group: 'Storage',
      secret: true,
      help: 'the artifact root: a folder or s3://bucket/prefix',
    }),
  stores: stores()
    .default({})
    .register(options, {
      flag: 'store',
      value: 'name=uri',
      env: ['LONGSHORE_STORES'],
      group: 'Storage',
      repeatable: true,
      secret: true,
      help: 'a further store that transfers may read from and write to; repeatable',
    }),
  storeLimits: storeLimits()
    .default({})
    .register(options, {
      flag: 'store-limit',
      value: 'name=limits',
      env: ['LONGSHORE_STORE_LIMITS'],
      group: 'Storage',
      repeatable: true,
      help: 'connections:<n> (requests in flight, not idle sockets) and requests:<n> (begun in any second) towards a store, of all processes together, such as models=connections:4,requests:50; repeatable',
    }),
  storesFile: file().optional().register(options, {
    flag: 'stores-file',
    value: 'file',
    group: 'Storage',
    path: true,
    help: 'JSON object of further stores: {"<name>": "<uri>"}, or {"<name>": {"uri": "<uri>", "limit": "connections:4,requests:50"}}',
  }),
  stagingUri: uri().default(`${DATA}/staging`).register(options, {
    flag: 'staging',
    value: 'uri',
    group: 'Storage',
    secret: true,
    help: 'where accepted bytes wait for a worker; every process must reach it',
  }),
  stagingLimitBytes: bytes(MIB)
    .default(50 * GIB)
    .register(options, {
      flag: 'staging-limit',
      value: 'size',
      unit: 'bytes',
      group: 'Storage',
      help: 'most bytes that may wait in staging; more are refused with 503 or 507',
    }),
  ledgerPath: file().default(`${DATA}/ledger.db`).register(options, {
    flag: 'ledger',
    value: 'file',
    group: 'Storage',
    path: true,
    help: "the ledger's SQLite file; local disk only",
  }),
  redisUrl: text('redis://…, rediss://… or unix:/path/to/socket', /^(rediss?:\/\/|unix:\/|\/)\S+$/)
    .optional()
    .register(options, {
      flag: 'redis-url',
      value: 'url',
      env: ['REDIS_URL'],
      group: 'Storage',
      secret: true,
      help: 'a Redis of yours; without it `up` runs one in the data folder',
    }),
  redisPrefix: text('a name in braces, such as {longshore}', /^\{[A-Za-z0-9_-]{1,64}\}$/)
    .default('{longshore}')
    .register(options, {
      flag: 'redis-prefix',
      value: 'name',
      group: 'Storage',
      help: 'how every key in Redis begins; braces keep the keys together in a Cluster',
    }),
  bufferBytes: bytes(16 * MIB)
    .default(64 * MIB)
    .register(options, {
      flag: 'buffers',
      value: 'size',
      unit: 'bytes',
      group: 'Storage',
      help: 'memory that one process uses for bytes in flight (small bodies and first bytes may add three eighths); more clients wait',
    }),

  authFile: file().optional().register(options, {
    flag: 'auth-file',
    value: 'file',
    group: 'Security',
    path: true,
    help: 'tokens and passwords (hashed) with their scopes; without it everybody may do everything',
  }),
  insecure: flag().default(false).register(options, {
    flag: 'insecure',
    group: 'Security',
    help: 'listen beyond this machine although there is no --auth-file',
  }),
  allowedHosts: list('host names, comma-separated, * as wildcard')
    .default([])
    .register(options, {
      flag: 'allowed-hosts',
      value: 'names',
      env: ['MLFLOW_SERVER_ALLOWED_HOSTS'],
      group: 'Security',
      help: 'Host headers that are served, * as wildcard; none given: this machine and private networks',
    }),
  corsAllowedOrigins: list('origins, comma-separated, such as https://ui.example.com')
    .default([])
    .register(options, {
      flag: 'cors-allowed-origins',
      value: 'origins',
      env: ['MLFLOW_SERVER_CORS_ALLOWED_ORIGINS'],
      group: 'Security',
      help: 'origins other than this machine whose pages may send writes',
    }),
  xFrameOptions: oneOf(['SAMEORIGIN', 'DENY', 'NONE'])
    .default('SAMEORIGIN')
    .register(options, {
      flag: 'x-frame-options',
      value: 'value',
      env: ['MLFLOW_SERVER_X_FRAME_OPTIONS'],
      group: 'Security',
      help: 'the X-Frame-Options header: SAMEORIGIN, DENY or NONE',
    }),
  disableSecurityMiddleware: flag()
    .default(false)
    .register(options, {
      flag: 'disable-security-middleware',
      env: ['MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE'],
      group: 'Security',
      help: 'no Host and Origin checks, no security headers',
    }),

  uploadConcurrency: integer(1, 256).default(8).register(options, {
    flag: 'upload-concurrency',
    value: 'number',
    group: 'Transfers',
    help: 'uploads, copies and deletes that one worker runs at once',
  }),
  downloadConcurrency: integer(1, 256).default(4).register(options, {
    flag: 'download-concurrency',
    value: 'number',
    group: 'Transfers',
    help: 'downloads that one worker runs at once',
  }),
  partThresholdBytes: bytes(MIB)
    .default(64 * MIB)
    .register(options, {
      flag: 'part-threshold',
      value: 'size',
      unit: 'bytes',
      group: 'Transfers',
      help: 'from this size on an object is carried in parts, by as many workers as are free',
    }),
  partConcurrency: integer(1, 256).default(4).register(options, {
    flag: 'part-concurrency',
    value: 'number',
    group: 'Transfers',
    help: 'parts that one worker carries at once',
  }),
  fairBy: text('a label key, or none', /^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$/)
    .default('tenant')
    .register(options, {
      flag: 'fair-by',
      value: 'label',
      group: 'Transfers',
      help: 'label whose values take turns at the workers; without it, or with none, those who submit do',
    }),
  attempts: integer(1, 100).default(8).register(options, {
    flag: 'attempts',
    value: 'number',
    group: 'Transfers',
    help: 'attempts that a transfer may spend before it fails',
  }),
  stallMs: duration(100)
    .default(60 * SECOND)
    .register(options, {
      flag: 'stall-timeout',
      value: 'time',
      unit: 'ms',
      group: 'Transfers',
      help: 'a request or transfer without a byte of progress for this long is given up',
    }),
  attemptTimeoutMs: durationOrNone(SECOND)
    .default(0)
    .register(options, {
      flag: 'attempt-timeout',
      value: 'time',
      env: ['MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT'],
      unit: 'ms',
      group: 'Transfers',
      help: 'longest time of one attempt, or none',
    }),
  queueWaitMs: durationOrNone(SECOND).default(0).register(options, {
    flag: 'queue-timeout',
    value: 'time',
    unit: 'ms',
    group: 'Transfers',
    help: 'a transfer that no worker took for this long fails as timeout; or none',
  }),
  lifetimeMs: duration(SECOND)
    .default(7 * DAY)
    .register(options, {
      flag: 'lifetime',
      value: 'time',
      unit: 'ms',
      group: 'Transfers',
      help: 'a transfer that has not ended this long after it was accepted fails as timeout',
    }),
  graceMs: duration(0)
    .default(30 * SECOND)
    .register(options, {
      flag: 'grace',
      value: 'time',
      unit: 'ms',
      group: 'Transfers',
      help: 'how long requests and jobs in flight may go on after a shutdown began',
    }),

  downloadLeaseMs: duration(SECOND).default(DAY).register(options, {
    flag: 'download-lease',
    value: 'time',
    unit: 'ms',
    group: 'Housekeeping',
    help: 'how long a finished download can be fetched; each read renews it',
  }),
  failedBytesMs: duration(0)
    .default(7 * DAY)
    .register(options, {
      flag: 'keep-failed',
      value: 'time',
      unit: 'ms',
      group: 'Housekeeping',
      help: 'how long the bytes of a failed or cancelled transfer stay, so that it can be retried',
    }),
  historyMs: duration(2 * DAY)
    .default(30 * DAY)
    .register(options, {
      flag: 'keep-history',
      value: 'time',
      unit: 'ms',
      group: 'Housekeeping',
      help: 'how long ended transfers, with their idempotency keys, stay in the ledger',
    }),
  gcEveryMs: duration(10 * SECOND)
    .default(3600 * SECOND)
    .register(options, {
      flag: 'gc-every',
      value: 'time',
      unit: 'ms',
      group: 'Housekeeping',
      help: 'how often expired staging, downloads, uploads and history are collected',
    }),

  logLevel: oneOf(['trace', 'debug', 'info', 'warn', 'error', 'silent']).default('info').register(options, {
    flag: 'log-level',
    value: 'level',
    group: 'Logging',
    help: 'trace, debug, info, warn, error or silent',
  }),
  logFormat: oneOf(['auto', 'json', 'pretty']).default('auto').register(options, {
    flag: 'log-format',
    value: 'format',
    group: 'Logging',
    help: 'json, pretty, or auto: pretty on a terminal',
  }),
});
