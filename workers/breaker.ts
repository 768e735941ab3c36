/** Whether jobs may be begun that need a store: not while it fails, save one at a time that tries. */
import type { StoreHealth } from '../lib/stores/health.ts';

/** Calls in a row that were not answered. */
const OPENS_AFTER = 5;
const OPEN_MS = { first: 1000, most: 30_000 };
/** While one tries, others ask again after this; after the longer time it may hang, and another one tries. */
const TRYING_MS = { ask: 500, most: 10_000 };

export type Verdict =
  | { readonly go: true /** It is the one that tries: say when it is over. */; readonly over?: () => void }
  | { readonly go: false; readonly waitMs: number };

export class Breaker {
  readonly #health: StoreHealth;
  readonly #onChange: (open: boolean) => void;
  #open = false;
  #openMs = 0;
  #untilMs = 0;
  #tryingSinceMs: number | undefined;

  /** `onChange` hears once when it opens for the first time, and when the store answers again. */
  constructor(health: StoreHealth, onChange: (open: boolean) => void) {
    this.#health = health;
    this.#onChange = onChange;
    health.listen((event) => (event === 'answered' ? this.#answered() : this.#unanswered()));
  }

  get isOpen(): boolean {
    return this.#open;
  }

  ask(): Verdict {
    if (!this.#open) return { go: true };
    const now = performance.now();
    if (now < this.#untilMs) return { go: false, waitMs: this.#untilMs - now };
    if (this.#tryingSinceMs !== undefined && now - this.#tryingSinceMs < TRYING_MS.most)
      return { go: false, waitMs: TRYING_MS.ask };
    this.#tryingSinceMs = now;
    const over = (): void => {
      if (this.#tryingSinceMs === now) this.#tryingSinceMs = undefined;
    };
    return { go: true, over };
  }

  #answered(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#openMs = 0;
    this.#onChange(false);
  }

  #unanswered(): void {
    const isNew = !this.#open && this.#health.unanswered >= OPENS_AFTER;
    // what began before it opened says nothing new
    const failedAgain = this.#open && this.#tryingSinceMs !== undefined && performance.now() > this.#untilMs;
    if (!isNew && !failedAgain) return;
    this.#openMs = Math.min(OPEN_MS.most, this.#openMs === 0 ? OPEN_MS.first : this.#openMs * 2);
    this.#untilMs = performance.now() + this.#openMs * (0.75 + Math.random() / 2);
    this.#open = true;
    if (isNew) this.#onChange(true);
  }
}
