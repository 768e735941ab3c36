/**
 * The calls that many objects are made of, without the SDK's machinery, which costs several times what signing and
 * sending do. The SDK makes the first call of each kind; where it went and what every call carries is kept, and the
 * calls after it are made after that pattern and signed here (AWS Signature Version 4) with the SDK's own credentials.
 * What is unusual stays with the SDK: calls without a signature or with a session's, redirects, and whatever else the
 * server answers that says that the pattern no longer fits.
 */
import { createHmac, createSecretKey, hash, type KeyObject } from 'node:crypto';
import type { S3ClientResolvedConfig } from '@aws-sdk/client-s3';
import { headersOf, type ObjectHeaders } from './s3-attributes.ts';
import { retryAfter, S3Error, withoutSecrets } from './s3-errors.ts';
import { escapeText, type SdkRequest, type UndiciHandler } from './s3-http.ts';

export type DirectCommand = 'PutObject' | 'UploadPart' | 'GetObject' | 'HeadObject';

export interface DirectCall {
  readonly command: DirectCommand;
  readonly key: string;
  readonly query?: Readonly<Record<string, string>>;
  /** What differs from call to call; names in lower case. */
  readonly headers: Readonly<Record<string, string | undefined>>;
  readonly body?: unknown;
}

/** Of the SDK's answers what we look at, under its names. */
export interface Answer extends ObjectHeaders {
  readonly ETag?: string | undefined;
  readonly ChecksumCRC32?: string | undefined;
  readonly ChecksumType?: string | undefined;
  readonly ContentLength?: number | undefined;
  readonly ContentRange?: string | undefined;
  readonly LastModified?: Date | undefined;
  readonly Body?: unknown;
}

interface Pattern {
  readonly protocol: string;
  readonly hostname: string;
  readonly port: number | undefined;
  /** What comes before the key, `/` or `/bucket/`. */
  readonly base: string;
  readonly headers: Readonly<Record<string, string>>;
  /** Region and service, as they are in a credential's scope. */
  readonly region: string;
  readonly service: string;
}

const METHODS = { PutObject: 'PUT', UploadPart: 'PUT', GetObject: 'GET', HeadObject: 'HEAD' } as const;
/** Made anew for each call, or of no use to the server. */
const OWN = new Set([
  'authorization',
  'content-length',
  'content-type',
  'if-match',
  'if-none-match',
  'range',
  'x-amz-checksum-crc32',
  'x-amz-checksum-mode',
  'x-amz-content-sha256',
  'x-amz-date',
  'x-amz-meta-longshore-token',
  'x-amz-security-token',
]);
const SCOPE = /^AWS4-HMAC-SHA256 Credential=[^/]+\/\d{8}\/([^/]+)\/(s3)\/aws4_request,/;
const REFUSED_SIGNATURE = 'SignatureDoesNotMatch';
/** Answers by which a server says that it is to be asked in another way, or at another place. */
const ELSEWHERE = new Set([
  'AuthorizationHeaderMalformed',
  'ExpiredToken',
  'PermanentRedirect',
  'RequestTimeTooSkewed',
  REFUSED_SIGNATURE,
  'TemporaryRedirect',
]);
const EMPTY_SHA256 = hash('sha256', '');

export class DirectCalls {
  readonly #config: S3ClientResolvedConfig;
  readonly #handler: UndiciHandler;
  readonly #patterns = new Map<string, Pattern>();
  #refused = false;
  #signingKey: { readonly of: string; readonly key: KeyObject } | undefined;

  constructor(config: S3ClientResolvedConfig, handler: UndiciHandler) {
    this.#config = config;
    this.#handler = handler;
  }

  /** From a call that the SDK has signed and the server has taken. */
  learn(command: string, key: string, { headers, path, ...request }: SdkRequest): void {
    if (!(command in METHODS) || this.#patterns.has(command) || this.#refused) return;
    const encoded = encodeKey(key);
    const scope = SCOPE.exec(headers.authorization ?? '');
    if (!scope || !path.endsWith(encoded) || 'x-amz-trailer' in headers) return;
    const kept = Object.entries(headers).filter(([name]) => !OWN.has(name) && !name.startsWith('amz-sdk-'));
    this.#patterns.set(command, {
      protocol: request.protocol,
      hostname: request.hostname,
      port: request.port,
      base: path.slice(0, path.length - encoded.length),
      headers: Object.fromEntries(kept),
      region: scope[1]!,
      service: scope[2]!,
    });
  }

  /** Undefined: this one is for the SDK. @throws S3Error, or what the connection throws */
  async send(call: DirectCall, signal: AbortSignal): Promise<Answer | undefined> {
    const pattern = this.#patterns.get(call.command);
    if (!pattern) return undefined;
    const request = await this.#signed(pattern, call);
    const { response } = await this.#handler.handle(request, { abortSignal: signal, takesPieces: true });
    const { statusCode, headers, body } = response;
    if (statusCode >= 200 && statusCode < 300) return answerOf(headers, body);
    const error = errorOf(call.command, statusCode, headers, body as Uint8Array);
    if (!ELSEWHERE.has(error.code) && statusCode !== 301 && statusCode !== 307) throw error;
    this.#patterns.clear();
    this.#refused ||= error.code === REFUSED_SIGNATURE; // whatever it minds, the SDK knows better
    return undefined;
  }

  async #signed(pattern: Pattern, call: DirectCall): Promise<SdkRequest> {
    const { accessKeyId, secretAccessKey, sessionToken } = await this.#config.credentials();
    const { region, service } = pattern;
    const now = new Date(Date.now() + this.#config.systemClockOffset);
    const time = now.toISOString().replace(/[-:]|\.\d{3}/g, '');
    const scope = `${time.slice(0, 8)}/${region}/${service}/aws4_request`;
    const payload = call.body === undefined ? EMPTY_SHA256 : 'UNSIGNED-PAYLOAD';
    const headers: Record<string, string> = { ...pattern.headers };
    for (const [name, value] of Object.entries(call.headers)) if (value !== undefined) headers[name] = value;
    headers['x-amz-date'] = time;
    headers['x-amz-content-sha256'] = payload;
    if (sessionToken) headers['x-amz-security-token'] = sessionToken;
    const query: Record<string, string> = { ...call.query, 'x-id': call.command };
    const path = pattern.base + encodeKey(call.key);
    const names = Object.keys(headers)
      .filter((name) => name !== 'user-agent')
      .sort();
    const signedNames = names.join(';');
    const canonical = [
      METHODS[call.command],
      path,
      Object.keys(query)
        .sort()
        .map((name) => `${escapeText(name)}=${escapeText(query[name]!)}`)
        .join('&'),
      ...names.map((name) => `${name}:${headers[name]!.trim().replace(/\s+/g, ' ')}`),
      '',
      signedNames,
      payload,
    ].join('\n');
    const toSign = `AWS4-HMAC-SHA256\n${time}\n${scope}\n${hash('sha256', canonical)}`;
    const signature = createHmac('sha256', this.#key(secretAccessKey, scope)).update(toSign).digest('hex');
    headers.authorization = `AWS4-HMAC-SHA256 Credential=${accessKeyId}/${scope}, SignedHeaders=${signedNames}, Signature=${signature}`;
    const { protocol, hostname, port } = pattern;
    return {
      protocol,
      hostname,
      ...(port === undefined ? {} : { port }),
      method: METHODS[call.command],
      path,
      query,
      headers,
      body: call.body,
    };
  }

  /** Good for a day, a region and a secret. */
  #key(secret: string, scope: string): KeyObject {
    const of = `${scope}\n${secret}`;
    if (this.#signingKey?.of !== of) {
      let key = Buffer.from(`AWS4${secret}`);
      for (const word of scope.split('/')) key = createHmac('sha256', key).update(word).digest();
      this.#signingKey = { of, key: createSecretKey(key) };
    }
    return this.#signingKey.key;
  }
}

const encodeKey = (key: string): string => key.split('/').map(escapeText).join('/');

function answerOf(headers: Readonly<Record<string, string>>, body: unknown): Answer {
  const length = headers['content-length'];
  const modified = headers['last-modified'];
  return {
    ...headersOf(headers),
    ETag: headers.etag,
    ChecksumCRC32: headers['x-amz-checksum-crc32'],
    ChecksumType: headers['x-amz-checksum-type'],
    ContentLength: length === undefined ? undefined : Number(length),
    ContentRange: headers['content-range'],
    LastModified: modified === undefined ? undefined : new Date(modified),
    Body: body,
  };
}

function errorOf(
  command: string,
  status: number,
  headers: Readonly<Record<string, string>>,
  body: Uint8Array,
): S3Error {
  const xml = Buffer.from(body).toString('utf8');
  const text = (tag: string): string =>
    (new RegExp(`<${tag}>([^<]*)</${tag}>`).exec(xml)?.[1] ?? '').replace(
      /&(lt|gt|amp|quot|apos|#39|#34);/g,
      (entity) => ENTITIES[entity] ?? entity,
    );
  return new S3Error({
    code: text('Code'),
    message: withoutSecrets(text('Message')),
    status,
    requestId: headers['x-amz-request-id'],
    retryAfterMs: retryAfter(headers['retry-after']),
    command,
  });
}
const ENTITIES: Readonly<Record<string, string>> = {
  '&lt;': '<',
  '&gt;': '>',
  '&amp;': '&',
  '&quot;': '"',
  '&#34;': '"',
  '&apos;': "'",
  '&#39;': "'",
};
