/** The order in which jobs are given out, seen by a worker that takes one at a time. */
import { Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import type { QueueName } from '../../lib/jobs/jobs.ts';
import { Queue, type TransferJob } from '../../lib/jobs/queue.ts';
import { createLog } from '../../lib/log.ts';
import { type RedisServer, startRedis } from '../servers/redis.ts';
import { requireServer } from '../servers/require.ts';
import { eventually } from './quay.ts';

const log = createLog({ level: 'silent', format: 'json', process: 'test' });
/** Jobs that a tenant may have before it is another's turn, and as many that were given out to a worker already. */
const A_TURN = 8;

requireServer('redis')('the queues', () => {
  let server: RedisServer;
  let redis: Redis;
  let queue: Queue;
  let count = 0;
  beforeAll(async () => {
    server = await startRedis();
    redis = new Redis(server.url);
  });
  beforeEach(() => {
    queue = new Queue({ url: server.url, prefix: `{fair${++count}}`, fairBy: 'team' }, log);
  });
  afterEach(() => queue.close());
  afterAll(async () => {
    redis.disconnect();
    await server.stop();
  });

  const job = (id: string, more: Partial<TransferJob> = {}): TransferJob => ({
    id,
    epoch: 1,
    kind: 'upload',
    priority: 100,
    owner: 'test',
    labels: {},
    ...more,
  });
  const of = (team: string): Partial<TransferJob> => ({ labels: { team } });
  async function submit(names: string, jobs: number, more: Partial<TransferJob> = {}): Promise<void> {
    for (let n = 0; n < jobs; n++) await queue.submit(job(`${names}${n}`, more));
  }

  /** Carries out what waits, one job at a time, until `jobs` of them are done; answers their ids in that order. */
  async function taken(jobs: number, name: QueueName = 'upload'): Promise<string[]> {
    const order: string[] = [];
    const connection = redis.duplicate({ maxRetriesPerRequest: null });
    const worker = new Worker(
      name,
      async ({ id }) => {
        order.push(id!);
        if (order.length >= jobs) void worker.pause(true);
      },
      { connection, prefix: queue.prefix, concurrency: 1 },
    );
    try {
      await eventually(() => order.length >= jobs, 30_000);
    } finally {
      await worker.close();
      connection.disconnect();
    }
    return order;
  }
  /** How many were taken up to the last one whose name begins so. */
  const doneAt = (order: readonly string[], names: string): number =>
    order.findLastIndex((id) => id.startsWith(names)) + 1;

  test('serve a few jobs of one tenant among the many of another, each in its order', async () => {
    await submit('many-', 500, of('a'));
    await submit('few-', 10, of('b'));
    const order = await taken(510);
    expect(doneAt(order, 'few-')).toBeLessThanOrEqual(10 + 3 * A_TURN);
    for (const [names, jobs] of [
      ['many-', 500],
      ['few-', 10],
    ] as const)
      expect(order.filter((id) => id.startsWith(names))).toEqual(
        Array.from({ length: jobs }, (_, n) => `${names}${n}-1`),
      );
  });

  test('do so as well when all come at once, from several processes, and one died before it added its own', async () => {
    const others = [1, 2].map(
      () => new Queue({ url: server.url, prefix: queue.prefix, fairBy: 'team' }, log),
    );
    const coming = `${queue.prefix}:turns:upload:8:coming`;
    await redis.zadd(coming, 2, '1700000000000 of a producer that is gone');
    const all = [queue, ...others];
    await Promise.all(Array.from({ length: 450 }, (_, n) => all[n % 3]!.submit(job(`many-${n}`, of('a')))));
    await Promise.all(Array.from({ length: 10 }, (_, n) => all[n % 3]!.submit(job(`few-${n}`, of('b')))));
    expect(await redis.zscore(coming, '1700000000000 of a producer that is gone')).toBeNull();
    expect(doneAt(await taken(460), 'few-')).toBeLessThanOrEqual(10 + 3 * A_TURN);
    await Promise.all(others.map((other) => other.close()));
  });

  test('tell tenants apart by the label, and those without it by who they are', async () => {
    await submit('mine-', 100, { owner: 'me', labels: { project: 'x' } });
    await submit('yours-', 5, { owner: 'you' });
    await submit('labelled-', 5, { owner: 'me', labels: { team: 'b' } });
    await submit('namesake-', 5, { owner: 'x', labels: { team: 'me' } });
    const order = await taken(115);
    for (const names of ['yours-', 'labelled-', 'namesake-'])
      expect(doneAt(order, names)).toBeLessThanOrEqual(15 + 2 * A_TURN);
  });

  test('owe nothing to whom they served when nobody else was there', async () => {
    await submit('early-', 200, of('a'));
    await taken(200);
    await submit('b-', 100, of('b'));
    await submit('late-', 5, of('a'));
    expect(doneAt(await taken(105), 'late-')).toBeLessThanOrEqual(5 + 2 * A_TURN);
  });

  test('let a tenant who goes on and on hold up neither others nor its own oldest', async () => {
    await submit('a-', 100, of('a'));
    await submit('b-', 100, of('b'));
    const order: string[] = [];
    for (let round = 0; round < 10; round++) {
      await submit(`more${round}-`, 40, of('a'));
      order.push(...(await taken(20)));
    }
    expect(order.filter((id) => id.startsWith('b-')).length).toBeGreaterThanOrEqual(100 - A_TURN);
    expect(order.filter((id) => id.startsWith('a-')).length).toBeGreaterThanOrEqual(100 - A_TURN);
    expect(order.filter((id) => id.startsWith('more')).length).toBeLessThanOrEqual(A_TURN);
  });

  test('serve a better priority first, whoever asks', async () => {
    await submit('normal-', 50, of('a'));
    await submit('idle-', 5, { ...of('c'), priority: 1000 });
    await submit('worse-', 5, { ...of('c'), priority: 101 });
    await submit('better-', 5, { ...of('a'), priority: 99 });
    await submit('urgent-', 5, { ...of('a'), priority: 1 });
    const order = await taken(70);
    const names = ['urgent-', 'better-', 'normal-', 'worse-', 'idle-'];
    expect(names.map((name) => doneAt(order, name))).toEqual([5, 10, 60, 65, 70]);
  });

  test('give the jobs of a tree the turns of its tenant, in its order', async () => {
    await queue.submit(job('tree', of('a')));
    const connection = redis.duplicate({ maxRetriesPerRequest: null });
    const taking = new Worker('upload', null, { connection, prefix: queue.prefix });
    const parent = await taking.getNextJob('token', { block: false });
    const children = Array.from({ length: 400 }, (_, n) => ({
      name: 'upload' as const,
      note: { transfer: 'tree', epoch: 1, waitedFor: 0 },
      jobId: `tree-1-page${n}`,
      priority: 100,
    }));
    await queue.addChildren({ queue: 'upload', jobId: 'tree-1' }, children, AbortSignal.timeout(60_000));
    expect(await parent!.moveToWaitingChildren('token')).toBe(true);
    await submit('own-', 5, of('a'));
    await submit('other-', 20, of('b'));
    const order = await taken(426);
    expect(doneAt(order, 'other-')).toBeLessThanOrEqual(20 + 4 * A_TURN);
    expect(order.filter((id) => id.startsWith('tree-1-'))).toEqual(children.map(({ jobId }) => jobId));
    expect(doneAt(order, 'own-')).toBeGreaterThan(400);
    await taking.close();
    connection.disconnect();
  });

  test('let the parts of one object take turns with those of another tenant', async () => {
    for (const team of ['a', 'b']) await queue.submit(job(`big-${team}`, of(team)));
    const parts = (team: string, number: number) =>
      Array.from({ length: number }, (_, n) => ({
        name: 'part' as const,
        note: { transfer: `big-${team}`, epoch: 1, upload: `u-${team}`, number: n + 1, failed: 0, apart: 0 },
        jobId: `${team}-p${n + 1}`,
        priority: 100,
      }));
    await queue.addChildren(
      { queue: 'upload', jobId: 'big-a-1' },
      parts('a', 1000),
      AbortSignal.timeout(60_000),
    );
    await queue.addChildren(
      { queue: 'upload', jobId: 'big-b-1' },
      parts('b', 40),
      AbortSignal.timeout(60_000),
    );
    const order = await taken(200, 'multipart-part');
    expect(doneAt(order, 'b-')).toBeLessThanOrEqual(80 + 2 * A_TURN);
    expect(order.filter((id) => id.startsWith('b-'))).toHaveLength(40);
  });

  test('give a tenant back the turns of what was taken out before it had them', async () => {
    for (const id of ['a', 'b', 'more-a']) await queue.submit(job(id, of(id.at(-1)!)));
    const add = (id: string, number: number) => {
      const parts = Array.from({ length: number }, (_, n) => ({
        name: 'part' as const,
        note: { transfer: id, epoch: 1, upload: 'u', number: n + 1, failed: 0, apart: 0 },
        jobId: `${id}-p${n + 1}`,
        priority: 100,
      }));
      return queue.addChildren({ queue: 'upload', jobId: `${id}-1` }, parts, AbortSignal.timeout(60_000));
    };
    await add('a', 2000);
    await add('b', 200);
    expect(await queue.dropChildren({ queue: 'upload', jobId: 'a-1' })).toBe(false);
    await add('more-a', 20);
    const order = await taken(220, 'multipart-part');
    expect(doneAt(order, 'more-a-')).toBeLessThanOrEqual(40 + 2 * A_TURN);
    expect(order.filter((id) => id.startsWith('a-'))).toEqual([]);
  });

  test('keep what was put off in turn: neither behind all that waits nor before it', async () => {
    await submit('off-', 60, of('a'));
    const connection = redis.duplicate({ maxRetriesPerRequest: null });
    const taking = new Worker('upload', null, { connection, prefix: queue.prefix });
    for (let n = 0; n < 60; n++) {
      const next = await taking.getNextJob('token', { block: false });
      await queue.putOff('upload', { id: next!.id!, priority: next!.priority, data: next!.data });
      await next!.moveToDelayed(Date.now() + 1, 'token');
    }
    await submit('new-', 300, of('a'));
    await submit('other-', 20, of('b'));
    const order = await taken(380);
    expect(doneAt(order, 'other-')).toBeLessThanOrEqual(20 + 4 * 2 * A_TURN);
    expect(doneAt(order, 'off-')).toBeLessThanOrEqual(60 + 20 + 60 + 3 * A_TURN);
    await taking.close();
    connection.disconnect();
  });

  test('go on fairly when Redis has forgotten whose turn it was, or everything', async () => {
    await submit('old-', 100, of('a'));
    await taken(20);
    for (const key of await redis.keys(`${queue.prefix}:turns:*`)) await redis.del(key);
    await submit('new-', 100, of('a'));
    await submit('few-', 10, of('b'));
    const order = await taken(190);
    expect(doneAt(order, 'few-')).toBeLessThanOrEqual(10 + 4 * A_TURN);
    expect(doneAt(order, 'old-')).toBeLessThanOrEqual(160 + 20 + 2 * A_TURN);

    await redis.flushall();
    // as the reconciler does it: all are given a new job
    await submit('again-', 100, { ...of('a'), epoch: 2 });
    await submit('b-', 10, { ...of('b'), epoch: 2 });
    expect(doneAt(await taken(110), 'b-')).toBeLessThanOrEqual(10 + 3 * A_TURN);
  });

  test('serve a tenant with more jobs than there are turns in the order in which they came', async () => {
    await submit('early-', 10, of('a'));
    // as if it had a million waiting
    await redis.zadd(`${queue.prefix}:turns:upload:8:lines`, 2 ** 17 - 1, 'label a');
    await submit('a-', 100, of('a'));
    await submit('b-', 10, of('b'));
    const order = await taken(120);
    expect(doneAt(order, 'b-')).toBeLessThanOrEqual(20);
    const late = order.filter((id) => id.startsWith('a-'));
    expect(late).toEqual(Array.from({ length: 100 }, (_, n) => `a-${n}-1`));
  });

  test('never run out of turns: a band that is never empty goes on for ever', {
    timeout: 60_000,
  }, async () => {
    const tags = 2 ** 17;
    const base = 8 * tags; // priority 100
    const state = `${queue.prefix}:turns:upload:8`;
    const key = (type: string): string => `${queue.prefix}:upload:${type}`;
    await submit('first-', 1, of('a'));
    // as if half a million jobs of each had gone by and 600 of the first were waiting
    const nearTheEnd = tags * 0.75 - 2;
    await redis.hset(key('first-0-1'), 'priority', base + nearTheEnd);
    await redis.zadd(key('prioritized'), (base + nearTheEnd) * 2 ** 32 + 1, 'first-0-1');
    await redis.hset(state, 'v', nearTheEnd);
    await redis.zadd(`${state}:lines`, nearTheEnd, 'label a');
    await submit('a-', 600, of('a'));
    expect(await taken(30)).toHaveLength(30);
    await submit('b-', 20, of('b'));
    const state1 = await redis.hgetall(state);
    expect(Number(state1.v)).toBeLessThan(100);
    await submit('late-', 10, of('a'));
    const order = await taken(600);
    expect(await redis.zcard(key('prioritized'))).toBe(1 + 600 - 30 + 20 + 10 - 600);
    expect(doneAt(order, 'b-')).toBeLessThanOrEqual(20 + 4 * A_TURN);
    const ofA = order.filter((id) => id.startsWith('a-'));
    expect(ofA).toEqual([...ofA].sort((x, y) => Number(x.split('-')[1]) - Number(y.split('-')[1])));
    expect(doneAt(order, 'late-')).toBe(600);
  });
});
