import { describe, expect, test } from 'vitest';
import type { Ledger } from '../../lib/ledger/ledger.ts';
import type { NewTransfer } from '../../lib/ledger/transfer.ts';
import {
  accepted,
  anUpload,
  at,
  BROKEN,
  type Clock,
  clockAt,
  DAY_MS,
  HOUR_MS,
  openLedger,
  PUBLISHED,
  running,
  staged,
} from './ledger-setup.ts';

const NOW_MS = Date.UTC(2026, 10, 21);

async function opened(): Promise<{ ledger: Ledger; clock: Clock }> {
  const clock = clockAt(NOW_MS);
  return { ledger: await openLedger(undefined, clock), clock };
}

async function stagedUpload(ledger: Ledger, size: number, more: Partial<NewTransfer> = {}): Promise<string> {
  const { transfer } = await ledger.transfers.accept(
    anUpload('a', { ...staged(size), ...more }),
    undefined,
    NOW_MS + DAY_MS,
  );
  return transfer.id;
}
const expired = async (ledger: Ledger, nowMs: number): Promise<string[]> =>
  (await ledger.transfers.expiredStaged(nowMs, 10)).map((one) => one.id);

describe('staged bytes', () => {
  test('are counted from acceptance until they are freed', async () => {
    const { ledger } = await opened();
    const id = await stagedUpload(ledger, 1000);
    await stagedUpload(ledger, 24);
    await accepted(ledger, 'not staged', staged(5));
    expect(await ledger.transfers.stagedBytes()).toBe(1024);
    await ledger.transfers.cancel(id);
    expect(await ledger.transfers.stagedBytes()).toBe(1024);
    await ledger.transfers.freeStaged(id);
    expect(await ledger.transfers.stagedBytes()).toBe(24);
  });

  test('never expire before the transfer has ended, however old', async () => {
    const { ledger } = await opened();
    const id = await stagedUpload(ledger, 1);
    expect(await expired(ledger, NOW_MS + 100 * DAY_MS)).toEqual([]);
    expect(await ledger.transfers.freeStaged(id)).toBe(false);
    expect(await ledger.transfers.holdingStaged([id, 'tnobody'])).toEqual(new Set([id]));
  });

  test('of a success may go at once, of a failure when they were said to, of a cancelled one as at acceptance', async () => {
    const { ledger } = await opened();
    const [done, failed, plain, cancelled] = [
      await stagedUpload(ledger, 1),
      await stagedUpload(ledger, 2),
      await stagedUpload(ledger, 3),
      await stagedUpload(ledger, 4),
    ];
    await ledger.transfers.start(done, 1, 'w');
    await ledger.transfers.end(done, 1, { state: 'succeeded', result: PUBLISHED });
    await ledger.transfers.end(failed, 1, {
      state: 'failed',
      failure: BROKEN,
      stagedUntilMs: NOW_MS + 7 * DAY_MS,
    });
    await ledger.transfers.end(plain, 1, { state: 'failed', failure: BROKEN });
    await ledger.transfers.cancel(cancelled);
    expect(await expired(ledger, NOW_MS)).toEqual([done]);
    expect((await expired(ledger, NOW_MS + DAY_MS)).sort()).toEqual([done, plain, cancelled].sort());
    expect(await expired(ledger, NOW_MS + 7 * DAY_MS)).toHaveLength(4);
  });

  test('are freed once, and not when their lease was renewed meanwhile', async () => {
    const { ledger } = await opened();
    const { id } = await running(ledger, undefined, {
      kind: 'download',
      from: at('x', 'lake'),
      to: undefined,
    });
    const result = { outcome: 'ready', size: 77, verified: [] } as const;
    await ledger.transfers.end(id, 1, { state: 'succeeded', result, stagedUntilMs: NOW_MS + HOUR_MS });
    expect(await ledger.transfers.stagedBytes()).toBe(77);
    expect(await expired(ledger, NOW_MS + HOUR_MS)).toEqual([id]);
    expect(await ledger.transfers.extendStaged(id, NOW_MS + 2 * HOUR_MS)).toBe(true);
    expect(await ledger.transfers.extendStaged(id, NOW_MS)).toBe(true);
    expect(await ledger.transfers.freeStaged(id, NOW_MS + HOUR_MS)).toBe(false);
    expect(await ledger.transfers.get(id)).toMatchObject({ stagedUntilMs: NOW_MS + 2 * HOUR_MS });
    expect(await ledger.transfers.freeStaged(id, NOW_MS + 2 * HOUR_MS)).toBe(true);
    expect(await ledger.transfers.freeStaged(id)).toBe(false);
    expect(await ledger.transfers.extendStaged(id, NOW_MS + 9 * HOUR_MS)).toBe(false);
    expect(await ledger.transfers.holdingStaged([id])).toEqual(new Set());
  });

  test('that are freed cannot be retried, and those that are retried cannot be freed', async () => {
    const { ledger, clock } = await opened();
    const id = await stagedUpload(ledger, 1);
    await ledger.transfers.cancel(id);
    const [retried, freed] = await Promise.all([ledger.transfers.retry(id), ledger.transfers.freeStaged(id)]);
    expect(retried).toMatchObject({ state: 'accepted' });
    expect(freed).toBe(false);
    await ledger.transfers.cancel(id);
    clock.nowMs += DAY_MS;
    expect(await ledger.transfers.retry(id)).toBe('bytes-gone');
  });
});

describe('history', () => {
  const KEY = { scope: 'ada', key: 'k', requestHash: 'h' };

  test('that ended before then is forgotten with all that belongs to it', async () => {
    const { ledger, clock } = await opened();
    const { transfer } = await ledger.transfers.accept(anUpload('a', { labels: { run: 'x' } }), KEY);
    await ledger.transfers.start(transfer.id, 1, 'w');
    await ledger.transfers.cancel(transfer.id);
    const kept = await running(ledger, 'b');
    clock.nowMs += 10 * DAY_MS;
    expect(await ledger.transfers.forgettable(clock.nowMs, 10)).toBe(1);
    expect(await ledger.transfers.forgetHistory(clock.nowMs, 10)).toBe(1);
    expect(await ledger.transfers.get(transfer.id)).toBeUndefined();
    expect(await ledger.transfers.attemptsOf(transfer.id)).toEqual([]);
    expect(await ledger.transfers.findByKey('ada', 'k')).toBeUndefined();
    expect(await ledger.events.after(0, 10, transfer.id)).toEqual([]);
    const labelled = await ledger.transfers.list({ label: { key: 'run', value: 'x' } }, { limit: 5 });
    expect(labelled.transfers).toEqual([]);
    expect(await ledger.transfers.attemptsOf(kept.id)).toHaveLength(1);
    expect(await ledger.transfers.forgetHistory(clock.nowMs, 10)).toBe(0);
    // A number is never given out again.
    expect((await accepted(ledger)).seq).toBeGreaterThan(kept.seq + 1);
  });

  test('keeps what has staged bytes, and every key for a day', async () => {
    const { ledger, clock } = await opened();
    const { transfer } = await ledger.transfers.accept(anUpload('b', staged(3)), KEY, NOW_MS + 3 * DAY_MS);
    await ledger.transfers.cancel(transfer.id);
    clock.nowMs += 2 * DAY_MS;
    expect(await ledger.transfers.forgetHistory(clock.nowMs, 10)).toBe(0);
    await ledger.transfers.freeStaged(transfer.id);
    clock.nowMs = NOW_MS + DAY_MS;
    expect(await ledger.transfers.forgetHistory(clock.nowMs + DAY_MS, 10)).toBe(0);
    clock.nowMs += 1;
    expect(await ledger.transfers.forgetHistory(clock.nowMs, 10)).toBe(1);
  });

  test('goes in as many steps as the limit allows', async () => {
    const { ledger, clock } = await opened();
    const made = await Promise.all(Array.from({ length: 130 }, (_, n) => accepted(ledger, `p${n}`)));
    await Promise.all(made.map(({ id }) => ledger.transfers.cancel(id)));
    clock.nowMs += 2 * DAY_MS;
    expect(await ledger.transfers.forgetHistory(clock.nowMs, 120)).toBe(120);
    expect(await ledger.transfers.forgetHistory(clock.nowMs, 120)).toBe(10);
    expect(await ledger.transfers.counts()).toMatchObject({ cancelled: 0 });
  });
});

describe('known objects', () => {
  test('are recorded with the ending of the transfer that published them, once', async () => {
    const ledger = await openLedger();
    const object = { etag: 'v1', size: 3, sha256: 'ab'.repeat(32), crc32: 7 };
    const { id } = await accepted(ledger, 'a/b');
    await ledger.transfers.start(id, 1, 'worker');
    await ledger.transfers.publishing(id, 1);
    const ending = { state: 'succeeded', result: PUBLISHED, object } as const;
    expect(await ledger.transfers.end(id, 2, ending)).toBe(false);
    expect(await ledger.objects.known(at('a/b'), 'v1')).toBeUndefined();
    const before = ledger.writes.groups;
    expect(await ledger.transfers.end(id, 1, ending)).toBe(true);
    expect(ledger.writes.groups - before).toBe(1);
    expect(await ledger.objects.known(at('a/b'), 'v1')).toEqual({ sha256: object.sha256, crc32: 7 });
    const late = { ...object, etag: 'v0' };
    expect(await ledger.transfers.end(id, 1, { ...ending, object: late })).toBe(false);
    expect(await ledger.objects.known(at('a/b'), 'v0')).toBeUndefined();
  });

  const object = { etag: 'v1', size: 3, sha256: 'ab'.repeat(32) };

  test('have a digest for exactly the version that was recorded', async () => {
    const { ledger } = await opened();
    await ledger.objects.record(at('a/b'), object);
    expect((await ledger.objects.known(at('a/b'), 'v1'))?.sha256).toBe(object.sha256);
    expect((await ledger.objects.known(at('a/b'), 'v2'))?.sha256).toBeUndefined();
    expect((await ledger.objects.known(at('a/b', 'lake'), 'v1'))?.sha256).toBeUndefined();
    await ledger.objects.record(at('a/b'), { ...object, etag: 'v2', sha256: 'cd'.repeat(32) });
    expect((await ledger.objects.known(at('a/b'), 'v1'))?.sha256).toBeUndefined();
    expect((await ledger.objects.known(at('a/b'), 'v2'))?.sha256).toBe('cd'.repeat(32));
  });

  test('are forgotten at a path and below it, not beside it', async () => {
    const { ledger } = await opened();
    const known = async (path: string) => (await ledger.objects.known(at(path), 'v1')) !== undefined;
    const paths = ['a', 'a/b', 'a/b/c', 'a-b', 'a0', 'ab', 'b/a'];
    const many = Array.from({ length: 1200 }, (_, n) => `a/many/${n}`);
    await Promise.all([...paths, ...many].map((path) => ledger.objects.record(at(path), object)));
    await ledger.objects.forget(at('a'));
    for (const path of [...paths, ...many])
      expect(await known(path)).toBe(['a-b', 'a0', 'ab', 'b/a'].includes(path));
    await ledger.objects.forget(at(''));
    expect(await known('b/a')).toBe(false);
  });
});

describe('multipart uploads', () => {
  test('are known from before they begin until they have ended', async () => {
    const { ledger, clock } = await opened();
    const id = await ledger.uploads.intend(at('big'), 'token-1');
    const intent = { id, place: at('big'), owner: 'token-1', intendedMs: NOW_MS };
    expect(await ledger.uploads.open(NOW_MS, 10)).toEqual([]);
    clock.nowMs += 1;
    expect(await ledger.uploads.open(clock.nowMs, 10)).toEqual([{ ...intent, uploadId: undefined }]);
    expect(await ledger.uploads.begun(id, 'store id')).toBe(true);
    expect(await ledger.uploads.open(clock.nowMs, 10)).toEqual([{ ...intent, uploadId: 'store id' }]);
    await ledger.uploads.ended(id);
    expect(await ledger.uploads.open(clock.nowMs, 10)).toEqual([]);
  });

  test('of two begun for one intent the second is told to give up, as is one that was collected', async () => {
    const { ledger } = await opened();
    const id = await ledger.uploads.intend(at('big'), 'token-1');
    const answers = await Promise.all([ledger.uploads.begun(id, 'one'), ledger.uploads.begun(id, 'two')]);
    expect(answers).toEqual([true, false]);
    await ledger.uploads.ended(id);
    expect(await ledger.uploads.begun(id, 'late')).toBe(false);
  });
});
