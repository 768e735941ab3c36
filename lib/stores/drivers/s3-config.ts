/**
 * What an operator can say about S3, under the environment names that MLflow and boto3 gave them. Pure: the
 * environment comes in as a value, nothing is read from disk or network, and no secret is enumerable in the result.
 */
import { createHash } from 'node:crypto';
import { Failure } from '../../errors.ts';

/** boto3's upload arguments that say something about an object rather than about one file's bytes. */
export interface S3ExtraArgs {
  readonly ACL?: string;
  readonly CacheControl?: string;
  readonly ContentDisposition?: string;
  readonly ContentEncoding?: string;
  readonly ContentLanguage?: string;
  readonly ContentType?: string;
  readonly ExpectedBucketOwner?: string;
  /** An ISO 8601 or HTTP date. */
  readonly Expires?: string;
  readonly GrantFullControl?: string;
  readonly GrantRead?: string;
  readonly GrantReadACP?: string;
  readonly GrantWriteACP?: string;
  readonly Metadata?: Readonly<Record<string, string>>;
  readonly ObjectLockLegalHoldStatus?: string;
  readonly ObjectLockMode?: string;
  /** An ISO 8601 date. */
  readonly ObjectLockRetainUntilDate?: string;
  readonly RequestPayer?: string;
  readonly ServerSideEncryption?: string;
  readonly StorageClass?: string;
  readonly SSECustomerAlgorithm?: string;
  readonly SSECustomerKey?: string;
  readonly SSECustomerKeyMD5?: string;
  readonly SSEKMSKeyId?: string;
  readonly SSEKMSEncryptionContext?: string;
  readonly Tagging?: string;
  readonly WebsiteRedirectLocation?: string;
}

export interface S3Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

export interface S3Settings {
  /** Scheme, host and port only; undefined: Amazon's own for the region. */
  readonly endpoint?: string;
  /** Undefined: `us-east-1` with an endpoint, else the profile's, else `us-east-1`. */
  readonly region?: string;
  /** `auto` as boto3 decides: path style where an endpoint is set, virtual hosts on Amazon's own. */
  readonly addressing: 'auto' | 'path' | 'virtual';
  readonly signature: 's3v4' | 'unsigned';
  readonly expectedBucketOwner?: string;
  /** Put on every object that is written, in one request or in parts. */
  readonly extraArgs: S3ExtraArgs;
  /** `caFile` replaces the system's authorities, as `AWS_CA_BUNDLE` does for boto3. */
  readonly tls: { readonly verify: boolean; readonly caFile?: string };
  /** Keys that were given; undefined: the default chain (profile, web identity, container, instance role). A function,
   * so that printing the settings prints no key. `identity`: a hash of the key's id, by which two stores know that they are one user. */
  readonly credentials?: (() => Promise<S3Credentials>) & { readonly identity?: string };
}

type Kind = 'text' | 'date' | 'map';
const EXTRA_ARGS: Readonly<Record<keyof S3ExtraArgs, Kind>> = {
  ACL: 'text',
  CacheControl: 'text',
  ContentDisposition: 'text',
  ContentEncoding: 'text',
  ContentLanguage: 'text',
  ContentType: 'text',
  ExpectedBucketOwner: 'text',
  Expires: 'date',
  GrantFullControl: 'text',
  GrantRead: 'text',
  GrantReadACP: 'text',
  GrantWriteACP: 'text',
  Metadata: 'map',
  ObjectLockLegalHoldStatus: 'text',
  ObjectLockMode: 'text',
  ObjectLockRetainUntilDate: 'date',
  RequestPayer: 'text',
  ServerSideEncryption: 'text',
  StorageClass: 'text',
  SSECustomerAlgorithm: 'text',
  SSECustomerKey: 'text',
  SSECustomerKeyMD5: 'text',
  SSEKMSKeyId: 'text',
  SSEKMSEncryptionContext: 'text',
  Tagging: 'text',
  WebsiteRedirectLocation: 'text',
};

type Env = Readonly<Record<string, string | undefined>>;
const refuse = (sentence: string): never => {
  throw new Failure('invalid', sentence);
};

/**
 * Settings from an environment: `MLFLOW_S3_ENDPOINT_URL` (then `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`),
 * `AWS_DEFAULT_REGION` (then `AWS_REGION`), `MLFLOW_S3_UPLOAD_EXTRA_ARGS`, `MLFLOW_S3_IGNORE_TLS`, `AWS_CA_BUNDLE`,
 * `MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE`, `MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION`,
 * `MLFLOW_S3_EXPECTED_BUCKET_OWNER`, `AWS_ACCESS_KEY_ID` with `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
 * An empty value counts as absent. Keys in the environment win over a profile, as they do in boto3.
 * @throws Failure `invalid` naming the variable
 */
export function s3SettingsFromEnv(env: Env): S3Settings {
  const text = (name: string): string | undefined => env[name]?.trim() || undefined;
  const endpointName = ['MLFLOW_S3_ENDPOINT_URL', 'AWS_ENDPOINT_URL_S3', 'AWS_ENDPOINT_URL'].find(text);
  const region = text('AWS_DEFAULT_REGION') ?? text('AWS_REGION');
  const owner = text('MLFLOW_S3_EXPECTED_BUCKET_OWNER');
  const caFile = text('AWS_CA_BUNDLE');
  const ignoreTls = flag(env, 'MLFLOW_S3_IGNORE_TLS');
  if (ignoreTls && caFile !== undefined)
    refuse(
      'MLFLOW_S3_IGNORE_TLS and AWS_CA_BUNDLE are both set: the first turns off the check that the second is for; unset one of them',
    );
  const credentials = credentialsFromEnv(text);
  const extraArgs = text('MLFLOW_S3_UPLOAD_EXTRA_ARGS');
  return {
    ...(endpointName ? { endpoint: parseEndpoint(text(endpointName)!, endpointName) } : {}),
    ...(region ? { region } : {}),
    addressing: oneOf(env, 'MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE', ['auto', 'path', 'virtual']),
    signature: oneOf(env, 'MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION', ['s3v4', 'unsigned']),
    ...(owner ? { expectedBucketOwner: owner } : {}),
    extraArgs: extraArgs ? parseExtraArgs(extraArgs) : {},
    tls: { verify: !ignoreTls, ...(caFile ? { caFile } : {}) },
    ...(credentials ? { credentials } : {}),
  };
}

function credentialsFromEnv(text: (name: string) => string | undefined): S3Settings['credentials'] {
  const accessKeyId = text('AWS_ACCESS_KEY_ID');
  const secretAccessKey = text('AWS_SECRET_ACCESS_KEY');
  const sessionToken = text('AWS_SESSION_TOKEN') ?? text('AWS_SECURITY_TOKEN');
  if (!accessKeyId && !secretAccessKey) return undefined;
  if (!accessKeyId)
    return refuse('AWS_SECRET_ACCESS_KEY is set without AWS_ACCESS_KEY_ID: set both or neither');
  if (!secretAccessKey)
    return refuse('AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY: set both or neither');
  return Object.assign(
    async () => ({ accessKeyId, secretAccessKey, ...(sessionToken ? { sessionToken } : {}) }),
    { identity: createHash('sha256').update(accessKeyId).digest('hex') },
  );
}

/** `http(s)://host[:port]`, nothing else: buckets and keys belong into the store's URI.
 * @throws Failure `invalid` */
export function parseEndpoint(given: string, name: string): string {
  const url = URL.parse(given);
  if (!url || (url.protocol !== 'http:' && url.protocol !== 'https:') || url.hostname === '')
    return refuse(`${name} is not an http:// or https:// URL; it looks like https://minio.example.com:9000`);
  if (url.username || url.password)
    return refuse(
      `${name} carries a user name or password; credentials go into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY`,
    );
  if (url.search || url.hash) return refuse(`${name} has a query or fragment; write ${url.origin}`);
  const path = url.pathname.replace(/^\/+|\/+$/g, '');
  if (path !== '')
    return refuse(
      `${name} carries the path '/${path}', so objects would end up under it twice; ` +
        `set it to ${url.origin} and name the bucket in the store's URI: s3://${path}`,
    );
  return url.origin;
}

/** An endpoint whose host is already the bucket's own (`bucket.s3.….amazonaws.com`) would have it twice.
 * @throws Failure `invalid` */
export function refuseDoubledBucket(bucket: string, { endpoint }: S3Settings): void {
  if (endpoint === undefined) return;
  const { protocol, host } = new URL(endpoint);
  if (host.startsWith(`${bucket}.s3.`) || host.startsWith(`${bucket}.s3-`))
    refuse(
      `the endpoint ${host} already names the bucket ${bucket}, so objects would end up under it twice; ` +
        `set MLFLOW_S3_ENDPOINT_URL to ${protocol}//${host.slice(bucket.length + 1)}, or leave it out for Amazon's own`,
    );
}

function flag(env: Env, name: string): boolean {
  const value = (env[name] ?? '').trim().toLowerCase();
  if (value === 'true' || value === '1') return true;
  if (value === '' || value === 'false' || value === '0') return false;
  return refuse(`${name} must be true, false, 1 or 0, not '${value}'`);
}

function oneOf<const T extends readonly [string, ...string[]]>(env: Env, name: string, values: T): T[number] {
  const value = (env[name] ?? '').trim().toLowerCase() || values[0];
  const found = values.find((known) => known === value);
  return found ?? refuse(`${name} must be one of ${values.join(', ')}, not '${value}'`);
}

/**
 * The JSON of `MLFLOW_S3_UPLOAD_EXTRA_ARGS`. Values are never repeated in a message: one of them may be a key.
 * @throws Failure `invalid` naming the argument, what it must be, and which ones exist
 */
export function parseExtraArgs(json: string): S3ExtraArgs {
  const name = 'MLFLOW_S3_UPLOAD_EXTRA_ARGS';
  let given: unknown;
  try {
    given = JSON.parse(json);
  } catch {
    return refuse(
      `${name} is not valid JSON; it looks like {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "…"}`,
    );
  }
  if (given === null || typeof given !== 'object' || Array.isArray(given))
    return refuse(`${name} must be a JSON object, like {"ServerSideEncryption": "aws:kms"}`);
  const args: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(given)) {
    if (key === 'ChecksumAlgorithm' && value === 'CRC32') continue;
    if (/^Checksum|^MpuObjectSize$/.test(key))
      return refuse(
        `${name}: ${key} cannot be set: Longshore itself sends a CRC32 with every write (ChecksumAlgorithm may say CRC32)`,
      );
    if (!Object.hasOwn(EXTRA_ARGS, key))
      return refuse(
        `${name}: unknown argument '${key}'; the known ones are ${Object.keys(EXTRA_ARGS).join(', ')}`,
      );
    const kind = EXTRA_ARGS[key as keyof S3ExtraArgs];
    if (!fits(kind, value)) return refuse(`${name}: ${key} must be ${MUST_BE[kind]}`);
    args[key] = value;
  }
  return args as S3ExtraArgs;
}

const MUST_BE: Readonly<Record<Kind, string>> = {
  text: 'a non-empty string',
  date: 'a date, like 2030-01-31T00:00:00Z',
  map: 'an object whose values are strings, like {"team": "vision"}',
};

function fits(kind: Kind, value: unknown): boolean {
  if (kind !== 'map')
    return typeof value === 'string' && value !== '' && (kind === 'text' || !Number.isNaN(Date.parse(value)));
  return (
    value !== null &&
    typeof value === 'object' &&
    !Array.isArray(value) &&
    Object.values(value).every((v) => typeof v === 'string')
  );
}
