import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { hashSecret } from '../../apps/api/auth.ts';
import { loadConfig, redactedConfig } from '../../lib/config.ts';
import { Command, processes, run } from '../e2e/command.ts';
import { eventually } from '../e2e/quay.ts';
import { scaled } from '../scale.ts';
import { startMinio } from '../servers/minio.ts';
import { freePort } from '../servers/process.ts';
import { type RedisServer, startRedis } from '../servers/redis.ts';
import { requireServer } from '../servers/require.ts';
import type { S3Server } from '../servers/s3.ts';
import { awsEnv, Needles, plantAll, Seen } from './needles.ts';
import { installationKeyIn } from './oracle.ts';

const PATIENCE_MS = 60_000;
const basic = (name: string, password: string): string =>
  `Basic ${Buffer.from(`${name}:${password}`).toString('base64')}`;

requireServer('redis', 'minio')('of the secrets that it was given', () => {
  let needles: Needles;
  let secrets: ReturnType<typeof plantAll>;
  let folder: string;
  let redis: RedisServer;
  let minio: S3Server;
  beforeAll(async () => {
    needles = new Needles();
    secrets = plantAll(needles);
    [redis, minio] = await Promise.all([startRedis({ password: secrets.redisPassword }), startMinio()]);
    await minio.makeBucket('lake');
  });
  afterAll(() => Promise.all([redis.stop(), minio.stop()]));
  let command: Command | undefined;
  afterEach(async () => {
    command?.signal('SIGKILL');
    await command?.ended;
    if (folder) rmSync(folder, { recursive: true, force: true });
  });

  async function authFile(): Promise<string> {
    const file = join(folder, 'tokens');
    const lines = [
      { name: 'ci', kind: 'token', hash: await hashSecret('token', secrets.token), scopes: ['admin'] },
      {
        name: 'eve',
        kind: 'password',
        hash: await hashSecret('password', secrets.password),
        scopes: ['write'],
      },
    ];
    writeFileSync(file, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
    return file;
  }

  test('a running service shows none, whatever fails', { timeout: 4 * PATIENCE_MS }, async () => {
    folder = mkdtempSync(join(tmpdir(), 'longshore-secrets-'));
    const data = join(folder, 'data');
    writeFileSync(
      join(folder, 'config.json'),
      JSON.stringify({ store: { lake: 's3://lake/deep', gone: 's3://gone' } }),
    );
    const args = [
      '--data',
      data,
      '--port',
      '0',
      '--workers',
      '2',
      '--attempts',
      '2',
      '--auth-file',
      await authFile(),
    ];
    const env = {
      ...awsEnv(secrets, minio.url),
      MLFLOW_S3_UPLOAD_EXTRA_ARGS: JSON.stringify({ Metadata: { note: secrets.customerKey } }),
      REDIS_URL: redis.url,
      LONGSHORE_CONFIG: join(folder, 'config.json'),
      LONGSHORE_LOG_LEVEL: 'trace',
      LONGSHORE_LOG_FORMAT: 'json',
      LONGSHORE_DEBUG: '1',
    };
    command = new Command(['up', ...args], env);
    const [, url] = await command.said(/MLFLOW_TRACKING_URI=(http:\S+)/);
    needles.know('key of the installation', installationKeyIn(join(data, 'ledger.db')));
    const seen = new Seen(needles);
    const ask = asking(url!, seen, secrets.token);

    // bytes in and out, by every kind of credentials, good and wrong
    const path = '/api/2.0/mlflow-artifacts/artifacts/a.bin';
    const signed = `?X-Amz-Signature=${secrets.signature}&sig=${secrets.signature}`;
    expect((await ask('PUT', path + signed, 'bytes')).status).toBe(200);
    expect((await ask('GET', path + signed)).status).toBe(200);
    expect((await ask('PUT', `${path}2`, 'b', basic('eve', secrets.password))).status).toBe(200);
    for (const wrong of [
      `Bearer ${secrets.wrongToken}`,
      basic('eve', secrets.wrongPassword),
      basic(secrets.wrongPassword, 'x'),
      `Digest ${secrets.wrongToken}`,
      secrets.wrongToken,
    ])
      expect((await ask('GET', path, undefined, wrong)).status).toBe(401);

    // what dies, and what comes back
    const children = processes().filter(({ parent }) => parent === command?.child.pid);
    for (const { pid, command: line } of children) if (/ worker /.test(line)) process.kill(pid, 'SIGKILL');
    await redis.kill();
    const waiting = await ask('PUT', '/api/v1/uploads/late.bin', 'late');
    expect(waiting.status).toBe(202);
    await ask('GET', '/ready');
    await command.said(/worker 1 runs again/);
    redis = await startRedis({ again: redis });
    // what is refused, and what is accepted and fails
    const submit = async (body: unknown): Promise<{ status: number; id: string }> => {
      const text = typeof body === 'string' ? body : JSON.stringify(body);
      const answer = await ask('POST', '/api/v1/transfers', text);
      return { status: answer.status, id: (answer.json as { id?: string })?.id ?? '' };
    };
    const query = `X-Amz-Credential=${secrets.keyId}&X-Amz-Signature=${secrets.signature}`;
    for (const from of [
      `s3://lake/deep/x?${query}`,
      `https://lake.s3.amazonaws.com/x?${query}`,
      `s3://${secrets.keyId}:${secrets.uriPassword}@lake/deep/x`,
      `redis://:${secrets.redisPassword}@localhost/0`,
      `file:///a/b?${query}`,
    ]) {
      expect((await submit({ kind: 'download', from })).status).toBe(400);
      expect((await submit({ kind: 'copy', from: 'a.bin', to: from })).status).toBe(400);
      expect((await submit({ kind: from })).status).toBe(400);
      expect(
        (await submit({ kind: 'copy', from: 'a.bin', to: 'b', onExists: from, deadline: from })).status,
      ).toBe(400);
      expect((await submit(`{"from": "${from}" `)).status).toBe(400);
      expect((await submit(`"${from}`)).status).toBe(400);
      await ask(
        'GET',
        `/api/v1/transfers?state=${encodeURIComponent(from)}&cursor=${encodeURIComponent(from)}`,
      );
      await ask('GET', `/nowhere?${query}`);
      await ask('GET', `/api/v1/transfers/%zz?${query}`);
    }
    const doomed: string[] = [];
    const to = 's3://lake/deep/x';
    doomed.push((await submit({ kind: 'copy', from: 'a.bin', to })).id);
    doomed.push((await submit({ kind: 'download', from: to })).id);
    doomed.push((await submit({ kind: 'delete', to: 's3://gone/x' })).id);
    doomed.push((await submit({ kind: 'copy', from: 'none', to: 'there' })).id);
    for (const id of doomed) await failed(ask, id);
    for (const id of doomed) await ask('POST', `/api/v1/transfers/${id}/retry`);
    for (const id of doomed) await failed(ask, id);

    await eventually(async () => {
      const view = (await ask('GET', `/api/v1/transfers/${(waiting.json as { id: string }).id}`)).json;
      return (view as { state: string }).state === 'succeeded';
    }, PATIENCE_MS);

    // and now everything that was written anywhere
    await ask('GET', '/metrics');
    for (const [, worker] of command.stderr.matchAll(/"metrics":"(http[^"]+)"/g))
      await fetch(worker!).then(
        async (answer) => seen.add(`metrics of ${worker}`, await answer.text()),
        () => {}, // the one of a worker that was killed
      );
    for (const id of doomed) await ask('GET', `/api/v1/transfers/${id}/events`);
    await ask('GET', '/api/v1/transfers?limit=100');
    await ask('GET', '/openapi.json');
    seen.add('command lines', linesBelow(command.child.pid!).join('\n'));
    const shown = await run(['doctor', ...args], env);
    const asJson = await run(['doctor', '--json', ...args], env);
    for (const [name, { stdout, stderr }] of Object.entries({ doctor: shown, 'doctor --json': asJson }))
      seen.add(name, stdout + stderr);
    expect(shown.stdout).toContain('redis://***@127.0.0.1');
    expect(shown.stdout).toContain('failed  store lake');
    seen.addFolder('the data folder', data);
    seen.addFolder("Redis's files", join(redis.dir, 'data'));
    const { stdout, stderr } = await command.stop();
    command = undefined;
    seen.add('what up wrote', stdout + stderr);
    seen.addFolder('the data folder, afterwards', data);
    // the look has something to look at
    expect(seen.has('the data folder', 'a.bin')).toBe(true);
    expect(seen.has("Redis's files", 'longshore')).toBe(true);
    expect(seen.has('what up wrote', 'transfer failed')).toBe(true);
    expect(seen.found).toEqual([]);
  });

  test('none is in what it says when it cannot start', { timeout: 4 * PATIENCE_MS }, async () => {
    folder = mkdtempSync(join(tmpdir(), 'longshore-secrets-'));
    const seen = new Seen(needles);
    const nowhere = `http://127.0.0.1:${await freePort()}`;
    const { keyId, uriPassword, endpointPassword, redisPassword, secretKey, customerKey, token } = secrets;
    const badUri = `s3://${keyId}:${uriPassword}@bucket/prefix`;
    const encoded = encodeURIComponent(redisPassword);
    writeFileSync(
      join(folder, 'tokens'),
      `{"name":"ci","kind":"token","hash":"${token}","scopes":["read"]}\n`,
    );
    writeFileSync(
      join(folder, 'config.json'),
      `{"redis-url": "redis://:${encoded}@x", "redis-urll": "${encoded}"}`,
    );
    writeFileSync(join(folder, 'broken.json'), `{"redis-url": "redis://:${encoded}@x`);
    const s3 = { LONGSHORE_ARTIFACTS_DESTINATION: 's3://lake/a' };
    const cases: Record<string, string>[] = [
      { LONGSHORE_ARTIFACTS_DESTINATION: badUri },
      { LONGSHORE_STAGING: badUri },
      { LONGSHORE_STORES: `lake=${badUri}` },
      { LONGSHORE_STORES: badUri },
      { LONGSHORE_STORES: `lake=redis://:${encoded}@x?password=${encoded}` },
      { REDIS_URL: `redis://:${redisPassword}@127.0.0.1:1/0` },
      { REDIS_URL: `redis://user:${encoded}@127.0.0.1:1/x` },
      { REDIS_URL: `redis:/:${encoded}@127.0.0.1:1` },
      { REDIS_URL: redis.url.replace(encoded, `${encoded}wrong`) },
      {
        ...s3,
        MLFLOW_S3_ENDPOINT_URL: nowhere.replace('//', `//user:${encodeURIComponent(endpointPassword)}@`),
      },
      { ...s3, MLFLOW_S3_ENDPOINT_URL: nowhere.replace('//', `//user:${endpointPassword}@`) },
      { ...s3, MLFLOW_S3_ENDPOINT_URL: `${nowhere}/?sig=${endpointPassword}` },
      { ...s3, MLFLOW_S3_UPLOAD_EXTRA_ARGS: `{"SSECustomerKey": "${customerKey}"` },
      { ...s3, MLFLOW_S3_UPLOAD_EXTRA_ARGS: JSON.stringify({ SSECustomerKey: { key: customerKey } }) },
      { ...s3, AWS_SECRET_ACCESS_KEY: secretKey, AWS_ACCESS_KEY_ID: '' },
      { ...s3, ...awsEnv(secrets, nowhere) },
      { LONGSHORE_AUTH_FILE: join(folder, 'tokens') },
      { LONGSHORE_CONFIG: join(folder, 'config.json') },
      { LONGSHORE_CONFIG: join(folder, 'broken.json') },
    ];
    const opts = ['--data', join(folder, 'data'), '--port', '0'];
    const asDoctor = async (env: Record<string, string>): Promise<void> => {
      const { code, stdout, stderr } = await run(['doctor', ...opts], env);
      expect(code).not.toBe(0);
      seen.add(`doctor with a bad ${Object.keys(env).at(-1)}`, stdout + stderr);
    };
    const asApi = async (env: Record<string, string>): Promise<void> => {
      const alone = new Command(['api', ...opts], { REDIS_URL: 'redis://127.0.0.1:1', ...env });
      await Promise.race([alone.ended, alone.said(/listening on/).catch(() => undefined)]);
      alone.signal('SIGKILL');
      await alone.ended;
      seen.add(`api with a bad ${Object.keys(env).at(-1)}`, alone.stdout + alone.stderr);
    };
    const isFull = scaled(10) === 10;
    const tryOne = async (bad: Record<string, string>, nth: number): Promise<void> => {
      const env = { LONGSHORE_DEBUG: '1', LONGSHORE_LOG_LEVEL: 'trace', ...awsEnv(secrets, nowhere), ...bad };
      seen.add(`the settings with a bad ${Object.keys(bad).at(-1)}`, settingsOf(env));
      if (isFull || nth % 4 === 0) await asDoctor(env);
      if (isFull || nth % 4 === 2) await asApi(env);
    };
    // two at a time: each is a process that starts
    const entries = cases.entries();
    const walk = async (): Promise<void> => {
      for (const [nth, env] of entries) await tryOne(env, nth);
    };
    await Promise.all([walk(), walk()]);
    for (const given of [`redis://:${redisPassword}@x`, badUri]) {
      const { stderr } = await run([given]);
      seen.add('an unknown command', stderr);
    }
    expect(seen.found).toEqual([]);
  });
});

/** As `doctor` shows them, or all that there is to see of why they cannot be. */
function settingsOf(env: Record<string, string>): string {
  try {
    return JSON.stringify(redactedConfig(loadConfig({ flags: {} }, env).config));
  } catch (error) {
    return inspect(error, { depth: Number.POSITIVE_INFINITY, showHidden: true });
  }
}

interface Answer {
  readonly status: number;
  readonly json: unknown;
}
type Ask = (method: string, target: string, body?: string, authorization?: string) => Promise<Answer>;

/** Every answer is looked through, its head too. */
function asking(url: string, seen: Seen, token: string): Ask {
  return async (method, target, body, authorization = `Bearer ${token}`) => {
    const headers = { authorization, ...(body !== undefined && { 'content-type': 'application/json' }) };
    const answer = await fetch(url + target, { method, headers, ...(body !== undefined && { body }) });
    const text = await answer.text();
    seen.add(
      `the answer to ${method} ${target.split('?')[0]}`,
      `${JSON.stringify([...answer.headers])}\n${text}`,
    );
    let json: unknown;
    try {
      json = JSON.parse(text);
    } catch {
      // not all of them are JSON
    }
    return { status: answer.status, json };
  };
}

async function failed(ask: Ask, id: string): Promise<void> {
  await eventually(async () => {
    const { state } = (await ask('GET', `/api/v1/transfers/${id}`)).json as { state: string };
    return state === 'failed' || state === 'succeeded';
  }, PATIENCE_MS);
}

/** Command lines of a process and of all below it. */
function linesBelow(root: number): string[] {
  const all = processes();
  const below = new Set([root]);
  for (let grown = true; grown; ) {
    grown = false;
    for (const { pid, parent } of all)
      if (below.has(parent) && !below.has(pid)) {
        below.add(pid);
        grown = true;
      }
  }
  return all.filter(({ pid }) => below.has(pid)).map(({ command }) => command);
}
