/**
 * Children of a job that waits for them: whether any of them will end, and their removal when nobody needs them any more.
 * Redis may have lost some. There may be ten thousand, so they are asked about by the page.
 */
import type { Redis } from 'ioredis';
import type { QueueName } from './jobs.ts';

/** Children that are looked at first: they were added together, and mostly go together. */
const FIRST = 8;
const PAGE = 250;

export interface JobAt {
  readonly queue: QueueName;
  readonly jobId: string;
}

/** What the key of a job begins with: `<prefix>:<queue>:`. */
const queueKeyOf = (jobKey: string): string => jobKey.slice(0, jobKey.lastIndexOf(':') + 1);

/** @param jobKey as Redis has it: `<prefix>:<queue>:<job id>` */
export function jobAt(jobKey: string): JobAt {
  const [jobId = '', queue] = jobKey.split(':').reverse();
  return { queue: queue as QueueName, jobId };
}

/** @param jobKey of the parent */
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

/**
 * Takes children of a job that no worker has out of their queues, and theirs before them: by the page, so that Redis
 * answers others meanwhile. The job runs again once the others have ended, or at once where there are none.
 * @param remove takes these jobs out of their queues, save those that workers have
 * @returns how many of them waited for their turn
 */
export async function dropChildren(
  redis: Redis,
  jobKey: string,
  remove: (jobs: readonly JobAt[]) => Promise<void>,
): Promise<ReadonlyMap<QueueName, number>> {
  const waited = new Map<QueueName, number>();
  for await (const page of childrenOf(redis, jobKey)) {
    const going = new Set(page);
    for (const parent of await amongThose(redis, 'waiting-children', page)) {
      for (const [queue, count] of await dropChildren(redis, parent, remove)) add(waited, queue, count);
      // workers have some of its children: it goes when they have ended
      if ((await redis.exists(`${parent}:dependencies`)) === 1) going.delete(parent);
    }
    for (const key of await amongThose(redis, 'prioritized', page)) add(waited, jobAt(key).queue, 1);
    await forgetLost(redis, jobKey, page);
    await remove([...going].map(jobAt));
  }
  return waited;
}

const add = (sums: Map<QueueName, number>, queue: QueueName, count: number): unknown =>
  sums.set(queue, (sums.get(queue) ?? 0) + count);

/** Of a job that Redis has lost nothing says any more that it is a child. */
async function forgetLost(redis: Redis, jobKey: string, page: readonly string[]): Promise<void> {
  if ((await redis.exists(...page)) === page.length) return;
  const there = await Promise.all(page.map((key) => redis.exists(key)));
  const lost = page.filter((_, at) => there[at] === 0);
  if (lost.length > 0) await redis.srem(`${jobKey}:dependencies`, ...lost);
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
  state: 'prioritized' | 'waiting-children',
  jobKeys: readonly string[],
): Promise<ReadonlySet<string>> {
  const found = new Set<string>();
  const byQueue = Map.groupBy(jobKeys, queueKeyOf);
  for (const [queue, keys] of byQueue) {
    const ids = keys.map((key) => key.slice(queue.length));
    const scores = await redis.zmscore(`${queue}${state}`, ...ids);
    for (const [n, key] of keys.entries()) if (scores[n] !== null) found.add(key);
  }
  return found;
}
