/**
 * Ends a call in which nothing has moved for too long: the layer that catches a hung socket or mount. What counts is
 * progress, never total time; and only the store is watched: a consumer that takes its time between two chunks is not
 * a stall. The driver's signal is aborted, and the caller does not wait for it to notice, except where the driver was
 * lent bytes: memory that is used again while a hung mount still writes from it would end up in somebody's file.
 */
import { Deadline, stopReason } from '../../deadline.ts';
import { Failure } from '../../errors.ts';
import type { Body, Bytes, Driver } from '../driver.ts';
import { around, type Hooks, type StoreOp, tapped } from './around.ts';

/** A store that joins or syncs an object says nothing meanwhile; it is given the time that this speed takes. */
const SILENT_BYTES_PER_MS = 8 * 1024;
/** And so much more than another call, however small it is: a store may put thousands of parts together. */
const FINISH_STALLS = 5;

export function stall(driver: Driver, { stallMs }: { readonly stallMs: number }): Driver {
  const watch = (op: StoreOp, signal: AbortSignal, ms = stallMs): Watch => new Watch(op, signal, ms);
  const hooks: Hooks = {
    async once(op, { signal }, run, silentBytes = 0) {
      const ms = op === 'finish' ? stallMs * FINISH_STALLS : stallMs;
      using watched = watch(op, signal, ms + silentBytes / SILENT_BYTES_PER_MS);
      return await watched.during(run(watched.signal));
    },
    async send(op, { signal }, body, run) {
      using watched = watch(op, signal);
      watched.start();
      try {
        return await run(
          watched.signal,
          heard(body, () => watched.progress()),
        );
      } catch (error) {
        throw watched.signal.aborted ? stopReason(watched.signal) : error;
      }
    },
    async read(signal, run) {
      const watched = watch('read', signal);
      const opening = run(watched.signal);
      const over = (): void => watched[Symbol.dispose]();
      try {
        const reading = await watched.during(opening);
        return { ...reading, bytes: tapped(reading.bytes, (next) => watched.during(next()), over) };
      } catch (error) {
        over();
        opening.then((late) => late.bytes[Symbol.asyncIterator]().return?.()).catch(() => undefined);
        throw error;
      }
    },
    pages(op, signal, open) {
      const watched = watch(op, signal);
      const over = (): void => watched[Symbol.dispose]();
      return tapped(open(watched.signal), (next) => watched.during(next()), over);
    },
  };
  return around(driver, hooks);
}

/** One call under watch, `during` each of its steps. */
class Watch implements Disposable {
  readonly #deadline: Deadline;
  readonly #ms: number;
  readonly #why: () => Failure;
  #giveUp: ((reason: Failure) => void) | undefined;

  constructor(op: StoreOp, signal: AbortSignal, ms: number) {
    this.#deadline = new Deadline([signal]);
    this.#ms = ms;
    this.#why = () =>
      new Failure('timeout', `the store did nothing for ${Math.round(ms / 100) / 10} s`, { op });
    this.signal.addEventListener('abort', () => this.#giveUp?.(stopReason(this.signal)), { once: true });
  }

  get signal(): AbortSignal {
    return this.#deadline.signal;
  }

  start(): void {
    this.#deadline.watch(this.#ms, this.#why);
  }

  progress(): void {
    this.#deadline.progress();
  }

  during<T>(step: Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.signal.aborted) reject(stopReason(this.signal));
      this.#giveUp = reject;
      this.start();
      const rest = (): void => this.#deadline.rest();
      step.finally(rest).then(resolve, reject);
    });
  }

  [Symbol.dispose](): void {
    this.#deadline[Symbol.dispose]();
  }
}

function heard(body: Body, progress: () => void): Body {
  const sync = function* (chunks: Iterable<Uint8Array>): Generator<Uint8Array> {
    for (const chunk of chunks) {
      progress();
      yield chunk;
    }
  };
  const later = async function* (chunks: Bytes): AsyncGenerator<Uint8Array> {
    for await (const chunk of chunks) {
      progress();
      yield chunk;
    }
  };
  return {
    ...body,
    open: () => {
      const chunks = body.open();
      return Symbol.iterator in chunks ? sync(chunks) : later(chunks);
    },
  };
}
