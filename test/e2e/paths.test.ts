import {
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join, relative, sep } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { scaled } from '../scale.ts';
import { type Api, startApi } from './api.ts';
import { legalName, type Request, request } from './path-arbitraries.ts';
import { RawClient } from './raw-client.ts';

const CANARY = 'canary: whoever reads this is outside the artifact root';
const BATCH = 50;
const CONNECTIONS = 8;

let api: Api;
/** Watched whole. The root lies four levels below it, so that climbing out of the root ends inside of it. */
let watched: string;
let root: string;
let outside: Map<string, string>;

beforeAll(async () => {
  const home = await startApi(); // only for its folder, which goes when it is closed
  watched = join(home.folder, 'watched');
  root = join(watched, 'a/b/c/root');
  mkdirSync(root, { recursive: true });
  for (const dir of ['', 'a', 'a/b', 'a/b/c', 'a/b/c/rooted']) {
    mkdirSync(join(watched, dir), { recursive: true });
    for (const name of ['canary', 'x', 'etc']) writeFileSync(join(watched, dir, name), CANARY);
  }
  mkdirSync(join(root, 'd'));
  for (const name of ['inside', 'd/file']) writeFileSync(join(root, name), 'inside');
  const links = {
    'link-dir': '../',
    'link-file': '../canary',
    'd/up': '../..',
    'd/abs': watched,
    dangling: '../nowhere',
  };
  for (const [name, to] of Object.entries(links)) symlinkSync(to, join(root, name));
  outside = filesOutside();
  const running = await startApi({ artifactsDestination: root });
  const close = async (): Promise<void> => {
    await running.close();
    await home.close();
  };
  api = { ...running, close };
});
afterAll(() => api.close());

/** Every file and link below `watched` that is not below the root, with what it holds, by walking and not by asking. */
function filesOutside(): Map<string, string> {
  const found = new Map<string, string>();
  const walk = (dir: string): void => {
    for (const entry of readdirSync(dir, { withFileTypes: true })) {
      const path = join(dir, entry.name);
      if (path === root) continue;
      if (entry.isDirectory()) {
        found.set(path, 'directory');
        walk(path);
      } else found.set(path, readFileSync(path, 'utf8'));
    }
  };
  walk(watched);
  return found;
}

/** Everything in the root really is there: nothing but the links that were planted leads anywhere else. */
function escapes(): string[] {
  const real = realpathSync(root);
  const found: string[] = [];
  const walk = (dir: string): void => {
    for (const entry of readdirSync(dir, { withFileTypes: true })) {
      const path = join(dir, entry.name);
      if (entry.isSymbolicLink()) {
        if (
          !['link-dir', 'link-file', 'dangling'].includes(relative(root, path)) &&
          !relative(root, path).startsWith(`d${sep}`)
        )
          found.push(path);
        continue;
      }
      if (!realpathSync(path).startsWith(real + sep)) found.push(path);
      if (entry.isDirectory()) walk(path);
    }
  };
  walk(root);
  return found;
}

/** `text` as a request line can carry it: what would end the target travels percent-encoded, the rest as UTF-8. */
const targetBytes = (text: string): Uint8Array =>
  Buffer.from(text.replace(/[\s\0]/g, (c) => encodeURIComponent(c)).slice(0, 30_000));

/** How often each status was answered: a test that only ever sees refusals proves little. */
const seen = new Map<number, number>();

/** Fails with the first failure and its seed, not with a page of generated text. */
async function hold<T>(property: fc.IAsyncPropertyWithHooks<T>, numRuns: number): Promise<void> {
  const run = await fc.check(property, { numRuns, endOnFailure: true });
  if (run.failed) throw new Error(`seed ${run.seed}: ${String(run.errorInstance).slice(0, 2000)}`);
  expect(run.numRuns).toBe(numRuns);
}

async function ask(client: RawClient, { method, target, body, answers501 }: Request): Promise<void> {
  const type = body?.startsWith('{') ? 'Content-Type: application/json\r\n' : '';
  const answer = await client.request(
    method,
    targetBytes(target),
    body === undefined ? undefined : Buffer.from(body),
    type,
  );
  const what = `${method} ${target} ${body ?? ''} answered ${answer.status} ${answer.body.slice(0, 300)}`;
  seen.set(answer.status, (seen.get(answer.status) ?? 0) + 1);
  expect(answer.status, what).toBeGreaterThanOrEqual(200);
  const tracking = answer.status === 501 && answer.body.includes('Longshore serves artifacts only');
  if (!tracking) expect(answer.status, what).toBeLessThan(answers501 ? 502 : 500);
  expect(answer.body.includes(CANARY), what).toBe(false);
  if (answer.status >= 400 && method !== 'HEAD') expect(answer.body, what).toContain('"error_code"');
}

test(`${scaled(100_000)} fuzzed targets reach nothing outside the root and break nothing`, {
  timeout: 1_800_000,
}, async () => {
  const clients = Array.from({ length: CONNECTIONS }, () => new RawClient(api.port));
  const batch = async (requests: readonly Request[]): Promise<void> => {
    const queue = [...requests];
    await Promise.all(
      clients.map(async (client) => {
        for (let next = queue.pop(); next; next = queue.pop()) await ask(client, next);
      }),
    );
  };
  const batches = fc.array(request, { minLength: BATCH, maxLength: BATCH });
  await hold(fc.asyncProperty(batches, batch), Math.ceil(scaled(100_000) / BATCH));
  for (const client of clients) client.close();
  for (const status of [200, 202, 400, 404, 405])
    expect(seen.has(status), `${status} was never answered`).toBe(true);
  expect(filesOutside()).toEqual(outside);
  expect(escapes()).toEqual([]);
  expect((await fetch(`${api.url}/health`)).status).toBe(200);
});

async function roundTrips(path: string): Promise<void> {
  const url = `${api.artifacts}${path.split('/').map(encodeURIComponent).join('/')}`;
  expect((await fetch(url, { method: 'PUT', body: path })).status, path).toBe(200);
  const got = await fetch(url);
  expect(await got.text()).toBe(path);
  expect(readFileSync(join(root, path), 'utf8')).toBe(path);
  const [dir, name] = [path.slice(0, path.lastIndexOf('/')), path.slice(path.lastIndexOf('/') + 1)];
  const listing = await fetch(`${api.artifacts.slice(0, -1)}?path=${encodeURIComponent(dir)}`);
  const { files } = (await listing.json()) as { files: { path: string }[] };
  expect(files.map((file) => file.path)).toContain(name);
  expect((await fetch(url, { method: 'DELETE' })).status).toBe(200);
  expect((await fetch(url)).status).toBe(404);
}

test('every legal name round-trips: put, got, on disk, listed, deleted', { timeout: 600_000 }, async () => {
  const names = fc.asyncProperty(legalName, legalName, (dir, name) => roundTrips(`legal/${dir}/${name}`));
  await hold(names, scaled(5000));
});

test.each([
  '100%',
  '50%25',
  'a%20b',
  '%41',
  'x'.repeat(255),
  'é'.repeat(127),
  '日'.repeat(85),
  '...',
  '..x',
  ' ',
  'a b ',
  '~',
  '\'"`$(x)',
])('the name %j round-trips', (name) => roundTrips(`named/${name}`));

test.each(['x'.repeat(256), '日'.repeat(86), `${'d/'.repeat(2100)}x`])(
  'a name that is too long is refused, not broken: %#',
  async (path) => {
    for (const method of ['PUT', 'GET', 'HEAD', 'DELETE']) {
      const answer = await fetch(`${api.artifacts}${path.split('/').map(encodeURIComponent).join('/')}`, {
        method,
        ...(method === 'PUT' && { body: 'x' }),
      });
      expect(answer.status).toBeLessThan(500);
    }
    expect(statSync(root).isDirectory()).toBe(true);
  },
);
