/**
 * Ends a call in which nothing has moved for too long: the layer that catches a hung socket or mount. What counts is
 * progress, never total time; and only the store is watched: a consumer that takes its time between two chunks is not
 * a stall. The driver's signal is aborted as well, but the caller does not wait for it to notice.
 */
import { Deadline, stopReason } from '../../deadline.ts';
import { Failure } from '../../errors.ts';
import type { Body, Bytes, Driver } from '../driver.ts';
import { around, type Hooks, type StoreOp, tapped } from './around.ts';

/** A store that joins or syncs an object says nothing meanwhile; it is given the time that this speed takes. */
const SILENT_BYTES_PER_MS = 8 * 1024;

export function stall(driver: Driver, { stallMs }: { readonly stallMs: number }): Driver {
  const watch = (op: StoreOp, signal: AbortSignal, ms = stallMs): Watch => new Watch(op, signal, ms);
  const hooks: Hooks = {
    async once(op, { signal }, run, silentBytes = 0) {
      using watched = watch(op, signal, stallMs + silentBytes / SILENT_BYTES_PER_MS);
      return await watched.during(run(watched.signal));
    },
    async send(op, { signal }, body, run) {
      using watched = watch(op, signal);
      return await watched.during(
        run(
          watched.signal,
          heard(body, () => watched.progress()),
        ),
      );
    },
    async read(signal, run) {
      const watched = watch('read', signal);
      try {
        const reading = await watched.during(run(watched.signal));
        const over = (): void => watched[Symbol.dispose]();
        return { ...reading, bytes: tapped(reading.bytes, (next) => watched.during(next()), over) };
      } catch (error) {
        watched[Symbol.dispose]();
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

  progress(): void {
    this.#deadline.progress();
  }

  during<T>(step: Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.signal.aborted) reject(stopReason(this.signal));
      this.#giveUp = reject;
      this.#deadline.watch(this.#ms, this.#why);
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
