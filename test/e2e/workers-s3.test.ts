import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { configOf } from '../../lib/config.ts';
import { type OpenDeps, openDeps } from '../../lib/deps.ts';
import { newTransferId } from '../../lib/ledger/ids.ts';
import type { NewTransfer, Place } from '../../lib/ledger/transfer.ts';
import { parsePath } from '../../lib/path.ts';
import { COLLECT } from '../../lib/transfer/gc.ts';
import { tellUnproven } from '../../workers/gc.ts';
import { Pool } from '../../workers/pool.ts';
import { startMinio } from '../servers/minio.ts';
import { type RedisServer, startRedis } from '../servers/redis.ts';
import { requireServer } from '../servers/require.ts';
import type { S3Server } from '../servers/s3.ts';
import { eventually, TIMINGS } from './quay.ts';

const MIB = 1024 * 1024;

requireServer('redis', 'minio')('a transfer to and from S3', () => {
  let redis: RedisServer;
  let minio: S3Server;
  let folder: string;
  let deps: OpenDeps;
  let pool: Pool;
  const place = (path: string, store = 'artifacts'): Place => ({ store, path: parsePath(path) });
  const signal = (): AbortSignal => AbortSignal.timeout(60_000);

  beforeAll(async () => {
    [redis, minio] = await Promise.all([startRedis(), startMinio()]);
    await minio.makeBucket('quay');
    folder = mkdtempSync(join(tmpdir(), 'longshore-s3-'));
    const config = configOf(
      {
        dataFolder: folder,
        artifactsDestination: 's3://quay/root',
        stores: { other: join(folder, 'other') },
        redisUrl: redis.url,
        logLevel: 'silent',
      },
      minio.env,
    );
    deps = await openDeps(config, 'worker');
    pool = new Pool({ ...deps, worker: 'test' }, TIMINGS);
    await pool.started();
  });
  afterAll(async () => {
    await pool?.close();
    await deps?.close();
    await Promise.all([redis?.stop(), minio?.stop()]);
    rmSync(folder, { recursive: true, force: true });
  });

  const accept = async (given: Partial<NewTransfer> & Pick<NewTransfer, 'kind'>, bytes?: Uint8Array) => {
    const id = newTransferId();
    const body = (async function* () {
      if (bytes) yield bytes;
    })();
    const digests = bytes && (await deps.staging.stage(id, body, { signal: signal(), size: bytes.length }));
    const rest = { onExists: 'replace', tree: false, priority: 100, labels: {}, owner: 'test' } as const;
    const transfer: NewTransfer = { id, ...rest, ...given, ...(digests && { digests }) };
    const { transfers } = deps.ledger;
    return (await transfers.accept(transfer, undefined, bytes && Date.now() + 60_000)).transfer;
  };
  const ended = async (id: string) => {
    const row = async () => (await deps.ledger.transfers.get(id))!;
    await eventually(async () => (await row()).endedMs !== undefined, 30_000);
    return row();
  };

  test('goes up in parts, over to a folder, into staging, and away', async () => {
    const bytes = randomBytes(40 * MIB + 17);
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    const run = async (given: Parameters<typeof accept>[0], body?: Uint8Array) => {
      const transfer = await accept(given, body);
      await deps.queue.submit(transfer);
      return ended(transfer.id);
    };
    const up = await run({ kind: 'upload', to: place('models/w.bin') }, bytes);
    expect(up).toMatchObject({
      state: 'succeeded',
      result: { outcome: 'published', size: bytes.length, sha256 },
    });
    const over = await run({ kind: 'copy', from: place('models/w.bin'), to: place('w.bin', 'other') });
    expect(over).toMatchObject({ state: 'succeeded', result: { sha256 } });
    const down = await run({ kind: 'download', from: place('models/w.bin') });
    expect(down).toMatchObject({
      state: 'succeeded',
      result: { outcome: 'ready', size: bytes.length, sha256 },
    });
    const away = await run({ kind: 'delete', to: place('models/w.bin') });
    expect(away).toMatchObject({ state: 'succeeded', result: { outcome: 'removed' } });
    await expect(
      deps.stores.get('artifacts')!.head(parsePath('models/w.bin'), signal()),
    ).rejects.toMatchObject({
      kind: 'not-found',
    });
    expect(await deps.ledger.uploads.open(Date.now() + 1000, 10)).toEqual([]);
  });

  test('that was published by a worker that died is known by the token it carries', async () => {
    const bytes = randomBytes(1000);
    const transfer = await accept({ kind: 'upload', to: place('once'), onExists: 'fail' }, bytes);
    await deps.ledger.transfers.start(transfer.id, 1, 'dead');
    await deps.ledger.transfers.publishing(transfer.id, 1);
    const store = deps.stores.get('artifacts')!;
    const body = (async function* () {
      yield bytes;
    })();
    const draft = await store.prepare(parsePath('once'), body, {
      signal: signal(),
      token: `${transfer.id}-1`,
    });
    const { entry } = await draft.publish({ signal: signal() });
    const epoch = await deps.ledger.transfers.requeue(transfer.id, 1);
    await deps.queue.submit({ ...transfer, epoch: epoch! });
    expect(await ended(transfer.id)).toMatchObject({ state: 'succeeded', result: { etag: entry.etag } });
  });

  test('that left uploads in parts behind is cleaned up after where their ids were written down; the others stay and are counted', async () => {
    const store = deps.stores.get('artifacts')!;
    const { uploads } = deps.ledger;
    const at = { begun: place('left/begun'), lost: place('left/lost'), foreign: place('left/foreign') };
    const begin = (where: Place, token: string) =>
      store.multipart!.begin(where.path, { signal: signal(), mode: 'replace', token });
    await uploads.begun(await uploads.intend(at.begun, 'tgone-1'), (await begin(at.begun, 'tgone-1')).id);
    await uploads.intend(at.lost, 'tgone-2');
    await begin(at.lost, 'tgone-2');
    await begin(at.foreign, 'somebody');
    const nowMs = Date.now() + 25 * 3600_000;
    const opts = { signal: signal(), nowMs, historyMs: 1e12 };
    expect(await COLLECT.uploads(deps, { ...opts, dryRun: true })).toMatchObject({ items: 2 });
    const collected = await COLLECT.uploads(deps, { ...opts, dryRun: false });
    expect(collected).toMatchObject({ items: 2, failed: 0 });
    const { count, uploads: named } = collected.unproven!.get('artifacts')!;
    expect([count, ...named.map(({ path }) => path).toSorted()]).toEqual([2, 'left/foreign', 'left/lost']);
    tellUnproven(deps, collected.unproven!, {});
    expect(await deps.metrics.text()).toContain('longshore_unproven_uploads{store="artifacts"} 2');
    expect(await uploads.open(Number.MAX_SAFE_INTEGER, 10)).toEqual([]);
    const pending = async ({ path }: Place): Promise<number> => {
      let found = 0;
      for await (const page of store.pending(path, signal())) found += page.length;
      return found;
    };
    expect(await Promise.all([at.begun, at.lost, at.foreign].map(pending))).toEqual([0, 1, 1]);
  });
});
