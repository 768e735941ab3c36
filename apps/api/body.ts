/** The bytes of a request as they come in, and what becomes of those that nobody wants. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { stopReason } from '../../lib/deadline.ts';
import { Failure, failureOf } from '../../lib/errors.ts';
import type { Bytes } from '../../lib/stores/driver.ts';
import { hasBody, refuseTrailers } from './body-headers.ts';

/** How much of one body may wait in memory before the client is held back. */
const HELD_BYTES = 256 * 1024;
/**
 * Handed on at once, save at the end: who sends a byte now and then gets memory of the pool only once so much has come,
 * so that hundreds of them do not keep it from those who send.
 */
const GATHERED_BYTES = 32 * 1024;
/** A refused body is read on for this long and this far, so that a client that is still sending gets to see the answer. */
const DRAIN_BYTES = 64 * 1024 * 1024;
const DRAIN_MS = 10_000;

/**
 * The body of `req`, once. Nothing is read, and a client that asked (`Expect: 100-continue`) isn't told to send, before
 * the first piece is asked for. Fails with `cancelled` when the client goes away in the middle and with `timeout` when
 * it sends nothing for `stallMs`; ends only when the whole body was there.
 */
export function requestBytes(req: IncomingMessage, res: ServerResponse, stallMs: number): Bytes {
  return { [Symbol.asyncIterator]: () => new RequestBytes(req, res, stallMs) };
}

type Waiter = {
  readonly resolve: (result: IteratorResult<Uint8Array>) => void;
  readonly reject: (failure: Failure) => void;
};

class RequestBytes implements AsyncIterator<Uint8Array> {
  readonly #req: IncomingMessage;
  readonly #res: ServerResponse;
  readonly #stallMs: number;
  readonly #held: Uint8Array[] = [];
  #heldBytes = 0;
  #received = 0;
  #state: 'new' | 'open' | 'ended' | 'left' = 'new';
  #failure: Failure | undefined;
  #waiter: Waiter | undefined;
  #stall: NodeJS.Timeout | undefined;

  constructor(req: IncomingMessage, res: ServerResponse, stallMs: number) {
    this.#req = req;
    this.#res = res;
    this.#stallMs = stallMs;
  }

  next(): Promise<IteratorResult<Uint8Array>> {
    if (this.#state === 'new') this.#begin();
    const chunk = this.#held.shift();
    if (chunk) {
      this.#heldBytes -= chunk.length;
      return Promise.resolve({ done: false, value: chunk });
    }
    if (this.#failure) return Promise.reject(this.#failure);
    if (this.#state === 'ended' || this.#state === 'left')
      return Promise.resolve({ done: true, value: undefined });
    if (this.#req.isPaused()) this.#req.resume();
    if (this.#stall) this.#stall.refresh();
    else this.#stall = setTimeout(() => this.#onStall(), this.#stallMs);
    return new Promise((resolve, reject) => {
      this.#waiter = { resolve, reject };
    });
  }

  return(): Promise<IteratorResult<Uint8Array>> {
    if (this.#state === 'open') {
      this.#req.pause();
      this.#leave('left');
    } else if (this.#state === 'new') this.#state = 'left';
    return Promise.resolve({ done: true, value: undefined });
  }

  #begin(): void {
    this.#state = 'open';
    if (this.#req.destroyed && !this.#req.complete) {
      this.#onClose();
      return;
    }
    sendContinue(this.#req, this.#res);
    this.#req.on('data', this.#onData).on('end', this.#onEnd).on('close', this.#onClose);
    this.#req.on('error', ignore);
    const signal = running.get(this.#req.socket)?.controller.signal;
    signal?.addEventListener('abort', () => this.#fail(stopReason(signal)), { once: true });
  }

  readonly #onData = (chunk: Uint8Array): void => {
    this.#received += chunk.length;
    this.#held.push(chunk);
    this.#heldBytes += chunk.length;
    if (this.#waiter) {
      this.#stall?.refresh();
      if (this.#heldBytes >= GATHERED_BYTES) this.#handOn();
    } else if (this.#heldBytes >= HELD_BYTES) this.#req.pause();
  };

  readonly #onEnd = (): void => {
    try {
      refuseTrailers(this.#req);
    } catch (error) {
      this.#fail(failureOf(error));
      return;
    }
    this.#leave('ended');
    this.#handOn();
  };

  /** To whom waits: the oldest piece, or that there is none. */
  #handOn(): void {
    const waiter = this.#waiter;
    if (!waiter) return;
    this.#waiter = undefined;
    const value = this.#held.shift();
    this.#heldBytes -= value?.length ?? 0;
    waiter.resolve(value ? { done: false, value } : { done: true, value: undefined });
  }

  readonly #onClose = (): void => {
    this.#fail(new Failure('cancelled', `the client went away after ${this.#received} bytes of the body`));
  };

  #onStall(): void {
    if (!this.#waiter) return; // the time is the store's, not the client's
    const message = `no byte of the body came for ${this.#stallMs} ms (${this.#received} bytes came before); nothing was stored`;
    this.#fail(new Failure('timeout', message, { op: 'receive' }));
  }

  #fail(failure: Failure): void {
    if (this.#state !== 'open') return;
    this.#failure = failure;
    this.#leave('left');
    this.#waiter?.reject(failure);
    this.#waiter = undefined;
  }

  #leave(state: 'ended' | 'left'): void {
    this.#state = state;
    clearTimeout(this.#stall);
    this.#req.off('data', this.#onData).off('end', this.#onEnd).off('close', this.#onClose);
  }
}

const ignore = (): void => {};

const continued = new WeakSet<ServerResponse>();
/** Whether the client waits to be told that it may send its body. */
const awaitsContinue = (req: IncomingMessage, res: ServerResponse): boolean =>
  req.headers.expect !== undefined && req.httpVersionMinor > 0 && !continued.has(res);

/** Tells a client that waits for it to send its body; once. */
export function sendContinue(req: IncomingMessage, res: ServerResponse): void {
  if (!awaitsContinue(req, res)) return;
  continued.add(res);
  res.writeContinue();
}

/**
 * To be called before an answer goes out while the body may not have been read to its end: sees to it that the
 * connection is either usable again or closed, and that the client can read the answer first.
 */
export function disposeOfBody(req: IncomingMessage, res: ServerResponse): void {
  if (req.complete || req.destroyed || !hasBody(req)) return;
  if (awaitsContinue(req, res)) {
    res.setHeader('connection', 'close'); // it was never told to send, so whatever comes next is ambiguous
    return;
  }
  let left = DRAIN_BYTES;
  const tooLong = setTimeout(() => req.destroy(), DRAIN_MS);
  req.on('error', ignore);
  req.on('data', (chunk: Uint8Array) => {
    left -= chunk.length;
    if (left < 0) req.destroy();
  });
  req.once('close', () => clearTimeout(tooLong));
  req.once('end', () => clearTimeout(tooLong));
  req.resume();
}

interface Running {
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
  readonly controller: AbortController;
  readonly until: 'body' | 'answer';
}
const running = new WeakMap<Socket, Running>();

/**
 * A signal for the work that a request causes. `until: 'body'`: aborted when the client goes away before its whole body
 * came (what came whole is worth finishing); `until: 'answer'`: also when it goes away before it has the whole answer.
 */
export function requestSignal(
  req: IncomingMessage,
  res: ServerResponse,
  until: 'body' | 'answer',
): AbortSignal {
  const entry = { req, res, controller: new AbortController(), until };
  const { socket } = req;
  running.set(socket, entry);
  res.once('close', () => {
    if (running.get(socket) === entry) running.delete(socket);
    const finished = until === 'body' ? req.complete : res.writableFinished;
    if (!finished) entry.controller.abort(gone());
  });
  return entry.controller.signal;
}

/**
 * The connection turned out to carry bytes that are no HTTP: a body in broken chunks, or one that is longer than it said.
 * Nothing may come of that body. False: nothing runs for this connection; else it is closed after the answer.
 */
export function breakOff(socket: Socket): boolean {
  const entry = running.get(socket);
  if (!entry) return false;
  const { req, res, until, controller } = entry;
  if (until === 'body')
    controller.abort(
      new Failure(
        'invalid',
        req.complete
          ? 'what follows the body is no HTTP request: the body is longer than its Content-Length'
          : 'the body is not in the form that its headers say',
      ),
    );
  if (!res.headersSent) res.setHeader('connection', 'close');
  res.once('finish', () => socket.destroySoon());
  return true;
}

/**
 * Sends `bytes` as the body of an answer whose head is written, as fast as the client takes them.
 * Each piece is handed on before the next is asked for, because it is only lent. Fails with `cancelled` when the client
 * goes away and with `timeout` when it takes nothing for `stallMs`.
 */
export async function sendBytes(
  res: ServerResponse,
  bytes: Bytes,
  length: number,
  stallMs: number,
): Promise<void> {
  const outflow = new Outflow(res, stallMs);
  let left = length;
  try {
    for await (const chunk of bytes) {
      left -= chunk.length;
      if (left < 0) throw new Failure('corrupt', `a store sent more than the ${length} bytes it announced`);
      await outflow.write(chunk, left === 0);
    }
    if (left > 0)
      throw new Failure('corrupt', `a store sent ${left} bytes less than the ${length} it announced`);
    if (!res.writableEnded) res.end(); // an empty body
  } finally {
    outflow.close();
  }
}

class Outflow {
  readonly #res: ServerResponse;
  readonly #stallMs: number;
  #stall: NodeJS.Timeout | undefined;
  #reject: ((failure: Failure) => void) | undefined;

  constructor(res: ServerResponse, stallMs: number) {
    this.#res = res;
    this.#stallMs = stallMs;
    res.once('close', this.#onClose);
  }

  write(chunk: Uint8Array, last: boolean): Promise<void> {
    if (this.#res.destroyed) return Promise.reject(gone());
    if (this.#stall) this.#stall.refresh();
    else this.#stall = setTimeout(this.#onStall, this.#stallMs);
    return new Promise((resolve, reject) => {
      this.#reject = reject;
      const flushed = (error?: Error | null): void => {
        this.#reject = undefined;
        if (error) reject(gone());
        else resolve();
      };
      if (last) this.#res.end(chunk, flushed);
      else this.#res.write(chunk, flushed);
    });
  }

  readonly #onClose = (): void => this.#reject?.(gone());

  readonly #onStall = (): void =>
    this.#reject?.(new Failure('timeout', `the client took nothing for ${this.#stallMs} ms`, { op: 'send' }));

  close(): void {
    clearTimeout(this.#stall);
    this.#res.off('close', this.#onClose);
  }
}

const gone = (): Failure => new Failure('cancelled', 'the client went away');
