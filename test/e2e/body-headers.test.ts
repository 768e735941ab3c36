import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Api, rawExchange, startApi } from './api.ts';
import { type ServedRoute, withRoutes } from './served-routes.ts';

let api: Api;
let routes: readonly ServedRoute[];
beforeAll(async () => {
  ({ it: api, routes } = await withRoutes(() => startApi()));
});
afterAll(() => api.close());

const JSON_TYPE = 'Content-Type: application/json';
const COPY = '{"kind":"copy","from":"a","to":"b"}';
const base64 = (algorithm: string, text: string): string =>
  createHash(algorithm).update(text).digest('base64');

/** Routes that a body can be sent to: all but reads. */
const taking = (): readonly ServedRoute[] => routes.filter(({ method }) => !['GET', 'HEAD'].includes(method));
const named = ({ method, path }: ServedRoute): string => `${method} ${path}`;

/** @param typed whether a JSON route is told that it gets JSON */
const send = ({ method, path, body }: ServedRoute, headers: readonly string[], text: string, typed = true) =>
  rawExchange(
    api.port,
    [
      `${method} ${path} HTTP/1.1`,
      'Host: localhost',
      'Connection: close',
      ...(typed && body === 'json' ? [JSON_TYPE] : []),
      ...headers,
      '',
      text,
    ].join('\r\n'),
  );
const sized = (text: string): string => `Content-Length: ${Buffer.byteLength(text, 'latin1')}`;
const chunked = (text: string): string => `${text.length.toString(16)}\r\n${text}\r\n0\r\n\r\n`;
const statusOf = (answer: string): number => Number(answer.slice(9, 12));

/** Nothing in the artifact root, nothing in staging, no transfer: as if nobody had asked. */
async function expectNothing(name: string): Promise<void> {
  const files = [api.root, join(api.folder, 'staging')].flatMap((dir) =>
    readdirSync(dir, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name)),
  );
  expect(files, name).toEqual([]);
  expect(await (await fetch(`${api.url}/api/v1/transfers`)).json(), name).toEqual({ transfers: [] });
}

async function everywhere(
  of: readonly ServedRoute[],
  ask: (route: ServedRoute) => Promise<string>,
  status: number,
  says: RegExp,
): Promise<void> {
  expect(of.length).toBeGreaterThan(0);
  for (const route of of) {
    const answer = await ask(route);
    expect([named(route), statusOf(answer)]).toEqual([named(route), status]);
    expect(answer).toMatch(says);
    expect(answer).toContain('"error_code"');
    expect(answer).not.toContain('100 Continue');
    await expectNothing(named(route));
  }
}

const bodyFor = ({ body }: ServedRoute): string => (body === 'json' ? COPY : 'hello');

test('the routes with a body are found, those of MLflow among them', () => {
  expect(taking().map(named)).toEqual(
    expect.arrayContaining([
      'PUT /api/2.0/mlflow-artifacts/artifacts/some/x.txt',
      'PUT /api/v1/uploads/some/x.txt',
      'POST /api/v1/transfers',
      'POST /api/v1/gc',
      'POST /api/2.0/mlflow-artifacts/mpu/some/x.txt',
    ]),
  );
  expect(routes.filter(({ body }) => body === 'json').length).toBeGreaterThanOrEqual(2);
});

describe('on every route, before the body is asked for and with nothing stored', () => {
  const gzip = gzipSync('hello hello hello').toString('latin1');
  const coding = /Content-Encoding: only identity is accepted/;
  test.each([
    'gzip',
    'x-gzip',
    'GZIP',
    'deflate',
    'br',
    'zstd',
    'compress',
    'aws-chunked',
    'aes128gcm',
    'unknown',
    'identity, gzip',
    'gzip;q=1',
    'gzip\r\nContent-Encoding: identity',
    'identity\r\nContent-Encoding: gzip',
  ])('Content-Encoding: %s is refused with 415, which names what is accepted', async (value) => {
    const headers = [`Content-Encoding: ${value}`];
    await everywhere(taking(), (route) => send(route, [...headers, sized(gzip)], gzip), 415, coding);
    const waits = [...headers, sized(gzip), 'Expect: 100-continue'];
    await everywhere(taking(), (route) => send(route, waits, ''), 415, coding);
    const inChunks = [...headers, 'Transfer-Encoding: chunked'];
    await everywhere(taking(), (route) => send(route, inChunks, chunked('hello')), 415, coding);
  });

  test.each(['gzip, chunked', 'identity, chunked', 'gzip\r\nTransfer-Encoding: chunked'])(
    'Transfer-Encoding: %s is refused with 501',
    async (value) => {
      const headers = [`Transfer-Encoding: ${value}`];
      await everywhere(
        taking(),
        (route) => send(route, headers, chunked('hello')),
        501,
        /only chunked is understood/,
      );
    },
  );

  test.each(['gzip', 'identity', 'xchunked', 'chunked, gzip', 'gzip, chunked', 'chunked, chunked'])(
    'Transfer-Encoding: %s is refused with one answer, though nobody knows where its body ends',
    async (coding) => {
      for (const route of taking()) {
        const answer = await send(route, [`Transfer-Encoding: ${coding}`], chunked('hello'));
        expect([400, 501], named(route)).toContain(statusOf(answer));
        expect(answer.match(/HTTP\/1\.1 /g), `${named(route)}\n${answer}`).toHaveLength(1);
        expect(answer.toLowerCase()).toContain('connection: close');
      }
      await expectNothing(coding);
    },
  );

  test.each(['multipart/byteranges; boundary=x', 'Multipart/ByteRanges'])(
    'pieces as %s are refused with 415',
    async (type) => {
      const bytes = taking().filter(
        ({ body, url }) => body !== 'json' && !url.startsWith('/api/v1/transfers'),
      );
      const headers = [`Content-Type: ${type}`, sized('hello')];
      await everywhere(bytes, (route) => send(route, headers, 'hello'), 415, /not in pieces/);
      const waits = [...headers, 'Expect: 100-continue'];
      await everywhere(bytes, (route) => send(route, waits, ''), 415, /not in pieces/);
    },
  );

  test.each(['x-amz-decoded-content-length: 5', 'x-amz-trailer: x-amz-checksum-crc32'])(
    '%s is refused with 415',
    async (header) => {
      const headers = [header, sized('hello'), 'Expect: 100-continue'];
      await everywhere(taking(), (route) => send(route, headers, ''), 415, /chunks of S3/);
    },
  );

  test('chunks in chunks, and chunks in HTTP/1.0, are refused with 400', async () => {
    const twice = ['Transfer-Encoding: chunked, chunked'];
    await everywhere(
      taking(),
      (route) => send(route, twice, chunked('hello')),
      400,
      /not a valid HTTP request/,
    );
    const old = ({ method, path }: ServedRoute) =>
      rawExchange(
        api.port,
        `${method} ${path} HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n${chunked('hello')}`,
      );
    await everywhere(taking(), old, 400, /HTTP\/1\.0 has none/);
  });

  test.each(['200-ok', '100-continue, else', '100-continue-x', 'x=100-continue'])(
    'Expect: %s is refused with 417',
    async (value) => {
      const headers = [`Expect: ${value}`, sized('hello')];
      await everywhere(taking(), (route) => send(route, headers, ''), 417, /only Expect .* 100-continue/);
    },
  );

  test.each([
    ['Content-Range: bytes 0-4/10', /Content-Range: a body is sent as a whole/],
    ['Content-Range: bytes */10', /Content-Range/],
    ['Upload-Offset: 5', /Upload-Offset/],
    ['Upload-Complete: ?0', /Upload-Complete/],
    ['Trailer: Content-Digest', /Trailer: /],
    ['Trailer: Expires, x-amz-checksum-crc32c', /Trailer: /],
  ])('%s is refused with 400', async (header, says) => {
    const waits = [header, sized('hello'), 'Expect: 100-continue'];
    await everywhere(
      taking().filter(({ method }) => method !== 'DELETE'),
      (route) => send(route, waits, ''),
      400,
      says,
    );
  });

  test.each([
    'Content-Transfer-Encoding: base64',
    'x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD',
  ])('%s is refused with 415', (header) =>
    everywhere(
      taking(),
      (route) => send(route, [header, sized('aGVsbG8=')], 'aGVsbG8='),
      415,
      /not understood|only binary/,
    ),
  );
});

test('no route is there, or none with this method: said before the body is asked for, whatever it would be', async () => {
  const methods = ['GET', 'HEAD', 'PUT', 'POST', 'PATCH', 'DELETE'];
  const missing = [...new Set(['/nowhere', '/api/v1/nowhere', ...routes.map(({ path }) => path)])]
    // all that is below /mlflow/ has a route for any method
    .filter((path) => !path.includes('/mlflow/'))
    .flatMap((path) =>
      methods
        .filter((method) => !routes.some((route) => route.path === path && route.method === method))
        .map((method): ServedRoute => ({ method, path, url: path, body: 'none' })),
    );
  expect(missing.length).toBeGreaterThan(30);
  for (const route of missing)
    for (const headers of [[JSON_TYPE], ['Content-Type: text/plain'], ['Content-Type: ///'], []])
      for (const [wait, text] of [
        [['Expect: 100-continue'], ''],
        [[], 'hello'],
      ] as const) {
        const answer = await send(route, [...headers, ...wait, sized('hello')], text);
        const name = `${named(route)} ${[...headers, ...wait].join(' | ')}\n${answer}`;
        expect([404, 405], name).toContain(statusOf(answer));
        expect(answer, name).not.toContain('100 Continue');
      }
  await expectNothing('at the end');
});

describe('a checksum that comes with a body', () => {
  const bodied = (): readonly ServedRoute[] => routes.filter(({ body }) => body !== 'none');
  const wrong = (name: string, value: string) => `${name}: ${value}`;
  test.each([
    wrong('Content-MD5', base64('md5', 'other')),
    wrong('Content-Digest', `sha-256=:${base64('sha256', 'other')}:`),
    wrong('Repr-Digest', `sha-512=:${base64('sha512', 'other')}:`),
    wrong('Digest', `SHA-256=${base64('sha256', 'other')}`),
    wrong('x-amz-checksum-sha256', base64('sha256', 'other')),
    wrong('x-amz-content-sha256', createHash('sha256').update('other').digest('hex')),
  ])('is compared, and refused where it is another one: %s', (header) =>
    everywhere(
      bodied(),
      (route) => send(route, [header, sized(bodyFor(route))], bodyFor(route)),
      400,
      /as was declared/,
    ),
  );

  test.each(['x-amz-checksum-crc32c', 'x-amz-checksum-sha1', 'x-goog-hash', 'x-ms-blob-content-md5'])(
    'of a kind that is not compared is refused: %s',
    (name) =>
      everywhere(
        bodied(),
        (route) => send(route, [`${name}: AAAA`, sized('hello'), 'Expect: 100-continue'], ''),
        400,
        /is not checked here/,
      ),
  );

  test.each(['Content-Digest: sha-256=:x:', 'Content-MD5: no'])(
    'that is malformed is refused: %s',
    (header) =>
      everywhere(
        bodied(),
        (route) => send(route, [header, sized('hello'), 'Expect: 100-continue'], ''),
        400,
        /not the base64/,
      ),
  );

  test('behind the body is refused, announced or not', () =>
    everywhere(
      bodied(),
      (route) => {
        const body = chunked(bodyFor(route)).replace(/\r\n$/, 'Content-Digest: sha-256=:x:\r\n\r\n');
        return send(route, ['Transfer-Encoding: chunked'], body);
      },
      400,
      /Trailer: content-digest/i,
    ));
});

describe('a JSON route', () => {
  const json = (): readonly ServedRoute[] => routes.filter(({ body }) => body === 'json');

  test.each([
    ['Content-Type: text/plain', /must be JSON, sent with Content-Type: application\/json/],
    ['Content-Type: application/json-patch+json', /must be JSON/],
    ['Content-Type: application/x-www-form-urlencoded', /must be JSON/],
    ['X-None: 1', /must be JSON/],
    ['Content-Type: application/json; charset=iso-8859-1', /charset .* utf-8/],
    ['Content-Type: application/json; charset=utf-16', /charset .* utf-8/],
    ['Content-Type: application/json;charset="latin1"', /charset .* utf-8/],
  ])('refuses %s with 415', async (header, says) => {
    const ask = (route: ServedRoute) => send(route, [header, sized(COPY)], COPY, false);
    await everywhere(json(), ask, 415, says);
    const waits = (route: ServedRoute) =>
      send(route, [header, sized(COPY), 'Expect: 100-continue'], '', false);
    await everywhere(json(), waits, 415, says);
  });

  test('refuses two Content-Types, bytes that are no UTF-8, and, unread, what is too long', async () => {
    const two = [JSON_TYPE, 'Content-Type: text/plain', sized(COPY)];
    await everywhere(json(), (route) => send(route, two, COPY, false), 400, /Content-Type: send it once/);
    const long = ['Content-Length: 300000', 'Expect: 100-continue'];
    await everywhere(json(), (route) => send(route, long, ''), 400, /larger than 262144 bytes/);
    for (const route of json()) {
      const answer = await fetch(`${api.url}${route.path}`, {
        method: route.method,
        body: Buffer.from('{"kind":"delete","to":"\xff"}', 'latin1'),
        headers: { 'content-type': 'application/json' },
      });
      expect([answer.status, await answer.text()]).toEqual([400, expect.stringContaining('not valid UTF-8')]);
    }
    await expectNothing('no UTF-8');
  });

  test.each(['application/json;charset=utf-8', 'Application/JSON; charset="UTF-8"', 'application/json'])(
    'takes %s',
    async (type) => {
      const route = json().find(({ path }) => path === '/api/v1/transfers')!;
      const wrong = '{"kind":"move"}';
      const answer = await send(route, [`Content-Type: ${type}`, sized(wrong)], wrong, false);
      expect(answer).toContain('the body is wrong: kind');
    },
  );

  test('asks for a body that waits to be asked for', async () => {
    const route = json().find(({ path }) => path === '/api/v1/transfers')!;
    expect(await send(route, [sized('{}'), 'Expect: 100-continue'], '{}')).toMatch(
      /^HTTP\/1\.1 100 Continue/,
    );
  });
});

describe('bytes are taken', () => {
  const put = (): ServedRoute =>
    routes.find(({ method, url }) => method === 'PUT' && url.includes('artifacts/artifacts'))!;
  const sha256 = createHash('sha256').update('hello');
  test.each([
    'Content-Encoding: identity',
    'Content-Encoding: Identity, identity',
    'Content-Encoding:',
    'Expect: 100-Continue',
    'Expect: 100-continue, 100-continue',
    'Content-Transfer-Encoding: binary',
    'Upload-Complete: ?1',
    'Trailer: Expires',
    'Range: bytes=0-1',
    'Content-Type: text/plain; charset=latin1',
    `Digest: sha-256=${base64('sha256', 'hello')}, adler32=1`,
    `x-amz-checksum-sha256: ${base64('sha256', 'hello')}`,
    `x-amz-content-sha256: ${sha256.digest('hex')}`,
    'x-amz-content-sha256: UNSIGNED-PAYLOAD',
  ])('with %s', async (header) => {
    expect(await send(put(), [header, sized('hello')], 'hello')).toMatch(/HTTP\/1\.1 200 OK/);
    expect(readFileSync(join(api.root, 'some/x.txt'), 'utf8')).toBe('hello');
    await fetch(`${api.url}${put().path}`, { method: 'DELETE' });
  });

  test('in chunks, none at all as well, as MLflow sends an empty file', async () => {
    for (const text of ['hello', '']) {
      const body = text === '' ? '0\r\n\r\n' : chunked(text);
      expect(await send(put(), ['Transfer-Encoding: Chunked'], body)).toMatch(/^HTTP\/1\.1 200/);
      expect(readFileSync(join(api.root, 'some/x.txt'), 'utf8')).toBe(text);
    }
    const harmless = chunked('hello').replace(/\r\n$/, 'X-Time: 5\r\n\r\n');
    expect(await send(put(), ['Transfer-Encoding: chunked'], harmless)).toMatch(/^HTTP\/1\.1 200/);
    await fetch(`${api.url}${put().path}`, { method: 'DELETE' });
  });
});
