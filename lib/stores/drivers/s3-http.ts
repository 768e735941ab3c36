/**
 * The SDK's requests over undici: one keep-alive pool per driver, bodies passed on as they are, no copy and no hash.
 * There is no limit on how long a body takes, only on connecting and on waiting for an answer's head; that bytes keep
 * moving is the stall layer's business.
 */
import { readFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { crc32 } from 'node:zlib';
import { Agent, type Dispatcher } from 'undici';
import { Failure } from '../../errors.ts';
import type { Body } from '../driver.ts';
import type { Gate, Pass } from '../gate.ts';
import { Answer, type Answered, TurnLost } from './s3-answer.ts';
import type { S3Settings } from './s3-config.ts';

/** ms; connecting, TLS included. */
const CONNECT_TIMEOUT_MS = 10_000;
/** ms; from the last byte sent until the answer's head, where a call says nothing else. */
const ANSWER_TIMEOUT_MS = 120_000;
/** ms; for what a server may work at for long: it copies gigabytes, or puts thousands of parts together. */
export const LONG_ANSWER_MS = 900_000;
/** Bytes; from this length on undici waits for the socket to take a chunk before it asks for the next one. */
const SOCKET_BUFFER_BYTES = 64 * 1024;
/** Bytes; of a body that is framed because its CRC32 follows it. */
const LARGEST_FRAME_BYTES = 8 * 1024 * 1024;
/** Bytes; up to this length a body in memory is copied into one piece. */
const SMALL_BODY_BYTES = 128 * 1024;

/** What the SDK hands to a request handler, as far as S3 uses it. */
export interface SdkRequest {
  readonly protocol: string;
  readonly hostname: string;
  readonly port?: number;
  readonly method: string;
  readonly path: string;
  readonly query?: Readonly<Record<string, string | readonly string[] | null>>;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: unknown;
}
interface SdkCall {
  readonly abortSignal?: unknown;
  /** ms until the answer's head. */
  readonly requestTimeout?: number;
  /** An object that is short may come in one piece; the SDK takes only streams. */
  readonly takesPieces?: true;
}

export class UndiciHandler {
  readonly metadata = { handlerProtocol: 'http/1.1' };
  readonly #agent: Agent;
  readonly #gate: Gate | undefined;

  constructor(tls: S3Settings['tls'], gate?: Gate) {
    this.#gate = gate;
    this.#agent = new Agent({
      ...(gate?.connections !== undefined && { connections: gate.connections }),
      bodyTimeout: 0,
      connect: {
        timeout: CONNECT_TIMEOUT_MS,
        rejectUnauthorized: tls.verify,
        ...(tls.caFile === undefined ? {} : { ca: readAuthorities(tls.caFile) }),
      },
    });
  }

  async handle(request: SdkRequest, call: SdkCall = {}): Promise<{ response: Answered }> {
    if (!this.#gate) return { response: await this.#send(request, call) };
    const reads = isReading(request);
    for (;;) {
      const pass = await this.#gate.enter(call.abortSignal as AbortSignal, reads ? 'reading' : 'other');
      try {
        const response = await this.#send(request, call, pass);
        if (!(response.body instanceof Readable)) pass.leave('answered');
        else leaveAtEnd(response.body, pass);
        return { response };
      } catch (error) {
        pass.leave('cut');
        if (!(error instanceof TurnLost)) throw error;
      }
    }
  }

  #send(request: SdkRequest, call: SdkCall, pass?: Pass): Promise<Answered> {
    const port = request.port === undefined ? '' : `:${request.port}`;
    const signal = call.abortSignal as AbortSignal | undefined;
    const collects = !isReading(request) ? 'all' : call.takesPieces ? 'short' : 'none';
    const answer = new Answer({ collects, signal, pass });
    this.#agent.dispatch(
      {
        origin: `${request.protocol}//${request.hostname}${port}`,
        path: request.path + queryOf(request.query),
        method: request.method as Dispatcher.HttpMethod,
        headers: onTheWire(request.headers),
        body: (request.body ?? null) as Uint8Array | null, // or any iterable of them
        reset: false, // else undici would give up the connection after each HEAD
        headersTimeout: call.requestTimeout ?? ANSWER_TIMEOUT_MS,
      },
      answer,
    );
    return answer.answered;
  }

  /** Ends open requests too: whoever closes has waited for its own. */
  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  // what the SDK's interface asks for besides
  httpHandlerConfigs(): Record<string, never> {
    return {};
  }
  updateHttpClientConfig(): void {}
}

/** Headers go out as bytes, each character one: those of UTF-8. What is signed is the text itself. */
function onTheWire(headers: SdkRequest['headers']): SdkRequest['headers'] {
  if (!Object.values(headers).some((value) => BEYOND_ASCII.test(value))) return headers;
  const bytes = (value: string) => Buffer.from(value, 'utf8').toString('latin1');
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, bytes(value)]));
}
const BEYOND_ASCII = /[^\x20-\x7e]/;

const isReading = ({ method, query }: SdkRequest): boolean =>
  method === 'GET' && query?.['x-id'] === 'GetObject';

function leaveAtEnd(body: Readable, pass: Pass): void {
  body.once('close', () => pass.leave(body.readableEnded ? 'answered' : 'cut'));
}

function readAuthorities(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'unreadable';
    throw new Failure(
      'invalid',
      `could not read the certificates that AWS_CA_BUNDLE names (${code}): ${file}`,
    );
  }
}

/** As S3 wants names in URLs and in what it signs. */
export const escapeText = (text: string): string =>
  encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);

function queryOf(query: SdkRequest['query']): string {
  const pairs: string[] = [];
  for (const [name, value] of Object.entries(query ?? {}))
    for (const one of typeof value === 'string' || value === null ? [value] : value)
      pairs.push(one === null ? escapeText(name) : `${escapeText(name)}=${escapeText(one)}`);
  return pairs.length === 0 ? '' : `?${pairs.join('&')}`;
}

/** Opens a body anew each time it is iterated. */
class Streamed {
  protected readonly body: Body;
  constructor(body: Body) {
    this.body = body;
  }

  /** Small chunks are copied: undici asks for the next one while the socket still holds the last, and chunks are only lent. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    for await (const chunk of this.body.open())
      yield chunk.length < SOCKET_BUFFER_BYTES ? Buffer.from(chunk) : chunk;
  }
}

/** Bytes whose CRC32 the server is not told: others than were declared do not go out whole. */
class Compared extends Streamed {
  override async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    const { size, crc32: declared } = this.body;
    let [sent, crc] = [0, 0];
    for await (const chunk of super[Symbol.asyncIterator]()) {
      crc = crc32(chunk, crc);
      sent += chunk.length;
      if (sent === size && crc !== declared)
        throw new Failure('corrupt', 'the CRC32 of the bytes is another one than was declared');
      yield chunk;
    }
  }
}

/**
 * A body whose CRC32 is not known beforehand: it follows the bytes, in S3's own framing. Without either, some servers
 * (versitygw) publish what they got of a body that was cut off.
 */
export class Trailed extends Streamed {
  readonly headers: Readonly<Record<string, string>> = {
    'x-amz-content-sha256': 'STREAMING-UNSIGNED-PAYLOAD-TRAILER',
    'x-amz-decoded-content-length': String(this.body.size),
    'x-amz-trailer': 'x-amz-checksum-crc32',
  };

  override async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    let crc = 0;
    let size = 0;
    for await (const frame of this.#frames()) {
      crc = crc32(frame, crc);
      size += frame.length;
      yield Buffer.from(`${frame.length.toString(16)}\r\n`);
      yield frame;
      yield LINE_END;
    }
    if (size !== this.body.size)
      throw new Failure('corrupt', `the body has ${size} bytes, ${this.body.size} were declared`);
    yield Buffer.from(`0\r\nx-amz-checksum-crc32:${crcText(crc)}\r\n\r\n`);
  }

  /** Amazon takes no frame below 8 KiB but the last one, MinIO none above 16 MiB. */
  async *#frames(): AsyncGenerator<Uint8Array> {
    let small: Buffer[] = [];
    let smallBytes = 0;
    for await (const chunk of this.body.open()) {
      let rest = chunk;
      if (smallBytes > 0) {
        const taken = Buffer.from(rest.subarray(0, SOCKET_BUFFER_BYTES - smallBytes));
        rest = rest.subarray(taken.length);
        small.push(taken);
        smallBytes += taken.length;
        if (smallBytes < SOCKET_BUFFER_BYTES) continue;
        yield Buffer.concat(small);
        small = [];
        smallBytes = 0;
      }
      for (; rest.length >= SOCKET_BUFFER_BYTES; rest = rest.subarray(LARGEST_FRAME_BYTES))
        yield rest.subarray(0, LARGEST_FRAME_BYTES);
      if (rest.length > 0) small.push(Buffer.from(rest));
      smallBytes = rest.length;
    }
    if (smallBytes > 0) yield Buffer.concat(small);
  }
}
const LINE_END = Buffer.from('\r\n');

/** A CRC32 as S3 writes it: base64 of four bytes, highest first. */
export function crcText(crc: number): string {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(crc);
  return bytes.toString('base64');
}

/**
 * What a write sends: one small piece as it is (head and body then leave in one write), everything else as an iterable.
 * `unchecked`: to a server that does not know checksums.
 */
export function sendable(
  body: Body,
  how: 'checked' | 'unchecked',
): { readonly Body: Readable; readonly ContentLength?: number; readonly ChecksumCRC32?: string } {
  const crc = body.size === 0 ? 0 : body.crc32;
  const trailed = how === 'checked' && crc === undefined;
  const Passed = how === 'unchecked' && crc !== undefined ? Compared : Streamed;
  const bytes = trailed ? new Trailed(body) : (inOnePiece(body) ?? new Passed(body));
  return {
    Body: bytes as unknown as Readable, // the SDK passes any iterable through, its types know only streams
    ...(trailed ? {} : { ContentLength: body.size }),
    ...(how === 'checked' && crc !== undefined ? { ChecksumCRC32: crcText(crc) } : {}),
  };
}

function inOnePiece(body: Body): Uint8Array | undefined {
  if (body.size > SMALL_BODY_BYTES) return undefined;
  const opened = body.open();
  return Symbol.iterator in opened
    ? Buffer.concat(Array.from(opened, (chunk) => Buffer.from(chunk)))
    : undefined;
}
