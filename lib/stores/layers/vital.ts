/**
 * Reports each call's signs of life and its ending, and keeps a pause that the store asked for. Above `limit`: a store
 * whose turns are all taken by calls that hang is silent, too, and nobody holds a turn during a pause.
 */
import { Failure } from '../../errors.ts';
import type { Body, Bytes, Driver } from '../driver.ts';
import type { CallEnd, StoreHealth } from '../health.ts';
import { around, classified, type Hooks, tapped } from './around.ts';

export function vital(driver: Driver, health: StoreHealth): Driver {
  const endOf = (error: unknown, signal: AbortSignal): [end: CallEnd, retryAfterMs?: number] => {
    if (signal.aborted) return ['stopped'];
    const { kind, retryAfterMs } = classified(driver, error);
    // our own failures of this kind are no word of the store
    if (kind === 'busy' && error instanceof Failure) return ['stopped'];
    return retryAfterMs === undefined ? [kind] : [kind, retryAfterMs];
  };
  const during = async <T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> => {
    await health.turn(signal);
    const end = health.begin();
    try {
      const result = await work();
      end('ok');
      return result;
    } catch (error) {
      end(...endOf(error, signal));
      throw error;
    }
  };
  const hooks: Hooks = {
    once: (_op, { signal }, run) => during(signal, () => run(signal)),
    send: (_op, { signal }, body, run) => during(signal, () => run(signal, heard(body, health))),
    async read(signal, run) {
      await health.turn(signal);
      const end = health.begin();
      try {
        const reading = await run(signal);
        if (reading.content) {
          end('ok');
          return reading;
        }
        health.alive();
        let isOver = false;
        let resume = health.rest(); // until it is asked for more
        const pull = async <T>(next: () => Promise<T>): Promise<T> => {
          resume();
          const step = await next();
          health.alive();
          if (!isOver) resume = health.rest();
          return step;
        };
        const over = (error?: unknown): void => {
          isOver = true;
          resume();
          if (error) end(...endOf(error, signal));
          else end('ok');
        };
        return { ...reading, bytes: tapped(reading.bytes, pull, over) };
      } catch (error) {
        end(...endOf(error, signal));
        throw error;
      }
    },
    pages: (_op, signal, open) => tapped(open(signal), (next) => during(signal, next)),
  };
  return around(driver, hooks);
}

/** That it asks for more of the body is a sign of life, too; while the body has none yet, nobody waits for the store. */
function heard(body: Body, health: StoreHealth): Body {
  const sync = function* (chunks: Iterable<Uint8Array>): Generator<Uint8Array> {
    for (const chunk of chunks) {
      health.alive();
      yield chunk;
    }
  };
  const later = (chunks: Bytes): Bytes =>
    tapped(chunks, async (next) => {
      health.alive();
      const resume = health.rest();
      return await next().finally(resume);
    });
  return {
    ...body,
    open: () => {
      const chunks = body.open();
      return Symbol.iterator in chunks ? sync(chunks) : later(chunks);
    },
  };
}
