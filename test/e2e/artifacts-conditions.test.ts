import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Api, errorOf, startApi } from './api.ts';

let api: Api;
beforeAll(async () => {
  api = await startApi();
});
afterAll(() => api.close());

const put = (path: string, body: string, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(api.artifacts + path, { method: 'PUT', body, headers });
const get = (path: string, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(api.artifacts + path, { headers });

describe('ranges and conditions', () => {
  const BODY = '0123456789';
  let etag: string;
  let modified: string;
  beforeAll(async () => {
    await put('r.bin', BODY);
    const { headers } = await get('r.bin');
    etag = headers.get('etag')!;
    modified = headers.get('last-modified')!;
  });

  test.each([
    ['bytes=0-3', '0123', 'bytes 0-3/10'],
    ['bytes=7-', '789', 'bytes 7-9/10'],
    ['bytes=-2', '89', 'bytes 8-9/10'],
    ['bytes=0-999', BODY, 'bytes 0-9/10'],
  ])('%s answers 206 with that part', async (range, body, contentRange) => {
    const got = await get('r.bin', { range });
    expect(got.status).toBe(206);
    expect(got.headers.get('content-range')).toBe(contentRange);
    expect(got.headers.get('content-length')).toBe(String(body.length));
    expect(got.headers.get('etag')).toBe(etag);
    expect(await got.text()).toBe(body);
  });

  test('a range beyond the end answers 416 with the size', async () => {
    const got = await get('r.bin', { range: 'bytes=10-' });
    expect([got.status, got.headers.get('content-range')]).toEqual([416, 'bytes */10']);
    await errorOf(got);
  });

  test.each(['bytes=0-1,4-5', 'lines=1-2', 'bytes=9-2', 'nonsense'])(
    '%s answers the whole',
    async (range) => {
      const got = await get('r.bin', { range });
      expect([got.status, await got.text()]).toEqual([200, BODY]);
    },
  );

  test('If-Range decides between part and whole', async () => {
    for (const same of [etag, modified])
      expect((await get('r.bin', { range: 'bytes=0-1', 'if-range': same })).status).toBe(206);
    for (const other of ['"x"', new Date(1).toUTCString()])
      expect((await get('r.bin', { range: 'bytes=0-1', 'if-range': other })).status).toBe(200);
  });

  test('what the client has already is not sent again', async () => {
    for (const headers of [
      { 'if-none-match': etag },
      { 'if-none-match': `W/${etag}` },
      { 'if-modified-since': modified },
    ]) {
      const got = await get('r.bin', headers);
      expect([got.status, got.headers.get('etag'), await got.text()]).toEqual([304, etag, '']);
    }
    expect((await get('r.bin', { 'if-none-match': '"other"' })).status).toBe(200);
  });

  test('a read of a version that is gone answers 412', async () => {
    expect((await get('r.bin', { 'if-match': etag })).status).toBe(200);
    const got = await get('r.bin', { 'if-match': '"gone"' });
    expect(got.status).toBe(412);
    await errorOf(got);
  });

  test('If-None-Match: * puts only where nothing is', async () => {
    expect((await put('create.txt', 'first', { 'if-none-match': '*' })).status).toBe(200);
    const second = await put('create.txt', 'second', { 'if-none-match': '*' });
    expect(second.status).toBe(412);
    await errorOf(second);
    expect(await (await get('create.txt')).text()).toBe('first');
  });

  test('of sixteen puts that must create, exactly one does', async () => {
    const answers = await Promise.all(
      Array.from({ length: 16 }, (_, n) => put('race.txt', `writer ${n}`, { 'if-none-match': '*' })),
    );
    const statuses = answers.map(({ status }) => status).sort();
    expect(statuses).toEqual([200, ...Array.from({ length: 15 }, () => 412)]);
    const winner = answers.findIndex(({ status }) => status === 200);
    expect(await (await get('race.txt')).text()).toBe(`writer ${winner}`);
  });

  test('If-Match puts only over that version', async () => {
    const first = (await put('match.txt', '1')).headers.get('etag')!;
    expect((await put('match.txt', '2', { 'if-match': first })).status).toBe(200);
    expect((await put('match.txt', '3', { 'if-match': first })).status).toBe(412);
    expect((await put('match-none.txt', '3', { 'if-match': '*' })).status).toBe(412);
    expect(await (await get('match.txt')).text()).toBe('2');
    expect((await get('match-none.txt')).status).toBe(404);
  });

  test('If-Match deletes only that version', async () => {
    const remove = async (match: string): Promise<number> =>
      (await fetch(`${api.artifacts}go.txt`, { method: 'DELETE', headers: { 'if-match': match } })).status;
    const current = (await put('go.txt', '1')).headers.get('etag')!;
    expect(await remove('"another"')).toBe(412);
    expect(await (await get('go.txt')).text()).toBe('1');
    expect(await remove(current)).toBe(200);
    expect((await get('go.txt')).status).toBe(404);
    expect(await remove(current)).toBe(412);
  });

  test('a conditional put is answered when it is known whether the condition held, also where the client would not wait', async () => {
    const headers = { 'if-none-match': '*', prefer: 'respond-async' };
    const first = await put('eager.txt', 'first', headers);
    expect([first.status, first.headers.get('preference-applied')]).toEqual([200, null]);
    expect((await put('eager.txt', 'second', headers)).status).toBe(412);
    expect(await (await get('eager.txt')).text()).toBe('first');
  });

  test('a path with a slash at its end is no file', async () => {
    await put('plain.txt', 'x');
    const answer = await get('plain.txt/');
    expect([answer.status, (await errorOf(answer)).message]).toEqual([404, "No such artifact: 'plain.txt/'"]);
  });

  test('a piece is not taken for the whole', async () => {
    await put('whole.txt', 'whole');
    const answer = await put('whole.txt', 'pi', { 'content-range': 'bytes 0-1/5' });
    expect([answer.status, (await errorOf(answer)).message]).toEqual([
      400,
      expect.stringContaining('Content-Range'),
    ]);
    expect(await (await get('whole.txt')).text()).toBe('whole');
  });
});

describe('digests', () => {
  const right = (algorithm: string, name: string, body: string): string =>
    `${name}=:${createHash(algorithm).update(body).digest('base64')}:`;

  test('a body that has the digests it came with is stored', async () => {
    const both = `${right('sha256', 'sha-256', 'bytes')}, ${right('sha512', 'sha-512', 'bytes')}, unixsum=:AAA=:`;
    for (const [n, headers] of [
      { 'content-digest': both },
      { 'repr-digest': right('sha512', 'sha-512', 'bytes') },
      { 'content-md5': createHash('md5').update('bytes').digest('base64') },
      { 'content-digest': 'crc32c=:AAAAAA==:' },
    ].entries())
      expect((await put(`digest-${n}`, 'bytes', headers)).status).toBe(200);
  });

  test.each([
    ['content-digest', right('sha256', 'sha-256', 'other')],
    ['repr-digest', right('sha512', 'sha-512', 'other')],
    ['content-md5', createHash('md5').update('other').digest('base64')],
    ['content-digest', 'sha-256=:AAAA:'],
    ['content-digest', 'sha-256=AAAA'],
    ['content-digest', ':::'],
    ['content-md5', 'not base64!'],
  ])('with %s: %s nothing is stored', async (header, value) => {
    const answer = await put('refused.bin', 'bytes', { [header]: value });
    expect(answer.status).toBe(400);
    expect((await errorOf(answer)).code).toBe('INVALID_PARAMETER_VALUE');
    expect((await get('refused.bin')).status).toBe(404);
  });

  test('a refused body leaves the object that was there', async () => {
    await put('kept.bin', 'old');
    expect((await put('kept.bin', 'new', { 'content-digest': right('sha256', 'sha-256', 'x') })).status).toBe(
      400,
    );
    expect(await (await get('kept.bin')).text()).toBe('old');
  });
});
