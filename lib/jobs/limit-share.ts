/** What one process holds of a limit that all share: so many turns, first come, first served. */
import { stopReason, throwIfAborted } from '../deadline.ts';

/** Turns that nobody here wanted for so long are given back. */
const IDLE_MS = 200;
/** How long turns are kept from others who wait for them. */
const SLICE_MS = 100;

export class Share {
  /** In all; undefined: no limit, every turn is had at once. */
  readonly limit: number | undefined;
  held = 0;
  /** Processes that wait for a turn, and those that hold or want any. */
  hungry = 0;
  busy = 1;
  #used = 0;
  #grantedMs = 0;
  #fullMs = 0;
  readonly #waiting = new Set<() => void>();
  readonly #mayUse: () => boolean;

  /** @param mayUse whether what is held is still ours */
  constructor(limit: number | undefined, mayUse: () => boolean) {
    this.limit = limit;
    this.#mayUse = mayUse;
  }

  /** How many more it could use. */
  get wanted(): number {
    return Math.max(0, this.#waiting.size - Math.max(0, this.held - this.#used));
  }

  /** @throws Failure the signal's reason */
  take(signal: AbortSignal, onWait: () => void): Promise<void> {
    throwIfAborted(signal);
    if (this.limit === undefined) return Promise.resolve();
    if (this.#waiting.size === 0 && this.#canUse()) {
      this.#use();
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const go = (): void => {
        signal.removeEventListener('abort', leave);
        resolve();
      };
      const leave = (): void => {
        this.#waiting.delete(go);
        reject(stopReason(signal));
      };
      signal.addEventListener('abort', leave, { once: true });
      this.#waiting.add(go);
      onWait();
    });
  }

  /** `true`: the turn goes to another process, which should be told at once. */
  give(): boolean {
    if (this.limit === undefined) return false;
    this.#used--;
    const fair = Math.floor(this.limit / this.busy);
    const kept = this.hungry === 0 || this.held <= fair || performance.now() - this.#grantedMs < SLICE_MS;
    if (!kept && this.held > this.#used) {
      this.held--;
      return true;
    }
    this.serve();
    return this.hungry > 0 && this.held > this.#used;
  }

  /** Gives turns to those who wait here. */
  serve(): void {
    for (const go of this.#waiting) {
      if (!this.#canUse()) return;
      this.#waiting.delete(go);
      this.#use();
      go();
    }
  }

  /** Lets go of turns that nobody uses here: at once where others wait. */
  trim(): void {
    if (this.#used >= this.held || this.#waiting.size > 0) this.#fullMs = performance.now();
    else if (this.hungry > 0 || performance.now() - this.#fullMs > IDLE_MS) this.held = this.#used;
  }

  /** Some more, or (what was held was lost) less. */
  change(by: number): void {
    if (by > 0) this.#grantedMs = performance.now();
    this.held += by;
    this.serve();
  }

  #canUse(): boolean {
    return this.#used < this.held && this.#mayUse();
  }

  #use(): void {
    this.#used++;
    this.#fullMs = performance.now();
  }
}
