/**
 * How much of a queue was carried lately, where the ledger cannot tell: a part is no row of it. In Redis only, minute
 * by minute, lost without harm.
 */
import type { Redis } from 'ioredis';
import type { QueueName } from './jobs.ts';
import { askRedis } from './redis.ts';

const MINUTE_MS = 60_000;
const KEPT_SECONDS = 1800;
const keyOf = (prefix: string, queue: QueueName, minute: number): string =>
  `${prefix}:pace:${queue}:${minute}`;

/** The queue, or anything with its connection. */
interface Connected {
  readonly redis: Redis;
  readonly prefix: string;
}

export interface Pace {
  readonly jobs: number;
  /** In all workers together. */
  readonly busyMs: number;
}

/** One more was carried. Never throws, never waits. */
export function tellPace({ redis, prefix }: Connected, queue: QueueName, busyMs: number): void {
  const key = keyOf(prefix, queue, Math.floor(Date.now() / MINUTE_MS));
  redis
    .pipeline()
    .hincrby(key, 'jobs', 1)
    .hincrby(key, 'busyMs', Math.ceil(busyMs))
    .expire(key, KEPT_SECONDS)
    .exec()
    .catch(() => {});
}

/** Of the last so many minutes, the one that runs included. @throws Failure `unavailable` */
export async function readPace(
  { redis, prefix }: Connected,
  queue: QueueName,
  minutes: number,
): Promise<Pace> {
  const now = Math.floor(Date.now() / MINUTE_MS);
  const told = await askRedis('look how parts got on', () =>
    Promise.all(
      Array.from({ length: minutes }, (_, back) =>
        redis.hmget(keyOf(prefix, queue, now - back), 'jobs', 'busyMs'),
      ),
    ),
  );
  const sum = (field: 0 | 1): number => told.reduce((total, fields) => total + Number(fields[field] ?? 0), 0);
  return { jobs: sum(0), busyMs: sum(1) };
}
