import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { newTransferId } from '../../lib/ledger/ids.ts';
import type { Ledger } from '../../lib/ledger/ledger.ts';
import { scaled } from '../scale.ts';
import {
  accepted,
  at,
  BROKEN,
  clockAt,
  eventsOf,
  openLedger,
  PUBLISHED,
  running,
  stateOf,
  succeed,
} from './ledger-setup.ts';

const slot = (kind: 'upload' | 'delete', path: string) => ({
  id: newTransferId(),
  kind,
  to: at(path),
  owner: 'ada',
  deadlineMs: Date.UTC(2100, 0),
});

describe('on one target', () => {
  test('one transfer publishes at a time', async () => {
    const ledger = await openLedger();
    const one = await running(ledger);
    const two = await running(ledger);
    const turns = await Promise.all([
      ledger.transfers.publishing(one.id, 1),
      ledger.transfers.publishing(two.id, 1),
    ]);
    expect(turns).toEqual(['ok', 'occupied']);
    await ledger.transfers.end(one.id, 1, { state: 'failed', failure: BROKEN });
    expect(await ledger.transfers.publishing(two.id, 1)).toBe('ok');
  });

  test('an older one ends as superseded when a newer one has succeeded', async () => {
    const ledger = await openLedger();
    const older = await running(ledger);
    const newer = await running(ledger);
    await succeed(ledger, newer);
    expect(await ledger.transfers.publishing(older.id, 1)).toBe('superseded');
    expect(await stateOf(ledger, older.id)).toBe('superseded');
    expect(await eventsOf(ledger, older.id)).toEqual(['accepted', 'running', 'superseded']);
    const newest = await running(ledger);
    expect(await ledger.transfers.publishing(newest.id, 1)).toBe('ok');
  });

  test('a newer one that left what it found supersedes nothing, unless that was the same', async () => {
    const ledger = await openLedger();
    const skipped = { state: 'succeeded', result: { outcome: 'skipped', verified: [] } } as const;
    const older = await running(ledger);
    const skip = await running(ledger, undefined, { onExists: 'skip' });
    await ledger.transfers.end(skip.id, 1, skipped);
    expect(await ledger.transfers.publishing(older.id, 1)).toBe('ok');
    await ledger.transfers.attemptFailed(older.id, 1, BROKEN, false);
    const same = await running(ledger, undefined, { onExists: 'skip-if-same' });
    await ledger.transfers.end(same.id, 1, skipped);
    expect(await ledger.transfers.publishing(older.id, 1)).toBe('superseded');
  });

  test('a newer one that failed, or is on another store, supersedes nothing', async () => {
    const ledger = await openLedger();
    const older = await running(ledger);
    const newer = await running(ledger);
    await ledger.transfers.end(newer.id, 1, { state: 'failed', failure: BROKEN });
    const elsewhere = await running(ledger, undefined, { to: at('run/model.bin', 'lake') });
    await succeed(ledger, elsewhere);
    expect(await ledger.transfers.publishing(older.id, 1)).toBe('ok');
  });

  test('a retried one counts from its retry', async () => {
    const ledger = await openLedger();
    const copy = { kind: 'copy', from: at('in', 'lake') } as const;
    const first = await running(ledger, 'a', copy);
    const second = await running(ledger, 'a', copy);
    await ledger.transfers.cancel(first.id);
    await ledger.transfers.retry(first.id);
    await ledger.transfers.start(first.id, 2, 'w');
    await succeed(ledger, { id: first.id, epoch: 2 });
    expect(await ledger.transfers.publishing(second.id, 1)).toBe('superseded');
  });

  test('whatever the order of work, what succeeds succeeds in the order of acceptance', async () => {
    const step = fc.record({
      on: fc.nat({ max: 5 }),
      do: fc.constantFrom('start', 'publish', 'end', 'fail'),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
        const ledger = await openLedger();
        const ids: string[] = [];
        for (let n = 0; n < 6; n++) ids.push((await accepted(ledger, n < 4 ? 'same' : 'other')).id);
        for (const { on, do: what } of steps) await work(ledger, ids[on]!, what);
        const ended = (await ledger.events.after(0, 1000)).filter((event) => event.state === 'succeeded');
        for (const group of [ids.slice(0, 4), ids.slice(4)]) {
          const order = ended.map((event) => group.indexOf(event.transferId)).filter((n) => n >= 0);
          expect(order).toEqual([...order].sort());
        }
        await ledger.close();
      }),
      { numRuns: scaled(100) },
    );
  });

  async function work(ledger: Ledger, id: string, what: string): Promise<void> {
    const { transfers } = ledger;
    if (what === 'start') await transfers.start(id, 1, 'w');
    if (what === 'publish') await transfers.publishing(id, 1);
    if (what === 'fail') await transfers.attemptFailed(id, 1, BROKEN, false);
    if (what === 'end' && (await stateOf(ledger, id)) === 'publishing')
      await transfers.end(id, 1, { state: 'succeeded', result: PUBLISHED });
  }
});

describe("a synchronous request's turn", () => {
  test('is free and costs no row where no unended transfer wants the target', async () => {
    const ledger = await openLedger();
    const done = await running(ledger, 'a/b');
    await succeed(ledger, done);
    await accepted(ledger, 'a/b-side');
    await accepted(ledger, 'a/b/below');
    await accepted(ledger, undefined, { to: at('a/b', 'lake') });
    expect(await ledger.transfers.takeSlot(slot('upload', 'a/b'))).toBe('free');
    expect(await ledger.transfers.takeSlot(slot('delete', 'a/b-'))).toBe('free');
    expect(ledger.writes.units).toBe(7);
  });

  test('holds the target against what was accepted before, and supersedes it', async () => {
    const ledger = await openLedger();
    const older = await running(ledger, 'a');
    const turn = slot('upload', 'a');
    expect(await ledger.transfers.takeSlot(turn)).toEqual({ id: turn.id, epoch: 1 });
    expect(await ledger.transfers.takeSlot(slot('upload', 'a'))).toBe('occupied');
    expect(await ledger.transfers.publishing(older.id, 1)).toBe('occupied');
    expect(await ledger.transfers.end(turn.id, 1, { state: 'succeeded', result: PUBLISHED })).toBe(true);
    expect(await ledger.transfers.publishing(older.id, 1)).toBe('superseded');
  });

  test('that ends in failure leaves the others their turn', async () => {
    const ledger = await openLedger();
    const older = await running(ledger, 'a');
    const turn = slot('upload', 'a');
    await ledger.transfers.takeSlot(turn);
    await ledger.transfers.end(turn.id, 1, { state: 'failed', failure: BROKEN });
    expect(await ledger.transfers.publishing(older.id, 1)).toBe('ok');
    expect(await ledger.transfers.retry(turn.id)).toBe('bytes-gone');
  });

  test('waits for one that is publishing', async () => {
    const ledger = await openLedger();
    const busy = await running(ledger, 'a');
    await ledger.transfers.publishing(busy.id, 1);
    expect(await ledger.transfers.takeSlot(slot('upload', 'a'))).toBe('occupied');
    await ledger.transfers.end(busy.id, 1, { state: 'succeeded', result: PUBLISHED });
    expect(await ledger.transfers.takeSlot(slot('upload', 'a'))).toBe('free');
  });

  test('is nothing for workers or the reconciler until its deadline', async () => {
    const clock = clockAt(Date.UTC(2026, 10, 21));
    const ledger = await openLedger(undefined, clock);
    await accepted(ledger, 'a');
    const turn = { ...slot('upload', 'a'), deadlineMs: clock.nowMs + 60_000 };
    await ledger.transfers.takeSlot(turn);
    expect(await ledger.transfers.start(turn.id, 1, 'w')).toBeUndefined();
    expect(await ledger.transfers.requeue(turn.id, 1)).toBeUndefined();
    const page = { queuedBeforeMs: clock.nowMs + 1, limit: 9 };
    expect((await ledger.transfers.unended(page)).map((one) => one.id)).not.toContain(turn.id);
    const overdue = (nowMs: number) => ledger.transfers.overdue({ nowMs, acceptedBeforeMs: 0, limit: 9 });
    expect(await overdue(clock.nowMs)).toEqual([]);
    expect(await overdue(clock.nowMs + 60_000)).toMatchObject([{ id: turn.id, synchronous: true }]);
  });

  test('is kept by whoever renews it, and by nobody once it was ended', async () => {
    const clock = clockAt(Date.UTC(2026, 10, 21));
    const ledger = await openLedger(undefined, clock);
    const job = await accepted(ledger, 'a');
    const turn = { ...slot('upload', 'a'), deadlineMs: clock.nowMs + 60_000 };
    await ledger.transfers.takeSlot(turn);
    expect(await ledger.transfers.renewSlot(turn.id, 1, clock.nowMs + 90_000)).toBe(true);
    const overdue = (nowMs: number) => ledger.transfers.overdue({ nowMs, limit: 9 });
    expect(await overdue(clock.nowMs + 89_999)).toEqual([]);
    expect(await overdue(clock.nowMs + 90_000)).toMatchObject([{ id: turn.id }]);
    await ledger.transfers.end(turn.id, 1, { state: 'failed', failure: BROKEN });
    expect(await ledger.transfers.renewSlot(turn.id, 1, clock.nowMs + 120_000)).toBe(false);
    expect(await ledger.transfers.renewSlot(job.id, 1, clock.nowMs + 120_000)).toBe(false);
    expect((await ledger.transfers.get(job.id))?.deadlineMs).toBeUndefined();
  });
});

describe('removing a tree in a synchronous request', () => {
  test('takes its turn where something at or below it is unended', async () => {
    const ledger = await openLedger();
    await accepted(ledger, 'a/b/c');
    expect(await ledger.transfers.takeSlot(slot('delete', 'a/bc'))).toBe('free');
    const tree = slot('delete', 'a');
    expect(await ledger.transfers.takeSlot(tree)).toEqual({ id: tree.id, epoch: 1 });
    expect(await ledger.transfers.takeSlot(slot('delete', ''))).toBe('occupied');
    expect(await ledger.transfers.takeSlot(slot('upload', 'a/b/d'))).toBe('occupied');
    expect(await ledger.transfers.takeSlot(slot('upload', 'b'))).toBe('free');
  });

  test('of everything takes its turn for whatever there is in that store', async () => {
    const ledger = await openLedger();
    await accepted(ledger, '\u{10fffe} last of all names');
    expect(await ledger.transfers.takeSlot({ ...slot('delete', ''), to: at('', 'lake') })).toBe('free');
    expect(await ledger.transfers.takeSlot(slot('delete', ''))).toMatchObject({ epoch: 1 });
  });

  test('keeps what is below from being published meanwhile, and supersedes what was accepted before', async () => {
    const ledger = await openLedger();
    const below = await running(ledger, 'a/b/c');
    const beside = await running(ledger, 'a-b');
    const tree = slot('delete', 'a');
    await ledger.transfers.takeSlot(tree);
    const later = await running(ledger, 'a/b/c');
    expect(await ledger.transfers.publishing(below.id, 1)).toBe('occupied');
    expect(await ledger.transfers.publishing(beside.id, 1)).toBe('ok');
    await ledger.transfers.end(tree.id, 1, {
      state: 'succeeded',
      result: { outcome: 'removed', verified: [] },
    });
    expect(await ledger.transfers.publishing(below.id, 1)).toBe('superseded');
    expect(await ledger.transfers.publishing(later.id, 1)).toBe('ok');
  });

  test('is not what an accepted delete does: that one is on exactly its path', async () => {
    const ledger = await openLedger();
    const below = await running(ledger, 'a/b');
    const removal = await running(ledger, 'a', { kind: 'delete' });
    expect(await ledger.transfers.publishing(removal.id, 1)).toBe('ok');
    expect(await ledger.transfers.publishing(below.id, 1)).toBe('ok');
    await ledger.transfers.end(removal.id, 1, {
      state: 'succeeded',
      result: { outcome: 'removed', verified: [] },
    });
    expect(await ledger.transfers.end(below.id, 1, { state: 'succeeded', result: PUBLISHED })).toBe(true);
  });
});
