import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hashSecret, newToken } from '../../apps/api/auth.ts';
import { Service, viewIn } from './service.ts';

let service: Service;
let folder: string;
const tokens = { ann: newToken(), ben: newToken(), reader: newToken(), ops: newToken() };
type Who = keyof typeof tokens;
const as = (who: Who): Record<string, string> => ({ authorization: `Bearer ${tokens[who]}` });

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'longshore-auth-'));
  const entry = async (name: Who, scopes: string[], prefixes: string[]): Promise<string> =>
    JSON.stringify({ name, kind: 'token', hash: await hashSecret('token', tokens[name]), scopes, prefixes });
  const lines = await Promise.all([
    entry('ann', ['read', 'write'], ['team-a']),
    entry('ben', ['read', 'write'], ['team-b']),
    entry('reader', ['read'], []),
    entry('ops', ['operate'], []),
  ]);
  writeFileSync(join(folder, 'auth.jsonl'), lines.join('\n'));
  service = await Service.start({ authFile: join(folder, 'auth.jsonl') }, { worker: false });
});
afterAll(async () => {
  await service.close();
  rmSync(folder, { recursive: true, force: true });
});

const get = async (who: Who, path: string): Promise<number> =>
  (await service.fetch(path, { headers: as(who) })).status;

describe('with an auth file', () => {
  test('nobody gets anything without credentials, save whether the process is ready', async () => {
    for (const path of ['/api/v1/transfers', '/api/v1/events', '/metrics'])
      expect((await service.fetch(path)).status).toBe(401);
    expect(await (await service.fetch('/ready')).json()).toEqual({ ready: true, problems: {} });
    expect((await service.fetch('/openapi.json')).status).toBe(200);
  });

  test('one may submit only where one may write, and read from where one may read', async () => {
    expect((await service.put('team-a/x.txt', 'x', as('ann'))).status).toBe(202);
    expect((await service.put('team-b/x.txt', 'x', as('ann'))).status).toBe(403);
    expect((await service.put('team-a/x.txt', 'x', as('reader'))).status).toBe(403);
    const copy = (who: Who, from: string, to: string): Promise<Response> =>
      service.submit({ kind: 'copy', from, to }, as(who));
    expect((await copy('ann', 'team-a/x.txt', 'team-a/y.txt')).status).toBe(202);
    expect((await copy('ann', 'team-b/x.txt', 'team-a/y.txt')).status).toBe(403);
    expect((await copy('ann', 'team-a/x.txt', 'team-b/y.txt')).status).toBe(403);
    expect((await copy('ann', 'team-a/x.txt', `file://${service.attic}/y.txt`)).status).toBe(403);
    expect((await service.submit({ kind: 'download', from: 'team-a/x.txt' }, as('reader'))).status).toBe(202);
  });

  test('one sees one’s own transfers, those over what one may read, and an operator all', async () => {
    const { id } = await viewIn(await service.put('team-b/secret.txt', 'x', as('ben')), 202);
    const path = `/api/v1/transfers/${id}`;
    expect(await get('ben', path)).toBe(200);
    expect(await get('reader', path)).toBe(200);
    expect(await get('ops', path)).toBe(200);
    for (const below of ['', '/events', '/content']) expect(await get('ann', path + below)).toBe(404);
    const list = await (await service.fetch('/api/v1/transfers', { headers: as('ann') })).text();
    expect(list).not.toContain(id);
    expect(await (await service.fetch('/api/v1/transfers', { headers: as('ops') })).text()).toContain(id);
  });

  test('an operator sees a download, and not its bytes', async () => {
    const { id } = await viewIn(await service.submit({ kind: 'download', from: 'team-b/x' }, as('ben')), 202);
    expect(await get('ops', `/api/v1/transfers/${id}`)).toBe(200);
    expect(await get('ops', `/api/v1/transfers/${id}/content`)).toBe(403);
    expect(await get('ben', `/api/v1/transfers/${id}/content`)).toBe(409);
  });

  test('only its owner and operators cancel and retry it', async () => {
    const { id } = await viewIn(await service.put('team-b/z.txt', 'x', as('ben')), 202);
    const path = `/api/v1/transfers/${id}`;
    const cancel = (who: Who): Promise<Response> =>
      service.fetch(path, { method: 'DELETE', headers: as(who) });
    expect((await cancel('ann')).status).toBe(404);
    expect((await cancel('reader')).status).toBe(403);
    expect((await cancel('ops')).status).toBe(200);
    expect((await service.fetch(`${path}/retry`, { method: 'POST', headers: as('reader') })).status).toBe(
      403,
    );
    expect((await service.fetch(`${path}/retry`, { method: 'POST', headers: as('ben') })).status).toBe(202);
  });

  test('an Idempotency-Key belongs to who uses it', async () => {
    const key = { 'idempotency-key': 'the-same' };
    const first = await viewIn(
      await service.submit({ kind: 'download', from: 'team-a/k' }, { ...as('ann'), ...key }),
      202,
    );
    const second = await viewIn(
      await service.submit({ kind: 'download', from: 'team-b/k' }, { ...as('ben'), ...key }),
      202,
    );
    expect(second.id).not.toBe(first.id);
  });

  test('collection is for operators, metrics for readers', async () => {
    const gc = (who: Who): Promise<Response> =>
      service.fetch('/api/v1/gc', {
        method: 'POST',
        body: '{"dryRun":true}',
        headers: { ...as(who), 'content-type': 'application/json' },
      });
    expect((await gc('ann')).status).toBe(403);
    expect((await gc('ops')).status).toBe(200);
    expect(await get('reader', '/metrics')).toBe(200);
    expect(await get('ops', '/metrics')).toBe(200);
  });

  test('the stream of all transfers leaves out those that one may not see', async () => {
    const stop = new AbortController();
    const events = service.events('/api/v1/events?last-event-id=0', stop.signal, as('ann'));
    const hidden = await viewIn(await service.put('team-b/hidden.txt', 'x', as('ben')), 202);
    const mine = await viewIn(await service.put('team-a/last.txt', 'x', as('ann')), 202);
    const told: string[] = [];
    for await (const { data } of events) {
      told.push(data.transfer);
      if (data.transfer === mine.id) break;
    }
    stop.abort();
    expect(told).not.toContain(hidden.id);
  });
});
