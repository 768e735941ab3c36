/** Trees whose jobs run again: what is done by then, and what is not made for ever. */

import { existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { afterEach, expect, test } from 'vitest';
import { pause } from '../../lib/deadline.ts';
import type { Driver } from '../../lib/stores/driver.ts';
import { createProcessor } from '../../workers/run.ts';
import { Watch } from '../../workers/watch.ts';
import { requireServer } from '../servers/require.ts';
import { redisForAll } from '../servers/shared.ts';
import { eventually, openQuay, type Quay } from './quay.ts';

requireServer('redis')('a tree', () => {
  const redis = redisForAll();
  let quay: Quay;
  afterEach(() => quay.close());

  const put = (path: string, content: string): void => {
    const file = quay.fileOf(path, 'other');
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, content);
  };
  const submit = () =>
    quay.submit({ kind: 'copy', tree: true, from: quay.place('src', 'other'), to: quay.place('dst') });
  const retry = async (id: string): Promise<void> => {
    const again = await quay.ledger.transfers.retry(id);
    if (typeof again !== 'object') throw new Error(`not accepted again: ${again}`);
    await quay.queue.submit(again);
  };

  test('whose pages end without any effect gets no jobs for them for ever, and says so', async () => {
    quay = await openQuay({ redisUrl: redis.url, config: { attempts: 2 } });
    for (let n = 0; n < 600; n++) put(`src/${n}`, `${n}`);
    const { deps, queue } = quay;
    const watch = new Watch({
      transfers: deps.ledger.transfers,
      log: deps.log,
      lockMs: 10_000,
      onLostLock() {},
    });
    const processor = createProcessor(deps, watch, 20);
    const pages: string[] = [];
    const connection = new Redis(redis.url, { maxRetriesPerRequest: null });
    const worker = new Worker(
      'upload',
      async (job, token, signal) => {
        if (job.name !== 'page') return processor(job, token, signal);
        pages.push(job.id!);
      },
      { connection, prefix: queue.prefix, concurrency: 4 },
    );
    try {
      const { id } = await submit();
      expect(await quay.ended(id)).toMatchObject({
        state: 'failed',
        attempts: 2,
        failure: {
          kind: 'unavailable',
          message: 'the jobs of 3 pages have ended, and none of these pages has',
        },
      });
      expect(pages).toHaveLength(2 * 3);
      expect(new Set(pages).size).toBe(3);
    } finally {
      await worker.close();
      connection.disconnect();
      watch.close();
    }
  });

  test('that was cancelled goes on where it was when it is retried: it is not listed again, and what is there stays', async () => {
    let held = true;
    let listings = 0;
    const read: string[] = [];
    const around = (name: string, driver: Driver): Driver =>
      name !== 'other'
        ? driver
        : new Proxy(driver, {
            get(target, key) {
              const value: unknown = Reflect.get(target, key);
              if (typeof value !== 'function') return value;
              if (key === 'list') listings++;
              if (key !== 'read') return value.bind(target);
              return async (...call: Parameters<Driver['read']>) => {
                const [path, , { signal }] = call;
                const nth = read.push(path);
                while (held && nth > 450) await pause(5, signal);
                return target.read(...call);
              };
            },
          });
    quay = await openQuay({ redisUrl: redis.url, around });
    for (let n = 0; n < 600; n++) put(`src/${n}`, `file ${n}`);
    await quay.work();
    const { id } = await submit();
    const there = (): string[] =>
      (existsSync(quay.fileOf('dst')) ? readdirSync(quay.fileOf('dst')) : []).filter(
        (name) => !name.startsWith('.longshore-'),
      );
    await eventually(async () => there().length === 450, 30_000);
    await eventually(async () => (await quay.ledger.trees.open(id)) < 3);
    expect(await quay.ledger.transfers.cancel(id)).toBe('cancelled');
    await eventually(async () => {
      const { upload } = await quay.queue.counts();
      return upload.active + upload.waiting + upload.delayed + upload['waiting-children'] === 0;
    });

    const plan = readdirSync(quay.fileOf('', 'staging')).filter((name) => name.includes('-plan-'));
    const planBytes = plan.reduce((sum, name) => sum + statSync(quay.fileOf(name, 'staging')).size, 0);
    expect(planBytes).toBeGreaterThan(600 * 20);
    expect(await quay.ledger.transfers.stagedBytes()).toBe(2 * planBytes);

    const before = there().map((name) => [name, statSync(quay.fileOf(`dst/${name}`)).ino] as const);
    held = false;
    read.length = 0;
    await retry(id);
    expect(await quay.ended(id)).toMatchObject({
      state: 'succeeded',
      result: { files: { done: { files: 600 }, skipped: { files: 0 } } },
    });
    expect(listings).toBe(1);
    expect(read.filter((path) => before.some(([name]) => path === `src/${name}`))).toEqual([]);
    expect(before).toHaveLength(450);
    for (const [name, ino] of before) expect(statSync(quay.fileOf(`dst/${name}`)).ino, name).toBe(ino);
    expect(there()).toHaveLength(600);
  });

  test('that has to wait for older transfers looks for their ends without an attempt for each look', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    put('src/a', 'a');
    const older = await quay.accept({ kind: 'delete', to: quay.place('dst/b') });
    await quay.work();
    const { id } = await submit();
    const looks = async (): Promise<number> =>
      Number(await quay.queue.redis.hget(`${quay.queue.prefix}:upload:${id}-1`, 'ats'));
    await eventually(async () => (await looks()) >= 3, 20_000);
    await quay.ledger.transfers.cancel(older.id);
    expect(await quay.ended(id)).toMatchObject({ state: 'succeeded', attempts: 0 });
    const attempts = await quay.ledger.transfers.attemptsOf(id);
    expect(attempts.map(({ failure }) => failure?.kind)).toEqual(['busy', undefined, undefined]);
  });
});
