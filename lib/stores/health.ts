/**
 * How a store is doing, as this process sees it: whether it gives signs of life while something is asked of it, how many
 * calls in a row it did not answer, and whether it asked for a pause. Facts only: what follows from them is others' matter.
 */
import { holdWatches, pause } from '../deadline.ts';
import { Failure, type FailureKind } from '../errors.ts';

/** A pause of up to this is waited for; for a longer one the job goes back into its queue. */
const WAITED_FOR_MS = 2000;
const LONGEST_PAUSE_MS = 60_000;
/** Where the store does not say for how long; doubled each time in a row. */
const PAUSE_MS = { first: 250, most: 5000 };
/** All that wait for the end of a pause begin within this. */
const SPREAD_MS = 250;

/** `stopped` by us: says nothing of the store. */
export type CallEnd = 'ok' | 'stopped' | FailureKind;
export type HealthEvent = 'answered' | 'unanswered';

export class StoreHealth {
  readonly store: string;
  readonly #onThrottled: (ms: number) => void;
  readonly #listeners: ((event: HealthEvent) => void)[] = [];
  /** Calls that wait for it. */
  #waiting = 0;
  #aliveMs = 0;
  #unanswered = 0;
  #pausedUntilMs = 0;
  #pauses = 0;

  /** @param onThrottled the store asked for a pause of so long (ms) */
  constructor(store: string, onThrottled: (ms: number) => void = () => {}) {
    this.store = store;
    this.#onThrottled = onThrottled;
  }

  /** Calls in a row, the last one included, that failed as `unavailable` or `timeout`. */
  get unanswered(): number {
    return this.#unanswered;
  }

  /** How long nothing has come from it although something is asked of it; 0: nothing is. */
  get silentMs(): number {
    return this.#waiting <= 0 ? 0 : performance.now() - this.#aliveMs;
  }

  /** How long it wants to be left alone. */
  get pausedMs(): number {
    return Math.max(0, this.#pausedUntilMs - performance.now());
  }

  /** For as long as this lives. */
  listen(heard: (event: HealthEvent) => void): void {
    this.#listeners.push(heard);
  }

  /** Waits for the end of a short pause. @throws Failure `busy` during a long one; the signal's reason */
  async turn(signal: AbortSignal): Promise<void> {
    const leftMs = this.pausedMs;
    if (leftMs === 0) return;
    if (leftMs > WAITED_FOR_MS)
      throw new Failure('busy', 'the store asked for fewer requests', {
        store: this.store,
        retryAfterMs: Math.ceil(leftMs),
      });
    const release = holdWatches(signal);
    try {
      await pause(leftMs + Math.random() * SPREAD_MS, signal);
    } finally {
      release();
    }
  }

  /** A call begins; say how it ended. */
  begin(): (end: CallEnd, retryAfterMs?: number) => void {
    this.#expect();
    return (end, retryAfterMs) => {
      this.#waiting--;
      if (end === 'stopped') return;
      if (end === 'unavailable' || end === 'timeout') {
        this.#unanswered++;
        this.#tell('unanswered');
        return;
      }
      if (end === 'busy') this.#throttled(retryAfterMs);
      else this.#pauses = 0;
      this.alive();
      this.#unanswered = 0;
      this.#tell('answered');
    };
  }

  /** A call that has begun waits for others and not for the store, until what is answered is called (once counts). */
  rest(): () => void {
    this.#waiting--;
    let resting = true;
    return () => {
      if (resting) this.#expect();
      resting = false;
    };
  }

  #expect(): void {
    if (this.#waiting++ <= 0) this.alive();
  }

  /** Bytes moved. Cheap. */
  alive(): void {
    this.#aliveMs = performance.now();
  }

  /** Nothing more begins for so long. */
  pauseFor(ms: number): void {
    this.#pausedUntilMs = Math.max(this.#pausedUntilMs, performance.now() + Math.min(ms, LONGEST_PAUSE_MS));
  }

  #throttled(retryAfterMs: number | undefined): void {
    if (this.pausedMs > 0) return; // it was asked before the pause began
    const ms = retryAfterMs ?? Math.min(PAUSE_MS.most, PAUSE_MS.first * 2 ** this.#pauses);
    this.#pauses++;
    this.pauseFor(ms);
    this.#onThrottled(ms);
  }

  #tell(event: HealthEvent): void {
    for (const heard of this.#listeners) heard(event);
  }
}
