import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { transferList } from '../../apps/api/schemas.ts';
import { errorOf } from './api.ts';
import { Service, viewIn } from './service.ts';

let service: Service;
afterEach(() => service.close());

const cancel = (id: string): Promise<Response> =>
  service.fetch(`/api/v1/transfers/${id}`, { method: 'DELETE' });
const retry = (id: string): Promise<Response> =>
  service.fetch(`/api/v1/transfers/${id}/retry`, { method: 'POST' });

describe('cancel and retry', () => {
  test('a cancelled upload publishes nothing; retried, it lands', async () => {
    service = await Service.start({}, { worker: false });
    const { id } = await viewIn(await service.put('maybe.txt', 'bytes'), 202);
    expect(await viewIn(await cancel(id), 200)).toMatchObject({ state: 'cancelled' });
    expect(await viewIn(await cancel(id), 200)).toMatchObject({ state: 'cancelled' });
    await service.startWorker();
    const other = await viewIn(await service.put('other.txt', 'x'), 202);
    await service.ended(other.id);
    expect(existsSync(join(service.root, 'maybe.txt'))).toBe(false);

    const again = await retry(id);
    expect(again.headers.get('location')).toBe(`/api/v1/transfers/${id}`);
    await viewIn(again, 202);
    expect((await service.ended(id)).state).toBe('succeeded');
    expect(readFileSync(join(service.root, 'maybe.txt'), 'utf8')).toBe('bytes');
  });

  test('what has ended can neither be cancelled nor, unless it failed, retried', async () => {
    service = await Service.start();
    const { id } = await viewIn(await service.put('done.txt', 'bytes'), 202);
    await service.ended(id);
    for (const answer of [await cancel(id), await retry(id)]) {
      expect(answer.status).toBe(409);
      expect((await errorOf(answer)).code).toBe('RESOURCE_CONFLICT');
    }
    for (const answer of [await cancel('t-unknown'), await retry('t-unknown')])
      expect(answer.status).toBe(404);
  });

  test('a synchronous request is no job that could be retried', async () => {
    service = await Service.start({}, { worker: false });
    await viewIn(await service.put('both.txt', 'later'), 202);
    const artifact = '/api/2.0/mlflow-artifacts/artifacts/both.txt';
    expect((await service.fetch(artifact, { method: 'PUT', body: 'now' })).status).toBe(200);
    const list = await (await service.fetch('/api/v1/transfers?state=succeeded')).json();
    const { transfers } = transferList.parse(list);
    expect(transfers).toHaveLength(1);
    const answer = await retry(transfers[0]!.id);
    expect([answer.status, (await errorOf(answer)).message]).toEqual([
      409,
      expect.stringContaining('send that request again'),
    ]);
  });

  test('content that is not ready yet is a 409 that says when to come again', async () => {
    service = await Service.start({}, { worker: false });
    const { id } = await viewIn(await service.submit({ kind: 'download', from: 'x.txt' }), 202);
    const answer = await service.fetch(`/api/v1/transfers/${id}/content`);
    expect(answer.status).toBe(409);
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
  });
});

describe('limits', () => {
  test('more than staging may ever hold is refused with 507, more than it holds now with 503, without reading the body', async () => {
    service = await Service.start({ stagingLimitBytes: 1024 * 1024 }, { worker: false });
    const much = await service.put('much.bin', new Uint8Array(1024 * 1024 + 1));
    expect(much.status).toBe(507);
    expect((await errorOf(much)).code).toBe('RESOURCE_EXHAUSTED');
    const first = await viewIn(await service.put('first.bin', new Uint8Array(700_000)), 202);
    const second = await service.put('second.bin', new Uint8Array(700_000));
    expect(second.status).toBe(503);
    expect(Number(second.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
    await service.startWorker();
    await service.ended(first.id);
    await expect
      .poll(async () => (await service.put('second.bin', new Uint8Array(700_000))).status, {
        timeout: 15_000,
      })
      .toBe(202);
  });

  test('without Redis an upload is accepted at once, and done when Redis is back', {
    timeout: 90_000,
  }, async () => {
    service = await Service.start();
    await service.redis.kill();
    const begunMs = performance.now();
    const { id } = await viewIn(await service.put('outage.txt', 'bytes'), 202);
    expect(performance.now() - begunMs).toBeLessThan(900);
    const ready = await service.fetch('/ready');
    expect(ready.status).toBe(503);
    expect(await ready.text()).not.toContain('maxRetriesPerRequest');
    await service.restartRedis();
    expect((await service.ended(id)).state).toBe('succeeded');
    expect(readFileSync(join(service.root, 'outage.txt'), 'utf8')).toBe('bytes');
  });
});

describe('readiness', () => {
  test('a staging that takes no bytes is noticed, and that it does again as well', {
    timeout: 120_000,
  }, async () => {
    service = await Service.start({}, { worker: false });
    const ready = async () => {
      const answer = await service.fetch('/ready');
      return { status: answer.status, ...((await answer.json()) as { problems: Record<string, string> }) };
    };
    expect(await ready()).toEqual({ status: 200, ready: true, problems: {} });
    await expect.poll(() => service.staged()).toEqual([]);
    rmSync(service.staging, { recursive: true });
    writeFileSync(service.staging, 'no folder');
    await expect.poll(ready, { timeout: 40_000 }).toMatchObject({
      status: 503,
      problems: { staging: expect.stringContaining('staging') },
    });
    rmSync(service.staging);
    mkdirSync(service.staging);
    await expect.poll(ready, { timeout: 40_000 }).toEqual({ status: 200, ready: true, problems: {} });
  });
});

describe('collection', () => {
  test('a dry run counts what would go, and without it a job removes it', async () => {
    service = await Service.start({ failedBytesMs: 0 });
    const { id } = await viewIn(await service.put('dir/x.txt', 'bytes', {}, '?on-exists=fail'), 202);
    await service.ended(id);
    const failed = await viewIn(await service.put('dir/x.txt', 'bytes', {}, '?on-exists=fail'), 202);
    expect((await service.ended(failed.id)).state).toBe('failed');
    await expect.poll(() => service.staged()).toEqual([failed.id]);
    const gc = (body: object): Promise<Response> =>
      service.fetch('/api/v1/gc', {
        method: 'POST',
        body: JSON.stringify(body),
        headers: { 'content-type': 'application/json' },
      });
    const plan = await gc({ dryRun: true });
    expect(plan.status).toBe(200);
    // the row of what was freed a moment ago may still be told so
    await expect
      .poll(async () => (await gc({ dryRun: true })).json())
      .toMatchObject({ dryRun: true, tasks: { staging: { items: 1, bytes: 5 } } });
    expect(service.staged()).toEqual([failed.id]);
    expect((await gc({ tasks: ['staging'] })).status).toBe(202);
    await expect.poll(() => service.staged(), { timeout: 15_000 }).toEqual([]);
    expect((await retry(failed.id)).status).toBe(409);
  });
});

describe('behind a static prefix', () => {
  test('links repeat the prefix that the request came through', async () => {
    service = await Service.start({ staticPrefix: '/mlflow' });
    const through = await service.fetch('/mlflow/api/v1/uploads/x.txt', { method: 'PUT', body: 'x' });
    expect(through.headers.get('location')).toMatch(/^\/mlflow\/api\/v1\/transfers\/t/);
    const past = await service.put('y.txt', 'y');
    expect(past.headers.get('location')).toMatch(/^\/api\/v1\/transfers\/t/);
    expect((await service.fetch(through.headers.get('location')!)).status).toBe(200);
  });
});
