/**
 * How one request is answered, told to undici's dispatcher itself: its own `request` makes a stream of every body, which
 * costs more than all else of a small answer. What is short is collected; only an object's many bytes are a stream.
 */
import { Readable } from 'node:stream';
import type { Dispatcher } from 'undici';
import { Failure } from '../../errors.ts';
import type { Pass } from '../gate.ts';

/** Bytes; up to this length an object comes in one piece. */
const SHORT_BYTES = 128 * 1024;
/** Bytes; answers other than an object's own bytes (a page of 1,000 long keys is about 2 MB). */
const MAX_ANSWER_BYTES = 32 * 1024 * 1024;
/** Bytes; of a stream that nobody reads just now. */
const STREAM_BUFFER_BYTES = 64 * 1024;

export interface Answered {
  readonly statusCode: number;
  readonly headers: Record<string, string>;
  readonly body: Uint8Array | Readable;
}

export interface AnswerOptions {
  /** Which bodies are collected, all others being streams; a refusal's always is. */
  readonly collects: 'all' | 'short' | 'none';
  readonly signal: AbortSignal | undefined;
  readonly pass: Pass | undefined;
}

/** Nothing of the request has left. */
export class TurnLost extends Error {}

export class Answer implements Dispatcher.DispatchHandler {
  readonly answered: Promise<Answered>;
  readonly #options: AnswerOptions;
  #resolve!: (answer: Answered) => void;
  #reject!: (error: unknown) => void;
  #controller: Dispatcher.DispatchController | undefined;
  #statusCode = 0;
  #headers: Record<string, string> = {};
  #chunks: Buffer[] = [];
  #bytes = 0;
  #stream: Readable | undefined;
  #over = false;

  constructor(options: AnswerOptions) {
    this.#options = options;
    this.answered = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    options.signal?.addEventListener('abort', this.#stop);
    if (options.signal?.aborted) this.#stop();
  }

  readonly #stop = (): void => {
    const reason = reasonOf(this.#options.signal!);
    if (this.#stream) this.#stream.destroy(reason);
    else if (this.#controller) this.#controller.abort(reason);
    else this.#reject(reason); // no connection yet, and there may be none for long
  };

  /** It is about to be written: there may have been no connection before. */
  onRequestStart(controller: Dispatcher.DispatchController): void {
    const { pass, signal } = this.#options;
    if (!signal?.aborted && pass && !pass.mayBegin()) throw new TurnLost();
    this.#controller = controller;
    if (signal?.aborted) controller.abort(reasonOf(signal));
  }

  onResponseStart(
    controller: Dispatcher.DispatchController,
    statusCode: number,
    headers: Readonly<Record<string, string | readonly string[] | undefined>>,
  ): void {
    if (statusCode < 200) return;
    this.#statusCode = statusCode;
    for (const name in headers) {
      const value = headers[name];
      if (value !== undefined)
        this.#headers[name] = textOf(typeof value === 'string' ? value : value.join(', '));
    }
    const { collects } = this.#options;
    if (collects === 'all' || statusCode >= 300) return;
    if (collects === 'short' && Number(this.#headers['content-length']) <= SHORT_BYTES) return;
    this.#stream = new Readable({
      highWaterMark: STREAM_BUFFER_BYTES,
      read: () => controller.resume(),
      destroy: (error, done) => {
        if (!this.#over) controller.abort(error ?? new Error('nobody reads the rest'));
        done(error);
      },
    }).on('error', () => undefined); // whoever reads it is told all the same
    this.#resolve({ statusCode, headers: this.#headers, body: this.#stream });
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (this.#stream) {
      if (!this.#stream.destroyed && !this.#stream.push(chunk)) controller.pause();
      return;
    }
    this.#bytes += chunk.length;
    if (this.#bytes <= MAX_ANSWER_BYTES) this.#chunks.push(chunk);
    else controller.abort(new Failure('unavailable', 'the server sent an answer without an end'));
  }

  onResponseEnd(): void {
    this.#end();
    if (this.#stream) {
      this.#stream.push(null);
      return;
    }
    const [first] = this.#chunks;
    const body = this.#chunks.length === 1 ? first! : Buffer.concat(this.#chunks, this.#bytes);
    this.#resolve({ statusCode: this.#statusCode, headers: this.#headers, body });
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    this.#end();
    if (this.#stream) this.#stream.destroy(error);
    else this.#reject(error);
  }

  #end(): void {
    this.#over = true;
    this.#options.signal?.removeEventListener('abort', this.#stop);
  }
}

/** Headers come in as bytes, each a character: UTF-8, where they can be that. */
function textOf(bytes: string): string {
  if (!/[\x80-\xff]/.test(bytes)) return bytes;
  try {
    return UTF8.decode(Buffer.from(bytes, 'latin1'));
  } catch {
    return bytes;
  }
}
const UTF8 = new TextDecoder('utf8', { fatal: true });

const reasonOf = ({ reason }: AbortSignal): Error =>
  reason instanceof Error ? reason : new Error('stopped');
