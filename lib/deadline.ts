/**
 * All the reasons to stop some work, joined into one signal whose reason is always a `Failure`. Whoever is stopped
 * throws that reason, so that the ending is decided by what happened and not by which call noticed it.
 */
import { Failure } from './errors.ts';

/** `setTimeout` fires at once beyond this. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Whose signal it is, while anybody has it. */
const owners = new WeakMap<AbortSignal, Deadline>();

export class Deadline implements Disposable {
  readonly #controller = new AbortController();
  readonly #parents: readonly AbortSignal[];
  readonly #timers = new Set<NodeJS.Timeout>();
  readonly #detach: (() => void)[] = [];
  #stallTimer: NodeJS.Timeout | undefined;
  #stall: { readonly ms: number; readonly why: () => Failure } | undefined;
  #heardMs = 0;
  #held = 0;

  /** Aborts when one of `parents` does, with its reason. */
  constructor(parents: readonly AbortSignal[] = []) {
    this.#parents = parents;
    owners.set(this.#controller.signal, this);
    for (const parent of parents) {
      if (parent.aborted) this.stop(stopReason(parent));
      const heard = (): void => this.stop(stopReason(parent));
      parent.addEventListener('abort', heard, { once: true });
      this.#detach.push(() => parent.removeEventListener('abort', heard));
    }
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** The first reason stays. */
  stop(reason: Failure): void {
    if (!this.signal.aborted) this.#controller.abort(reason);
  }

  /** Stops at `atMs` (Unix time in ms); a time that has passed stops at once. */
  limit(atMs: number, why: () => Failure): this {
    const left = atMs - Date.now();
    if (left <= 0) this.stop(why());
    else {
      const timer = setTimeout(
        () => {
          this.#timers.delete(timer);
          this.limit(atMs, why);
        },
        Math.min(left, LONGEST_TIMER_MS),
      );
      this.#timers.add(timer);
    }
    return this;
  }

  /** Stops when `progress` wasn't called for `stallMs`. */
  watch(stallMs: number, why: () => Failure): this {
    this.#stall = { ms: stallMs, why };
    this.progress();
    return this;
  }

  /** Something moved. Cheap: called for every chunk. */
  progress(): void {
    this.#heardMs = Date.now();
    if (this.#stall && !this.#stallTimer && !this.signal.aborted) this.#armStall(this.#stall.ms);
  }

  /** Nothing is expected to move until the next `progress`: a store that joins parts says nothing for minutes. */
  rest(): void {
    clearTimeout(this.#stallTimer);
    this.#stallTimer = undefined;
  }

  /** No time counts as standing still, here and above, until what it answers is called. */
  hold(): () => void {
    const above = this.#parents.map((parent) => owners.get(parent)?.hold());
    this.#held++;
    return () => {
      this.#held--;
      this.#heardMs = Date.now();
      for (const release of above) release?.();
    };
  }

  #armStall(ms: number): void {
    this.#stallTimer = setTimeout(() => {
      this.#stallTimer = undefined;
      const stall = this.#stall;
      if (!stall) return;
      if (this.#held > 0) this.#heardMs = Date.now();
      const left = this.#heardMs + stall.ms - Date.now();
      if (left > 0) this.#armStall(left);
      else this.stop(stall.why());
    }, ms);
  }

  [Symbol.dispose](): void {
    this.rest();
    this.#stall = undefined;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    for (const detach of this.#detach) detach();
  }
}

/** For who waits for a turn and not for a store: see `Deadline.hold`. Call what it answers once. */
export const holdWatches = (signal: AbortSignal): (() => void) => owners.get(signal)?.hold() ?? (() => {});

/** Why a signal was aborted; a reason that is no `Failure` (a client that went away) counts as `cancelled`. */
export function stopReason(signal: AbortSignal): Failure {
  const reason: unknown = signal.reason;
  if (reason instanceof Failure) return reason;
  const text = reason instanceof Error ? reason.message : String(reason ?? 'no reason given');
  return new Failure('cancelled', `stopped: ${text}`, {}, { cause: reason });
}

/** @throws Failure the reason, where the signal is aborted */
export function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw stopReason(signal);
}

/** Resolves after `ms`; rejects with the signal's `Failure` as soon as it aborts. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(stopReason(signal));
    const heard = (): void => {
      clearTimeout(timer);
      reject(stopReason(signal));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', heard);
      resolve();
    }, ms);
    signal.addEventListener('abort', heard, { once: true });
  });
}
