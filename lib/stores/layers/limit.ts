/** At most so many calls at once towards one store, first come, first served; the others wait. */
import { holdWatches, stopReason, throwIfAborted } from '../../deadline.ts';
import type { Driver } from '../driver.ts';
import type { Gate, Pass } from '../gate.ts';
import { around, type Hooks, tapped } from './around.ts';
import { IdleReadings } from './idle.ts';

/** How often who waits looks for readings that stand still. */
const LOOK_MS = 100;

export interface LimitOptions {
  /** Per process. */
  readonly connections: number;
  /** Of all processes; only for a driver whose calls are one request each and that does not go through it itself. */
  readonly gate?: Gate | undefined;
}

/**
 * A reading counts until its bytes end, a listing only while a page of it is fetched, so that who lists may remove what
 * it is told of. Readings never hold the last one: whoever writes here what it reads here would wait for ever once there
 * are as many of them as connections. Waiting here is not standing still; a reading that does stand still while others
 * wait gives up its place, and is opened again by the layer above where it goes on.
 */
export function limit(driver: Driver, { connections, gate }: LimitOptions): Driver {
  const slots = new Slots(connections);
  const readings = new Slots(Math.max(1, connections - 1));
  const idle = new IdleReadings();
  const takeFrom = async (from: Slots, signal: AbortSignal): Promise<void> => {
    if (from.isFree) return from.take(signal);
    idle.letGoOfOne();
    const looking = setInterval(() => idle.letGoOfOne(), LOOK_MS);
    await from.take(signal).finally(() => clearInterval(looking));
  };
  const during = async <T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> => {
    await takeFrom(slots, signal);
    let pass: Pass | undefined;
    try {
      pass = await gate?.enter(signal, 'other');
      return await work();
    } finally {
      pass?.leave(signal.aborted ? 'cut' : 'answered');
      slots.give();
    }
  };
  const hooks: Hooks = {
    once: (_op, { signal }, run) => during(signal, () => run(signal)),
    send: (_op, { signal }, body, run) => during(signal, () => run(signal, body)),
    async read(signal, run) {
      await takeFrom(readings, signal);
      try {
        await takeFrom(slots, signal);
      } catch (error) {
        readings.give();
        throw error;
      }
      let pass: Pass | undefined;
      const over = (): void => {
        pass?.leave(signal.aborted ? 'cut' : 'answered');
        slots.give();
        readings.give();
      };
      try {
        pass = await gate?.enter(signal, 'reading');
        const reading = await run(signal);
        if (reading.content) {
          over();
          return reading;
        }
        const { bytes } = reading;
        const { rangedRead } = driver.traits;
        return {
          ...reading,
          bytes: rangedRead ? idle.watch(bytes, over) : tapped(bytes, (next) => next(), over),
        };
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

  get isFree(): boolean {
    return this.#free > 0;
  }

  /** @throws Failure the signal's reason */
  take(signal: AbortSignal): Promise<void> {
    throwIfAborted(signal);
    if (this.#free > 0) {
      this.#free--;
      return Promise.resolve();
    }
    const release = holdWatches(signal);
    return new Promise((resolve, reject) => {
      const go = (): void => {
        signal.removeEventListener('abort', leave);
        release();
        resolve();
      };
      const leave = (): void => {
        this.#waiting.delete(go);
        release();
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
