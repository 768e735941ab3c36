import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { configOf } from '../../lib/config.ts';
import { type OpenDeps, openDeps } from '../../lib/deps.ts';
import { pushCancel } from '../../lib/jobs/control.ts';
import { newTransferId } from '../../lib/ledger/ids.ts';
import type { NewTransfer, Place, Transfer } from '../../lib/ledger/transfer.ts';
import { parsePath, ROOT } from '../../lib/path.ts';
import { startMinio } from '../servers/minio.ts';
import { type RedisServer, startRedis } from '../servers/redis.ts';
import { requireServer } from '../servers/require.ts';
import type { S3Server } from '../servers/s3.ts';
import { type PartsLine, partsLine } from './parts-line.ts';
import { eventually } from './quay.ts';
import { startWorker, type WorkerProcess } from './worker-process.ts';

const MIB = 1024 * 1024;
/** Five parts of 16 MiB but the last. */
const BYTES = randomBytes(65 * MIB + 17);
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

requireServer('redis', 'minio')('parts to and from S3', () => {
  let redis: RedisServer;
  let minio: S3Server;
  let line: PartsLine;
  let folder: string;
  let deps: OpenDeps;
  let settings: Record<string, unknown>;
  let env: Record<string, string>;
  let buckets = 0;
  const workers: WorkerProcess[] = [];
  const place = (path: string, store = 'artifacts'): Place => ({ store, path: parsePath(path) });
  const signal = (): AbortSignal => AbortSignal.timeout(60_000);

  beforeAll(async () => {
    [redis, minio] = await Promise.all([startRedis(), startMinio()]);
  });
  beforeEach(async () => {
    const bucket = `parts-${++buckets}`;
    await minio.makeBucket(bucket);
    line = await partsLine(minio.port);
    folder = mkdtempSync(join(tmpdir(), 'longshore-parts-'));
    env = { ...minio.env, MLFLOW_S3_ENDPOINT_URL: line.url };
    settings = {
      dataFolder: folder,
      artifactsDestination: `s3://${bucket}/root`,
      stores: { second: `s3://${bucket}/second`, other: join(folder, 'other') },
      redisUrl: redis.url,
      redisPrefix: `{${bucket}}`,
      partThresholdBytes: 32 * MIB,
      partConcurrency: 2,
      logLevel: 'error',
    };
    deps = await openDeps(configOf(settings, env), 'worker');
  });
  afterEach(async () => {
    line.hold([]);
    await Promise.all(workers.splice(0).map((worker) => worker.stop()));
    await deps.close();
    await line.close();
    rmSync(folder, { recursive: true, force: true });
  });
  afterAll(() => Promise.all([redis?.stop(), minio?.stop()]));

  const work = async (): Promise<WorkerProcess> => {
    const worker = await startWorker(settings, env);
    workers.push(worker);
    return worker;
  };
  const kill = async (worker: WorkerProcess): Promise<void> => {
    workers.splice(workers.indexOf(worker), 1);
    await worker.kill();
  };
  const submit = async (given: Partial<NewTransfer> & Pick<NewTransfer, 'kind'>, bytes?: Uint8Array) => {
    const id = newTransferId();
    const body = (async function* () {
      if (bytes) yield bytes;
    })();
    const digests = bytes && (await deps.staging.stage(id, body, { signal: signal(), size: bytes.length }));
    const rest = { onExists: 'replace', tree: false, priority: 100, labels: {}, owner: 'test' } as const;
    const { transfer } = await deps.ledger.transfers.accept(
      { id, ...rest, ...given, ...(digests && { digests }) },
      undefined,
      bytes && Date.now() + 60_000,
    );
    await deps.queue.submit(transfer);
    return transfer;
  };
  const ended = async ({ id }: Transfer): Promise<Transfer> => {
    const row = async () => (await deps.ledger.transfers.get(id))!;
    await eventually(async () => (await row()).endedMs !== undefined, 60_000);
    return row();
  };
  const uploadsAtServer = async (store: string): Promise<number> => {
    let found = 0;
    for await (const page of deps.stores.get(store)!.pending(ROOT, signal())) found += page.length;
    return found;
  };
  const nothingLeft = async (): Promise<void> => {
    await eventually(async () => (await deps.ledger.uploads.open(Date.now() + 60_000, 10)).length === 0);
    for (const store of ['artifacts', 'second']) expect(await uploadsAtServer(store)).toBe(0);
  };

  test('go up, are copied by the server itself, and come down', async () => {
    await work();
    const up = await ended(await submit({ kind: 'upload', to: place('w.bin') }, BYTES));
    expect(up).toMatchObject({ state: 'succeeded', starts: 2, result: { sha256: sha256(BYTES) } });
    expect(up.result?.verified).toContainEqual({ check: 'crc32', by: 'store' });
    expect(line.sent.map(({ number }) => number).toSorted()).toEqual([1, 2, 3, 4, 5]);

    const beside = await ended(
      await submit({ kind: 'copy', from: place('w.bin'), to: place('c.bin', 'second') }),
    );
    expect(beside).toMatchObject({ state: 'succeeded', starts: 2, result: { sha256: sha256(BYTES) } });
    expect(line.copied.toSorted()).toEqual([1, 2, 3, 4, 5]);
    expect(line.sent).toHaveLength(5);
    expect(line.read.bytes).toBe(0);

    const over = await ended(
      await submit({ kind: 'copy', from: place('c.bin', 'second'), to: place('o.bin', 'other') }),
    );
    expect(over).toMatchObject({ state: 'succeeded', starts: 2, result: { sha256: sha256(BYTES) } });
    expect(readFileSync(join(folder, 'other/o.bin')).equals(BYTES)).toBe(true);
    const down = await submit({ kind: 'download', from: place('c.bin', 'second') });
    expect(await ended(down)).toMatchObject({
      state: 'succeeded',
      starts: 2,
      result: { outcome: 'ready', sha256: sha256(BYTES) },
    });
    expect(readFileSync(join(folder, 'staging', deps.staging.pathOf(down.id))).equals(BYTES)).toBe(true);
    await nothingLeft();
  });

  test('are not needed for what one request of the server copies', async () => {
    await work();
    const small = BYTES.subarray(0, 5 * MIB);
    await ended(await submit({ kind: 'upload', to: place('w.bin') }, small));
    const copied = await ended(
      await submit({ kind: 'copy', from: place('w.bin'), to: place('c.bin', 'second') }),
    );
    expect(copied).toMatchObject({ state: 'succeeded', starts: 1, result: { sha256: sha256(small) } });
    expect(line.copied).toEqual([0]);
    expect(line.read.bytes).toBe(0);
    const back = await ended(
      await submit({ kind: 'copy', from: place('c.bin', 'second'), to: place('o', 'other') }),
    );
    expect(back.result?.sha256).toBe(sha256(small));
    const taken = {
      kind: 'copy',
      from: place('w.bin'),
      to: place('c.bin', 'second'),
      onExists: 'fail',
    } as const;
    expect(await ended(await submit(taken))).toMatchObject({ failure: { kind: 'already-exists' } });
  });

  test('of another store, whose worker was killed, are sent again where they are missing, and only there', async () => {
    writeFileSync(join(folder, 'other', 's.bin'), BYTES);
    const first = await work();
    line.hold([3, 4]);
    const copy = await submit({ kind: 'copy', from: place('s.bin', 'other'), to: place('w.bin') });
    await eventually(
      () => line.sent.filter(({ number, bytes }) => number >= 3 && bytes > 8 * MIB).length === 2,
      30_000,
    );
    await kill(first);
    expect(
      line.sent
        .filter(({ taken }) => taken)
        .map(({ number }) => number)
        .toSorted(),
    ).toEqual([1, 2]);
    line.hold([]);
    await work();
    expect(await ended(copy)).toMatchObject({ state: 'succeeded', epoch: 1, attempts: 0, starts: 2 });
    expect(line.sent.map(({ number }) => number).toSorted()).toEqual([1, 2, 3, 3, 4, 4, 5]);
    const attempts = await deps.ledger.transfers.attemptsOf(copy.id);
    expect(attempts.every(({ failure }) => failure === undefined)).toBe(true);
    const read = await deps.stores.get('artifacts')!.read(parsePath('w.bin'), { signal: signal() });
    const hash = createHash('sha256');
    for await (const chunk of read.bytes) hash.update(chunk);
    expect(hash.digest('hex')).toBe(sha256(BYTES));
    await nothingLeft();
  });

  test('that are on their way when their transfer is cancelled leave no upload at the server', async () => {
    await work();
    line.hold([1, 2]);
    const { id } = await submit({ kind: 'upload', to: place('w.bin') }, BYTES);
    await eventually(() => line.sent.filter(({ bytes }) => bytes > 8 * MIB).length === 2, 30_000);
    expect(await uploadsAtServer('artifacts')).toBe(1);
    expect(await deps.ledger.transfers.cancel(id)).toBe('cancelled');
    await pushCancel(deps.queue, id);
    await nothingLeft();
    expect(line.sent).toHaveLength(2);
  });
});
