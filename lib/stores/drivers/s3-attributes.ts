/**
 * What S3 keeps beside an object's bytes, as headers and back. What the store's settings (`MLFLOW_S3_UPLOAD_EXTRA_ARGS`)
 * say of every object goes first. A server that refuses something is asked again without it, and one that takes
 * something in silence is looked at once: some keep no tags, or know one storage class only.
 */
import type { StorePath } from '../../path.ts';
import { type AttributeName, type Attributes, lacking, namesOf, without } from '../attributes.ts';
import type { Call, FileEntry, WriteCall } from '../driver.ts';
import type { S3ExtraArgs } from './s3-config.ts';
import { BROKEN, S3Error } from './s3-errors.ts';
import { escapeText } from './s3-http.ts';

export const KEPT = [
  'mediaType',
  'contentEncoding',
  'cacheControl',
  'contentDisposition',
  'contentLanguage',
  'expires',
  'metadata',
  'tags',
  'storageClass',
] as const satisfies readonly AttributeName[];

type Sent = NonNullable<WriteCall['attributes']>;
type Named = Exclude<(typeof KEPT)[number], 'metadata' | 'tags' | 'mediaType'>;
const HEADERS = {
  contentEncoding: 'content-encoding',
  cacheControl: 'cache-control',
  contentDisposition: 'content-disposition',
  contentLanguage: 'content-language',
  expires: 'expires',
  storageClass: 'x-amz-storage-class',
} as const satisfies Record<Named, string>;
const TOKEN_KEY = 'longshore-token';
const META = 'x-amz-meta-';
const MOST_TRUSTED = 1000;
const HTTP_DATE = /^[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT$/;

/** Of an answer to HEAD or GET, under the SDK's names. */
export interface ObjectHeaders {
  readonly ContentType?: string | undefined;
  readonly ContentEncoding?: string | undefined;
  readonly CacheControl?: string | undefined;
  readonly ContentDisposition?: string | undefined;
  readonly ContentLanguage?: string | undefined;
  readonly ExpiresString?: string | undefined;
  readonly Metadata?: Record<string, string> | undefined;
  readonly MissingMeta?: number | undefined;
  readonly StorageClass?: string | undefined;
  readonly TagCount?: number | undefined;
  readonly WebsiteRedirectLocation?: string | undefined;
  readonly ObjectLockMode?: string | undefined;
  readonly ObjectLockLegalHoldStatus?: string | undefined;
  readonly SSEKMSKeyId?: string | undefined;
}

/** As `ObjectHeaders`, of an answer that the SDK has not seen. Names in lower case. */
export function headersOf(answer: Readonly<Record<string, string>>): ObjectHeaders {
  const Metadata: Record<string, string> = {};
  for (const name in answer) if (name.startsWith(META)) Metadata[name.slice(META.length)] = answer[name]!;
  const count = (name: string) => (answer[name] === undefined ? undefined : Number(answer[name]));
  return {
    ContentType: answer['content-type'],
    ContentEncoding: answer['content-encoding'],
    CacheControl: answer['cache-control'],
    ContentDisposition: answer['content-disposition'],
    ContentLanguage: answer['content-language'],
    ExpiresString: answer.expires,
    Metadata,
    MissingMeta: count('x-amz-missing-meta'),
    StorageClass: answer['x-amz-storage-class'],
    TagCount: count('x-amz-tagging-count'),
    WebsiteRedirectLocation: answer['x-amz-website-redirect-location'],
    ObjectLockMode: answer['x-amz-object-lock-mode'],
    ObjectLockLegalHoldStatus: answer['x-amz-object-lock-legal-hold'],
    SSEKMSKeyId: answer['x-amz-server-side-encryption-aws-kms-key-id'],
  };
}

/** What an entry says of them. */
export function attributesOf(found: ObjectHeaders): Pick<FileEntry, 'attributes' | 'tagCount' | 'fixed'> {
  const { [TOKEN_KEY]: _, ...metadata } = found.Metadata ?? {};
  const attributes = {
    mediaType: found.ContentType,
    contentEncoding: withoutFraming(found.ContentEncoding),
    cacheControl: found.CacheControl,
    contentDisposition: found.ContentDisposition,
    contentLanguage: found.ContentLanguage,
    expires: found.ExpiresString,
    metadata: Object.keys(metadata).length === 0 ? undefined : metadata,
    storageClass: storageClassOf(found.StorageClass),
  };
  const fixed = Object.entries({
    websiteRedirect: found.WebsiteRedirectLocation,
    objectLock: found.ObjectLockMode ?? (found.ObjectLockLegalHoldStatus === 'ON' ? 'ON' : undefined),
    encryptionKey: found.SSEKMSKeyId,
    metadata: found.MissingMeta, // entries that no header can carry
  }).flatMap(([name, value]) => (value ? [name] : []));
  return {
    attributes: Object.fromEntries(Object.entries(attributes).filter(([, value]) => value)),
    ...(found.TagCount ? { tagCount: found.TagCount } : {}),
    ...(fixed.length > 0 && { fixed }),
  };
}

export const storageClassOf = (told: string | undefined): string | undefined =>
  told === 'STANDARD' ? undefined : told;

/** Clients name the framing of their request there, and some servers store it as if it were the object's. */
function withoutFraming(encoding: string | undefined): string | undefined {
  const codings = (encoding ?? '').split(',').map((coding) => coding.trim());
  return codings.filter((coding) => coding !== '' && coding.toLowerCase() !== 'aws-chunked').join(',');
}

/** Names in lower case; without the media type. */
function sentAs(attributes: Sent): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const [name, header] of Object.entries(HEADERS)) {
    const value = attributes[name as Named];
    if (value !== undefined) headers[header] = value;
  }
  const { metadata = {}, tags = {} } = attributes;
  for (const [name, value] of Object.entries(metadata)) headers[META + name.toLowerCase()] = value;
  const pairs = Object.entries(tags).map(([key, value]) => `${escapeText(key)}=${escapeText(value)}`);
  if (pairs.length > 0) headers['x-amz-tagging'] = pairs.join('&');
  return headers;
}

/** What the settings say of every object: nothing else is sent in its place. */
export function settledBy(args: S3ExtraArgs): ReadonlySet<AttributeName> {
  const said: Partial<Record<AttributeName, unknown>> = {
    mediaType: args.ContentType,
    contentEncoding: args.ContentEncoding,
    cacheControl: args.CacheControl,
    contentDisposition: args.ContentDisposition,
    contentLanguage: args.ContentLanguage,
    expires: args.Expires,
    storageClass: args.StorageClass,
    tags: args.Tagging,
  };
  return new Set(KEPT.filter((name) => said[name] !== undefined));
}

/** What codes refuse, in the order in which it is left out. */
const REFUSED: Readonly<Record<string, readonly AttributeName[]>> = {
  InvalidStorageClass: ['storageClass'],
  InvalidTag: ['tags'],
  MetadataTooLarge: ['metadata'],
  RequestHeaderSectionTooLarge: ['metadata', 'tags'], // versitygw's word for it
  BadRequest: ['tags'], // MinIO's, for more than ten
  AccessDenied: ['tags'], // they need a right of their own
  NotImplemented: ['tags', 'storageClass'],
  InvalidArgument: ['storageClass', 'tags'],
};

/**
 * A server may refuse headers that are too long for it and close the connection over its own answer (versitygw does): that
 * looks like a broken line. S3 promises to take 2 KiB of metadata; what is longer and breaks so often is taken for refused.
 */
const LONG_HEADERS = 2048;
const LONG_TRIES = 4;
const lengthOf = (headers: Readonly<Record<string, string>>): number =>
  Object.entries(headers).reduce((sum, [name, value]) => sum + name.length + value.length, 0);

export interface Taken<T> {
  readonly answer: T;
  readonly sent: Sent;
  readonly notKept: readonly AttributeName[];
}

/** Sends with as many of them as the server takes. `send` may be called a few times, with headers for the request. */
export async function asTaken<T>(
  attributes: Sent | undefined,
  settled: ReadonlySet<AttributeName>,
  send: (headers: Readonly<Record<string, string>>) => Promise<T>,
): Promise<Taken<T>> {
  const notKept: AttributeName[] = namesOf(attributes ?? {}).filter((name) => settled.has(name));
  for (let broken = 0; ; ) {
    const sent: Sent = without(attributes ?? {}, notKept);
    const headers = sentAs(sent);
    try {
      return { answer: await send(headers), sent, notKept };
    } catch (error) {
      let code = error instanceof S3Error ? error.code : '';
      if (BROKEN.has(code) && lengthOf(headers) > LONG_HEADERS) {
        if (++broken < LONG_TRIES) continue;
        code = 'RequestHeaderSectionTooLarge';
      }
      const next = REFUSED[code]?.find((name) => name in sent);
      if (next === undefined) throw error;
      notKept.push(next);
    }
  }
}

/** `entry`, with what the server turns out not to have kept of what it took. Trust is given once for each attribute. */
export async function withKept(
  entry: FileEntry,
  { sent, notKept }: Pick<Taken<unknown>, 'sent' | 'notKept'>,
  trusted: Set<string>,
  head: (path: StorePath, call: Call) => Promise<FileEntry>,
  call: Call,
): Promise<FileEntry> {
  const doubtful = namesOf(sent).filter((name) => !trusted.has(trustOf(name, sent)));
  if (doubtful.length === 0) return notKept.length === 0 ? entry : { ...entry, notKept };
  const there = await head(entry.path, call);
  if (there.etag !== entry.etag) return { ...entry, notKept }; // somebody else's by now
  const tags = there.tagCount === Object.keys(sent.tags ?? {}).length ? sent.tags : undefined;
  const missing = lacking(sent as Attributes, { ...there.attributes, ...(tags && { tags }) });
  for (const name of doubtful)
    if (!missing.includes(name) && trusted.size < MOST_TRUSTED) trusted.add(trustOf(name, sent));
  return { ...entry, notKept: [...notKept, ...missing] };
}

/** Each class by itself, and by what it is: text beyond ASCII, or an `Expires` that is no date. */
const trustOf = (name: AttributeName, { storageClass, expires = '', metadata = {} }: Sent): string => {
  if (name === 'storageClass') return `${name} ${storageClass}`;
  if (name === 'expires' && !HTTP_DATE.test(expires)) return `${name} ${expires}`;
  const values = Object.values(metadata).join('');
  return name === 'metadata' && /[^\x20-\x7e]/.test(values) ? `${name} ${values}` : name;
};
