import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startRedis } from '../servers/redis.ts';
import { run } from './command.ts';

const MINUTE_MS = 60_000;
let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'longshore-doctor-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Report {
  readonly settings: Record<string, { value: string; from: string; name: string }>;
  readonly s3: Record<string, string>;
  readonly checks: { name: string; ok: boolean; message: string; kind?: string }[];
}

test(
  'where all is well it says so of each thing, and leaves nothing behind',
  async () => {
    const data = join(folder, 'well');
    const { code, stdout, stderr } = await run([
      'doctor',
      '--data',
      data,
      '--store',
      `lake=${join(folder, 'lake')}`,
    ]);
    expect([code, stderr]).toEqual([0, '']);
    for (const name of ['data folder', 'Redis', 'ledger', 'staging', 'store artifacts', 'store lake'])
      expect(stdout).toMatch(new RegExp(`^ {2}ok {6}${name} `, 'm'));
    expect(stdout).toMatch(/staging: write \d+ ms, read \d+ ms, list \d+ ms, delete \d+ ms/);
    expect(stdout).not.toMatch(/^ {2}failed/m);
    const again = await run(['doctor', '--data', data]);
    expect(again.code).toBe(0);
    expect(existsSync(join(data, 'redis'))).toBe(false);
  },
  MINUTE_MS,
);

test(
  'each setting is told with its value, its unit and where it was set, and no secret',
  async () => {
    const env = {
      MLFLOW_WORKERS: '3',
      REDIS_URL: 'redis://ann:hunter2@127.0.0.1:1/0',
      AWS_ACCESS_KEY_ID: 'AKIAHUNTER',
      AWS_SECRET_ACCESS_KEY: 'hunter2',
      MLFLOW_S3_ENDPOINT_URL: 'http://127.0.0.1:1',
      MLFLOW_S3_UPLOAD_EXTRA_ARGS: '{"SSECustomerKey": "hunter2"}',
    };
    const args = ['doctor', '--json', '--data', join(folder, 'told'), '--staging-limit', '2GiB'];
    const { stdout, stderr, code } = await run([...args, '--store', 'lake=s3://lake/models'], env);
    expect(stdout + stderr).not.toMatch(/hunter2|AKIAHUNTER|ann:/);
    const report: Report = JSON.parse(stdout);
    expect(report.settings).toMatchObject({
      workers: { value: '3', from: 'environment', name: 'MLFLOW_WORKERS' },
      'staging-limit': { value: '2GiB', from: 'flag', name: '--staging-limit' },
      lifetime: { value: '7d', from: 'default' },
      'redis-url': { value: 'redis://***@127.0.0.1:1/0', from: 'environment', name: 'REDIS_URL' },
    });
    expect(report.s3).toMatchObject({
      endpoint: 'http://127.0.0.1:1',
      'upload arguments': 'SSECustomerKey',
      credentials: 'keys from the environment',
    });
    expect(report.checks.find(({ name }) => name === 'Redis')).toEqual({
      name: 'Redis',
      ok: false,
      kind: 'unavailable',
      message: 'could not reach Redis at redis://***@127.0.0.1:1/0: start it, or correct --redis-url',
    });
    expect(report.checks.find(({ name }) => name === 'store lake')).toMatchObject({ kind: 'unavailable' });
    expect(code).toBe(9);
  },
  MINUTE_MS,
);

test(
  'what fails is told with what to do, the rest is tried all the same, and the exit code is that of the first',
  async () => {
    const file = join(folder, 'told', 'ledger.db');
    const { code, stdout } = await run([
      'doctor',
      '--data',
      join(folder, 'partly'),
      '--staging',
      join(file, 'x'),
      '--store',
      'odd=gopher://x/y',
    ]);
    expect(stdout).toMatch(/^ {2}failed {2}staging +.+/m);
    expect(stdout).toMatch(/^ {2}failed {2}store odd +.*gopher/m);
    expect(stdout).toMatch(/^ {2}ok {6}store artifacts /m);
    expect(code).toBe(2);
  },
  MINUTE_MS,
);

test(
  'a store that never answers is given up within ten seconds, and is no fault of ours',
  async () => {
    const silent = createServer().listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const { port } = silent.address() as AddressInfo;
    const env = {
      MLFLOW_S3_ENDPOINT_URL: `http://127.0.0.1:${port}`,
      AWS_ACCESS_KEY_ID: 'any',
      AWS_SECRET_ACCESS_KEY: 'any',
    };
    const args = ['doctor', '--data', join(folder, 'silent'), '--store', 'lake=s3://lake'];
    const { code, stdout } = await run(args, env);
    silent.close();
    expect(stdout).toMatch(/^ {2}failed {2}store lake +write failed: no answer within 9 s$/m);
    expect(code).toBe(9);
  },
  MINUTE_MS,
);

test(
  'a Redis that drops keys when it is full is refused, one that does not is looked at',
  async () => {
    const good = await startRedis({ password: 'hunter2' });
    const bad = await startRedis({ maxmemoryPolicy: 'allkeys-lru' });
    try {
      const fine = await run(['doctor', '--data', join(folder, 'redis')], { REDIS_URL: good.url });
      expect(fine.stdout).toMatch(/^ {2}ok {6}Redis +\d+\.\d+.*, noeviction, append-only file on$/m);
      expect(fine.stdout).not.toContain('hunter2');
      const refused = await run(['doctor', '--data', join(folder, 'redis')], { REDIS_URL: bad.url });
      expect(refused.stdout).toMatch(/^ {2}failed {2}Redis +.*allkeys-lru.*set it to noeviction$/m);
      expect(refused.code).toBe(9);
    } finally {
      await good.stop();
      await bad.stop();
    }
  },
  MINUTE_MS,
);
