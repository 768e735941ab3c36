import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { configOf } from '../../lib/config.ts';
import { type OpenDeps, openDeps } from '../../lib/deps.ts';
import { newTransferId } from '../../lib/ledger/ids.ts';
import type { NewTransfer, Place } from '../../lib/ledger/transfer.ts';
import { parsePath } from '../../lib/path.ts';
import type { Attributes } from '../../lib/stores/attributes.ts';
import { S3Driver } from '../../lib/stores/drivers/s3.ts';
import { Store } from '../../lib/stores/store.ts';
import { Pool } from '../../workers/pool.ts';
import { settingsFor } from '../contract/s3.ts';
import { NAMES } from '../hidden.ts';
import { startMinio } from '../servers/minio.ts';
import { type RedisServer, startRedis } from '../servers/redis.ts';
import { requireServer } from '../servers/require.ts';
import type { S3Server } from '../servers/s3.ts';
import { startVersitygw } from '../servers/versitygw.ts';
import { eventually, TIMINGS } from './quay.ts';

const MIB = 1024 * 1024;
const RICH: Attributes = {
  contentEncoding: 'gzip',
  cacheControl: 'no-store',
  contentDisposition: 'inline',
  contentLanguage: 'fr',
  expires: 'Thu, 01 Dec 2033 16:00:00 GMT',
  metadata: { team: 'vision', title: '=?UTF-8?q?gr=C3=B6=C3=9Fe?=' },
  tags: { stage: 'prod' },
};

requireServer(
  'redis',
  'minio',
  'versitygw',
)('copies from one server to another', () => {
  let redis: RedisServer;
  let minio: S3Server;
  let versitygw: S3Server;
  let folder: string;
  let deps: OpenDeps;
  let pool: Pool;
  const place = (store: string, path: string): Place => ({ store, path: parsePath(path) });
  const signal = (): AbortSignal => AbortSignal.timeout(60_000);

  beforeAll(async () => {
    [redis, minio, versitygw] = await Promise.all([startRedis(), startMinio(), startVersitygw()]);
    await Promise.all([minio.makeBucket('one'), versitygw.makeBucket('two')]);
    folder = mkdtempSync(join(tmpdir(), 'longshore-servers-'));
    const given = {
      dataFolder: folder,
      artifactsDestination: 's3://one/root',
      redisUrl: redis.url,
      partThresholdBytes: 17 * MIB,
      logLevel: 'silent',
    };
    deps = await openDeps(configOf(given, minio.env), 'worker');
    // one process reaches one S3 server by its environment: the other is put beside it
    const driver = new S3Driver({ bucket: 'two', prefix: 'root' }, settingsFor(versitygw), NAMES);
    const other = new Store({ name: 'other', uri: 's3://two/root', driver, buffers: deps.buffers });
    (deps.stores as Map<string, Store>).set('other', other);
    pool = new Pool({ ...deps, worker: 'test' }, TIMINGS);
    await pool.started();
  });
  afterAll(async () => {
    await pool?.close();
    await deps?.close();
    await Promise.all([redis?.stop(), minio?.stop(), versitygw?.stop()]);
    rmSync(folder, { recursive: true, force: true });
  });

  const carry = async (given: Partial<NewTransfer> & Pick<NewTransfer, 'from' | 'to'>) => {
    const rest = { onExists: 'replace', tree: false, priority: 100, labels: {}, owner: 'test' } as const;
    const transfer: NewTransfer = { id: newTransferId(), kind: 'copy', ...rest, ...given };
    await deps.queue.submit(
      (await deps.ledger.transfers.accept(transfer, undefined, Date.now() + 60_000)).transfer,
    );
    const row = async () => (await deps.ledger.transfers.get(transfer.id))!;
    await eventually(async () => (await row()).endedMs !== undefined, 60_000);
    return row();
  };
  const put = async ({ store, path }: Place, bytes: Uint8Array, attributes: Attributes): Promise<void> => {
    const body = (async function* () {
      yield bytes;
    })();
    const token = newTransferId();
    const opts = { signal: signal(), token, mediaType: 'text/x-mine', attributes };
    const draft = await deps.stores.get(store)!.prepare(path, body, opts);
    await draft.publish({ signal: signal() });
  };
  const told = async ({ store, path }: Place): Promise<Attributes> => {
    const at = deps.stores.get(store)!;
    const { attributes = {}, tagCount = 0 } = await at.head(path, signal());
    return { ...attributes, ...(tagCount > 0 && { tags: await at.tags(path, signal()) }) };
  };
  const mine = { mediaType: 'text/x-mine', ...RICH };

  test.for([
    ['small', 1000],
    ['in parts, each a job of its own', 33 * MIB],
  ] as const)('carry what both keep: %s', async ([name, size]) => {
    for (const [from, to] of [
      ['artifacts', 'other'],
      ['other', 'artifacts'],
    ] as const) {
      await put(place(from, name), randomBytes(size), RICH);
      const end = await carry({ from: place(from, name), to: place(to, `${name}-over`) });
      expect(end).toMatchObject({ state: 'succeeded', result: { outcome: 'published' } });
      expect(end.result?.notKept ?? []).toEqual([]);
      expect(await told(place(to, `${name}-over`))).toEqual(mine);
      const isParted = size > MIB;
      expect(end.starts).toBe(isParted ? 2 : 1);
    }
  });

  test('name a storage class that the other takes and does not keep, or does not take', async () => {
    const given = { ...RICH, storageClass: 'REDUCED_REDUNDANCY' };
    await put(place('artifacts', 'classed'), randomBytes(100), given);
    await put(place('artifacts', 'classed-large'), randomBytes(33 * MIB), given);
    for (const name of ['classed', 'classed-large']) {
      const end = await carry({ from: place('artifacts', name), to: place('other', name) });
      expect(end).toMatchObject({ state: 'succeeded', result: { notKept: ['storageClass'] } });
      expect(await told(place('other', name))).toEqual(mine);
    }
  });

  test('name tags that the other refuses, and carry the rest', async () => {
    const tags = Object.fromEntries(Array.from({ length: 12 }, (_, n) => [`k${n}`, 'v']));
    await put(place('other', 'tagged'), randomBytes(100), { ...RICH, tags });
    const end = await carry({ from: place('other', 'tagged'), to: place('artifacts', 'tagged') });
    expect(end).toMatchObject({ state: 'succeeded', result: { notKept: ['tags'] } });
    const { tags: _, ...rest } = mine;
    expect(await told(place('artifacts', 'tagged'))).toEqual(rest);
  });

  test('name what they lack file by file in a tree', async () => {
    await put(place('artifacts', 'tree/a'), randomBytes(10), {
      storageClass: 'REDUCED_REDUNDANCY',
      tags: { a: 'b' },
    });
    await put(place('artifacts', 'tree/b'), randomBytes(10), { metadata: { b: '1' } });
    await put(place('artifacts', 'tree/c'), randomBytes(10), {});
    const end = await carry({ from: place('artifacts', 'tree'), to: place('other', 'tree'), tree: true });
    expect(end).toMatchObject({
      state: 'succeeded',
      result: { notKeptFiles: { storageClass: 1 }, files: { done: { files: 3 } } },
    });
    expect(await told(place('other', 'tree/a'))).toEqual({ mediaType: 'text/x-mine', tags: { a: 'b' } });
    expect(await told(place('other', 'tree/b'))).toEqual({ mediaType: 'text/x-mine', metadata: { b: '1' } });
    expect(await told(place('other', 'tree/c'))).toEqual({ mediaType: 'text/x-mine' });
  });
});
