/** How far a running attempt is: in Redis only, at most once a second a transfer, lost without harm. */
import type { Redis } from 'ioredis';
import { z } from 'zod';
import type { Log } from '../log.ts';
import { connectRedis, type RedisPlace } from './redis.ts';

const EVERY_MS = 1000;
const KEPT_SECONDS = 120;
export const channelOf = (prefix: string): string => `${prefix}:progress`;
export const keyOf = (prefix: string, transfer: string): string => `${prefix}:progress:${transfer}`;

/** The queue, or anything with its connection. */
interface Connected {
  readonly redis: Redis;
  readonly prefix: string;
}

const progressNote = z.object({
  transfer: z.string(),
  epoch: z.number().int(),
  /** Bytes. */
  done: z.number().int().nonnegative(),
  /** Bytes; absent where nobody knows. */
  total: z.number().int().nonnegative().optional(),
  bytesPerSecond: z.number().nonnegative(),
  /** Unix time in ms. */
  atMs: z.number(),
});
export type Progress = z.output<typeof progressNote>;

/** Told of every chunk, it tells Redis now and then. */
export class ProgressReporter {
  readonly #queue: Connected;
  readonly #transfer: string;
  readonly #epoch: number;
  #toldMs = Date.now();
  #toldBytes = 0;
  #rate = 0;
  #told = false;

  constructor(queue: Connected, transfer: string, epoch: number) {
    this.#queue = queue;
    this.#transfer = transfer;
    this.#epoch = epoch;
  }

  /** Cheap but once a second. Never throws, never waits. */
  report(done: number, total: number | undefined): void {
    const now = Date.now();
    const elapsedMs = now - this.#toldMs;
    if (elapsedMs < EVERY_MS) return;
    const rate = (Math.max(0, done - this.#toldBytes) * 1000) / elapsedMs;
    this.#rate = this.#rate === 0 ? rate : 0.7 * this.#rate + 0.3 * rate;
    this.#toldMs = now;
    this.#told = true;
    this.#toldBytes = done;
    const note: Progress = {
      transfer: this.#transfer,
      epoch: this.#epoch,
      done,
      ...(total !== undefined && { total }),
      bytesPerSecond: Math.round(this.#rate),
      atMs: now,
    };
    const text = JSON.stringify(note);
    const { redis, prefix } = this.#queue;
    redis
      .pipeline()
      .set(keyOf(prefix, this.#transfer), text, 'EX', KEPT_SECONDS)
      .publish(channelOf(prefix), text)
      .exec()
      .catch(() => {});
  }

  /** Forgets what it has told: the ledger has the ending. What another attempt told goes by itself. Never throws. */
  end(): void {
    if (!this.#told) return;
    this.#queue.redis.del(keyOf(this.#queue.prefix, this.#transfer)).catch(() => {});
  }
}

/** The last report of each of `transfers` that runs; rejects when Redis is away. */
export async function readProgress(
  { redis, prefix }: Connected,
  transfers: readonly string[],
): Promise<ReadonlyMap<string, Progress>> {
  const found = new Map<string, Progress>();
  if (transfers.length === 0) return found;
  for (const text of await redis.mget(transfers.map((id) => keyOf(prefix, id)))) {
    const note = text === null ? undefined : parse(text);
    if (note) found.set(note.transfer, note);
  }
  return found;
}

/** Hears every report of the fleet until closed; one connection. */
export function hearProgress(
  place: RedisPlace,
  log: Log,
  heard: (progress: Progress) => void,
): { close(): void } {
  const redis = connectRedis(place.url, 'worker', { log, name: 'progress' });
  redis.on('message', (_channel: string, text: string) => {
    const note = parse(text);
    if (note) heard(note);
  });
  redis.subscribe(channelOf(place.prefix)).catch(() => {}); // only fails when the connection is closed for good
  return { close: () => redis.disconnect() };
}

function parse(text: string): Progress | undefined {
  try {
    return progressNote.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}
