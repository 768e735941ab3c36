import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { hashSecret, newToken } from '../../apps/api/auth.ts';
import { type Api, errorOf, rawExchange, startApi } from './api.ts';

let api: Api;
let dir: string;
const reader = newToken();
const writer = newToken();
const PASSWORD = 'correct horse';

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'longshore-auth-'));
  const entries = [
    { name: 'reader', kind: 'token', hash: await hashSecret('token', reader), scopes: ['read'] },
    {
      name: 'writer',
      kind: 'token',
      hash: await hashSecret('token', writer),
      scopes: ['read', 'write'],
      prefixes: ['7/'],
    },
    { name: 'ann', kind: 'password', hash: await hashSecret('password', PASSWORD), scopes: ['admin'] },
  ];
  writeFileSync(join(dir, 'auth'), entries.map((entry) => JSON.stringify(entry)).join('\n'));
  api = await startApi({ authFile: join(dir, 'auth') });
});
afterAll(async () => {
  await api.close();
  rmSync(dir, { recursive: true, force: true });
});

const bearer = (token: string): string => `Bearer ${token}`;
const ann = `Basic ${Buffer.from(`ann:${PASSWORD}`).toString('base64')}`;
const ask = (method: string, path: string, authorization?: string): Promise<Response> =>
  fetch(api.artifacts + path, {
    method,
    ...(method === 'PUT' && { body: 'x' }),
    headers: authorization === undefined ? {} : { authorization },
  });

test('without credentials, or with wrong ones, nothing is done and the answer says what is needed', async () => {
  for (const authorization of [undefined, bearer('wrong'), 'Basic eDp5', 'nonsense'])
    for (const method of ['PUT', 'GET', 'DELETE']) {
      const answer = await ask(method, '7/a', authorization);
      expect([answer.status, answer.headers.get('www-authenticate')]).toEqual([
        401,
        expect.stringContaining('Bearer'),
      ]);
      expect((await errorOf(answer)).code).toBe('UNAUTHENTICATED');
    }
});

test('health and version need none', async () => {
  for (const path of ['/health', '/version']) expect((await fetch(api.url + path)).status).toBe(200);
  expect((await fetch(`${api.url}/api/3.0/mlflow/server-info`)).status).toBe(401);
});

test('scopes and prefixes decide, by whole segments', async () => {
  expect((await ask('PUT', '7/a', bearer(writer))).status).toBe(200);
  expect((await ask('GET', '7/a', bearer(reader))).status).toBe(200);
  expect((await ask('GET', '7/a', ann)).status).toBe(200);
  for (const [method, path, authorization] of [
    ['PUT', '7/a', bearer(reader)],
    ['DELETE', '7/a', bearer(reader)],
    ['PUT', '77/a', bearer(writer)],
    ['GET', '8/a', bearer(writer)],
    ['DELETE', '8', bearer(writer)],
  ] as const) {
    const answer = await ask(method, path, authorization);
    expect([answer.status, (await errorOf(answer)).code]).toEqual([403, 'PERMISSION_DENIED']);
  }
  expect((await ask('DELETE', '7/a', ann)).status).toBe(200);
});

test('a listing above the prefixes is refused', async () => {
  const list = (path: string, authorization: string): Promise<Response> =>
    fetch(`${api.artifacts.slice(0, -1)}?path=${path}`, { headers: { authorization } });
  expect((await list('7', bearer(writer))).status).toBe(200);
  expect((await list('', bearer(writer))).status).toBe(403);
  expect((await list('', bearer(reader))).status).toBe(200);
});

test('a body is not asked for before the credentials are right', async () => {
  const target = new URL(`${api.artifacts}7/x`).pathname;
  const answer = await rawExchange(
    api.port,
    `PUT ${target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n`,
  );
  expect(answer).toMatch(/^HTTP\/1\.1 401 /);
});

test('an API without an auth file refuses to be reached from elsewhere unless that is said', async () => {
  await expect(startApi({ host: '0.0.0.0' })).rejects.toMatchObject({ kind: 'invalid' });
  const open = await startApi({ host: '0.0.0.0', insecure: true });
  await open.close();
});
