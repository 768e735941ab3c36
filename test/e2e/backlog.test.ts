import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { hashSecret, newToken } from '../../apps/api/auth.ts';
import { backlogView } from '../../apps/api/routes/backlog.ts';
import type { TransferView } from '../../apps/api/schemas.ts';
import { Queue } from '../../lib/jobs/queue.ts';
import { Ledger } from '../../lib/ledger/ledger.ts';
import { createLog } from '../../lib/log.ts';
import { parsePath } from '../../lib/path.ts';
import { requireServer } from '../servers/require.ts';
import { Service, viewIn } from './service.ts';

const MIB = 1024 * 1024;
/** Jobs that a worker carries at once. */
const SLOTS = 8;
const PATIENCE = { timeout: 30_000, interval: 50 };

requireServer('redis')('the backlog', () => {
  let service: Service;
  let token: string;
  beforeAll(async () => {
    service = await Service.start({ uploadConcurrency: SLOTS }, { worker: false });
    token = newToken();
  });
  afterAll(() => service.close());

  const read = async () => {
    const response = await service.fetch('/api/v1/backlog');
    expect(response.status).toBe(200);
    return backlogView.strict().parse(await response.json());
  };
  /** The queue of uploads once it has so many jobs: an answer may be some milliseconds old. */
  const upload = async (jobs: number) => {
    let queue: Awaited<ReturnType<typeof read>>['queues'][string];
    await expect.poll(async () => (queue = (await read()).queues.upload!).jobs, PATIENCE).toBe(jobs);
    return queue!;
  };
  const stopWorker = async (): Promise<void> => {
    await service.stopWorker();
    await expect.poll(async () => (await read()).workers, PATIENCE).toBe(0);
  };
  const put = async (path: string, bytes: string | Uint8Array<ArrayBuffer> = 'hello'): Promise<string> =>
    (await viewIn(await service.put(path, bytes), 202)).id;

  test('is nothing where nothing waits, in numbers', async () => {
    const { workers, backlogSeconds, queues } = await read();
    expect([workers, backlogSeconds]).toEqual([0, 0]);
    expect(Object.keys(queues)).toEqual(['upload', 'download', 'multipart-part']);
    for (const queue of Object.values(queues)) {
      expect(queue).toMatchObject({ jobs: 0, bytes: 0, inHand: 0, oldestSeconds: 0, backlogSeconds: 0 });
      expect(Object.keys(queue.stores).sort()).toEqual(['artifacts', 'attic']);
      for (const store of Object.values(queue.stores))
        expect(store).toMatchObject({ jobs: 0, backlogSeconds: 0, basis: 'assumed' });
    }
  });

  test('grows with what is submitted, by store, jobs and bytes, while no worker runs', {
    timeout: 60_000,
  }, async () => {
    await put('first.txt');
    const one = await upload(1);
    expect(one).toMatchObject({ jobs: 1, bytes: 5 });
    expect(one.stores.artifacts!.backlogSeconds).toBeGreaterThan(0);
    for (let n = 0; n < 9; n++) await put(`more/${n}.txt`);
    const ten = await upload(10);
    expect(ten).toMatchObject({ jobs: 10, bytes: 50 });
    expect(ten.backlogSeconds).toBeCloseTo(10 * one.backlogSeconds, 1);
    await put('large.bin', new Uint8Array(24 * MIB));
    const large = await upload(11);
    expect(large.backlogSeconds).toBeGreaterThanOrEqual(ten.backlogSeconds);
    expect(large).toMatchObject({ jobs: 11, bytes: 50 + 24 * MIB });

    const copy = { kind: 'copy', from: 'first.txt', to: `file://${service.attic}/copy.txt` };
    await viewIn(await service.submit({ ...copy, onExists: 'skip' }), 202);
    const { stores, backlogSeconds } = await upload(12);
    expect(stores.attic).toMatchObject({ jobs: 1, bytes: 0 });
    expect(stores.artifacts).toMatchObject({ jobs: 11 });
    expect((await read()).backlogSeconds).toBe(backlogSeconds);
  });

  test('is a metric as well, and has an oldest job', { timeout: 60_000 }, async () => {
    const text = await (await service.fetch('/metrics')).text();
    const { stores, oldestSeconds } = await upload(12);
    const line = `longshore_backlog_seconds{queue="upload",store="artifacts"} ${stores.artifacts!.backlogSeconds}`;
    expect(text.split('\n')).toContain(line);
    expect(oldestSeconds).toBeGreaterThan(0);
  });

  test('falls to nothing when all is carried, and what it cost is known then', {
    timeout: 60_000,
  }, async () => {
    await service.startWorker();
    await vi.waitFor(async () => {
      const { workers, backlogSeconds, queues } = await read();
      expect([workers, backlogSeconds]).toEqual([1, 0]);
      expect(queues.upload).toMatchObject({ jobs: 0, bytes: 0, inHand: 0, oldestSeconds: 0 });
      expect(queues.upload!.stores.artifacts!.basis).toBe('measured');
    }, PATIENCE);
  });

  test('is what waits divided by the measured rate, which idle time does not change', {
    timeout: 60_000,
  }, async () => {
    // small files only: each then costs what one of them did
    const list = await (await service.fetch('/api/v1/transfers?limit=1000')).json();
    const carried = (list as { transfers: TransferView[] }).transfers.filter(
      ({ to, state }) => to?.store === 'artifacts' && state === 'succeeded',
    );
    expect(carried).toHaveLength(11);
    const busyMs = carried.reduce(
      (sum, { startedAt, endedAt }) => sum + Date.parse(endedAt!) - Date.parse(startedAt!),
      0,
    );
    const measured = async () => (await upload(0)).stores.artifacts!;
    const expected = (SLOTS * 1000 * 11) / Math.max(busyMs, 11);
    await expect.poll(async () => (await measured()).jobsPerSecond, PATIENCE).toBeCloseTo(expected, 1);
    const { jobsPerSecond } = await measured();

    const ledger = new DatabaseSync(join(service.folder, 'ledger.db'));
    ledger.exec('UPDATE transfers SET ended_ms = ended_ms - 3600000, started_ms = started_ms - 3600000');
    ledger.close();
    await expect.poll(measured, PATIENCE).toMatchObject({ jobsPerSecond, basis: 'earlier' });

    await stopWorker();
    for (let n = 0; n < 20; n++) await put(`again/${n}.txt`);
    const again = await upload(20);
    expect(again.stores.artifacts!.backlogSeconds).toBeCloseTo(20 / jobsPerSecond, 1);
  });

  test('counts the parts of large objects where they go, at the rate of those that were carried', {
    timeout: 60_000,
  }, async () => {
    await service.startWorker();
    await service.ended(await put('parted.bin', new Uint8Array(65 * MIB)));
    const inParts = async () => (await read()).queues['multipart-part']!;
    const carried = { stores: { artifacts: { jobs: 0, basis: 'measured' } } };
    await expect.poll(inParts, PATIENCE).toMatchObject({ backlogSeconds: 0, ...carried });
    await stopWorker();

    const log = createLog({ level: 'silent', format: 'json', process: 'test' });
    const queue = new Queue({ url: service.redis.url, prefix: '{longshore}' }, log);
    const ledger = await Ledger.open({ path: join(service.folder, 'ledger.db'), log });
    const id = await put('more-parts.bin');
    const place = { store: 'artifacts', path: parsePath('more-parts.bin') };
    const upload = await ledger.uploads.ensureParted({
      place,
      owner: id,
      size: 640 * MIB,
      partBytes: 16 * MIB,
    });
    const children = Array.from({ length: 40 }, (_, n) => ({
      name: 'part' as const,
      note: { transfer: id, epoch: 1, upload: upload.id, number: n + 1, failed: 0, apart: 0 },
      jobId: `${id}-1-p${n + 1}`,
      priority: 100,
    }));
    await expect
      .poll(
        () => queue.lacking([{ id, epoch: 1, kind: 'upload', priority: 100, owner: '', labels: {} }]),
        PATIENCE,
      )
      .toEqual([]);
    await queue.addChildren({ queue: 'upload', jobId: `${id}-1` }, children, AbortSignal.timeout(60_000));
    await expect.poll(async () => (await inParts()).jobs, PATIENCE).toBe(40);
    const parts = await inParts();
    expect(parts.stores.artifacts).toMatchObject({ jobs: 40, bytes: 640 * MIB, basis: 'measured' });
    expect(parts.stores.attic).toMatchObject({ jobs: 0, bytes: 0 });
    expect(parts.backlogSeconds).toBeCloseTo(40 / parts.stores.artifacts!.jobsPerSecond, 1);
    await queue.close();
    await ledger.close();
  });

  test('is for whoever may see the metrics', { timeout: 60_000 }, async () => {
    const writer = newToken();
    const lines = await Promise.all(
      [
        { name: 'scaler', token, scopes: ['operate'] },
        { name: 'writer', token: writer, scopes: ['write'] },
      ].map(async ({ name, token: secret, scopes }) =>
        JSON.stringify({ name, kind: 'token', hash: await hashSecret('token', secret), scopes }),
      ),
    );
    const authFile = join(service.folder, 'auth');
    writeFileSync(authFile, lines.join('\n'));
    const guarded = await Service.start({ authFile }, { worker: false });
    const ask = (secret?: string) =>
      guarded.fetch('/api/v1/backlog', {
        headers: secret === undefined ? {} : { authorization: `Bearer ${secret}` },
      });
    expect([(await ask()).status, (await ask(writer)).status, (await ask(token)).status]).toEqual([
      401, 403, 200,
    ]);
    await guarded.close();
  });
});
