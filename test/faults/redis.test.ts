import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { afterEach, expect, test } from 'vitest';
import { eventually, TIMINGS } from '../e2e/quay.ts';
import { Service, viewIn } from '../e2e/service.ts';
import { scaled } from '../scale.ts';
import { requireServer } from '../servers/require.ts';

const SUBMITS = scaled(60);
/** A Redis that has forgotten is noticed by the outbox after some seconds. */
const PATIENCE_MS = 120_000;
const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
const ARTIFACTS = '/api/2.0/mlflow-artifacts/artifacts';

/** One that was accepted, with what it must become. */
interface Promised {
  readonly id: string;
  readonly path: string;
  readonly sha256: string;
}

async function submitSome(service: Service, name: string): Promise<Promised[]> {
  const promised: Promised[] = [];
  for (let n = 0; n < SUBMITS; n++) {
    const bytes = randomBytes(1 + Math.floor(Math.random() * 100_000));
    const path = `${name}/${n}`;
    const { id } = await viewIn(await service.put(path, bytes), 202);
    promised.push({ id, path, sha256: sha256(bytes) });
  }
  return promised;
}

async function allKept(service: Service, promised: readonly Promised[]): Promise<void> {
  await eventually(async () => {
    const states = await Promise.all(promised.map(async ({ id }) => (await service.transfer(id)).state));
    return states.every((state) => state === 'succeeded');
  }, PATIENCE_MS);
  for (const one of promised) expect(sha256(readFileSync(join(service.root, one.path)))).toBe(one.sha256);
}

/** The synchronous side needs no Redis. */
async function singleObjectsWork(service: Service): Promise<void> {
  const bytes = randomBytes(200_000);
  const url = `${ARTIFACTS}/single/${randomBytes(4).toString('hex')}`;
  expect((await service.fetch(url, { method: 'PUT', body: bytes })).status).toBe(200);
  const got = await service.fetch(url);
  expect(sha256(Buffer.from(await got.arrayBuffer()))).toBe(sha256(bytes));
  expect((await service.fetch(`${ARTIFACTS}?path=single`)).status).toBe(200);
  expect((await service.fetch(url, { method: 'DELETE' })).status).toBe(200);
}

function client(service: Service): Redis {
  const redis = new Redis(service.redis.url, { replyMapping: 'legacy', maxRetriesPerRequest: 1 });
  redis.on('error', () => {});
  return redis;
}

async function problemsAt(url: string): Promise<string> {
  const answer = await fetch(`${url}/ready`);
  return answer.status === 200 ? '' : answer.text();
}

requireServer('redis')('a Redis that', () => {
  const services: Service[] = [];
  async function begin(): Promise<Service> {
    const service = await Service.start({}, { worker: false });
    services.push(service);
    await service.startWorker(TIMINGS);
    return service;
  }
  afterEach(async () => {
    await Promise.all(services.splice(0).map((service) => service.close()));
  });
  const opts = { timeout: 2 * PATIENCE_MS };

  // what they wait for is the outbox: together they wait once
  test('was killed, wiped or full loses nothing that was accepted', opts, async () => {
    const killed = async (): Promise<void> => {
      const service = await begin();
      await service.redis.kill();
      const promised = await submitSome(service, 'killed');
      await singleObjectsWork(service);
      expect(await problemsAt(service.url)).toMatch(/Redis cannot be reached/);
      expect(await problemsAt(service.workerUrl)).toMatch(/Redis cannot be reached/);
      await service.restartRedis();
      await allKept(service, promised);
    };
    const wiped = async (): Promise<void> => {
      const service = await begin();
      await service.stopWorker();
      const promised = await submitSome(service, 'wiped');
      const redis = client(service);
      await eventually(async () => (await redis.keys('*:upload:t*')).length >= SUBMITS);
      await redis.flushall();
      redis.disconnect();
      await service.startWorker(TIMINGS);
      await singleObjectsWork(service);
      await allKept(service, promised);
    };
    const full = async (): Promise<void> => {
      const service = await begin();
      const redis = client(service);
      await redis.config('SET', 'maxmemory', '1mb');
      await expect(redis.set('anything', 'x')).rejects.toThrow(/OOM/);
      const promised = await submitSome(service, 'full');
      await singleObjectsWork(service);
      await redis.config('SET', 'maxmemory', '0');
      redis.disconnect();
      await allKept(service, promised);
    };
    await Promise.all([killed(), wiped(), full()]);
  });

  test('hangs for some seconds holds up nobody who submits', opts, async () => {
    const service = await begin();
    await submitSome(service, 'before');
    process.kill(service.redis.pid, 'SIGSTOP');
    let promised: Promised[];
    try {
      promised = await submitSome(service, 'paused');
      await singleObjectsWork(service);
      await sleep(scaled(60_000));
    } finally {
      process.kill(service.redis.pid, 'SIGCONT');
    }
    await allKept(service, promised);
  });

  test('may drop jobs makes nobody ready, and both say why', opts, async () => {
    const service = await begin();
    const redis = client(service);
    const urls = [service.url, service.workerUrl];
    for (const url of urls) expect(await problemsAt(url)).toBe('');
    await redis.config('SET', 'maxmemory-policy', 'allkeys-lru');
    for (const url of urls) expect(await problemsAt(url)).toMatch(/maxmemory-policy allkeys-lru.*noeviction/);
    await redis.config('SET', 'maxmemory-policy', 'noeviction');
    for (const url of urls) expect(await problemsAt(url)).toBe('');
    redis.disconnect();
  });
});
