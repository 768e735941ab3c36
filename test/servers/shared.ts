/** Servers that the tests of a block share. */
import { afterAll, beforeAll } from 'vitest';
import { type RedisServer, startRedis } from './redis.ts';

/** Up before the first test of the block in which this is called, and gone after its last. */
export function redisForAll(): { readonly url: string } {
  let redis: RedisServer;
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis.stop());
  return {
    get url() {
      return redis.url;
    },
  };
}
