/** Slots in time: each lets one request begin, soon after its moment or not at all. */
import { stopReason, throwIfAborted } from '../deadline.ts';

/** A slot that was not used so long after its moment is void. */
export const VALID_MS = 100;
/** What a network may hold up a request by, where nothing bounds how many of them it holds up. */
const JITTER_MS = 100;

/**
 * µs between two slots, so that no second has more than `requests` arrivals at the store. Slots are used up to `VALID_MS`
 * late; requests arrive later still, but no more of them than may be in flight.
 */
export function spacingOf(requests: number, connections: number | undefined): number {
  const late = Math.min(connections ?? Number.POSITIVE_INFINITY, Math.floor(requests / 10));
  const jitterMs = late === connections ? 0 : JITTER_MS;
  return Math.ceil(((1000 + VALID_MS + jitterMs) * 1000) / (requests - late));
}

interface Slot {
  /** On this process's own clock (`performance.now()`). */
  readonly fromMs: number;
  readonly untilMs: number;
}

export class Slots {
  #slots: Slot[] = [];
  readonly #waiting = new Set<(slot: Slot) => void>();
  #timer: NodeJS.Timeout | undefined;
  #served = 0;

  /** How many to ask for: for those who wait, and, where there are many of them, for those who will. */
  get wanted(): number {
    this.#drop();
    const soon = Math.floor(this.#served / 2);
    return Math.max(0, this.#waiting.size + soon - this.#slots.length);
  }

  get lacking(): boolean {
    return this.#waiting.size > this.#slots.length;
  }

  /** Resolves when a slot has come, with the time until which it may be used. @throws Failure the signal's reason */
  take(signal: AbortSignal, onWait: () => void): Promise<number> {
    throwIfAborted(signal);
    return new Promise((resolve, reject) => {
      const go = ({ untilMs }: Slot): void => {
        signal.removeEventListener('abort', leave);
        resolve(untilMs);
      };
      const leave = (): void => {
        this.#waiting.delete(go);
        reject(stopReason(signal));
      };
      signal.addEventListener('abort', leave, { once: true });
      this.#waiting.add(go);
      this.#serve();
      if (this.lacking) onWait();
    });
  }

  /** The first one's moment was or will be between `earliest` and `latest`: nobody knows it better. All in ms. */
  add(
    count: number,
    at: { readonly earliest: number; readonly latest: number; readonly everyMs: number },
  ): void {
    for (let n = 0; n < count; n++)
      this.#slots.push({
        fromMs: at.latest + n * at.everyMs,
        untilMs: at.earliest + n * at.everyMs + VALID_MS,
      });
    this.#served = 0;
    this.#serve();
  }

  #drop(): void {
    const now = performance.now();
    if (this.#slots.some(({ untilMs }) => untilMs < now))
      this.#slots = this.#slots.filter(({ untilMs }) => untilMs >= now);
  }

  #serve(): void {
    this.#drop();
    clearTimeout(this.#timer);
    for (const go of this.#waiting) {
      const slot = this.#slots[0];
      if (!slot) return;
      const leftMs = slot.fromMs - performance.now();
      if (leftMs > 0) {
        this.#timer = setTimeout(() => this.#serve(), Math.ceil(leftMs));
        return;
      }
      this.#slots.shift();
      this.#waiting.delete(go);
      this.#served++;
      go(slot);
    }
  }

  close(): void {
    clearTimeout(this.#timer);
  }
}
