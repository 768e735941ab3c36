import { afterAll, beforeAll, expect, test } from 'vitest';
import { hearCancels, pushCancel } from '../../lib/jobs/control.ts';
import { hearProgress, type Progress, ProgressReporter, readProgress } from '../../lib/jobs/progress.ts';
import { Queue } from '../../lib/jobs/queue.ts';
import { createLog } from '../../lib/log.ts';
import { type RedisServer, startRedis } from '../servers/redis.ts';
import { requireServer } from '../servers/require.ts';

const log = createLog({ level: 'silent', format: 'json', process: 'test' });
const until = async (done: () => boolean | Promise<boolean>): Promise<void> => {
  const lastMs = Date.now() + 10_000;
  while (!(await done())) {
    if (Date.now() > lastMs) throw new Error('it did not happen within 10 s');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
};

requireServer('redis')('the queues', () => {
  let server: RedisServer;
  let count = 0;
  const open = (url = server.url): Queue => new Queue({ url, prefix: `{test${++count}}` }, log);
  beforeAll(async () => {
    server = await startRedis();
  });
  afterAll(() => server.stop());

  const job = (id: string, more: { epoch?: number; priority?: number } = {}) => ({
    id,
    epoch: 1,
    kind: 'upload' as const,
    priority: 100,
    owner: 'test',
    labels: {},
    ...more,
  });

  test('know which transfers have a job, by epoch', async () => {
    const queue = open();
    await queue.submit(job('a'));
    await queue.submit(job('b', { epoch: 2 }));
    const lacking = await queue.lacking([job('a'), job('b'), job('b', { epoch: 2 }), job('c')]);
    expect(lacking.map(({ id, epoch }) => `${id}-${epoch}`)).toEqual(['b-1', 'c-1']);
    await queue.close();
  });

  test('know that a job waits for children that are all gone, also for ten thousand of them', async () => {
    const queue = open();
    await queue.submit(job('parent'));
    const { redis, prefix } = queue;
    const children = Array.from({ length: 10_000 }, (_, n) => `${prefix}:multipart-part:parent-1-u-p${n}`);
    await redis
      .multi()
      .zrem(`${prefix}:upload:prioritized`, 'parent-1')
      .zadd(`${prefix}:upload:waiting-children`, 1, 'parent-1')
      .sadd(`${prefix}:upload:parent-1:dependencies`, ...children)
      .exec();
    expect(await queue.lacking([job('parent')])).toHaveLength(1);
    await redis.hset(children[7777]!, 'name', 'part');
    expect(await queue.lacking([job('parent')])).toEqual([]);
    await queue.close();
  });

  test('take all jobs out that an ended transfer waits for, save those that workers have', async () => {
    const queue = open();
    const { redis, prefix } = queue;
    const signal = AbortSignal.timeout(60_000);
    const page = (number: number) => ({
      name: 'page' as const,
      note: { transfer: 'tree', epoch: 1, page: number },
      jobId: `tree-1-page${number}`,
      priority: 100,
    });
    const part = (number: number) => ({
      name: 'part' as const,
      note: { transfer: 'tree', epoch: 1, upload: 'u', number },
      jobId: `tree-1-u-p${number}`,
      priority: 100,
    });
    const tree = { queue: 'upload', jobId: 'tree-1' } as const;
    const large = { queue: 'upload', jobId: 'tree-1-page1' } as const;
    await queue.submit(job('tree'));
    await queue.submit(job('other'));
    await queue.addChildren(tree, [page(1), page(2), page(3)], signal);
    await queue.addChildren(
      large,
      Array.from({ length: 3000 }, (_, n) => part(n + 1)),
      signal,
    );
    // as if workers had run the tree and its large page, put off a page, and had a part in hand
    for (const id of ['tree-1', 'tree-1-page1', 'tree-1-page2']) {
      await redis.zrem(`${prefix}:upload:prioritized`, id);
      await redis.zadd(`${prefix}:upload:${id.endsWith('2') ? 'delayed' : 'waiting-children'}`, 1, id);
    }
    await redis.zrem(`${prefix}:multipart-part:prioritized`, 'tree-1-u-p7');
    await redis.lpush(`${prefix}:multipart-part:active`, 'tree-1-u-p7');
    await redis.set(`${prefix}:multipart-part:tree-1-u-p7:lock`, 'token');
    // one that Redis has lost
    await redis.zrem(`${prefix}:multipart-part:prioritized`, 'tree-1-u-p8');
    await redis.del(`${prefix}:multipart-part:tree-1-u-p8`);

    const ofTree = async (): Promise<string[]> =>
      (await redis.keys(`${prefix}:*:tree-*`)).map((key) => key.slice(prefix.length + 1)).sort();
    expect(await queue.hurry({ ...job('tree'), kind: 'copy' })).toBe(true);
    expect(await ofTree()).toEqual([
      'multipart-part:tree-1-u-p7',
      'multipart-part:tree-1-u-p7:lock',
      'upload:tree-1',
      'upload:tree-1-page1',
      'upload:tree-1-page1:dependencies',
      'upload:tree-1:dependencies',
    ]);
    const counts = await queue.counts();
    expect(counts['multipart-part']).toMatchObject({ waiting: 0, delayed: 0, active: 1 });
    expect(counts.upload).toMatchObject({ waiting: 1, delayed: 0, 'waiting-children': 2 });

    // the worker has stopped: nothing is waited for
    await redis.del(`${prefix}:multipart-part:tree-1-u-p7:lock`);
    expect(await queue.hurry({ ...job('tree'), kind: 'copy' })).toBe(true);
    expect(await ofTree()).toEqual(['upload:tree-1']);
    expect((await queue.counts()).upload).toMatchObject({ waiting: 2, 'waiting-children': 0 });
    await queue.close();
  });

  test('take all of a burst, in the order of its priorities', async () => {
    const queue = open();
    const priorities = [900, 100, 1];
    const names = Array.from({ length: 1500 }, (_, n) => `j${n}`);
    await Promise.all(names.map((id, n) => queue.submit(job(id, { priority: priorities[n % 3]! }))));
    const waiting = await queue.redis.zrange(`${queue.prefix}:upload:prioritized`, '0', '-1');
    const ofEach = priorities.map((_, at) => names.filter((_, n) => n % 3 === at));
    expect(waiting).toEqual(ofEach.reverse().flatMap((ids) => ids.map((id) => `${id}-1`)));
    await queue.close();
  });

  test('are given what was submitted before they close', async () => {
    const queue = open();
    const submits = [1, 2, 3].map((n) => queue.submit(job(`last${n}`)));
    await queue.close();
    await Promise.all(submits);
  });

  test('take the same job once', async () => {
    const queue = open();
    await Promise.all([1, 2, 3].map(() => queue.submit(job('same'))));
    expect((await queue.counts()).upload.waiting).toBe(1);
    await queue.close();
  });

  test('count by state and tell since when the oldest waits, whatever its priority', async () => {
    const queue = open();
    const before = Date.now();
    await queue.submit(job('old', { priority: 900 }));
    await new Promise((resolve) => setTimeout(resolve, 30));
    const between = Date.now();
    await queue.submit(job('young', { priority: 1 }));
    await queue.enqueue('download', { transfer: 'x', epoch: 1 }, { jobId: 'x-1', delayMs: 60_000 });
    const counts = await queue.counts();
    expect(counts.upload).toMatchObject({ waiting: 2, delayed: 0, active: 0 });
    expect(counts.upload.oldestMs).toBeGreaterThanOrEqual(before);
    expect(counts.upload.oldestMs).toBeLessThan(between);
    expect(counts.download).toEqual({ waiting: 0, delayed: 1, active: 0, 'waiting-children': 0 });
    await queue.close();
  });

  test('refuse a note that does not parse', async () => {
    const queue = open();
    await expect(queue.enqueue('upload', { transfer: '', epoch: 0 })).rejects.toMatchObject({
      kind: 'invalid',
    });
    await queue.close();
  });

  test('schedule one collection for the fleet, however many ask', async () => {
    const queue = open();
    await Promise.all([1, 2, 3, 4].map(() => queue.scheduleGc(3600_000)));
    const { gc } = await queue.counts();
    expect(gc.waiting + gc.delayed).toBe(1);
    await queue.close();
  });

  test('fail within about a second when Redis is away, from the start or later, and work again when it is back', async () => {
    const away = open('redis://127.0.0.1:1');
    const begunMs = Date.now();
    await expect(away.submit(job('a'))).rejects.toMatchObject({ kind: 'unavailable' });
    expect(Date.now() - begunMs).toBeLessThan(1500);
    expect(await away.health()).toMatchObject({ up: false });
    await away.close();

    const own = await startRedis();
    const queue = open(own.url);
    await queue.submit(job('a'));
    await own.kill();
    const killedMs = Date.now();
    const burst = Array.from({ length: 1200 }, (_, n) => queue.submit(job(`b${n}`)));
    for (const { status } of await Promise.allSettled(burst)) expect(status).toBe('rejected');
    await expect(burst.at(-1)).rejects.toMatchObject({ kind: 'unavailable' });
    expect(Date.now() - killedMs).toBeLessThan(1500);
    const back = await startRedis({ again: own });
    await until(() =>
      queue.submit(job('c')).then(
        () => true,
        () => false,
      ),
    );
    expect(await queue.lacking([job('a'), job('c')])).toEqual([]);
    await queue.close();
    await back.stop();
  });

  test('are not fit for jobs on a Redis that may drop them', async () => {
    const queue = open();
    expect(await queue.health()).toEqual({ up: true, noeviction: true });
    await queue.close();
    const dropping = await startRedis({ maxmemoryPolicy: 'allkeys-lru' });
    const other = open(dropping.url);
    const health = await other.health();
    expect(health).toMatchObject({ up: true, noeviction: false });
    expect(health.problem).toContain('noeviction');
    await other.close();
    await dropping.stop();
  });

  test('carry a cancel to whoever listens', async () => {
    const queue = open();
    const heard: string[] = [];
    const ears = hearCancels(queue, log, (transfer) => heard.push(transfer));
    await until(async () => {
      await pushCancel(queue, 'wanted');
      return heard.includes('wanted');
    });
    ears.close();
    await queue.close();
  });

  test('carry progress at most once a second, remember the last and forget it at the end', async () => {
    const queue = open();
    const heard: Progress[] = [];
    const ears = hearProgress(queue, log, (progress) => heard.push(progress));
    const reporter = new ProgressReporter(queue, 'moving', 3);
    const begunMs = Date.now();
    await until(() => {
      reporter.report(Date.now() - begunMs, 10_000);
      return heard.length >= 2;
    });
    expect(heard.length).toBeLessThanOrEqual(Math.ceil((Date.now() - begunMs) / 1000));
    expect(heard[0]).toMatchObject({ transfer: 'moving', epoch: 3, total: 10_000 });
    const known = await readProgress(queue, ['moving', 'other']);
    expect([...known.keys()]).toEqual(['moving']);
    expect(known.get('moving')?.bytesPerSecond).toBeGreaterThan(0);
    reporter.end();
    await until(async () => (await readProgress(queue, ['moving'])).size === 0);
    ears.close();
    await queue.close();
  });
});
