import { existsSync, readFileSync } from 'node:fs';
import { afterEach, expect, test } from 'vitest';
import { newTransferId } from '../../lib/ledger/ids.ts';
import type { Bytes } from '../../lib/stores/driver.ts';
import { Outbox } from '../../lib/transfer/outbox.ts';
import { deleteNow, putNow } from '../../lib/transfer/put.ts';
import { requireServer } from '../servers/require.ts';
import { redisForAll } from '../servers/shared.ts';
import { openQuay, type Quay } from './quay.ts';

async function* body(...texts: string[]): Bytes {
  for (const text of texts) yield Buffer.from(text);
}
const asked = () => ({ owner: 'test', signal: AbortSignal.timeout(20_000) });

requireServer('redis')('a synchronous request', () => {
  const redis = redisForAll();
  let quay: Quay;
  afterEach(() => quay.close());

  test('publishes, answers what was verified, and has the digest in the ledger by then, without a row', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    const place = quay.place('a/w');
    const { entry, digests, verified } = await putNow(quay.deps, place, body('he', 'llo'), {
      ...asked(),
      size: 5,
    });
    expect(readFileSync(quay.fileOf('a/w'), 'utf8')).toBe('hello');
    expect(verified.length).toBeGreaterThan(0);
    expect((await quay.ledger.objects.known(place, entry.etag))?.sha256).toBe(digests.sha256);
    expect((await quay.ledger.transfers.list({}, { limit: 10 })).transfers).toEqual([]);
  });

  test('publishes nothing where length or digest differ, and does not replace where it must not', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    const place = quay.place('w');
    const put = (text: string, more: object) => putNow(quay.deps, place, body(text), { ...asked(), ...more });
    await expect(put('short', { size: 9 })).rejects.toMatchObject({ kind: 'invalid' });
    await expect(put('wrong', { expected: { md5: '0'.repeat(32) } })).rejects.toMatchObject({
      kind: 'invalid',
    });
    expect(existsSync(quay.fileOf('w'))).toBe(false);
    const { entry } = await put('first', { mode: 'create' });
    await expect(put('second', { mode: 'create' })).rejects.toMatchObject({ kind: 'already-exists' });
    await expect(put('second', { ifMatch: 'another' })).rejects.toMatchObject({ kind: 'precondition' });
    await put('second', { ifMatch: entry.etag });
    expect(readFileSync(quay.fileOf('w'), 'utf8')).toBe('second');
  });

  test('waits while a transfer publishes on its target, and supersedes those accepted before it', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    const { transfers } = quay.ledger;
    const place = quay.place('w');
    const older = await quay.accept({ kind: 'upload', to: place }, Buffer.from('older'));
    const publishing = await quay.accept({ kind: 'upload', to: place }, Buffer.from('publishing'));
    await transfers.start(publishing.id, 1, 'test');
    await transfers.publishing(publishing.id, 1);
    let answered = false;
    const put = putNow(quay.deps, place, body('synchronous'), asked()).then(() => {
      answered = true;
    });
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(answered).toBe(false);
    await transfers.end(publishing.id, 1, {
      state: 'succeeded',
      result: { outcome: 'published', verified: [] },
    });
    await put;
    await quay.work();
    await quay.queue.submit(older);
    expect((await quay.ended(older.id)).state).toBe('superseded');
    expect(readFileSync(quay.fileOf('w'), 'utf8')).toBe('synchronous');
  });

  test('does not wait for long for one whose process has died', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    const { transfers } = quay.ledger;
    const place = quay.place('w');
    await quay.accept({ kind: 'upload', to: place }, Buffer.from('older'));
    const asked = { id: newTransferId(), kind: 'upload', to: place, owner: 'dead' } as const;
    const dead = await transfers.takeSlot({ ...asked, deadlineMs: Date.now() - 1 });
    expect(dead).toEqual({ id: asked.id, epoch: 1 });
    await new Outbox(quay.deps).reconcile();
    expect(await quay.get(asked.id)).toMatchObject({
      state: 'failed',
      failure: { kind: 'timeout', message: expect.stringContaining('was not heard of again') },
    });
    await putNow(quay.deps, place, body('now'), { owner: 'test', signal: AbortSignal.timeout(5000) });
    expect(readFileSync(quay.fileOf('w'), 'utf8')).toBe('now');
  });

  test('deletes what is there and below, and the digests with it', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    const { entry } = await putNow(quay.deps, quay.place('a/b/w'), body('x'), asked());
    await putNow(quay.deps, quay.place('a/v'), body('y'), asked());
    expect(await deleteNow(quay.deps, quay.place('a'), asked())).toEqual({ removed: 2 });
    expect(existsSync(quay.fileOf('a'))).toBe(false);
    expect((await quay.ledger.objects.known(quay.place('a/b/w'), entry.etag))?.sha256).toBeUndefined();
    expect(await deleteNow(quay.deps, quay.place('a'), asked())).toEqual({ removed: 0 });
  });
});
