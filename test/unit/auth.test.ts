import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { hashSecret, newToken, openAuth } from '../../apps/api/auth.ts';
import { createLog } from '../../lib/log.ts';
import { parsePath } from '../../lib/path.ts';

const log = createLog({ level: 'silent', format: 'json', process: 'test' });
const basic = (name: string, password: string): string =>
  `Basic ${Buffer.from(`${name}:${password}`).toString('base64')}`;

let dir: string;
let file: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'longshore-auth-'));
  file = join(dir, 'auth.jsonl');
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const write = (...entries: object[]): void =>
  writeFileSync(file, `# who may what\n\n${entries.map((entry) => JSON.stringify(entry)).join('\n')}\n`);

test('a token is known by its hash and may do what its scopes say below its prefixes', async () => {
  const token = newToken();
  const hash = await hashSecret('token', token);
  write({ name: 'ci', kind: 'token', hash, scopes: ['read', 'write'], prefixes: ['12/', 'models'] });
  const auth = await openAuth(file, log);
  const ci = await auth.identify(`Bearer ${token}`);
  expect(ci.name).toBe('ci');
  for (const path of ['12', '12/a/b', 'models/x']) expect(ci.can('write', parsePath(path))).toBe(true);
  for (const path of ['', '1', '123/a', 'modelsx', '13/a'])
    expect(ci.can('read', parsePath(path))).toBe(false);
  expect(ci.can('read')).toBe(true);
  expect(ci.can('operate')).toBe(false);
});

test('a user with a password may do everything with the scope admin', async () => {
  const hash = await hashSecret('password', 'päss:word');
  write({ name: 'ann', kind: 'password', hash, scopes: ['admin'] });
  const auth = await openAuth(file, log);
  const ann = await auth.identify(basic('ann', 'päss:word'));
  for (const scope of ['read', 'write', 'operate', 'admin'] as const)
    expect(ann.can(scope, parsePath('a'))).toBe(true);
  const begunMs = performance.now();
  for (let n = 0; n < 200; n++) await auth.identify(basic('ann', 'päss:word'));
  expect(performance.now() - begunMs).toBeLessThan(1000); // 200 scrypt hashes would take many seconds
});

test.each([
  ['nothing', undefined],
  ['an unknown token', 'Bearer nope'],
  ['a wrong password', basic('ann', 'wrong')],
  ['an unknown user', basic('bob', 'secret')],
  ['a token used as a password', basic('ci', 'secret-token')],
  ['a password used as a token', 'Bearer secret'],
  ['another scheme', 'Digest x'],
  ['no scheme', 'secret'],
  ['basic that is not base64', 'Basic ???'],
])('%s is not let in', async (_what, authorization) => {
  write(
    { name: 'ann', kind: 'password', hash: await hashSecret('password', 'secret'), scopes: ['admin'] },
    { name: 'ci', kind: 'token', hash: await hashSecret('token', 'secret-token'), scopes: ['admin'] },
  );
  const auth = await openAuth(file, log);
  await expect((async () => auth.identify(authorization))()).rejects.toMatchObject({
    kind: 'unauthenticated',
  });
});

test('a changed file takes effect within seconds, and a broken one leaves the last good one in force', async () => {
  const [first, second] = [newToken(), newToken()];
  const entry = async (name: string, token: string) => ({
    name,
    kind: 'token',
    hash: await hashSecret('token', token),
    scopes: ['read'],
  });
  write(await entry('one', first));
  const auth = await openAuth(file, log);
  expect((await auth.identify(`Bearer ${first}`)).name).toBe('one');
  write(await entry('two', second));
  await expect
    .poll(
      async () => (await Promise.resolve(auth.identify(`Bearer ${second}`)).catch(() => undefined))?.name,
      {
        timeout: 10_000,
      },
    )
    .toBe('two');
  await expect((async () => auth.identify(`Bearer ${first}`))()).rejects.toMatchObject({
    kind: 'unauthenticated',
  });
  writeFileSync(file, 'not json');
  await new Promise((resolve) => setTimeout(resolve, 1200)); // longer than the file is believed unchanged
  expect((await auth.identify(`Bearer ${second}`)).name).toBe('two');
});

test.each([
  ['{"name":"a"}', 'line 1'],
  ['{"name":"a","kind":"token","hash":"plain-secret","scopes":["read"]}', 'hash'],
  [
    `{"name":"a","kind":"password","hash":"sha256:${'0'.repeat(64)}","scopes":["read"]}`,
    'a password with the hash of a token',
  ],
  [`{"name":"a","kind":"token","hash":"sha256:${'0'.repeat(64)}","scopes":["root"]}`, 'scopes'],
  ['[]', 'line 1'],
  ['x', 'not a JSON object on one line'],
])('the auth file %j is refused at the start with the reason', async (text, reason) => {
  writeFileSync(file, text);
  await expect(openAuth(file, log)).rejects.toMatchObject({
    kind: 'invalid',
    message: expect.stringContaining(reason),
  });
});

test('an auth file that is not there is refused at the start', async () => {
  await expect(openAuth(join(dir, 'nowhere'), log)).rejects.toMatchObject({ kind: 'invalid' });
});
