/** One bucket and prefix on one S3 server: the SDK's client set up for our layers, keys, and what every call carries. */
import { Readable } from 'node:stream';
import { crc32 } from 'node:zlib';
import {
  type GetObjectCommandInput,
  type PutObjectCommandInput,
  S3Client,
  type S3ClientConfig,
} from '@aws-sdk/client-s3';
import { Failure } from '../../errors.ts';
import type { StorePath } from '../../path.ts';
import { percentDecoded } from '../../path-bytes.ts';
import type { AttributeName } from '../attributes.ts';
import type { WriteCall } from '../driver.ts';
import type { Gate } from '../gate.ts';
import type { HiddenNames } from '../hidden.ts';
import { settledBy } from './s3-attributes.ts';
import { refuseDoubledBucket, type S3Settings } from './s3-config.ts';
import { type Answer, type DirectCall, DirectCalls } from './s3-direct.ts';
import { S3Error, scrub } from './s3-errors.ts';
import { type SdkRequest, Trailed, UndiciHandler } from './s3-http.ts';

/** Name of the metadata entry that says who published an object. */
const TOKEN_KEY = 'longshore-token';

export interface S3Place {
  readonly bucket: string;
  /** Key prefix without slashes at its ends; `''` for the whole bucket. */
  readonly prefix: string;
}

/** What a server turned out to do; asked once, on first need, and kept while the driver lives. */
export interface ServerFacts {
  /** A write can demand that nothing, or a certain version, is there. */
  conditions?: { readonly create: boolean; readonly match: boolean };
  /** Checksum of multipart uploads: of the whole, of its parts, or none that the server would check. */
  partChecksums?: 'whole' | 'parts' | 'none';
  /** It keeps `a//b` and `a/b` apart. */
  emptySegments?: boolean;
  /** Its listings encode keys, so that they can tell any. */
  encodesKeys?: boolean;
  /** `false` once a write's CRC32 was not confirmed. */
  checksWrites?: boolean;
  /** Attributes that it was seen to keep. */
  readonly keeps: Set<string>;
}

type SseCustomer = Pick<
  GetObjectCommandInput,
  'SSECustomerAlgorithm' | 'SSECustomerKey' | 'SSECustomerKeyMD5'
>;
interface Common {
  readonly Bucket: string;
  readonly ExpectedBucketOwner?: string;
  readonly RequestPayer?: 'requester';
}
/** What differs from one write, or part, to the next; the rest is in every one of them. */
interface Sent {
  readonly Key: string;
  readonly Body: unknown;
  readonly ContentLength?: number | undefined;
  readonly ContentType?: string | undefined;
  readonly ChecksumCRC32?: string | undefined;
  readonly Metadata?: Record<string, string> | undefined;
  readonly IfMatch?: string | undefined;
  readonly IfNoneMatch?: string | undefined;
  readonly UploadId?: string;
  readonly PartNumber?: number;
}
/** Headers that a request carries besides what the SDK makes of its input. The SDK copies inputs, symbols included. */
const CARRIED = Symbol('carried');
type Carrying = { readonly [CARRIED]?: Readonly<Record<string, string>> };
interface CallOptions {
  readonly abortSignal: AbortSignal;
  readonly requestTimeout?: number;
}

export class S3Connection {
  readonly facts: ServerFacts = { keeps: new Set() };
  /** In every call. */
  readonly common: Common;
  /** In every call that touches bytes of an object which a customer's key encrypts. */
  readonly sseCustomer: SseCustomer;
  readonly place: S3Place;
  readonly hidden: HiddenNames;
  readonly #client: S3Client;
  readonly #handler: UndiciHandler;
  readonly #direct: DirectCalls;
  /** What was asked for when an error came. */
  readonly #commands = new WeakMap<Error, string>();
  readonly #objectArgs: Partial<PutObjectCommandInput>;
  /** Attributes that the settings give to every object. */
  readonly settled: ReadonlySet<AttributeName>;

  constructor(place: S3Place, settings: S3Settings, hidden: HiddenNames, gate?: Gate) {
    refuseDoubledBucket(place.bucket, settings);
    this.place = place;
    this.hidden = hidden;
    this.settled = settledBy(settings.extraArgs);
    const { ExpectedBucketOwner, RequestPayer, Expires, ObjectLockRetainUntilDate, ...args } =
      settings.extraArgs;
    const owner = settings.expectedBucketOwner ?? ExpectedBucketOwner;
    this.common = {
      Bucket: place.bucket,
      ...(owner ? { ExpectedBucketOwner: owner } : {}),
      ...(RequestPayer ? { RequestPayer: 'requester' } : {}),
    };
    this.sseCustomer = {
      ...(args.SSECustomerAlgorithm ? { SSECustomerAlgorithm: args.SSECustomerAlgorithm } : {}),
      ...(args.SSECustomerKey ? { SSECustomerKey: args.SSECustomerKey } : {}),
      ...(args.SSECustomerKeyMD5 ? { SSECustomerKeyMD5: args.SSECustomerKeyMD5 } : {}),
    };
    this.#objectArgs = {
      ...(args as Partial<PutObjectCommandInput>), // words like 'aws:kms' are the server's to judge
      ...(Expires ? { Expires: new Date(Expires) } : {}),
      ...(ObjectLockRetainUntilDate
        ? { ObjectLockRetainUntilDate: new Date(ObjectLockRetainUntilDate) }
        : {}),
    };
    this.#handler = new UndiciHandler(settings.tls, gate);
    this.#client = new S3Client(clientConfig(settings, this.#handler));
    this.#client.middlewareStack.add(
      (next, context) => (call) => {
        const { request } = call as { request?: { headers?: Record<string, string>; body?: unknown } };
        const carried = (call.input as Carrying)[CARRIED];
        // what the settings say is there already
        if (carried && request?.headers) request.headers = { ...carried, ...request.headers };
        const sendsBytes =
          context.commandName === 'PutObjectCommand' || context.commandName === 'UploadPartCommand';
        if (sendsBytes && request?.headers) {
          const { headers, body } = request;
          // the CRC32 that we send is what the server checks; a signed SHA-256 would cost a second pass over the bytes
          headers['x-amz-content-sha256'] = 'UNSIGNED-PAYLOAD';
          if (body instanceof Trailed) {
            Object.assign(headers, body.headers);
            headers['content-encoding'] = [headers['content-encoding'], 'aws-chunked']
              .filter(Boolean)
              .join(',');
          }
        }
        return next(call);
      },
      { step: 'build', name: 'longshoreUnsignedPayload' },
    );
    this.#client.middlewareStack.add(
      (next, context) => async (call) => {
        try {
          return await next(call);
        } catch (error) {
          const command = String(context.commandName).replace(/Command$/, '');
          if (error instanceof Error) this.#commands.set(error, command);
          throw error;
        }
      },
      { step: 'initialize', name: 'longshoreCommandOfError' },
    );
    this.#direct = new DirectCalls(this.#client.config, this.#handler);
    this.#client.middlewareStack.add(
      (next, context) => async (call) => {
        const taken = await next(call);
        const command = String(context.commandName).replace(/Command$/, '');
        const { Key } = call.input as { Key?: string };
        if (Key !== undefined && !(call.input as Carrying)[CARRIED])
          this.#direct.learn(command, Key, call.request as SdkRequest);
        return taken;
      },
      { step: 'finalizeRequest', priority: 'low', name: 'longshoreDirectCalls' },
    );
  }

  /** One request; what it throws is scrubbed, an abort's reason is passed on as it is. `answerMs`: until the answer's head. */
  async call<T>(
    signal: AbortSignal,
    send: (client: S3Client, options: CallOptions) => Promise<T>,
    answerMs?: number,
  ): Promise<T> {
    signal.throwIfAborted();
    try {
      return await send(this.#client, {
        abortSignal: signal,
        ...(answerMs === undefined ? {} : { requestTimeout: answerMs }),
      });
    } catch (error) {
      signal.throwIfAborted();
      throw scrub(error, error instanceof Error ? this.#commands.get(error) : undefined);
    }
  }

  /** As `call`, and past the SDK where that has shown how. */
  direct(
    signal: AbortSignal,
    call: DirectCall,
    send: (client: S3Client, options: CallOptions) => Promise<Answer>,
  ): Promise<Answer> {
    return this.call(
      signal,
      async (client, options) => (await this.#direct.send(call, signal)) ?? send(client, options),
    );
  }

  /** A body on its way, as `direct` where its CRC32 is known beforehand. */
  sendBytes(
    command: 'PutObject' | 'UploadPart',
    args: Sent & Carrying,
    signal: AbortSignal,
    send: (client: S3Client, options: CallOptions) => Promise<Answer>,
  ): Promise<Answer> {
    if (args.ChecksumCRC32 === undefined) return this.call(signal, send);
    const { UploadId, PartNumber, Metadata } = args;
    const headers = {
      ...args[CARRIED],
      'content-length': String(args.ContentLength),
      'content-type': args.ContentType ?? 'application/octet-stream', // as the SDK has it
      'x-amz-checksum-crc32': args.ChecksumCRC32,
      'x-amz-meta-longshore-token': Metadata?.[TOKEN_KEY],
      'if-match': args.IfMatch,
      'if-none-match': args.IfNoneMatch,
    };
    const query = UploadId === undefined ? {} : { partNumber: String(PartNumber), uploadId: UploadId };
    return this.direct(signal, { command, key: args.Key, query, headers, body: args.Body }, send);
  }

  /** What a new object is made with, by one request or by parts. `carried`: headers of its attributes. */
  objectArgs(
    path: StorePath,
    call: WriteCall,
    carried: Readonly<Record<string, string>> = {},
  ): Partial<PutObjectCommandInput> & Carrying {
    return {
      ...(Object.keys(carried).length > 0 && { [CARRIED]: this.#besidesOwn(carried) }),
      ...(call.mediaType === undefined ? {} : { ContentType: call.mediaType }),
      ...this.#objectArgs,
      Metadata: { ...this.#objectArgs.Metadata, [TOKEN_KEY]: `${call.token}.${this.#mark(path)}` },
    };
  }

  /** Metadata of the settings' own names is theirs. */
  #besidesOwn(carried: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
    const own = new Set(
      Object.keys(this.#objectArgs.Metadata ?? {}).map((name) => `x-amz-meta-${name.toLowerCase()}`),
    );
    return Object.fromEntries(Object.entries(carried).filter(([name]) => !own.has(name)));
  }

  /** Whether a copy that carries what its source has would differ from what the settings say. */
  get saysNothing(): boolean {
    return this.settled.size === 0 && Object.keys(this.#objectArgs.Metadata ?? {}).length === 0;
  }

  /** Who published it. A token that came with a copy of another object is not its own. */
  tokenOf(path: StorePath, metadata: Record<string, string> | undefined): string | undefined {
    const [token, mark] = metadata?.[TOKEN_KEY]?.split('.') ?? [];
    return mark === this.#mark(path) ? token : undefined;
  }

  #mark(path: StorePath): string {
    return crc32(`${this.place.bucket}/${this.keyOf(path)}`).toString(16);
  }

  keyOf(path: StorePath): string {
    const { prefix } = this.place;
    return prefix === '' ? path : path === '' ? prefix : `${prefix}/${path}`;
  }

  /** What the keys below a directory begin with; `''` for a whole bucket. */
  prefixOf(dir: StorePath): string {
    const key = this.keyOf(dir);
    return key === '' ? '' : `${key}/`;
  }

  /** The path of a key; undefined: it is not below the prefix. */
  pathOf(key: string): StorePath | undefined {
    const root = this.prefixOf('' as StorePath);
    return key.startsWith(root) ? (key.slice(root.length) as StorePath) : undefined;
  }

  async close(): Promise<void> {
    this.#client.destroy();
    await this.#handler.close();
  }
}

function clientConfig(settings: S3Settings, handler: UndiciHandler): S3ClientConfig {
  const { endpoint, region, addressing, credentials } = settings;
  return {
    requestHandler: handler as unknown as NonNullable<S3ClientConfig['requestHandler']>,
    ...(endpoint === undefined ? { followRegionRedirects: true } : { endpoint }),
    region: region ?? (endpoint === undefined ? regionOfProfile : 'us-east-1'),
    forcePathStyle: addressing === 'path' || (addressing === 'auto' && endpoint !== undefined),
    ...(settings.signature === 'unsigned'
      ? {
          signer: { sign: async (request) => request },
          credentials: { accessKeyId: '', secretAccessKey: '' },
        }
      : credentials === undefined
        ? {}
        : { credentials }),
    maxAttempts: 1,
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    expectContinueHeader: false,
  };
}

/** The SDK's own search, and boto3's answer where it finds nothing. */
async function regionOfProfile(): Promise<string> {
  const asked = new S3Client({});
  try {
    return await asked.config.region();
  } catch {
    return 'us-east-1';
  } finally {
    asked.destroy();
  }
}

export const bareTag = (etag: string | undefined): string =>
  (etag ?? '').replace(/^W\//, '').replace(/^"|"$/g, '');
export const quotedTag = (etag: string): string => `"${etag}"`;

/** A CRC32 as S3 writes it; undefined for none, and for a checksum of checksums (`…-3`). */
export function crcOf(text: string | undefined): number | undefined {
  if (text === undefined || text.includes('-')) return undefined;
  const bytes = Buffer.from(text, 'base64');
  return bytes.length === 4 ? bytes.readUInt32BE() : undefined;
}

/** Keys of a listing asked for with `EncodingType: 'url'`; a server that did not encode says so by its silence. */
export const decodeKey = (key: string, encoding: string | undefined): string =>
  encoding === 'url' ? (percentDecoded(key.replaceAll('+', ' ')) ?? key) : key;

export const changed = (cause?: unknown): Failure =>
  new Failure('precondition', 'the object is not the version that was asked for', {}, { cause });
export const occupied = (cause?: unknown): Failure =>
  new Failure('already-exists', 'something is there already', {}, { cause });

/** The failure that a refused condition is, else the error itself. */
export function refusalOf(error: unknown, call: Pick<WriteCall, 'mode' | 'ifMatch'>): unknown {
  if (!(error instanceof S3Error)) return error;
  const differs = error.code === 'PreconditionFailed' || error.status === 412;
  const absent = error.code === 'NoSuchKey' || (error.status === 404 && error.code === '');
  if (call.ifMatch !== undefined && (differs || absent)) return changed(error);
  return call.mode === 'create' && differs ? occupied(error) : error;
}

/** Frees the connection of an answer whose body nobody reads. */
export function letGo(body: unknown): void {
  if (body instanceof Readable) body.on('error', () => undefined).destroy();
}
