/**
 * What S3's errors mean. `scrub` makes of whatever the SDK or the connection threw an error that may be logged: the
 * SDK's own carry the whole answer, and some servers put the key id, the signature and the string to sign into it.
 */
import { Failure, type FailureKind } from '../../errors.ts';
import type { Classified } from '../driver.ts';
import { neededFor } from './s3-rights.ts';

/** One failed call: the server's or connection's own code and words, nothing else of the request or answer. */
export class S3Error extends Error {
  /** S3's error code, a system or undici code, or `''` where there was none (answers to HEAD have no body). */
  readonly code: string;
  /** HTTP status; undefined: no answer. */
  readonly status: number | undefined;
  readonly requestId: string | undefined;
  readonly retryAfterMs: number | undefined;
  /** The SDK's name of what was asked for; undefined: not known. */
  readonly command: string | undefined;

  constructor(facts: {
    code: string;
    message: string;
    command?: string | undefined;
    status?: number | undefined;
    requestId?: string | undefined;
    retryAfterMs?: number | undefined;
  }) {
    super(facts.message);
    this.name = facts.code || 'S3Error';
    this.code = facts.code;
    this.status = facts.status;
    this.requestId = facts.requestId;
    this.retryAfterMs = facts.retryAfterMs;
    this.command = facts.command;
  }
}

/** Codes that the SDK invents where an answer had no readable one. */
const NO_CODE = new Set([
  'Unknown',
  'UnknownError',
  'Error',
  'NotFound',
  'S3ServiceException',
  'TypeError',
  'SyntaxError',
]);

/** Anything thrown by a call as something that may be kept, logged and shown; failures and abort reasons stay as they are. */
export function scrub(error: unknown, command?: string): unknown {
  if (error instanceof Failure || error instanceof S3Error) return error;
  if (!(error instanceof Error))
    return new S3Error({ code: '', message: 'the call failed without saying why' });
  if (error.name === 'AbortError') return error;
  const facts = error as {
    code?: unknown;
    $metadata?: { httpStatusCode?: number; requestId?: string };
    $response?: { headers?: Record<string, string | undefined> };
    $responseBodyText?: unknown;
    cause?: unknown;
  };
  const status = facts.$metadata?.httpStatusCode ?? statusOf(facts.$response);
  const inner = facts.cause instanceof Error && 'code' in facts.cause ? String(facts.cause.code) : '';
  const named = NO_CODE.has(error.name) || /^\d+$/.test(error.name) ? '' : error.name;
  const system = typeof facts.code === 'string' ? facts.code : inner;
  return new S3Error({
    code: status === undefined ? system || named : named,
    message: withoutSecrets(error.message),
    status,
    requestId: facts.$metadata?.requestId?.split(',')[0],
    retryAfterMs: retryAfter(facts.$response?.headers?.['retry-after']),
    command,
  });
}

function statusOf(response: unknown): number | undefined {
  const status =
    response && typeof response === 'object' && 'statusCode' in response ? response.statusCode : undefined;
  return typeof status === 'number' ? status : undefined;
}

/** Server's and SDK's words without what signs a request, in one line of at most 300 characters. */
export function withoutSecrets(message: string): string {
  return message
    .replace(/(X-Amz-[A-Za-z-]+=)[^&\s]+/gi, '$1…')
    .replace(/(Credential|Signature|AWSAccessKeyId)=[^\s,&]+/gi, '$1=…')
    .replace(/\b(authorization|x-amz-security-token)\b["']?\s*[:=]\s*["']?[^"'\r\n<}]+/gi, '$1: …')
    .replace(/\b(AKIA|ASIA)[A-Z0-9]{12,}/g, '$1…')
    .replace(/<(AWSAccessKeyId|StringToSign|SignatureProvided|CanonicalRequest)[^>]*>[^<]*/gi, '')
    .replace(/\s+/g, ' ')
    .trim()
    .slice(0, 300);
}

/** ms of a `Retry-After`, in seconds or as a date; at most an hour. */
export function retryAfter(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  const ms = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isFinite(ms) ? Math.min(Math.max(ms, 0), 3_600_000) : undefined;
}

type Rule = readonly [kind: FailureKind, message?: string];
const KEYS =
  'look at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the profile or role that is used instead)';

/** Kind, codes, and words for people where the server's own would not do. */
const RULES: readonly (readonly [kind: FailureKind, codes: string, message?: string])[] = [
  ['not-found', 'NoSuchKey NotFound', 'no such object'],
  ['not-found', 'NoSuchBucket', "the bucket does not exist; look at the store's URI and the endpoint"],
  ['not-found', 'NoSuchUpload', 'the multipart upload does not exist any more: it was finished or aborted'],
  ['denied', 'AccessDenied AllAccessDisabled AccountProblem NotSignedUp UnauthorizedAccess'],
  [
    'unauthenticated',
    'InvalidAccessKeyId UnrecognizedClientException',
    `the store does not know the access key; ${KEYS}`,
  ],
  ['unauthenticated', 'SignatureDoesNotMatch', `the secret key does not belong to the access key; ${KEYS}`],
  [
    'unauthenticated',
    'ExpiredToken ExpiredTokenException InvalidToken TokenRefreshRequired InvalidSecurity',
    'the session token has expired or is wrong; look at AWS_SESSION_TOKEN (or the profile or role that is used instead)',
  ],
  [
    'unauthenticated',
    'CredentialsProviderError TokenProviderError MissingSecurityHeader',
    'no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or run with a role ' +
      '(MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION=unsigned for a public bucket)',
  ],
  [
    'unauthenticated',
    'RequestTimeTooSkewed RequestExpired',
    "this machine's clock and the store's differ too much; set the clock",
  ],
  [
    'busy',
    'SlowDown SlowDownRead SlowDownWrite Throttling ThrottlingException TooManyRequests RequestLimitExceeded ' +
      'ServiceUnavailable Busy XMinioServerNotInitialized',
    'the store asks us to slow down',
  ],
  [
    'busy',
    'ConditionalRequestConflict OperationAborted',
    'somebody else is writing the same object just now',
  ],
  ['unavailable', 'InternalError InternalServerError IncompleteBody'],
  ['timeout', 'RequestTimeout UND_ERR_CONNECT_TIMEOUT UND_ERR_HEADERS_TIMEOUT ETIMEDOUT TimeoutError'],
  ['unavailable', 'ECONNREFUSED', 'nothing answers there; look at MLFLOW_S3_ENDPOINT_URL'],
  [
    'unavailable',
    'ENOTFOUND',
    "the store's host name is not known; look at MLFLOW_S3_ENDPOINT_URL (and MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE)",
  ],
  [
    'corrupt', // XML is made by the SDK: where it does not parse, it was damaged on the way
    'BadDigest InvalidDigest InvalidPart ChecksumMismatch XAmzContentChecksumMismatch XAmzContentSHA256Mismatch ' +
      'XMinioContentChecksumMismatch MalformedXML',
    'the bytes that arrived are not the ones that were sent',
  ],
  [
    'corrupt',
    'UND_ERR_REQ_CONTENT_LENGTH_MISMATCH UND_ERR_RES_CONTENT_LENGTH_MISMATCH',
    'the bytes are not as many as was declared',
  ],
  ['precondition', 'PreconditionFailed', 'the object is not the version that was asked for'],
  [
    'no-space',
    'XMinioStorageFull XMinioAdminBucketQuotaExceeded QuotaExceeded InsufficientStorage StorageFull',
    'the store is full, or over its quota',
  ],
  ['unsupported', 'NotImplemented XNotImplemented MethodNotAllowed'],
  [
    'invalid',
    'EntityTooLarge EntityTooSmall InvalidRequest InvalidArgument InvalidPartOrder InvalidBucketName ' +
      'InvalidStorageClass InvalidTag AccessControlListNotSupported InvalidEncryptionAlgorithmError MetadataTooLarge',
  ],
  ['invalid', 'InvalidRange', 'the range lies beyond the end of the object'],
  [
    'invalid',
    'KeyTooLong KeyTooLongError InvalidURI InvalidObjectName XMinioInvalidObjectName XMinioInvalidResourceName',
    'the store does not take such a name',
  ],
  [
    'invalid',
    'ObjectParentIsFile XMinioParentIsObject ExistingObjectIsDirectory',
    'on this server a path cannot be a file and hold files, and a part of this one is taken so',
  ],
  ['invalid', 'InvalidObjectState', 'the object is archived; restore it first'],
  [
    'invalid',
    'PermanentRedirect TemporaryRedirect Redirect AuthorizationHeaderMalformed IllegalLocationConstraintException',
    'the bucket is in another region; look at AWS_DEFAULT_REGION',
  ],
  [
    'invalid',
    'DEPTH_ZERO_SELF_SIGNED_CERT SELF_SIGNED_CERT_IN_CHAIN UNABLE_TO_VERIFY_LEAF_SIGNATURE UNABLE_TO_GET_ISSUER_CERT ' +
      'UNABLE_TO_GET_ISSUER_CERT_LOCALLY CERT_HAS_EXPIRED CERT_UNTRUSTED ERR_TLS_CERT_ALTNAME_INVALID',
    "the store's certificate cannot be trusted; name its authority in AWS_CA_BUNDLE (or set MLFLOW_S3_IGNORE_TLS=true)",
  ],
  [
    'invalid',
    'ERR_SSL_WRONG_VERSION_NUMBER ERR_SSL_PACKET_LENGTH_TOO_LONG EPROTO',
    'the endpoint does not speak TLS; look at MLFLOW_S3_ENDPOINT_URL (http:// or https://)',
  ],
];
const BY_CODE: ReadonlyMap<string, Rule> = new Map(
  RULES.flatMap(([kind, codes, message]) =>
    codes.split(' ').map((code): [string, Rule] => [code, message === undefined ? [kind] : [kind, message]]),
  ),
);

/** Answers without a code: those to HEAD, and those of something that is not S3. */
function byStatus(status: number): Rule {
  switch (status) {
    case 301:
    case 307:
      return ['invalid', 'the bucket is in another region; look at AWS_DEFAULT_REGION'];
    case 401:
      return ['unauthenticated', `the store does not accept our credentials; ${KEYS}`];
    case 403:
      return ['denied', 'the credentials do not allow this'];
    case 404:
      return ['not-found', 'no such object or bucket'];
    case 405:
    case 501:
      return ['unsupported'];
    case 408:
    case 504:
      return ['timeout'];
    case 409:
      return ['busy', 'somebody else is writing the same object just now'];
    case 412:
      return ['precondition', 'the object is not the version that was asked for'];
    case 416:
      return ['invalid', 'the range lies beyond the end of the object'];
    case 429:
    case 503:
      return ['busy', 'the store asks us to slow down'];
    case 507:
      return ['no-space', 'the store is full, or over its quota'];
    default:
      return status >= 500
        ? ['unavailable']
        : status >= 400
          ? ['invalid']
          : ['unavailable', 'the answer is not S3; look at MLFLOW_S3_ENDPOINT_URL'];
  }
}

/** Kind and words for an error of this driver. Codes decide, the status where there is no known code. */
export function classifyS3(error: unknown): Classified {
  if (error instanceof Failure) {
    const { retryAfterMs } = error.facts;
    return {
      kind: error.kind,
      message: error.message,
      ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    };
  }
  const known = scrub(error);
  if (!(known instanceof S3Error)) return { kind: 'interrupted' };
  const [kind, message] = BY_CODE.get(known.code) ?? fallback(known);
  const words = message ?? (known.message || undefined);
  const detail = [known.code, known.status, known.requestId && `request ${known.requestId}`]
    .filter(Boolean)
    .join(', ');
  const needed = kind === 'denied' && known.command !== undefined && neededFor(known.command);
  return {
    kind,
    message: `${words ?? 'the store gave no reason'}${detail ? ` (${detail})` : ''}${needed ? `: ${needed}` : ''}`,
    ...(known.retryAfterMs === undefined ? {} : { retryAfterMs: known.retryAfterMs }),
  };
}

function fallback(error: S3Error): Rule {
  if (error.code.startsWith('KMS.'))
    return [
      'denied',
      'the encryption key cannot be used; look at SSEKMSKeyId in MLFLOW_S3_UPLOAD_EXTRA_ARGS',
    ];
  if (error.status !== undefined) return byStatus(error.status);
  return /^(E[A-Z]|UND_ERR_|ERR_)/.test(error.code) ? ['unavailable'] : ['bug'];
}

/** Codes of a connection that ended while a body was on its way. */
export const BROKEN: ReadonlySet<string> = new Set(['ECONNRESET', 'EPIPE', 'UND_ERR_SOCKET']);
