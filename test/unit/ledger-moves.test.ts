import { describe, expect, test } from 'vitest';
import type { Ledger } from '../../lib/ledger/ledger.ts';
import {
  accepted,
  anUpload,
  at,
  BROKEN,
  clockAt,
  DAY_MS,
  eventsOf,
  HOUR_MS,
  openLedger,
  PUBLISHED,
  running,
  staged,
  stateOf,
} from './ledger-setup.ts';

const NOW_MS = Date.UTC(2026, 10, 21);
const failed = { state: 'failed', failure: BROKEN } as const;
const succeeded = { state: 'succeeded', result: PUBLISHED } as const;

const failedUpload = async (ledger: Ledger, stagedUntilMs: number, deadlineMs?: number): Promise<string> => {
  const { transfer } = await ledger.transfers.accept(
    anUpload('a', { ...staged(10), deadlineMs }),
    undefined,
    NOW_MS,
  );
  await ledger.transfers.end(transfer.id, 1, { ...failed, stagedUntilMs });
  return transfer.id;
};

describe('a transfer', () => {
  test('goes from accepted to succeeded with an event for every state and one attempt', async () => {
    const ledger = await openLedger();
    const { id } = await accepted(ledger);
    expect(await ledger.transfers.start(id, 1, 'worker 1')).toMatchObject({ state: 'running', starts: 1 });
    expect(await ledger.transfers.publishing(id, 1)).toBe('ok');
    expect(await ledger.transfers.publishing(id, 1)).toBe('ok');
    const result = { ...PUBLISHED, size: 3, etag: 'e', verified: [{ check: 'crc32', by: 's3' }] };
    expect(await ledger.transfers.end(id, 1, { state: 'succeeded', result })).toBe(true);
    expect(await ledger.transfers.get(id)).toMatchObject({
      state: 'succeeded',
      result,
      endedMs: expect.any(Number),
    });
    expect(await eventsOf(ledger, id)).toEqual(['accepted', 'running', 'publishing', 'succeeded']);
    expect(await ledger.transfers.attemptsOf(id)).toMatchObject([
      { number: 1, epoch: 1, worker: 'worker 1', endedMs: expect.any(Number), failure: undefined },
    ]);
  });

  test('that has ended, or has another epoch, moves no more', async () => {
    const ledger = await openLedger();
    const { id } = await running(ledger);
    expect(await ledger.transfers.end(id, 2, succeeded)).toBe(false);
    expect(await ledger.transfers.publishing(id, 2)).toBe('stale');
    expect(await ledger.transfers.attemptFailed(id, 2, BROKEN, true)).toBeUndefined();
    expect(await ledger.transfers.start(id, 2, 'other')).toBeUndefined();
    expect(await ledger.transfers.end(id, 1, failed)).toBe(true);
    const before = await ledger.transfers.get(id);
    expect(await ledger.transfers.end(id, 1, succeeded)).toBe(false);
    expect(await ledger.transfers.publishing(id, 1)).toBe('stale');
    expect(await ledger.transfers.attemptFailed(id, 1, BROKEN, true)).toBeUndefined();
    expect(await ledger.transfers.start(id, 1, 'other')).toBeUndefined();
    expect(await ledger.transfers.requeue(id, 1)).toBeUndefined();
    expect(await ledger.transfers.get(id)).toEqual(before);
  });

  test('has one ending, whoever tries at once', async () => {
    const ledger = await openLedger();
    const { id } = await running(ledger);
    const tries = Array.from({ length: 20 }, (_, n) =>
      ledger.transfers.end(id, 1, n % 2 ? failed : succeeded),
    );
    expect((await Promise.all(tries)).filter(Boolean)).toHaveLength(1);
    expect(await eventsOf(ledger, id)).toHaveLength(3);
  });

  test('may succeed without publishing, but not without having been started', async () => {
    const ledger = await openLedger();
    const { id } = await accepted(ledger);
    expect(await ledger.transfers.publishing(id, 1)).toBe('stale');
    expect(await ledger.transfers.end(id, 1, succeeded)).toBe(false);
    await ledger.transfers.start(id, 1, 'worker');
    expect(await ledger.transfers.end(id, 1, succeeded)).toBe(true);
  });
});

describe('an attempt', () => {
  test('that fails is written down, counts where it was spent, and gives the target back', async () => {
    const ledger = await openLedger();
    const { id } = await running(ledger);
    expect(await ledger.transfers.attemptFailed(id, 1, BROKEN, true)).toBe(1);
    await ledger.transfers.start(id, 1, 'worker 2');
    await ledger.transfers.publishing(id, 1);
    expect(await ledger.transfers.attemptFailed(id, 1, { kind: 'busy', message: 'later' }, false)).toBe(1);
    expect(await ledger.transfers.get(id)).toMatchObject({ state: 'running', attempts: 1, starts: 2 });
    const other = await running(ledger);
    expect(await ledger.transfers.publishing(other.id, 1)).toBe('ok');
    expect(await ledger.transfers.attemptsOf(id)).toMatchObject([
      { number: 1, failure: BROKEN },
      { number: 2, worker: 'worker 2', failure: { kind: 'busy', message: 'later' } },
    ]);
    expect(await eventsOf(ledger, id)).toEqual(['accepted', 'running', 'publishing', 'running']);
  });

  test('that ends the transfer counts as well, but not twice', async () => {
    const ledger = await openLedger();
    const one = await running(ledger);
    await ledger.transfers.end(one.id, 1, failed);
    expect(await ledger.transfers.get(one.id)).toMatchObject({ attempts: 1, failure: BROKEN });
    const two = await running(ledger);
    await ledger.transfers.attemptFailed(two.id, 1, BROKEN, true);
    await ledger.transfers.end(two.id, 1, failed);
    expect(await ledger.transfers.get(two.id)).toMatchObject({ attempts: 1 });
  });

  test('of a second worker closes the first one, whose failure then changes nothing', async () => {
    const ledger = await openLedger();
    const first = await running(ledger);
    const second = await ledger.transfers.start(first.id, 1, 'second');
    expect(second).toMatchObject({ state: 'running', starts: 2 });
    expect(await ledger.transfers.attemptsOf(first.id)).toMatchObject([
      { number: 1, failure: { kind: 'interrupted' } },
      { number: 2, worker: 'second', endedMs: undefined },
    ]);
    await ledger.transfers.publishing(first.id, 1);
    expect(await ledger.transfers.attemptFailed(first.id, 1, BROKEN, true, first.starts)).toBeUndefined();
    expect(await stateOf(ledger, first.id)).toBe('publishing');
    expect(await ledger.transfers.attemptFailed(first.id, 1, BROKEN, true, second!.starts)).toBe(1);
  });

  test('after a worker died while publishing finds the transfer publishing', async () => {
    const ledger = await openLedger();
    const { id } = await running(ledger);
    await ledger.transfers.publishing(id, 1);
    expect(await ledger.transfers.start(id, 1, 'next')).toMatchObject({ state: 'publishing', starts: 2 });
    expect(await ledger.transfers.end(id, 1, succeeded)).toBe(true);
  });
});

describe('cancelling', () => {
  test('wins until publishing is committed', async () => {
    const ledger = await openLedger();
    const waiting = await accepted(ledger, 'a');
    const busy = await running(ledger, 'b');
    const late = await running(ledger, 'c');
    await ledger.transfers.publishing(late.id, 1);
    expect(await ledger.transfers.cancel(waiting.id)).toBe('cancelled');
    expect(await ledger.transfers.cancel(busy.id)).toBe('cancelled');
    expect(await ledger.transfers.cancel(busy.id)).toBe('cancelled');
    expect(await ledger.transfers.cancel(late.id)).toBe('too-late');
    expect(await ledger.transfers.cancel('tnobody')).toBe('not-found');
    expect(await ledger.transfers.publishing(busy.id, 1)).toBe('stale');
    expect(await eventsOf(ledger, busy.id)).toEqual(['accepted', 'running', 'cancelled']);
    expect(await ledger.transfers.attemptsOf(busy.id)).toMatchObject([{ failure: { kind: 'cancelled' } }]);
    const states = await ledger.transfers.statesOf([busy.id, late.id, 'tnobody']);
    expect([...states]).toEqual(
      expect.arrayContaining([
        [busy.id, { state: 'cancelled', epoch: 1 }],
        [late.id, { state: 'publishing', epoch: 1 }],
      ]),
    );
    expect(states.size).toBe(2);
  });

  test('and publishing at once: exactly one of them wins', async () => {
    const ledger = await openLedger();
    for (let round = 0; round < 20; round++) {
      const { id } = await running(ledger, `p${round}`);
      const [cancel, turn] = await Promise.all(
        round % 2
          ? [ledger.transfers.cancel(id), ledger.transfers.publishing(id, 1)]
          : [ledger.transfers.publishing(id, 1), ledger.transfers.cancel(id)].reverse(),
      );
      expect([
        ['cancelled', 'stale'],
        ['too-late', 'ok'],
      ]).toContainEqual([cancel, turn]);
    }
  });
});

describe('retrying', () => {
  test('a failed upload is a new acceptance: new number, new epoch, all attempts to spend', async () => {
    const clock = clockAt(NOW_MS);
    const ledger = await openLedger(undefined, clock);
    const id = await failedUpload(ledger, NOW_MS + 7 * DAY_MS, NOW_MS + HOUR_MS);
    const other = await accepted(ledger, 'other', { labels: {} });
    clock.nowMs += 2 * HOUR_MS;
    const again = await ledger.transfers.retry(id);
    expect(again).toMatchObject({
      state: 'accepted',
      epoch: 2,
      attempts: 0,
      starts: 0,
      createdMs: NOW_MS,
      queuedMs: clock.nowMs,
      deadlineMs: undefined,
      failure: undefined,
      endedMs: undefined,
      digests: { size: 10 },
    });
    expect(await ledger.transfers.get(id)).toEqual(again);
    expect((await ledger.transfers.list({}, { limit: 5 })).transfers.map((one) => one.id)).toEqual([
      id,
      other.id,
    ]);
    expect(await ledger.transfers.start(id, 1, 'old')).toBeUndefined();
    expect(await ledger.transfers.start(id, 2, 'new')).toMatchObject({ state: 'running' });
  });

  test('needs the bytes that were staged', async () => {
    const clock = clockAt(NOW_MS);
    const ledger = await openLedger(undefined, clock);
    const expired = await failedUpload(ledger, NOW_MS);
    const freed = await failedUpload(ledger, NOW_MS + DAY_MS);
    await ledger.transfers.freeStaged(freed);
    expect(await ledger.transfers.retry(expired)).toBe('bytes-gone');
    expect(await ledger.transfers.retry(freed)).toBe('bytes-gone');
    const copy = await accepted(ledger, 'c', { kind: 'copy', from: at('in', 'lake') });
    await ledger.transfers.cancel(copy.id);
    expect(await ledger.transfers.retry(copy.id)).toMatchObject({ epoch: 2 });
  });

  test('is for what failed or was cancelled', async () => {
    const ledger = await openLedger();
    const { id } = await running(ledger);
    expect(await ledger.transfers.retry(id)).toBe('not-failed');
    await ledger.transfers.end(id, 1, succeeded);
    expect(await ledger.transfers.retry(id)).toBe('not-failed');
    expect(await ledger.transfers.retry('tnobody')).toBeUndefined();
  });
});

describe('reconciling', () => {
  test('a new epoch makes the old job stale, and of two who ask one gets it', async () => {
    const ledger = await openLedger();
    const { id } = await running(ledger);
    const answers = await Promise.all([ledger.transfers.requeue(id, 1), ledger.transfers.requeue(id, 1)]);
    expect(answers).toEqual([2, undefined]);
    expect(await ledger.transfers.publishing(id, 1)).toBe('stale');
    expect(await ledger.transfers.start(id, 2, 'next')).toMatchObject({
      state: 'running',
      epoch: 2,
      attempts: 0,
    });
    expect(await eventsOf(ledger, id)).toEqual(['accepted', 'running', 'accepted', 'running']);
  });

  test('what was publishing stays publishing, so that its target stays taken and cancel stays too late', async () => {
    const ledger = await openLedger();
    const { id } = await running(ledger);
    await ledger.transfers.publishing(id, 1);
    expect(await ledger.transfers.requeue(id, 1)).toBe(2);
    expect(await ledger.transfers.cancel(id)).toBe('too-late');
    const other = await running(ledger);
    expect(await ledger.transfers.publishing(other.id, 1)).toBe('occupied');
    expect(await ledger.transfers.start(id, 2, 'next')).toMatchObject({ state: 'publishing' });
  });

  test('pages through all unended ones that were not queued lately', async () => {
    const clock = clockAt(NOW_MS);
    const ledger = await openLedger(undefined, clock);
    const ids: string[] = [];
    for (let n = 0; n < 7; n++) ids.push((await accepted(ledger, `p${n}`)).id);
    await ledger.transfers.start(ids[0]!, 1, 'w');
    await ledger.transfers.end(ids[1]!, 1, failed);
    clock.nowMs += 1000;
    await ledger.transfers.requeue(ids[2]!, 1);
    const seen: string[] = [];
    for (let after: { queuedMs: number; id: string } | undefined; ; ) {
      const page = await ledger.transfers.unended({ queuedBeforeMs: clock.nowMs, limit: 2, after });
      seen.push(...page.map((one) => one.id));
      after = page.at(-1);
      if (!after) break;
    }
    expect(seen.sort()).toEqual([ids[0], ids[3], ids[4], ids[5], ids[6]].sort());
  });

  test('finds those past their deadline, and those that waited too long to be started', async () => {
    const clock = clockAt(NOW_MS);
    const ledger = await openLedger(undefined, clock);
    const deadline = await running(ledger, 'a', { deadlineMs: NOW_MS + 10 });
    const waiting = await accepted(ledger, 'b');
    const both = await accepted(ledger, 'c', { deadlineMs: NOW_MS + 20 });
    const requeued = await running(ledger, 'd');
    await ledger.transfers.requeue(requeued.id, 1);
    const ended = await accepted(ledger, 'e', { deadlineMs: NOW_MS });
    await ledger.transfers.cancel(ended.id);
    const publishing = await running(ledger, 'f', { deadlineMs: NOW_MS });
    expect(await ledger.transfers.publishing(publishing.id, 1)).toBe('ok');
    const overdue = async (query: Omit<Parameters<typeof ledger.transfers.overdue>[0], 'limit'>) =>
      (await ledger.transfers.overdue({ ...query, limit: 10 })).map((one) => one.id);
    expect(await overdue({ nowMs: NOW_MS + 9 })).toEqual([]);
    expect(await overdue({ nowMs: NOW_MS + 10 })).toEqual([deadline.id]);
    expect(await overdue({ nowMs: NOW_MS + 20, acceptedBeforeMs: NOW_MS + 1 })).toEqual([
      deadline.id,
      both.id,
      waiting.id,
    ]);
    expect(await ledger.transfers.end(waiting.id, 1, failed)).toBe(true);
    expect(await ledger.transfers.oldestAcceptedMs()).toBe(NOW_MS);
  });
});
