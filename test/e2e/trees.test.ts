import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { pause } from '../../lib/deadline.ts';
import type { TransferKind } from '../../lib/ledger/transfer.ts';
import type { Driver } from '../../lib/stores/driver.ts';
import { COLLECT } from '../../lib/transfer/gc.ts';
import { listFiles } from '../../lib/transfer/tree-list.ts';
import { requireServer } from '../servers/require.ts';
import { redisForAll } from '../servers/shared.ts';
import { eventually, openQuay, type Quay } from './quay.ts';

const DAY_MS = 86_400_000;
const NAMES = [
  'a.txt',
  'deep/er/b.bin',
  'deep/empty',
  'other name/ünïcode-重み-🚢',
  '100% "it\'s" $(x).log',
  '.hidden',
];

/** The driver, with a word in each of its calls. */
const calling = (driver: Driver, called: (method: string, path: string) => void): Driver =>
  new Proxy(driver, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key);
      if (typeof value !== 'function') return value;
      return (...args: unknown[]) => {
        called(String(key), String(args[0]));
        return Reflect.apply(value, target, args);
      };
    },
  });

requireServer('redis')('a tree', () => {
  const redis = redisForAll();
  let quay: Quay;
  afterEach(() => quay.close());

  const put = (path: string, content: string | Uint8Array, store = 'other'): void => {
    const file = quay.fileOf(path, store);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, content);
  };
  /** Every file below, hidden ones of ours included, and what is in it. */
  const filesBelow = (path: string, store?: string): Record<string, string> => {
    const root = quay.fileOf(path, store);
    if (!existsSync(root)) return {};
    const found = readdirSync(root, { recursive: true, withFileTypes: true }).filter((entry) =>
      entry.isFile(),
    );
    const pairs = found.map((entry): [string, string] => {
      const file = join(entry.parentPath, entry.name);
      return [file.slice(root.length + 1), readFileSync(file, 'base64')];
    });
    return Object.fromEntries(pairs.sort(([a], [b]) => (a < b ? -1 : 1)));
  };
  const submit = (kind: TransferKind, from: string | undefined, to: string | undefined, more = {}) =>
    quay.submit({
      kind,
      tree: true,
      ...(from !== undefined && { from: quay.place(from, 'other') }),
      ...(to !== undefined && { to: quay.place(to) }),
      ...more,
    });
  const listed = async (id: string, state?: 'done' | 'skipped' | 'failed' | 'pending') =>
    (await listFiles(quay.deps, await quay.get(id), { state, limit: 1000 }, AbortSignal.timeout(5000))).files;

  test('is copied with every name and byte, and says how many', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    for (const name of NAMES) put(`src/${name}`, name === 'deep/empty' ? '' : randomBytes(3000));
    put('src-beside/not.this', 'no');
    await quay.work();
    const { id } = await submit('copy', 'src', 'dst/in');
    const ended = await quay.ended(id);
    expect(ended).toMatchObject({
      state: 'succeeded',
      result: {
        outcome: 'published',
        size: 3000 * (NAMES.length - 1),
        files: {
          done: { files: NAMES.length, bytes: 3000 * (NAMES.length - 1) },
          skipped: { files: 0, bytes: 0 },
          failed: { files: 0, bytes: 0 },
        },
      },
    });
    expect(filesBelow('dst/in')).toEqual(filesBelow('src', 'other'));
    expect(filesBelow('dst')).toEqual(
      Object.fromEntries(
        Object.entries(filesBelow('src', 'other')).map(([name, bytes]) => [`in/${name}`, bytes]),
      ),
    );
  });

  test('is planned in pages, a large file alone on its own', async () => {
    quay = await openQuay({ redisUrl: redis.url, config: { partThresholdBytes: 8 * 1024 * 1024 } });
    for (let n = 0; n < 1234; n++) put(`src/${n % 7}/${n}`, `${n}`);
    put('src/3/large', Buffer.alloc(9 * 1024 * 1024, 7));
    await quay.work();
    const { id } = await submit('copy', 'src', 'dst');
    await quay.ended(id, 100_000);
    const pages = await quay.ledger.trees.pages(id, -1, 100);
    expect(pages.map(({ files }) => files).sort((a, b) => a - b)).toEqual([1, 234, 250, 250, 250, 250]);
    expect(pages.find(({ files }) => files === 1)?.bytes).toBe(9 * 1024 * 1024);
    expect(filesBelow('dst')).toEqual(filesBelow('src', 'other'));
  });

  test('of nothing fails as not-found, and a file is a tree of one', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    put('one.txt', 'one');
    await quay.work();
    const none = await submit('copy', 'nowhere', 'dst');
    expect(await quay.ended(none.id)).toMatchObject({
      state: 'failed',
      failure: { kind: 'not-found', message: 'there is no object at or below other:nowhere' },
    });
    const one = await submit('copy', 'one.txt', 'dst/two.txt');
    expect(await quay.ended(one.id)).toMatchObject({
      state: 'succeeded',
      result: { files: { done: { files: 1 } } },
    });
    expect(quay.bytesAt('dst/two.txt').toString()).toBe('one');
  });

  test('says which files failed and why, and a retry takes only those', async () => {
    let readable = false;
    quay = await openQuay({
      redisUrl: redis.url,
      config: { attempts: 2 },
      around: (name, driver) =>
        name !== 'other'
          ? driver
          : calling(driver, (method, path) => {
              if (method === 'read' && path === 'src/13' && !readable)
                throw Object.assign(new Error('EACCES: permission denied'), { code: 'EACCES' });
            }),
    });
    for (let n = 0; n < 20; n++) put(`src/${n}`, `file ${n}`);
    put('dst/7/in the way', 'a directory where a file should go', 'artifacts');
    put('src/odd#name', 'a name like any other');
    await quay.work();
    const { id } = await submit('copy', 'src', 'dst');
    const failed = await quay.ended(id);
    expect(failed.state).toBe('failed');
    expect(failed.failure?.message).toMatch(/^2 of 21 files failed, the first: /);
    const files = await listed(id, 'failed');
    expect(files.map(({ path }) => path).sort()).toEqual(['13', '7']);
    for (const file of files) expect(file.failure?.message).toMatch(/could not|exists/);
    expect((await listed(id, 'done')).map(({ outcome }) => outcome)).toEqual(Array(19).fill('published'));
    expect(await listed(id)).toHaveLength(21);

    const before = Object.fromEntries(
      Object.keys(filesBelow('dst')).map((name) => [name, statSync(quay.fileOf(`dst/${name}`)).ino]),
    );
    readable = true;
    rmSync(quay.fileOf('dst/7'), { recursive: true });
    const again = await quay.ledger.transfers.retry(id);
    expect(again).toMatchObject({ state: 'accepted' });
    expect((await listed(id, 'pending')).map(({ path }) => path).sort()).toEqual(['13', '7']);
    if (typeof again === 'object') await quay.queue.submit(again);
    expect(await quay.ended(id)).toMatchObject({ state: 'succeeded' });
    for (const [name, ino] of Object.entries(before))
      if (name !== '7/in the way') expect(statSync(quay.fileOf(`dst/${name}`)).ino, name).toBe(ino);
    expect(quay.bytesAt('dst/13').toString()).toBe('file 13');
    expect(quay.bytesAt('dst/7').toString()).toBe('file 7');
  });

  test('leaves what is there as onExists says', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    put('src/same', 'the same bytes');
    put('src/longer', 'longer than it was');
    put('src/other', 'not what was there');
    put('src/new', 'new');
    const there = { same: 'the same bytes', longer: 'shorter', other: 'NOT WHAT WAS THERE' };
    const reset = () => {
      rmSync(quay.fileOf('dst'), { recursive: true, force: true });
      for (const [name, content] of Object.entries(there)) put(`dst/${name}`, content, 'artifacts');
    };
    await quay.work();
    const after = async (onExists: 'skip' | 'skip-if-same' | 'fail' | 'replace') => {
      reset();
      const ino = statSync(quay.fileOf('dst/same')).ino;
      const { id } = await submit('copy', 'src', 'dst', { onExists });
      const { state } = await quay.ended(id);
      const skipped = (await listed(id, 'skipped')).map(({ path }) => path).sort();
      const kept = statSync(quay.fileOf('dst/same')).ino === ino;
      const content = Object.fromEntries(
        Object.entries(filesBelow('dst')).map(([name, bytes]) => [
          name,
          Buffer.from(bytes, 'base64').toString(),
        ]),
      );
      return { state, skipped, kept, content };
    };
    const source = {
      same: 'the same bytes',
      longer: 'longer than it was',
      other: 'not what was there',
      new: 'new',
    };
    expect(await after('replace')).toEqual({ state: 'succeeded', skipped: [], kept: false, content: source });
    expect(await after('skip-if-same')).toEqual({
      state: 'succeeded',
      skipped: ['same'],
      kept: true,
      content: source,
    });
    expect(await after('skip')).toEqual({
      state: 'succeeded',
      skipped: ['longer', 'other', 'same'],
      kept: true,
      content: { ...there, new: 'new' },
    });
    expect(await after('fail')).toEqual({
      state: 'failed',
      skipped: [],
      kept: true,
      content: { ...there, new: 'new' },
    });
  });

  test('is not carried again where digests recorded before say that it is the same', async () => {
    const reads: string[] = [];
    quay = await openQuay({
      redisUrl: redis.url,
      around: (name, driver) =>
        calling(driver, (method, path) => {
          if (method === 'read' && name !== 'staging') reads.push(`${name}:${path}`);
        }),
    });
    for (let n = 0; n < 5; n++) put(`src/${n}`, `file ${n}`);
    await quay.work();
    await quay.ended((await submit('copy', 'src', 'dst')).id);
    const back = { from: quay.place('dst'), to: quay.place('back', 'other') };
    await quay.ended((await quay.submit({ kind: 'copy', tree: true, ...back })).id);
    reads.length = 0;
    const again = await quay.submit({ kind: 'copy', tree: true, ...back, onExists: 'skip-if-same' });
    expect(await quay.ended(again.id)).toMatchObject({ result: { files: { skipped: { files: 5 } } } });
    expect(reads).toEqual([]);
  });

  test('is removed with all that is below, and nothing beside', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    for (let n = 0; n < 1200; n++) put(`gone/${n % 5}/${n}`, `${n}`, 'artifacts');
    mkdirSync(quay.fileOf('gone/empty/dir'), { recursive: true });
    put('gone-not/stays', 'yes', 'artifacts');
    await quay.work();
    const { id } = await submit('delete', undefined, 'gone');
    expect(await quay.ended(id)).toMatchObject({
      state: 'succeeded',
      result: { outcome: 'removed', files: { done: { files: 1200, directories: 1 } } },
    });
    expect(readdirSync(quay.fileOf('.')).filter((name) => !name.startsWith('.'))).toEqual(['gone-not']);
    const nothing = await submit('delete', undefined, 'gone');
    expect(await quay.ended(nothing.id)).toMatchObject({
      state: 'succeeded',
      result: { files: { done: { files: 0 } } },
    });
  });

  test('keeps its plan until it cannot be retried any more, and is planned anew after that', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    for (const name of ['a', 'b', 'blocked']) put(`src/${name}`, name);
    put('dst/blocked/in the way', 'a directory where a file should go', 'artifacts');
    await quay.work();
    const { id } = await submit('copy', 'src', 'dst');
    await quay.ended(id);
    const kept = () => readdirSync(quay.fileOf('.', 'staging')).filter((name) => name.startsWith(id));
    const collect = (nowMs: number) =>
      COLLECT.staging(quay.deps, {
        signal: AbortSignal.timeout(10_000),
        dryRun: false,
        nowMs,
        historyMs: 30 * DAY_MS,
      });
    await collect(Date.now() + 2 * DAY_MS);
    expect(kept()).toHaveLength(2);
    await collect(Date.now() + 8 * DAY_MS);
    expect(kept()).toEqual([]);
    await expect(listed(id)).rejects.toMatchObject({ kind: 'not-found' });
    put('src/c', 'new');
    const again = await quay.ledger.transfers.retry(id);
    if (typeof again === 'object') await quay.queue.submit(again);
    expect((await quay.ended(id)).failure?.message).toMatch(/^1 of 4 files failed/);
    expect(quay.bytesAt('dst/c').toString()).toBe('new');
  });

  test('whose file never gets through fails once its attempts are spent', async () => {
    const stuck = (name: string, driver: Driver): Driver => {
      const read = driver.read.bind(driver);
      const waiting: Driver['read'] = async (path, range, call) => {
        if (path === 'src/stuck') await once(call.signal, 'abort');
        call.signal.throwIfAborted();
        return read(path, range, call);
      };
      return name === 'other' ? Object.assign(driver, { read: waiting }) : driver;
    };
    quay = await openQuay({
      redisUrl: redis.url,
      around: stuck,
      config: { attempts: 1, attemptTimeoutMs: 3000 },
    });
    put('src/stuck', 'stuck');
    await quay.work();
    const { id } = await submit('copy', 'src', 'dst');
    expect(await quay.ended(id, 100_000)).toMatchObject({
      state: 'failed',
      failure: { kind: 'timeout', message: expect.stringMatching(/^1 of 1 files failed/) },
    });
    expect(filesBelow('dst')).toEqual({});
  });

  test('has a large file whose parts its store takes long to join: they are joined once', async () => {
    let joins = 0;
    const slow = (name: string, driver: Driver): Driver => {
      const { multipart } = driver;
      if (name !== 'artifacts' || !multipart) return driver;
      const finish = multipart.finish.bind(multipart);
      multipart.finish = async (...args) => {
        joins++;
        await pause(6000, args[3].signal);
        return finish(...args);
      };
      return driver;
    };
    quay = await openQuay({
      redisUrl: redis.url,
      around: slow,
      config: { stallMs: 3000, partThresholdBytes: 1024 },
    });
    const bytes = Buffer.alloc(17 * 1024 * 1024, 7);
    put('src/large', bytes);
    await quay.work();
    const { id } = await submit('copy', 'src', 'dst');
    expect(await quay.ended(id, 100_000)).toMatchObject({ state: 'succeeded' });
    expect(joins).toBe(1);
    expect(quay.bytesAt('dst/large').equals(bytes)).toBe(true);
  });

  test('that is cancelled stops at once and leaves every file whole', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    for (let n = 0; n < 1500; n++) put(`src/${n}`, `file ${n}`);
    await quay.work();
    const { id } = await submit('copy', 'src', 'dst');
    await eventually(
      () => Object.keys(existsSync(quay.fileOf('dst')) ? readdirSync(quay.fileOf('dst')) : []).length > 100,
    );
    expect(await quay.ledger.transfers.cancel(id)).toBe('cancelled');
    await eventually(async () => {
      const { upload } = await quay.queue.counts();
      return upload.active + upload.waiting + upload.delayed + upload['waiting-children'] === 0;
    });
    expect(await quay.ledger.trees.claimedOfEnded(10)).toEqual([]);
    const count = readdirSync(quay.fileOf('dst')).length;
    expect(count).toBeLessThan(1500);
    for (const [name, bytes] of Object.entries(filesBelow('dst')))
      expect(Buffer.from(bytes, 'base64').toString()).toBe(`file ${name}`);
    const again = await quay.ledger.transfers.retry(id);
    if (typeof again === 'object') await quay.queue.submit(again);
    expect(await quay.ended(id, 100_000)).toMatchObject({
      state: 'succeeded',
      result: { files: { done: { files: 1500 } } },
    });
  });
});
