/**
 * Children of a job that waits for them: whether any of them will end, and which are put off. Redis may have lost some.
 * There may be ten thousand, so they are asked about by the page.
 */
import type { Redis } from 'ioredis';

/** Children that are looked at first: they were added together, and mostly go together. */
const FIRST = 8;
const PAGE = 500;

/** @param jobKey of the parent, as it is in Redis: `<prefix>:<queue>:<job id>` */
export async function hasLivingChild(redis: Redis, jobKey: string): Promise<boolean> {
  if (await anyLives(redis, await redis.srandmember(`${jobKey}:dependencies`, FIRST))) return true;
  for await (const page of childrenOf(redis, jobKey)) if (await anyLives(redis, page)) return true;
  return false;
}

/** A child may be a parent that waits itself. */
async function anyLives(redis: Redis, jobKeys: readonly string[]): Promise<boolean> {
  if (jobKeys.length === 0 || (await redis.exists(...jobKeys)) === 0) return false;
  const waiting = await amongThose(redis, 'waiting-children', jobKeys);
  for (const key of jobKeys) {
    if ((await redis.exists(key)) === 0) continue;
    if (!waiting.has(key) || (await hasLivingChild(redis, key))) return true;
  }
  return false;
}

/** Keys of all children, and of theirs, that are put off for later. */
export async function* delayedChildren(redis: Redis, jobKey: string): AsyncGenerator<string> {
  for await (const page of childrenOf(redis, jobKey)) {
    yield* await amongThose(redis, 'delayed', page);
    for (const key of await amongThose(redis, 'waiting-children', page)) yield* delayedChildren(redis, key);
  }
}

async function* childrenOf(redis: Redis, jobKey: string): AsyncGenerator<readonly string[]> {
  let cursor = '0';
  do {
    const [next, page] = await redis.sscan(`${jobKey}:dependencies`, cursor, 'COUNT', PAGE);
    if (page.length > 0) yield page;
    cursor = next;
  } while (cursor !== '0');
}

/** Those of the jobs that their queue has in this state. */
async function amongThose(
  redis: Redis,
  state: 'delayed' | 'waiting-children',
  jobKeys: readonly string[],
): Promise<ReadonlySet<string>> {
  const found = new Set<string>();
  const byQueue = Map.groupBy(jobKeys, (key) => key.slice(0, key.lastIndexOf(':') + 1));
  for (const [queue, keys] of byQueue) {
    const ids = keys.map((key) => key.slice(queue.length));
    const scores = await redis.zmscore(`${queue}${state}`, ...ids);
    for (const [n, key] of keys.entries()) if (scores[n] !== null) found.add(key);
  }
  return found;
}
