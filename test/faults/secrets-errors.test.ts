import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { inspect } from 'node:util';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { configOf } from '../../lib/config.ts';
import { Queue } from '../../lib/jobs/queue.ts';
import { createLog } from '../../lib/log.ts';
import { createMetrics } from '../../lib/metrics.ts';
import { parsePath } from '../../lib/path.ts';
import { BufferPool } from '../../lib/stores/buffers.ts';
import { openStore } from '../../lib/stores/open.ts';
import type { Store } from '../../lib/stores/store.ts';
import { NAMES } from '../hidden.ts';
import { startMinio } from '../servers/minio.ts';
import { freePort } from '../servers/process.ts';
import { type RedisServer, startRedis } from '../servers/redis.ts';
import { requireServer } from '../servers/require.ts';
import type { S3Server } from '../servers/s3.ts';
import { awsEnv, Needles, plantAll, Seen } from './needles.ts';

const PATIENCE_MS = 60_000;
const log = createLog({ level: 'silent', format: 'json', process: 'test' });

requireServer('redis', 'minio')('an error, with its causes and all that hangs on them,', () => {
  let needles: Needles;
  let secrets: ReturnType<typeof plantAll>;
  let redis: RedisServer;
  let minio: S3Server;
  let parrot: Server;
  beforeAll(async () => {
    needles = new Needles();
    secrets = plantAll(needles);
    [redis, minio] = await Promise.all([startRedis({ password: secrets.redisPassword }), startMinio()]);
    parrot = await startParrot();
  });
  afterAll(async () => {
    parrot.close();
    await Promise.all([redis.stop(), minio.stop()]);
  });

  test('shows no password of Redis', { timeout: PATIENCE_MS }, async () => {
    const seen = new Seen(needles);
    const wrong = encodeURIComponent(`${secrets.redisPassword}${secrets.wrongPassword}`);
    const queue = new Queue({ url: `redis://:${wrong}@127.0.0.1:${redis.port}`, prefix: '{secrets}' }, log);
    const note = { transfer: 't', epoch: 1 };
    const calls = [() => queue.enqueue('upload', note), () => queue.counts(), () => queue.scheduleGc(1000)];
    for (const call of calls) seen.add('a failure of the queue', await errorOf(call()));
    seen.add('health', inspect(await queue.health(), EVERYTHING));
    await queue.close();

    // the client's own error for a password that is right no more carries the command, and with it the password
    const known = new Queue({ url: redis.url, prefix: '{secrets}' }, log);
    await known.enqueue('upload', note);
    const operator = new Redis(redis.url, { replyMapping: 'legacy' });
    await operator.config('SET', 'requirepass', 'changed');
    await operator.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    for (let n = 0; n < 5; n++)
      seen.add('a failure of a queue that was shut out', await errorOf(known.enqueue('upload', note)));
    await operator.config('SET', 'requirepass', secrets.redisPassword);
    operator.disconnect();
    await known.close();
    expect(seen.found).toEqual([]);
  });

  test('shows no key of a store, also where a server repeats the request', {
    timeout: PATIENCE_MS,
  }, async () => {
    const seen = new Seen(needles);
    const endpoints = {
      'with other keys': minio.url,
      'that is away': `http://127.0.0.1:${await freePort()}`,
      'that repeats all': `http://127.0.0.1:${(parrot.address() as AddressInfo).port}`,
    };
    const buffers = new BufferPool({ budgetBytes: 16 * 1024 * 1024 });
    const metrics = createMetrics('api', { stores: ['lake'], version: '0' });
    for (const [name, endpoint] of Object.entries(endpoints)) {
      const config = configOf(
        { dataFolder: tmpdir(), artifactsDestination: 's3://lake' },
        awsEnv(secrets, endpoint),
      );
      const store = await openStore('lake', 's3://lake', config, { buffers, hidden: NAMES, log, metrics });
      for (const call of callsOf(store)) seen.add(`a failure of a store ${name}`, await errorOf(call()));
      await store.close();
    }
    metrics.close();
    expect(seen.found).toEqual([]);
  });
});

function callsOf(store: Store): (() => Promise<unknown>)[] {
  const path = parsePath('x');
  const signal = AbortSignal.timeout(PATIENCE_MS);
  async function* bytes() {
    yield Buffer.from('x');
  }
  const put = async (): Promise<void> => {
    const draft = await store.prepare(path, bytes(), { signal, token: 't', size: 1 });
    await draft.publish({ signal }).finally(() => draft.discard());
  };
  const list = async (): Promise<void> => {
    for await (const _ of store.list(path, { deep: true, signal }));
  };
  return [
    () => store.head(path, signal),
    () => store.read(path, { signal }),
    put,
    list,
    () => store.remove([path], signal),
  ];
}

/** Something in between that answers with all that it was sent. */
async function startParrot(): Promise<Server> {
  const server = createServer((request, response) => {
    const { authorization, 'x-amz-security-token': token } = request.headers;
    // words are cut after a while: what matters comes first
    const heard = `x-amz-security-token: ${token} authorization: ${authorization} ${request.url?.replaceAll('&', ';')}`;
    const xml = `<?xml version="1.0"?><Error><Code>Odd</Code><Message>${heard}</Message></Error>`;
    response.writeHead(400, { 'content-type': 'application/xml' }).end(xml);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

const EVERYTHING = {
  depth: Number.POSITIVE_INFINITY,
  showHidden: true,
  getters: true,
  maxStringLength: null,
} as const;

/** All that there is to see of it: message, stack, facts, causes, and what hangs on them. */
async function errorOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    return inspect(error, EVERYTHING) + JSON.stringify(error);
  }
  throw new Error('it should have failed');
}
