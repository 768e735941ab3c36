/**
 * Ends a call in which nothing has moved for too long: the layer that catches a hung socket or mount. What counts is
 * progress, never total time; and only the store is watched: a consumer that takes its time between two chunks is not
 * a stall, nor is the source of a body that takes its time. The driver's signal is aborted, and the caller does not wait
 * for it to notice. A driver that was lent bytes is given a moment to let go of them; where it does not (a hung mount),
 * the failure says that they are still lent: memory that is used again while the kernel writes from it would end up in
 * somebody's file.
 */
import { Deadline, stopReason } from '../../deadline.ts';
import { Failure } from '../../errors.ts';
import type { Driver } from '../driver.ts';
import { around, type Hooks, type StoreOp, tapped } from './around.ts';
import { heard } from './heard.ts';

/** A store that joins or syncs an object says nothing meanwhile; it is given the time that this speed takes. */
const SILENT_BYTES_PER_MS = 8 * 1024;
/** And so much more than another call, however small it is: a store may put thousands of parts together. */
const FINISH_STALLS = 5;
const LET_GO_MS = 1000;
/** The source of a body is watched by whoever opened it, and may be tried a few times there; this is for one that nobody watches. */
const SOURCE_STALLS = 6;

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
      const sending = run(watched.signal, heard(body, watched));
      return await watched.during(sending, LET_GO_MS);
    },
    async read(signal, run) {
      const watched = watch('read', signal);
      const opening = run(watched.signal);
      const over = (): void => watched[Symbol.dispose]();
      try {
        const reading = await watched.during(opening);
        // what is short enough to come in one piece is so within the time of one sign of life
        if (reading.content) {
          over();
          return reading;
        }
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
  #over = false;

  constructor(op: StoreOp, signal: AbortSignal, ms: number) {
    this.#deadline = new Deadline([signal]);
    this.#ms = ms;
    this.#why = () => new Failure('timeout', `the store did nothing for ${seconds(ms)}`, { op });
    this.signal.addEventListener('abort', () => this.#giveUp?.(stopReason(this.signal)), { once: true });
  }

  get signal(): AbortSignal {
    return this.#deadline.signal;
  }

  progress(): void {
    this.#expect(this.#ms, this.#why);
  }

  atSource(): void {
    const ms = this.#ms * SOURCE_STALLS;
    this.#expect(
      ms,
      () => new Failure('timeout', `the source gave nothing for ${seconds(ms)}`, { op: 'read' }),
    );
  }

  /** A body may still be heard of after its call has ended. */
  #expect(ms: number, why: () => Failure): void {
    if (!this.#over) this.#deadline.watch(ms, why);
  }

  /** @param letGoMs of a step that was lent bytes: how long it may take to notice that it is to stop */
  during<T>(step: Promise<T>, letGoMs?: number): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined;
      this.#giveUp = (reason) => {
        if (letGoMs === undefined) reject(reason);
        else timer = setTimeout(() => reject(stillLent(reason)), letGoMs);
      };
      if (this.signal.aborted) this.#giveUp(stopReason(this.signal));
      this.#deadline.watch(this.#ms, this.#why);
      const over = (): void => {
        clearTimeout(timer);
        this.#deadline.rest();
      };
      const failed = (error: unknown): void => reject(this.signal.aborted ? stopReason(this.signal) : error);
      step.finally(over).then(resolve, failed);
    });
  }

  [Symbol.dispose](): void {
    this.#over = true;
    this.#deadline[Symbol.dispose]();
  }
}

const seconds = (ms: number): string => `${Math.round(ms / 100) / 10} s`;

const stillLent = ({ kind, message, facts }: Failure): Failure =>
  new Failure(kind, message, { ...facts, lent: true });
