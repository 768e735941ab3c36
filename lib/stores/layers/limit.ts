/** At most so many calls at once towards one store, first come, first served; the others wait. */
import { stopReason, throwIfAborted } from '../../deadline.ts';
import type { Driver } from '../driver.ts';
import { around, type Hooks, tapped } from './around.ts';

/**
 * @param connections per process. A reading counts until its bytes end, a listing only while a page of it is fetched,
 *   so that who lists may remove what it is told of. Readings never hold the last one: whoever writes here what it reads
 *   here would wait for ever once there are as many of them as connections.
 */
export function limit(driver: Driver, { connections }: { readonly connections: number }): Driver {
  const slots = new Slots(connections);
  const readings = new Slots(Math.max(1, connections - 1));
  const during = async <T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> => {
    await slots.take(signal);
    try {
      return await work();
    } finally {
      slots.give();
    }
  };
  const hooks: Hooks = {
    once: (_op, { signal }, run) => during(signal, () => run(signal)),
    send: (_op, { signal }, body, run) => during(signal, () => run(signal, body)),
    async read(signal, run) {
      await readings.take(signal);
      try {
        await slots.take(signal);
      } catch (error) {
        readings.give();
        throw error;
      }
      const over = (): void => {
        slots.give();
        readings.give();
      };
      try {
        const reading = await run(signal);
        return { ...reading, bytes: tapped(reading.bytes, (next) => next(), over) };
      } catch (error) {
        over();
        throw error;
      }
    },
    pages: (_op, signal, open) => tapped(open(signal), (next) => during(signal, next)),
  };
  return around(driver, hooks);
}

class Slots {
  #free: number;
  readonly #waiting = new Set<() => void>();

  constructor(slots: number) {
    this.#free = slots;
  }

  /** @throws Failure the signal's reason */
  take(signal: AbortSignal): Promise<void> {
    throwIfAborted(signal);
    if (this.#free > 0) {
      this.#free--;
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
    });
  }

  give(): void {
    const [next] = this.#waiting;
    if (!next) this.#free++;
    else {
      this.#waiting.delete(next); // the slot goes from hand to hand
      next();
    }
  }
}
