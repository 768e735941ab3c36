import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Api, errorOf, startApi } from './api.ts';

// nothing here gets as far as Redis or a worker
let api: Api;
beforeAll(async () => {
  api = await startApi();
});
afterAll(() => api.close());

const post = (path: string, body: unknown, type = 'application/json'): Promise<Response> =>
  fetch(`${api.url}${path}`, {
    method: 'POST',
    body: typeof body === 'string' ? body : JSON.stringify(body),
    headers: { 'content-type': type },
  });

async function expectRefusal(answer: Response, message: RegExp, status = 400): Promise<void> {
  const { code, message: said } = await errorOf(answer);
  expect(said).toMatch(message);
  expect([answer.status, code]).toEqual([status, 'INVALID_PARAMETER_VALUE']);
}

const good = { kind: 'copy', from: 'a', to: 'b' };

describe('a submission that is wrong is refused with a sentence that says what is', () => {
  const cases: [string, unknown, RegExp][] = [
    ['no body', '', /a JSON body is missing/],
    ['no JSON', '{"kind":', /not JSON/],
    ['not an object', '[]', /the body is wrong/],
    ['no kind', { from: 'a' }, /kind/],
    ['an unknown kind', { ...good, kind: 'move' }, /kind/],
    ['an unknown field', { ...good, prio: 1 }, /unknown 'prio', it may have kind, from, to, .*priority/],
    [
      'a download with a target',
      { kind: 'download', from: 'a', to: 'b' },
      /unknown 'to', it may have kind, from/,
    ],
    ['a delete with a source', { kind: 'delete', from: 'a', to: 'b' }, /unknown 'from'/],
    ['an upload without a source', { kind: 'upload', to: 'b' }, /from/],
    ['a copy without a target', { kind: 'copy', from: 'a' }, /to/],
    ['a path that climbs', { ...good, from: '../etc/passwd' }, /Invalid path/],
    [
      'an encoded path that climbs',
      { ...good, to: { path: '%2e%2e/x', encoding: 'percent' } },
      /Invalid path/,
    ],
    [
      'a store nobody configured',
      { ...good, from: 's3://elsewhere/x' },
      /from: .*not under the root of a configured store/,
    ],
    [
      'a file outside of all stores',
      { ...good, from: 'file:///etc/passwd' },
      /from: .*not under the root of a configured store/,
    ],
    [
      'a web address',
      { ...good, from: 'http://127.0.0.1/x' },
      /from: .*not under the root of a configured store/,
    ],
    ['a priority out of bounds', { ...good, priority: 0 }, /priority/],
    ['a priority that is no number', { ...good, priority: 'high' }, /priority/],
    ['an unknown wish', { ...good, onExists: 'ask' }, /onExists.*replace/],
    ['a short checksum', { ...good, checksum: 'sha-256:abcd' }, /checksum: .*64 hex digits/],
    ['an unknown checksum', { ...good, checksum: { algorithm: 'xxh3', value: '00' } }, /checksum/],
    ['a checksum of another shape', { ...good, checksum: 7 }, /checksum: give "sha-256:<hex>"/],
    [
      '17 labels',
      { ...good, labels: Object.fromEntries(Array.from({ length: 17 }, (_, n) => [`k${n}`, 'v'])) },
      /at most 16 labels/,
    ],
    ['a label key with a space', { ...good, labels: { 'a b': 'v' } }, /label key/],
    ['a label that would be lost', '{"kind":"delete","to":"x","labels":{"__proto__":"x"}}', /'__proto__'/],
    [
      'a label value that is no Unicode',
      '{"kind":"delete","to":"x","labels":{"a":"\\ud800"}}',
      /label value/,
    ],
    ['a label value with a newline', { ...good, labels: { a: 'x\ny' } }, /label value/],
    ['a deadline that is no time', { ...good, deadline: 'soon' }, /deadline: give seconds from now/],
    ['a deadline that has passed', { ...good, deadline: '2001-01-01T00:00:00Z' }, /has passed/],
    ['a deadline too far away', { ...good, deadline: 1e9 }, /deadline/],
  ];
  test.each(cases)('%s', async (_name, body, message) => {
    await expectRefusal(await post('/api/v1/transfers', body), message);
  });

  test('a body that is not sent as JSON', async () => {
    await expectRefusal(
      await post('/api/v1/transfers', 'kind=copy', 'text/plain'),
      /Content-Type: application\/json/,
      415,
    );
  });
});

describe('an upload that is wrong is refused before its body is read', () => {
  const cases: [string, string, Record<string, string>, RegExp][] = [
    ['an unknown option', 'x?prio=1', {}, /unknown 'prio', it may have priority/],
    ['a priority that is no number', 'x?priority=high', {}, /priority/],
    ['an unknown wish', 'x?on-exists=ask', {}, /on-exists/],
    ['a label without a value', 'x?label=team', {}, /label: write it as label=key=value/],
    ['a deadline that is no time', 'x?deadline=soon', {}, /deadline: give seconds from now/],
    ['a deadline twice', 'x?deadline=5&deadline=6', {}, /deadline: give it once/],
    ['a path that climbs', '%2e%2e%2fx', {}, /Invalid path/],
    ['a directory', 'dir/', {}, /names a file/],
    ['a piece', 'x', { 'content-range': 'bytes 0-4/10' }, /Content-Range/],
    ['a condition', 'x', { 'if-none-match': '*' }, /If-None-Match.*on-exists/],
    ['a digest that is none', 'x', { 'content-md5': 'zzz' }, /Content-MD5/],
    ['an Idempotency-Key that is too long', 'x', { 'idempotency-key': 'k'.repeat(300) }, /Idempotency-Key/],
  ];
  test.each(cases)('%s', async (_name, target, headers, message) => {
    const answer = await fetch(`${api.url}/api/v1/uploads/${target}`, {
      method: 'PUT',
      body: 'bytes',
      headers,
    });
    await expectRefusal(answer, message);
  });
});

describe('a question that is wrong is refused', () => {
  const cases: [string, string, RegExp][] = [
    ['an unknown filter', 'transfers?status=failed', /unknown 'status', it may have state, kind/],
    ['an unknown state', 'transfers?state=done', /state.*succeeded/],
    ['a label without a value', 'transfers?label=team', /label=key=value/],
    ['a time that is none', 'transfers?since=yesterday', /since: give a time such as/],
    ['two labels', 'transfers?label=a=b&label=c=d', /label: give it once/],
    ['two limits', 'transfers?limit=1&limit=2', /limit: give it once/],
    ['a limit out of bounds', 'transfers?limit=1001', /limit/],
    ['a cursor that is none of ours', 'transfers?cursor=zzz', /cursor/],
    ['an id that can be none', 'transfers/a%20b', /transfer id/],
    ['an event number that is none', 'events?last-event-id=x', /last-event-id/],
  ];
  test.each(cases)('%s', async (_name, path, message) => {
    await expectRefusal(await fetch(`${api.url}/api/v1/${path}`), message);
  });

  test('Last-Event-ID that is no number', async () => {
    const answer = await fetch(`${api.url}/api/v1/events`, { headers: { 'last-event-id': 'x' } });
    await expectRefusal(answer, /Last-Event-ID/);
  });

  test('one that is answered by GET is answered by HEAD as well, without a body', async () => {
    const got = await fetch(`${api.url}/api/v1/transfers`);
    const head = await fetch(`${api.url}/api/v1/transfers`, { method: 'HEAD' });
    expect([head.status, head.headers.get('content-length'), await head.text()]).toEqual([
      200,
      String((await got.text()).length),
      '',
    ]);
    expect((await fetch(`${api.url}/api/v1/transfers/t-none`, { method: 'HEAD' })).status).toBe(404);
  });

  test('gc with an unknown task', async () => {
    await expectRefusal(await post('/api/v1/gc', { tasks: ['everything'] }), /tasks/);
  });
});
