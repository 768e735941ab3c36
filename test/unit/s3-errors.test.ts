import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import { Failure } from '../../lib/errors.ts';
import { classifyS3, scrub } from '../../lib/stores/drivers/s3-errors.ts';

/** As the SDK throws it: the whole answer hangs on it. */
const sdkError = (name: string, status: number | undefined, more: object = {}) =>
  Object.assign(new Error(`about ${name}`), {
    name,
    $metadata: { httpStatusCode: status, requestId: 'R1' },
    ...more,
  });
const netError = (code: string) => Object.assign(new Error(`socket says ${code}`), { code });

describe('what an error of S3 means', () => {
  it.each([
    ['NoSuchKey', 404, 'not-found'],
    ['NoSuchBucket', 404, 'not-found'],
    ['NoSuchUpload', 404, 'not-found'],
    ['NotFound', 404, 'not-found'],
    ['AccessDenied', 403, 'denied'],
    ['InvalidAccessKeyId', 403, 'unauthenticated'],
    ['SignatureDoesNotMatch', 403, 'unauthenticated'],
    ['ExpiredToken', 400, 'unauthenticated'],
    ['RequestTimeTooSkewed', 403, 'unauthenticated'],
    ['CredentialsProviderError', undefined, 'unauthenticated'],
    ['SlowDown', 503, 'busy'],
    ['ConditionalRequestConflict', 409, 'busy'],
    ['InternalError', 500, 'unavailable'],
    ['InternalError', 200, 'unavailable'],
    ['RequestTimeout', 400, 'timeout'],
    ['BadDigest', 400, 'corrupt'],
    ['XAmzContentChecksumMismatch', 400, 'corrupt'],
    ['InvalidDigest', 400, 'corrupt'],
    ['PreconditionFailed', 412, 'precondition'],
    ['EntityTooLarge', 400, 'invalid'],
    ['KeyTooLongError', 400, 'invalid'],
    ['XMinioInvalidObjectName', 400, 'invalid'],
    ['ObjectParentIsFile', 409, 'invalid'],
    ['InvalidRange', 416, 'invalid'],
    ['PermanentRedirect', 301, 'invalid'],
    ['XMinioStorageFull', 507, 'no-space'],
    ['NotImplemented', 501, 'unsupported'],
    ['KMS.DisabledException', 400, 'denied'],
    ['SomethingNobodyKnows', 503, 'busy'],
    ['SomethingNobodyKnows', 502, 'unavailable'],
    ['SomethingNobodyKnows', 400, 'invalid'],
    // answers to HEAD, and of what is not S3, have no code
    ['403', 403, 'denied'],
    ['Unknown', 404, 'not-found'],
    ['UnknownError', 429, 'busy'],
    ['SyntaxError', 200, 'unavailable'],
  ])('%s (%s) is %s', (name, status, kind) => {
    expect(classifyS3(sdkError(name, status))).toMatchObject({ kind });
  });

  it.each([
    ['ECONNREFUSED', 'unavailable'],
    ['ECONNRESET', 'unavailable'],
    ['ENOTFOUND', 'unavailable'],
    ['EPIPE', 'unavailable'],
    ['UND_ERR_SOCKET', 'unavailable'],
    ['ETIMEDOUT', 'timeout'],
    ['UND_ERR_CONNECT_TIMEOUT', 'timeout'],
    ['UND_ERR_HEADERS_TIMEOUT', 'timeout'],
    ['SELF_SIGNED_CERT_IN_CHAIN', 'invalid'],
    ['UND_ERR_REQ_CONTENT_LENGTH_MISMATCH', 'corrupt'],
  ])('%s of a connection is %s', (code, kind) => {
    expect(classifyS3(netError(code))).toMatchObject({ kind });
  });

  it('names the setting to look at', () => {
    expect(classifyS3(sdkError('InvalidAccessKeyId', 403)).message).toContain('AWS_ACCESS_KEY_ID');
    expect(classifyS3(sdkError('ExpiredToken', 400)).message).toContain('AWS_SESSION_TOKEN');
    expect(classifyS3(netError('SELF_SIGNED_CERT_IN_CHAIN')).message).toContain('AWS_CA_BUNDLE');
    expect(classifyS3(netError('ENOTFOUND')).message).toContain('MLFLOW_S3_ENDPOINT_URL');
  });

  it('hands on how long the server wants us to wait', () => {
    const after = (value: string) =>
      classifyS3(sdkError('SlowDown', 503, { $response: { headers: { 'retry-after': value } } }));
    expect(after('7').retryAfterMs).toBe(7000);
    expect(after('999999').retryAfterMs).toBe(3_600_000);
    expect(after('soon')).not.toHaveProperty('retryAfterMs');
    const date = after(new Date(Date.now() + 30_000).toUTCString()).retryAfterMs ?? 0;
    expect(date).toBeGreaterThan(20_000);
    expect(date).toBeLessThanOrEqual(30_000);
  });

  it('passes failures on as they are', () => {
    expect(classifyS3(new Failure('busy', 'wait', { retryAfterMs: 5 }))).toEqual({
      kind: 'busy',
      message: 'wait',
      retryAfterMs: 5,
    });
  });

  it('is a bug where nothing of a server or connection is in it', () => {
    expect(classifyS3(new TypeError('x is not a function')).kind).toBe('bug');
  });
});

describe('a scrubbed error', () => {
  it('keeps code, status and request id, and nothing that signs', () => {
    const error = sdkError('SignatureDoesNotMatch', 403, {
      AWSAccessKeyId: 'AKIALEAK',
      SignatureProvided: 'leak-signature',
      StringToSign: 'AWS4 leak',
      $response: { headers: { authorization: 'leak-header' }, body: 'leak-body' },
    });
    error.message =
      'no: GET https://h/b?X-Amz-Signature=leak1&X-Amz-Credential=leak2 Credential=leak3, Signature=leak4';
    const scrubbed = scrub(error);
    expect(scrubbed).toMatchObject({ code: 'SignatureDoesNotMatch', status: 403, requestId: 'R1' });
    expect(inspect(scrubbed, { depth: 9, showHidden: true })).not.toMatch(/leak/i);
  });

  it('says no more than a line', () => {
    const error = sdkError('Unknown', 500);
    error.message = `<html>\n${'x'.repeat(5000)}`;
    expect((scrub(error) as Error).message.length).toBeLessThanOrEqual(300);
    expect((scrub(error) as Error).message).not.toContain('\n');
  });

  it("leaves an abort's reason and failures alone", () => {
    const abort = new DOMException('stop', 'AbortError');
    expect(scrub(abort)).toBe(abort);
    const failure = new Failure('timeout', 'no progress');
    expect(scrub(failure)).toBe(failure);
  });
});
