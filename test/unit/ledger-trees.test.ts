import { DatabaseSync } from 'node:sqlite';
import { describe, expect, test } from 'vitest';
import type { Ledger } from '../../lib/ledger/ledger.ts';
import type { NewTransfer, TreeCounts } from '../../lib/ledger/transfer.ts';
import {
  accepted,
  at,
  BROKEN,
  clockAt,
  DAY_MS,
  ledgerPath,
  openLedger,
  PUBLISHED,
  running,
  staged,
} from './ledger-setup.ts';

const NOW_MS = Date.UTC(2026, 10, 21);
const TREE = { kind: 'copy', from: at('in', 'lake'), tree: true } as const satisfies Partial<NewTransfer>;

const none = { files: 0, bytes: 0 };
const counts = (done: number, failed = 0): TreeCounts & { busyMs: number } => ({
  done: { files: done, bytes: done * 10, directories: 0 },
  skipped: none,
  failed: { files: failed, bytes: failed * 10 },
  leftOut: none,
  busyMs: 5,
});
const pagesOf = (...numbers: number[]) =>
  numbers.map((page) => ({ page, files: 3, bytes: 30, directories: 0 }));
const openOf = async (ledger: Ledger, id: string) =>
  (await ledger.trees.openPages(id, -1, 99)).map((page) => page.page);

describe('the plan of a tree', () => {
  test('comes whole, and stays as it is', async () => {
    const ledger = await openLedger();
    const { id } = await running(ledger, 'a', TREE);
    expect(await ledger.trees.planned(id)).toEqual({
      pages: 0,
      files: 0,
      bytes: 0,
      directories: 0,
      complete: false,
    });
    expect(await ledger.trees.addPages(id, 1, pagesOf(0, 1, 2), 0)).toBe(true);
    const planned = { pages: 3, files: 9, bytes: 90, directories: 0, complete: true };
    expect(await ledger.trees.planned(id)).toEqual(planned);
    expect(await ledger.trees.addPages(id, 1, [{ page: 3, files: 99, bytes: 99, directories: 0 }], 0)).toBe(
      true,
    );
    expect(await ledger.trees.planned(id)).toEqual(planned);
  });

  test('is of one epoch, and of a transfer that was started and has not ended', async () => {
    const ledger = await openLedger();
    const { id } = await accepted(ledger, 'a', TREE);
    expect(await ledger.trees.addPages(id, 1, pagesOf(0), 0)).toBe(false);
    await ledger.transfers.start(id, 1, 'w');
    expect(await ledger.trees.addPages(id, 1, pagesOf(0), 0)).toBe(true);
    await ledger.transfers.requeue(id, 1);
    await ledger.transfers.start(id, 2, 'w');
    expect(await ledger.trees.endPage(id, 1, 0, counts(3))).toBe(false);
    expect(await ledger.trees.endPage(id, 2, 0, counts(3))).toBe(true);
    await ledger.transfers.cancel(id);
    expect(await ledger.trees.addPages(id, 2, pagesOf(1), 0)).toBe(false);
    expect(await ledger.trees.planned(id)).toMatchObject({ pages: 1 });
  });
});

describe('a page', () => {
  test('ends once, with what became of its files', async () => {
    const ledger = await openLedger();
    const { id } = await running(ledger, 'a', TREE);
    const other = await running(ledger, 'b', TREE);
    for (const one of [id, other.id]) await ledger.trees.addPages(one, 1, pagesOf(0, 1, 2, 3), 0);
    const failure = { kind: 'invalid', message: 'no' } as const;
    const ended = { ...counts(1, 1), skipped: { files: 1, bytes: 4 }, failure };
    expect(await ledger.trees.endPage(id, 1, 1, ended)).toBe(true);
    expect(await ledger.trees.endPage(id, 1, 1, counts(3))).toBe(false);
    expect(await ledger.trees.endPage(id, 1, 9, counts(3))).toBe(false);
    expect(await ledger.trees.endPage(id, 1, 3, counts(3))).toBe(true);
    expect(await openOf(ledger, id)).toEqual([0, 2]);
    expect(await openOf(ledger, other.id)).toEqual([0, 1, 2, 3]);
    expect((await ledger.trees.openPages(id, 0, 1)).map((page) => page.page)).toEqual([2]);
    expect((await ledger.trees.pages(id, 0, 2)).map((page) => page.page)).toEqual([1, 2]);
    const { busyMs: _, ...shown } = ended;
    expect(await ledger.trees.page(id, 1)).toEqual({
      page: 1,
      files: 3,
      directories: 0,
      bytes: 30,
      ended: true,
      ...shown,
    });
    expect(await ledger.trees.page(id, 0)).toMatchObject({ ended: false, done: none, failure: undefined });
    expect(await ledger.trees.page(id, 4)).toBeUndefined();
    expect(await ledger.trees.totals(id)).toEqual({
      done: { files: 4, bytes: 40, directories: 0 },
      skipped: { files: 1, bytes: 4 },
      failed: { files: 1, bytes: 10 },
      leftOut: none,
    });
    expect(await ledger.trees.totals('tnobody')).toEqual({
      done: { ...none, directories: 0 },
      skipped: none,
      failed: none,
      leftOut: none,
    });
  });

  test('is open again after a retry where files of it had failed, with what was done', async () => {
    const clock = clockAt(NOW_MS);
    const ledger = await openLedger(undefined, clock);
    const { id } = await running(ledger, 'a', TREE);
    await ledger.trees.addPages(id, 1, pagesOf(0, 1, 2), 0);
    await ledger.trees.endPage(id, 1, 0, counts(3));
    await ledger.trees.endPage(id, 1, 1, { ...counts(2, 1), failure: BROKEN });
    await ledger.transfers.end(id, 1, { state: 'failed', failure: BROKEN, stagedUntilMs: NOW_MS + DAY_MS });
    expect(await ledger.transfers.holdingStaged([id])).toEqual(new Set([id]));
    expect(await ledger.transfers.retry(id)).toMatchObject({ state: 'accepted', epoch: 2, tree: true });
    expect(await openOf(ledger, id)).toEqual([1, 2]);
    expect(await ledger.trees.planned(id)).toMatchObject({ pages: 3, complete: true });
    expect(await ledger.trees.totals(id)).toEqual({
      done: { files: 5, bytes: 50, directories: 0 },
      skipped: none,
      failed: none,
      leftOut: none,
    });
    await ledger.transfers.start(id, 2, 'w');
    expect(await ledger.trees.endPage(id, 2, 1, counts(3))).toBe(true);
    expect((await ledger.trees.totals(id)).done).toEqual({ files: 6, bytes: 60, directories: 0 });
  });

  test('is planned afresh after a retry where the plan is gone from staging', async () => {
    const clock = clockAt(NOW_MS);
    const ledger = await openLedger(undefined, clock);
    const { id } = await running(ledger, 'a', TREE);
    await ledger.trees.addPages(id, 1, pagesOf(0, 1), 5000);
    await ledger.trees.endPage(id, 1, 0, counts(3));
    await ledger.transfers.end(id, 1, { state: 'failed', failure: BROKEN, stagedUntilMs: NOW_MS + DAY_MS });
    clock.nowMs += DAY_MS;
    expect(await ledger.transfers.stagedBytes()).toBe(5000);
    await ledger.transfers.retry(id);
    expect(await ledger.trees.planned(id)).toEqual({
      pages: 0,
      files: 0,
      bytes: 0,
      directories: 0,
      complete: false,
    });
    expect(await ledger.transfers.stagedBytes()).toBe(0);
    await ledger.transfers.start(id, 2, 'w');
    await ledger.trees.addPages(id, 2, pagesOf(0), 0);
    expect(await openOf(ledger, id)).toEqual([0]);
  });

  test('goes on with its plan when it was cancelled, for as long as was said then', async () => {
    const clock = clockAt(NOW_MS);
    const ledger = await openLedger(undefined, clock);
    const { id } = await running(ledger, 'a', TREE);
    await ledger.trees.addPages(id, 1, pagesOf(0, 1), 0);
    await ledger.trees.endPage(id, 1, 0, counts(3));
    clock.nowMs += 5 * DAY_MS;
    await ledger.transfers.cancel(id, clock.nowMs + DAY_MS);
    expect(await ledger.transfers.holdingStaged([id])).toEqual(new Set([id]));
    clock.nowMs += DAY_MS - 1;
    expect(await ledger.transfers.retry(id)).toMatchObject({ state: 'accepted', epoch: 2 });
    expect(await openOf(ledger, id)).toEqual([1]);
    expect(await ledger.trees.open(id)).toBe(1);
    expect(await ledger.trees.planned(id)).toMatchObject({ pages: 2, complete: true });
  });

  test('is forgotten with its transfer', async () => {
    const path = ledgerPath();
    const clock = clockAt(NOW_MS);
    const ledger = await openLedger(path, clock);
    const [old, kept] = [await running(ledger, 'a', TREE), await running(ledger, 'b', TREE)];
    for (const { id } of [old, kept]) {
      await ledger.trees.addPages(id, 1, pagesOf(0, 1), 0);
      await ledger.trees.claim(id, 1, [at('a/x').path]);
    }
    const result = {
      ...PUBLISHED,
      files: { done: { files: 6, bytes: 60, directories: 0 }, skipped: none, failed: none, leftOut: none },
    };
    await ledger.transfers.end(old.id, 1, { state: 'succeeded', result });
    expect((await ledger.transfers.get(old.id))?.result).toEqual(result);
    clock.nowMs += 2 * DAY_MS;
    expect(await ledger.transfers.forgetHistory(clock.nowMs, 9)).toBe(1);
    const file = new DatabaseSync(path, { readOnly: true });
    const rows = (table: string) => file.prepare(`select count(*) as rows from ${table}`).get();
    expect(rows('tree_pages')).toEqual({ rows: 2 });
    await ledger.transfers.cancel(kept.id);
    expect(rows('tree_claims')).toEqual({ rows: 0 });
    file.close();
  });
});

describe('work', () => {
  test('that waits is what was accepted, and the open pages of trees that run', async () => {
    const ledger = await openLedger();
    expect(await ledger.transfers.waiting()).toEqual([]);
    for (const size of [5, 7]) await accepted(ledger, 'x', staged(size));
    await accepted(ledger, undefined, { kind: 'download', from: at('x', 'lake'), to: undefined });
    await running(ledger, 'busy', staged(100));
    const tree = await running(ledger, 'a', TREE);
    await ledger.trees.addPages(tree.id, 1, pagesOf(0, 1, 2), 0);
    await ledger.trees.endPage(tree.id, 1, 1, counts(3));
    const waitingTree = await accepted(ledger, 'a', TREE);
    await ledger.transfers.cancel((await running(ledger, 'b', TREE)).id);
    const byKind = async () =>
      (await ledger.transfers.waiting()).sort((a, b) => a.kind.localeCompare(b.kind));
    expect(await byKind()).toEqual([
      { kind: 'copy', store: 'artifacts', jobs: 3, bytes: 60 },
      { kind: 'download', store: 'lake', jobs: 1, bytes: 0 },
      { kind: 'upload', store: 'artifacts', jobs: 2, bytes: 12 },
    ]);
    await ledger.transfers.cancel(waitingTree.id);
    expect((await byKind())[0]).toMatchObject({ jobs: 2 });
  });

  test('that was carried is told by store, with the time it took, since a time', async () => {
    const clock = clockAt(NOW_MS);
    const ledger = await openLedger(undefined, clock);
    const done = async (
      more: Partial<NewTransfer>,
      ms: number,
      outcome: 'published' | 'skipped',
      size: number,
    ) => {
      const { id } = await running(ledger, 'x', more);
      clock.nowMs += ms;
      await ledger.transfers.end(id, 1, { state: 'succeeded', result: { outcome, size, verified: [] } });
    };
    const copy = { kind: 'copy', from: at('in', 'lake') } as const;
    await done(copy, 1000, 'published', 99);
    clock.nowMs += 1;
    const sinceMs = clock.nowMs;
    await done(copy, 10, 'published', 7);
    await done(staged(5), 20, 'published', 5);
    await done(copy, 30, 'skipped', 1000);
    const failed = await running(ledger, 'x', copy);
    await ledger.transfers.end(failed.id, 1, { state: 'failed', failure: BROKEN });
    const tree = await running(ledger, 'a', TREE);
    await ledger.trees.addPages(tree.id, 1, pagesOf(0, 1), 0);
    await ledger.trees.endPage(tree.id, 1, 0, counts(3));
    await ledger.transfers.end(tree.id, 1, { state: 'succeeded', result: { ...PUBLISHED, size: 30 } });
    const archive = { kind: 'download', from: at('a', 'lake'), to: undefined, tree: true } as const;
    await done(archive, 40, 'published', 9);
    const carried = await ledger.transfers.carriedSince(sinceMs);
    expect(carried.sort((a, b) => a.kind.localeCompare(b.kind))).toEqual([
      { kind: 'copy', store: 'artifacts', jobs: 3, bytes: 7 + 30, busyMs: 10 + 30 + 5 },
      { kind: 'download', store: 'lake', jobs: 1, bytes: 9, busyMs: 40 },
      { kind: 'upload', store: 'artifacts', jobs: 1, bytes: 5, busyMs: 20 },
    ]);
  });
});
