import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { startEmbeddedRedis } from '../../lib/jobs/embedded-redis.ts';
import { freePort } from '../servers/process.ts';
import { startRedis } from '../servers/redis.ts';
import { Command, run } from './command.ts';

const MINUTE_MS = 60_000;
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'longshore-roles-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test(
  'the API and a worker on their own share a Redis of ours, and SIGTERM ends each in order',
  async () => {
    const redis = await startRedis({ password: 'hunter2' });
    const env = { REDIS_URL: redis.url, LONGSHORE_DATA: folder, LONGSHORE_LOG_LEVEL: 'warn' };
    const url = `http://127.0.0.1:${await freePort()}`;
    const api = new Command(['api', '--port', new URL(url).port], env);
    const worker = new Command(['worker'], env);
    try {
      await api.said(/listening on/);
      await worker.said(/listening on/);
      const reply = await fetch(`${url}/api/v1/uploads/a.txt`, { method: 'PUT', body: 'shared' });
      expect(reply.status).toBe(202);
      const artifact = `${url}/api/2.0/mlflow-artifacts/artifacts/a.txt`;
      let there = await fetch(artifact);
      for (let tries = 0; tries < 400 && !there.ok; tries++) {
        await there.body?.cancel();
        await sleep(50);
        there = await fetch(artifact);
      }
      expect(await there.text()).toBe('shared');
      expect(await api.stop()).toMatchObject({ code: 0 });
      expect(await worker.stop()).toMatchObject({ code: 0 });
      expect(api.stderr + worker.stderr).not.toContain('hunter2');
    } finally {
      await redis.stop();
    }
  },
  MINUTE_MS,
);

test('a token and a password become lines that the auth file takes; the password is in neither', async () => {
  const token = await run(['token', 'ci', '--scope', 'read', 'write', '--prefix', '12']);
  expect(token.stderr).toMatch(/^token of ci, shown this once: ls_\S+\n$/);
  expect(JSON.parse(token.stdout)).toMatchObject({
    name: 'ci',
    kind: 'token',
    scopes: ['read', 'write'],
    prefixes: ['12'],
  });
  const password = await run(['token', 'ann', '--scope', 'admin', '--password'], {}, 'hunter2\n');
  expect(JSON.parse(password.stdout)).toMatchObject({ name: 'ann', kind: 'password', scopes: ['admin'] });
  expect(password.stdout + password.stderr).not.toContain('hunter2');
  expect((await run(['token', 'ann', '--scope', 'admin', '--password'], {}, '')).code).toBe(2);
});

test('a folder whose path is too long for a socket still has its Redis, at an address of its own', async () => {
  const long = join(folder, 'x'.repeat(120));
  const redis = await startEmbeddedRedis(long);
  const socket = fileURLToPath(redis.url.replace('unix:', 'file:'));
  expect(socket.startsWith(long)).toBe(false);
  expect(existsSync(join(long, 'appendonlydir'))).toBe(true);
  await redis.stop();
  expect(existsSync(dirname(socket))).toBe(false);
});

test('one that was left behind is ended by the next, in order', async () => {
  const first = await startEmbeddedRedis(folder);
  const second = await startEmbeddedRedis(folder);
  expect(await first.ended).toMatch(/exit code 0/);
  expect(second.url).toBe(first.url);
  await second.stop();
});

test('one that does not prove to be ours stays, whatever listens where ours would, and is told of', async () => {
  const first = await startEmbeddedRedis(folder);
  const name = join(folder, 'redis.name');
  const written = readFileSync(name, 'utf8');
  for (const other of [undefined, `longshore-${'0'.repeat(32)}`, written.slice(0, -1)]) {
    if (other === undefined) rmSync(name);
    else writeFileSync(name, other);
    await expect(startEmbeddedRedis(folder)).rejects.toMatchObject({
      kind: 'busy',
      message: expect.stringContaining('was not started from here'),
    });
    expect(await Promise.race([first.ended, sleep(200, 'alive')])).toBe('alive');
  }
  writeFileSync(name, written);
  const second = await startEmbeddedRedis(folder);
  expect(await first.ended).toMatch(/exit code 0/);
  await second.stop();
});

test('what is no socket, in the place of one, stays as it is', async () => {
  const there = join(folder, 'redis.sock');
  writeFileSync(there, 'mine');
  await expect(startEmbeddedRedis(folder)).rejects.toMatchObject({ kind: 'invalid' });
  expect(readFileSync(there, 'utf8')).toBe('mine');
});
