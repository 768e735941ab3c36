import { existsSync, mkdirSync, readdirSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { Failure } from '../../lib/errors.ts';
import type { GcTask } from '../../lib/jobs/jobs.ts';
import { parsePath } from '../../lib/path.ts';
import { COLLECT } from '../../lib/transfer/gc.ts';
import { OTHERS } from '../hidden.ts';
import { requireServer } from '../servers/require.ts';
import { redisForAll } from '../servers/shared.ts';
import { eventually, openQuay, type Quay } from './quay.ts';

const DAY = 24 * 3600_000;

requireServer('redis')('a collection', () => {
  const redis = redisForAll();
  let quay: Quay;
  afterEach(() => quay.close());

  const collect = (task: GcTask, dryRun = false, nowMs = Date.now()) =>
    COLLECT[task](quay.deps, { signal: AbortSignal.timeout(20_000), dryRun, nowMs, historyMs: 30 * DAY });
  const age = (path: string, ms: number): void => {
    const then = (Date.now() - ms) / 1000;
    utimesSync(path, then, then);
  };

  test('of staging takes bytes of failed uploads once their time is over, and says first what it would take', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    const failed = await quay.accept({ kind: 'upload', to: quay.place('w') }, Buffer.from('12345'));
    await quay.ledger.transfers.end(failed.id, 1, {
      state: 'failed',
      failure: { kind: 'denied', message: 'no' },
      stagedUntilMs: Date.now() + DAY,
    });
    const waiting = await quay.accept({ kind: 'upload', to: quay.place('v') }, Buffer.from('1'));
    expect(await collect('staging')).toMatchObject({ items: 0 });
    const later = Date.now() + 2 * DAY;
    expect(await collect('staging', true, later)).toMatchObject({ items: 1, bytes: 5 });
    expect(existsSync(quay.stagedFile(failed.id))).toBe(true);
    expect(await collect('staging', false, later)).toMatchObject({ items: 1, bytes: 5, failed: 0 });
    expect(quay.stagedIds()).toEqual([waiting.id]);
    expect(await quay.ledger.transfers.retry(failed.id)).toBe('bytes-gone');
  });

  test('of staging takes files of ours that no transfer knows and nobody has touched for a day, and none of others', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    const left = quay.hidden.nameIn('', 't-1');
    const ours = [quay.stagedFile('told-nobody'), quay.fileOf(left, 'staging')];
    const others = [
      'told-nobody',
      '.longshore-left',
      OTHERS.stagedName('told-nobody'),
      OTHERS.nameIn('', 't-1'),
    ];
    const foreign = others.map((name) => quay.fileOf(name, 'staging'));
    for (const file of [...ours, quay.stagedFile('just-now'), ...foreign]) writeFileSync(file, 'bytes');
    const known = await quay.accept({ kind: 'upload', to: quay.place('v') }, Buffer.from('1'));
    for (const file of [...ours, quay.stagedFile(known.id), ...foreign]) age(file, 25 * 3600_000);
    expect(await collect('staging', true)).toMatchObject({ items: 2 });
    expect(await collect('staging')).toMatchObject({ items: 2, failed: 0 });
    expect(ours.filter((file) => existsSync(file))).toEqual([]);
    expect(foreign.filter((file) => !existsSync(file))).toEqual([]);
    expect(quay.stagedIds().filter(Boolean).toSorted()).toEqual(['just-now', known.id].toSorted());
  });

  test('of staging counts pages of a tree when they go, a day after they were written, and not when the tree ends', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    mkdirSync(quay.fileOf('tree', 'other'));
    writeFileSync(quay.fileOf('tree/a', 'other'), 'some bytes');
    await quay.work();
    const { id } = await quay.submit({
      kind: 'copy',
      tree: true,
      from: quay.place('tree', 'other'),
      to: quay.place('tree'),
    });
    expect((await quay.ended(id)).state).toBe('succeeded');
    const pages = quay.stagedIds().filter((name) => name?.startsWith(id));
    expect(pages.length).toBeGreaterThan(0);
    for (const dryRun of [true, false])
      expect(await collect('staging', dryRun)).toMatchObject({ items: 0, bytes: 0, failed: 0 });
    expect(quay.stagedIds()).toEqual(pages);
    const tomorrow = Date.now() + 25 * 3600_000;
    for (const dryRun of [true, false])
      expect(await collect('staging', dryRun, tomorrow)).toMatchObject({ items: pages.length, failed: 0 });
    expect(quay.stagedIds()).toEqual([]);
  });

  test('of downloads takes those past their lease, but none that was read meanwhile', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    writeFileSync(quay.fileOf('slow', 'other'), 'slow bytes');
    await quay.work();
    const [read, unread] = await Promise.all(
      [1, 2].map(() => quay.submit({ kind: 'download', from: quay.place('slow', 'other') })),
    );
    for (const { id } of [read!, unread!]) expect((await quay.ended(id)).state).toBe('succeeded');
    const later = Date.now() + 2 * DAY;
    await quay.ledger.transfers.extendStaged(read!.id, later + DAY);
    expect(await collect('staging', false, later)).toMatchObject({ items: 0 });
    expect(await collect('downloads', true, later)).toMatchObject({ items: 1, bytes: 10 });
    expect(await collect('downloads', false, later)).toMatchObject({ items: 1, bytes: 10 });
    expect(quay.stagedIds()).toEqual([read!.id]);
  });

  test('of uploads takes what was written down a day ago and never ended, and hidden files, but nothing of a running transfer', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    const { ledger, deps } = quay;
    const store = deps.stores.get('artifacts')!;
    const signal = AbortSignal.timeout(20_000);
    const running = await quay.accept({ kind: 'upload', to: quay.place('b/v') }, Buffer.from('1'));
    const begin = async (path: string, owner: string): Promise<void> => {
      const place = quay.place(path);
      const journalId = await ledger.uploads.intend(place, owner);
      const upload = await store.multipart!.begin(place.path, { signal, mode: 'replace', token: owner });
      await ledger.uploads.begun(journalId, upload.id);
    };
    await begin('a/w', 'tgone-1');
    await begin('b/v', `${running.id}-1`);
    // a download in parts that was cut off before it had begun
    await ledger.uploads.intend({ store: deps.staging.store.name, path: parsePath('tgone') }, 'tgone-1');
    const hidden = (folder: string): number => readdirSync(quay.fileOf(folder)).length;
    expect(await collect('uploads')).toMatchObject({ items: 0 });
    const later = Date.now() + DAY + 3600_000;
    const left = hidden('a');
    expect(left).toBeGreaterThan(0);
    await ledger.transfers.end(running.id, 1, {
      state: 'failed',
      failure: { kind: 'bug', message: 'ended' },
    });
    expect((await collect('uploads', true, later)).items).toBeGreaterThan(0);
    expect(hidden('a')).toBe(left);
    expect(await collect('uploads', false, later)).toMatchObject({ failed: 0 });
    expect(existsSync(quay.fileOf('a')) ? hidden('a') : 0).toBe(0);
    expect(await ledger.uploads.open(later, 10)).toEqual([]);
  });

  test('of uploads takes parts as soon as their transfer has ended, and never before', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    const { ledger, deps } = quay;
    const store = deps.stores.get('artifacts')!;
    const signal = AbortSignal.timeout(20_000);
    const place = quay.place('big');
    const { id } = await quay.accept({ kind: 'copy', from: quay.place('x', 'other'), to: place });
    const parted = await ledger.uploads.ensureParted({ place, owner: id, size: 100, partBytes: 50 });
    const upload = await store.multipart!.begin(place.path, { signal, mode: 'replace', token: `${id}-1` });
    await ledger.uploads.begun(parted.id, upload.id);
    const there = () => existsSync(quay.fileOf('')) && readdirSync(quay.fileOf('')).length > 0;
    await ledger.transfers.requeue(id, 1);
    expect(await collect('uploads')).toMatchObject({ items: 0, failed: 0 });
    expect(there()).toBe(true);
    await ledger.transfers.cancel(id);
    expect(await collect('uploads', true)).toMatchObject({ items: 1 });
    expect(there()).toBe(true);
    expect(await collect('uploads')).toMatchObject({ items: 1, failed: 0 });
    expect(there()).toBe(false);
    expect(await ledger.uploads.partedOf(id)).toEqual([]);
  });

  test('of uploads takes what it can reach where a store cannot be looked at, and says that something was not', async () => {
    quay = await openQuay({
      redisUrl: redis.url,
      around: (name, driver) => {
        if (name !== 'artifacts') return driver;
        // as a bucket answers whose policy lets nobody list
        driver.leftovers = () => {
          throw new Failure('denied', 'listing is not allowed');
        };
        return driver;
      },
    });
    const left = quay.fileOf(quay.hidden.nameIn('', 't-1'), 'other');
    writeFileSync(left, 'x');
    age(left, 25 * 3600_000);
    expect(await collect('uploads')).toMatchObject({ items: 1, failed: 1 });
    expect(existsSync(left)).toBe(false);
  });

  test('of history takes ended transfers past their retention', async () => {
    let aheadMs = 0;
    quay = await openQuay({ redisUrl: redis.url, clock: () => Date.now() + aheadMs });
    await quay.work();
    const { id } = await quay.submit({ kind: 'upload', to: quay.place('w') }, Buffer.from('x'));
    await quay.ended(id);
    const waiting = await quay.accept({ kind: 'upload', to: quay.place('v') }, Buffer.from('1'));
    expect(await collect('history')).toMatchObject({ items: 0 });
    await eventually(async () => (await quay.get(id)).stagedUntilMs === undefined);
    aheadMs = 31 * DAY;
    const later = Date.now() + aheadMs;
    expect(await collect('history', true, later)).toMatchObject({ items: 1 });
    expect(await quay.ledger.transfers.get(id)).toBeDefined();
    expect(await collect('history', false, later)).toMatchObject({ items: 1 });
    expect(await quay.ledger.transfers.get(id)).toBeUndefined();
    expect(await quay.ledger.transfers.get(waiting.id)).toBeDefined();
  });

  test('runs as a job when it is due', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    mkdirSync(quay.fileOf('deep', 'other'));
    const left = quay.fileOf(join('deep', quay.hidden.nameIn('deep', 't-1')), 'other');
    writeFileSync(left, 'x');
    age(left, 25 * 3600_000);
    await quay.work();
    await quay.queue.scheduleGc(3600_000);
    await eventually(() => !existsSync(left));
    await eventually(async () =>
      (await quay.deps.metrics.text()).includes('longshore_gc_items_total{task="uploads"} 1'),
    );
  });
});
