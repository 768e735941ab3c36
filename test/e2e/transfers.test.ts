import { createHash, randomBytes } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { errorOf } from './api.ts';
import { Service, viewIn } from './service.ts';

let service: Service;
beforeAll(async () => {
  service = await Service.start();
});
afterAll(() => service.close());

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

describe('an upload', () => {
  test('goes through staging, ledger, queue and worker to its store, whole and verified', async () => {
    const bytes = randomBytes(3_000_000);
    const answer = await service.put('runs/1/model.bin', bytes, {
      'content-digest': `sha-256=:${createHash('sha256').update(bytes).digest('base64')}:`,
    });
    const location = answer.headers.get('location');
    const accepted = await viewIn(answer, 202);
    expect(location).toBe(`/api/v1/transfers/${accepted.id}`);
    expect(accepted).toMatchObject({
      kind: 'upload',
      state: 'accepted',
      owner: 'anonymous',
      bytesTotal: bytes.length,
    });

    const ended = await service.ended(accepted.id);
    expect(ended.state).toBe('succeeded');
    expect(ended.result).toMatchObject({ outcome: 'published', size: bytes.length, sha256: sha256(bytes) });
    expect(ended.result?.verified.length).toBeGreaterThan(0);
    expect(ended.attempts).toHaveLength(1);
    expect(readFileSync(join(service.root, 'runs/1/model.bin')).equals(bytes)).toBe(true);
    await expect.poll(() => service.staged()).not.toContain(accepted.id);

    const read = await service.fetch('/api/2.0/mlflow-artifacts/artifacts/runs/1/model.bin');
    expect(sha256(await read.bytes())).toBe(sha256(bytes));
  });

  test('can be an MLflow PUT that prefers not to wait', async () => {
    const answer = await service.fetch('/api/2.0/mlflow-artifacts/artifacts/runs/2/a%20b.txt', {
      method: 'PUT',
      body: 'hello',
      headers: { prefer: 'respond-async' },
    });
    expect(answer.headers.get('preference-applied')).toBe('respond-async');
    const { id } = await viewIn(answer, 202);
    expect((await service.ended(id)).to).toEqual({ store: 'artifacts', path: 'runs/2/a b.txt' });
    expect(readFileSync(join(service.root, 'runs/2/a b.txt'), 'utf8')).toBe('hello');
  });

  test('of no bytes, and one of unknown length, land as well', async () => {
    const chunks = new ReadableStream<Uint8Array>({
      start(controller) {
        for (let n = 0; n < 5; n++) controller.enqueue(new Uint8Array(1000).fill(n));
        controller.close();
      },
    });
    const chunked = { method: 'PUT', body: chunks, duplex: 'half' } as RequestInit;
    const ids = [
      (await viewIn(await service.put('empty.txt', ''), 202)).id,
      (await viewIn(await service.fetch('/api/v1/uploads/chunked.bin', chunked), 202)).id,
    ];
    for (const id of ids) expect((await service.ended(id)).state).toBe('succeeded');
    expect(readFileSync(join(service.root, 'empty.txt'))).toHaveLength(0);
    expect(readFileSync(join(service.root, 'chunked.bin'))).toHaveLength(5000);
  });

  test('with options keeps them', async () => {
    const query = '?priority=7&on-exists=fail&label=team=vision&label=stage=a%3Db&deadline=3600';
    const view = await viewIn(await service.put('options.txt', 'x', {}, query), 202);
    expect(view).toMatchObject({ priority: 7, onExists: 'fail', labels: { team: 'vision', stage: 'a=b' } });
    expect(Date.parse(view.deadline ?? '')).toBeGreaterThan(Date.now() + 3_500_000);
    expect((await service.ended(view.id)).state).toBe('succeeded');
  });

  test('whose digest differs is refused and leaves nothing behind', async () => {
    const answer = await service.put('wrong.txt', 'hello', {
      'content-md5': createHash('md5').update('other').digest('base64'),
    });
    expect(answer.status).toBe(400);
    expect((await errorOf(answer)).code).toBe('INVALID_PARAMETER_VALUE');
    await expect.poll(() => service.staged()).toEqual([]);
  });

  test('onto what is there fails, is skipped, or replaces, as it was told', async () => {
    writeFileSync(join(service.root, 'there.txt'), 'old');
    const put = async (onExists: string, body: string) =>
      service.ended(
        (await viewIn(await service.put('there.txt', body, {}, `?on-exists=${onExists}`), 202)).id,
      );
    expect(await put('fail', 'new')).toMatchObject({ state: 'failed', failure: { kind: 'already-exists' } });
    expect(await put('skip', 'new')).toMatchObject({ state: 'succeeded', result: { outcome: 'skipped' } });
    expect(readFileSync(join(service.root, 'there.txt'), 'utf8')).toBe('old');
    expect(await put('replace', 'new')).toMatchObject({
      state: 'succeeded',
      result: { outcome: 'published' },
    });
    expect(await put('skip-if-same', 'new')).toMatchObject({
      state: 'succeeded',
      result: { outcome: 'skipped' },
    });
    expect(readFileSync(join(service.root, 'there.txt'), 'utf8')).toBe('new');
  });
});

describe('a submitted transfer', () => {
  test('copies from store to store by URI, and deletes', async () => {
    writeFileSync(join(service.root, 'source.bin'), 'from the root');
    const uri = `file://${service.attic}/deep/copy.bin`;
    const copied = await service.carry({
      kind: 'copy',
      from: 'source.bin',
      to: uri,
      labels: { why: 'test' },
    });
    expect(copied).toMatchObject({
      state: 'succeeded',
      from: { store: 'artifacts', path: 'source.bin' },
      to: { store: 'attic', path: 'deep/copy.bin' },
    });
    expect(readFileSync(join(service.attic, 'deep/copy.bin'), 'utf8')).toBe('from the root');
    const removed = await service.carry({ kind: 'delete', to: uri });
    expect(removed).toMatchObject({ state: 'succeeded', result: { outcome: 'removed' } });
    expect(existsSync(join(service.attic, 'deep'))).toBe(false);
  });

  test('of which the bytes are not what the checksum says publishes nothing', async () => {
    writeFileSync(join(service.root, 'lies.bin'), 'truth');
    const checksum = `sha-256:${sha256(Buffer.from('lies'))}`;
    const { id } = await viewIn(
      await service.submit({
        kind: 'upload',
        from: 'lies.bin',
        to: `file://${service.attic}/lies.bin`,
        checksum,
      }),
      202,
    );
    const ended = await service.ended(id);
    expect(ended.state).toBe('failed');
    expect(ended.attempts?.map(({ failure }) => failure?.kind)).toEqual(['invalid']);
    expect(existsSync(join(service.attic, 'lies.bin'))).toBe(false);
  });

  test('from what is not there fails as not-found', async () => {
    const ended = await service.carry({ kind: 'download', from: 'nowhere.bin' });
    expect(ended).toMatchObject({ state: 'failed', failure: { kind: 'not-found' } });
  });
});

describe('a download', () => {
  test('is served when it is ready: whole, in ranges, by condition', async () => {
    const bytes = randomBytes(1_000_000);
    writeFileSync(join(service.attic, 'big.bin'), bytes);
    const ended = await service.carry({ kind: 'download', from: `file://${service.attic}/big.bin` });
    expect(ended).toMatchObject({ state: 'succeeded', result: { outcome: 'ready', size: bytes.length } });
    expect(ended.content).toBe(`/api/v1/transfers/${ended.id}/content`);

    const whole = await service.fetch(ended.content!);
    const etag = whole.headers.get('etag')!;
    expect(whole.headers.get('content-length')).toBe(String(bytes.length));
    expect(whole.headers.get('content-disposition')).toBe('attachment; filename=big.bin');
    expect(sha256(await whole.bytes())).toBe(sha256(bytes));

    const part = await service.fetch(ended.content!, { headers: { range: 'bytes=10-19' } });
    expect(part.status).toBe(206);
    expect(part.headers.get('content-range')).toBe(`bytes 10-19/${bytes.length}`);
    expect(Buffer.from(await part.bytes()).equals(bytes.subarray(10, 20))).toBe(true);
    expect((await service.fetch(ended.content!, { headers: { range: 'bytes=9999999-' } })).status).toBe(416);
    expect((await service.fetch(ended.content!, { headers: { 'if-none-match': etag } })).status).toBe(304);
    expect((await service.fetch(ended.content!, { headers: { 'if-match': '"other"' } })).status).toBe(412);
    const head = await service.fetch(ended.content!, { method: 'HEAD' });
    expect(head.headers.get('content-length')).toBe(String(bytes.length));
  });

  test('that is read keeps its bytes for another lease', async () => {
    writeFileSync(join(service.attic, 'leased.txt'), 'x');
    const ended = await service.carry({ kind: 'download', from: `file://${service.attic}/leased.txt` });
    await (await service.fetch(ended.content!)).text();
    const after = await service.transfer(ended.id);
    expect(Date.parse(after.bytesKeptUntil!)).toBeGreaterThan(Date.parse(ended.bytesKeptUntil!));
  });

  test('that failed, or was none, has no content', async () => {
    const failed = await service.carry({ kind: 'download', from: 'nowhere.bin' });
    const answer = await service.fetch(`/api/v1/transfers/${failed.id}/content`);
    expect(answer.status).toBe(409);
    expect((await errorOf(answer)).message).toContain('ended as failed');
    const upload = await viewIn(await service.put('none.txt', 'x'), 202);
    expect((await service.fetch(`/api/v1/transfers/${upload.id}/content`)).status).toBe(404);
    await service.ended(upload.id);
  });
});

describe('the list of transfers', () => {
  test('is filtered by state, kind, store, label and time, and paged by cursor', async () => {
    const sinceMs = Date.now();
    const ids: string[] = [];
    for (let n = 0; n < 5; n++) {
      const view = await viewIn(
        await service.put(`list/${n}.txt`, 'x', {}, `?label=batch=list&label=n=${n}`),
        202,
      );
      ids.unshift(view.id);
      await service.ended(view.id);
    }
    const list = async (query: string): Promise<{ ids: string[]; nextCursor?: string }> => {
      const answer = await service.fetch(`/api/v1/transfers?${query}`);
      expect(answer.status).toBe(200);
      const json = (await answer.json()) as { transfers: { id: string }[]; nextCursor?: string };
      return { ...json, ids: json.transfers.map(({ id }) => id) };
    };
    expect((await list('label=batch=list')).ids).toEqual(ids);
    expect((await list('label=n=3&state=succeeded&kind=upload&store=artifacts')).ids).toEqual([ids[1]]);
    expect((await list('label=batch=list&state=failed')).ids).toEqual([]);
    const since = encodeURIComponent(new Date(sinceMs).toISOString());
    expect((await list(`label=batch=list&since=${since}`)).ids).toEqual(ids);
    expect((await list(`label=batch=list&until=${since}`)).ids).toEqual([]);

    const pages: string[][] = [];
    for (let cursor = ''; ; ) {
      const page = await list(`label=batch=list&limit=2${cursor}`);
      pages.push(page.ids);
      if (page.nextCursor === undefined) break;
      cursor = `&cursor=${encodeURIComponent(page.nextCursor)}`;
    }
    expect(pages.flat()).toEqual(ids);
    expect(pages.length).toBeGreaterThanOrEqual(3);
  });
});

describe('an upload that is broken off', () => {
  test('leaves neither bytes nor a transfer behind', async () => {
    const stagedBefore = new Set(service.staged());
    const stagedSince = (): string[] => service.staged().filter((name) => !stagedBefore.has(name));
    const before = await (await service.fetch('/api/v1/transfers?limit=1')).text();
    const stop = new AbortController();
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        for (let n = 0; n < 40; n++) controller.enqueue(new Uint8Array(1_000_000));
      },
    });
    const init = { method: 'PUT', body, duplex: 'half', signal: stop.signal } as RequestInit;
    const answer = service.fetch('/api/v1/uploads/cut.bin', init).catch((error: Error) => error.name);
    // more than is held in memory, so a hidden file is there by now
    await expect.poll(() => stagedSince().length, { timeout: 20_000 }).toBeGreaterThan(0);
    stop.abort();
    expect(await answer).toBe('AbortError');
    await expect.poll(stagedSince, { timeout: 20_000 }).toEqual([]);
    expect(await (await service.fetch('/api/v1/transfers?limit=1')).text()).toBe(before);
  });
});
