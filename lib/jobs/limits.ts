/** The limits of the configured stores, across all processes; and how one tells the others that a store wants fewer requests. */
import { randomUUID } from 'node:crypto';
import type { Redis } from 'ioredis';
import { z } from 'zod';
import type { Log } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import { StoreGate, type StoreLimit } from './limit-gate.ts';
import { connectRedis, type RedisPlace } from './redis.ts';

export type { StoreLimit } from './limit-gate.ts';

const throttledNote = z.object({ from: z.string(), store: z.string(), ms: z.number().positive() });
const channelOf = (prefix: string): string => `${prefix}:throttled`;

export interface LimitsOptions {
  readonly queue: RedisPlace & { readonly redis: Redis };
  /** By the store's name. */
  readonly limits: Readonly<Record<string, StoreLimit>>;
  /** How many processes there are, as long as Redis has not told. */
  readonly processes: number;
  readonly log: Log;
  readonly metrics: Pick<Metrics, 'storeLimitWait' | 'storeLimitHeld'>;
  /** Another process was asked by this store to wait so long (ms). */
  readonly onThrottled: (store: string, ms: number) => void;
}

export class Limits {
  readonly #queue: LimitsOptions['queue'];
  readonly #process = randomUUID();
  readonly #gates: ReadonlyMap<string, StoreGate>;
  readonly #hearing: Redis;

  constructor({ queue, limits, processes, log, metrics, onThrottled }: LimitsOptions) {
    this.#queue = queue;
    const channel = `${queue.prefix}:limits:`;
    const gateOf = (store: string, limit: StoreLimit): StoreGate =>
      new StoreGate({
        redis: queue.redis,
        key: `${queue.prefix}:limits:${store}`,
        process: this.#process,
        channel,
        limit,
        processes,
        onWaited: (ms) => metrics.storeLimitWait.observe({ store }, ms / 1000),
        onHeld: (connections) => metrics.storeLimitHeld.set({ store }, connections),
      });
    this.#gates = new Map(Object.entries(limits).map(([store, limit]) => [store, gateOf(store, limit)]));
    this.#hearing = connectRedis(queue.url, 'worker', { log, name: 'throttled' });
    this.#hearing.on('message', (from: string, text: string) => {
      if (from.startsWith(channel)) return this.#gates.get(text.slice(channel.length))?.nudge();
      const note = parse(text);
      if (note && note.from !== this.#process) onThrottled(note.store, note.ms);
    });
    this.#hearing.subscribe(channelOf(queue.prefix), channel + this.#process).catch(() => {}); // only fails when the connection is closed for good
  }

  /** `undefined`: a store without limits. */
  gate(store: string): StoreGate | undefined {
    return this.#gates.get(store);
  }

  /** Never throws, never waits: who is not told hears it from the store. */
  tellThrottled(store: string, ms: number): void {
    const note = JSON.stringify({ from: this.#process, store, ms });
    this.#queue.redis.publish(channelOf(this.#queue.prefix), note).catch(() => {});
  }

  async close(): Promise<void> {
    await Promise.all([...this.#gates.values()].map((gate) => gate.close()));
    this.#hearing.disconnect();
  }
}

function parse(text: string): z.output<typeof throttledNote> | undefined {
  try {
    return throttledNote.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}
