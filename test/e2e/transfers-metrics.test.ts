import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, ftruncateSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Role, SERIES, type SeriesSpec } from '../../lib/metrics.ts';
import { serverFile } from '../servers/installed.ts';
import { requireServer } from '../servers/require.ts';
import { Service, viewIn } from './service.ts';

const MIB = 1024 * 1024;
const storeLimits = { attic: { connections: 8, requests: 1000 } };
/** They move for stores in trouble, in test/faults/isolation.test.ts, and for S3, in workers-s3.test.ts. */
const ELSEWHERE: readonly SeriesSpec[] = [
  SERIES.storeThrottled,
  SERIES.storeTrouble,
  SERIES.jobsHeldBack,
  SERIES.unprovenUploads,
];
let service: Service;
beforeAll(async () => {
  service = await Service.start({ failedBytesMs: 0, storeLimits }, { worker: false });
});
afterAll(() => service.close());

/** `<role> <series>` of all that was ever seen with another value than 0. */
const moved = new Set<string>();

async function scrape(role: Role): Promise<Map<string, number>> {
  const answer = await fetch(`${role === 'api' ? service.url : service.workerUrl}/metrics`);
  expect(answer.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/);
  const values = new Map<string, number>();
  for (const line of (await answer.text()).split('\n')) {
    const [, series, value] = /^([^#].*) (\S+)$/.exec(line) ?? [];
    if (series === undefined) continue;
    values.set(series, Number(value));
    if (Number(value) !== 0)
      moved.add(`${role} ${series.replace(/\{.*/, '').replace(/_(bucket|sum|count)$/, '')}`);
  }
  return values;
}

/** A file of zeros that takes no room and a while to copy. */
function sparseFile(path: string, bytes: number): void {
  const file = openSync(path, 'w');
  ftruncateSync(file, bytes);
  closeSync(file);
}

requireServer('promtool')('metrics', () => {
  test('what waits is seen: jobs, the oldest, the backlog, staged bytes', async () => {
    await viewIn(await service.put('waiting/1.txt', 'hello'), 202);
    await viewIn(await service.put('waiting/2.txt', 'hello'), 202);
    await expect
      .poll(async () => (await scrape('api')).get('longshore_queue_jobs{queue="upload",state="waiting"}'))
      .toBe(2);
    await expect.poll(async () => (await scrape('api')).get('longshore_staging_bytes')).toBe(10);
    const values = await scrape('api');
    expect(values.get('longshore_queue_oldest_waiting_seconds{queue="upload"}')).toBeGreaterThan(0);
    expect(values.get('longshore_backlog_seconds{queue="upload",store="artifacts"}')).toBeGreaterThan(0);
    expect(values.get('longshore_redis_up')).toBe(1);
    expect(values.get('longshore_redis_noeviction')).toBe(1);
    expect(values.get('longshore_http_requests_total{group="uploads",method="PUT",status="2xx"}')).toBe(2);
  });

  test('a transfer without a job is counted when it is given a new one', { timeout: 60_000 }, async () => {
    const redis = new Redis(service.redis.url);
    await redis.flushall(); // as if Redis had lost its disk
    await redis.quit();
    await service.startWorker();
    // both processes look, and whichever is first does it
    const requeues = async () => {
      const [api, worker] = [await scrape('api'), await scrape('worker')];
      return [api, worker].reduce(
        (sum, values) => sum + values.get('longshore_reconciler_requeues_total')!,
        0,
      );
    };
    await expect.poll(requeues, { timeout: 40_000 }).toBe(2);
    for (const role of ['api', 'worker']) moved.add(`${role} longshore_reconciler_requeues_total`);
  });

  test('transfers are counted and timed by how they end', async () => {
    const { id } = await viewIn(await service.put('done.txt', 'hello'), 202);
    await service.ended(id);
    const ended = async () =>
      (await scrape('worker')).get(
        'longshore_transfers_ended_total{kind="upload",store="artifacts",outcome="succeeded"}',
      );
    await expect.poll(ended).toBe(3);
    const values = await scrape('worker');
    expect(values.get('longshore_transfer_duration_seconds_count{kind="upload"}')).toBe(3);
    expect(values.get('longshore_queue_wait_seconds_count{queue="upload"}')).toBe(3);
    expect(values.get('longshore_store_bytes_total{store="artifacts",direction="written"}')).toBe(15);
    expect(values.get('longshore_store_bytes_total{store="staging",direction="read"}')).toBe(15);
  });

  test('a transfer in flight is seen, and counted when it is cancelled', async () => {
    sparseFile(join(service.attic, 'long.bin'), 768 * MIB);
    const from = `file://${service.attic}/long.bin`;
    const { id } = await viewIn(await service.submit({ kind: 'copy', from, to: 'long.bin' }), 202);
    const inFlight = async () => (await scrape('worker')).get('longshore_transfers_in_flight{kind="copy"}');
    await expect.poll(inFlight, { interval: 5, timeout: 20_000 }).toBe(1);
    await service.fetch(`/api/v1/transfers/${id}`, { method: 'DELETE' });
    await expect.poll(inFlight, { timeout: 20_000 }).toBe(0);
    const values = await scrape('api');
    expect(
      values.get('longshore_transfers_ended_total{kind="copy",store="artifacts",outcome="cancelled"}'),
    ).toBe(1);
  });

  test('an attempt that is repeated is counted by the kind of its failure', async () => {
    await service.stopWorker();
    const { id } = await viewIn(await service.put('spoilt.bin', 'as it was accepted'), 202);
    writeFileSync(service.stagedFile(id)!, 'not what was accepted');
    await service.startWorker();
    const retries = async () =>
      (await scrape('worker')).get('longshore_transfer_retries_total{failure="corrupt"}');
    await expect.poll(retries, { timeout: 20_000 }).toBeGreaterThan(0);
  });

  test('collected items are counted by task', async () => {
    const put = async () => (await viewIn(await service.put('done.txt', 'x', {}, '?on-exists=fail'), 202)).id;
    expect((await service.ended(await put())).state).toBe('failed');
    const headers = { 'content-type': 'application/json' };
    await service.fetch('/api/v1/gc', { method: 'POST', body: '{"tasks":["staging"]}', headers });
    const items = async () => (await scrape('worker')).get('longshore_gc_items_total{task="staging"}');
    await expect.poll(items, { timeout: 20_000 }).toBeGreaterThan(0);
  });

  test('a lock that is lost is counted', { timeout: 90_000 }, async () => {
    await service.stopWorker();
    await service.startWorker({ lockMs: 1000, stalledMs: 500 });
    const from = `file://${service.attic}/long.bin`;
    const { id } = await viewIn(await service.submit({ kind: 'download', from }), 202);
    const redis = new Redis(service.redis.url);
    const locks = () => redis.keys('{longshore}:multipart-part:*:lock');
    await expect.poll(locks, { interval: 5, timeout: 20_000 }).not.toEqual([]);
    for (const lock of await locks()) await redis.set(lock, 'somebody else', 'XX');
    const losses = async () =>
      Number((await scrape('worker')).get('longshore_lock_losses_total{queue="multipart-part"}'));
    await expect.poll(losses, { interval: 20, timeout: 20_000 }).toBeGreaterThan(0);
    await service.fetch(`/api/v1/transfers/${id}`, { method: 'DELETE' });
    await redis.quit();
  });

  test('an open event stream is seen', async () => {
    const stop = new AbortController();
    await service.fetch('/api/v1/events', { signal: stop.signal });
    expect((await scrape('api')).get('longshore_event_streams')).toBe(1);
    stop.abort();
  });

  test('every series that is declared has moved by now, on every process that exports it', () => {
    const here = Object.values<SeriesSpec>(SERIES).filter((series) => !ELSEWHERE.includes(series));
    const still = here.flatMap(({ name, by }) =>
      by.map((role) => `${role} ${name}`).filter((one) => !moved.has(one)),
    );
    expect(still).toEqual([]);
  });

  test.each(['api', 'worker'] as const)(
    'promtool finds nothing to complain about on the %s',
    async (role) => {
      const text = await (await fetch(`${role === 'api' ? service.url : service.workerUrl}/metrics`)).text();
      const child = spawn(serverFile('promtool'), ['check', 'metrics'], { stdio: ['pipe', 'pipe', 'pipe'] });
      let said = '';
      for (const stream of [child.stdout, child.stderr])
        stream.setEncoding('utf8').on('data', (out: string) => (said += out));
      child.stdin.end(text);
      const [code] = (await once(child, 'close')) as [number];
      expect([code, said]).toEqual([0, '']);
    },
  );
});
