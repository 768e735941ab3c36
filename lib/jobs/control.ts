/**
 * The push that makes a cancel fast. It may get lost: what is cancelled is written in the ledger, at which every worker
 * looks several times a second.
 */
import type { Redis } from 'ioredis';
import type { Log } from '../log.ts';
import { connectRedis, type RedisPlace } from './redis.ts';

const channelOf = (prefix: string): string => `${prefix}:cancels`;

/** Tells all workers that this transfer was cancelled. Never throws. */
export async function pushCancel(
  queue: { readonly redis: Redis; readonly prefix: string },
  transfer: string,
): Promise<void> {
  await queue.redis.publish(channelOf(queue.prefix), transfer).catch(() => 0);
}

/** Hears of cancels until closed; one connection. */
export function hearCancels(
  place: RedisPlace,
  log: Log,
  heard: (transfer: string) => void,
): { close(): void } {
  const redis = connectRedis(place.url, 'worker', { log, name: 'cancels' });
  redis.on('message', (_channel: string, transfer: string) => heard(transfer));
  redis.subscribe(channelOf(place.prefix)).catch(() => {}); // only fails when the connection is closed for good
  return { close: () => redis.disconnect() };
}
