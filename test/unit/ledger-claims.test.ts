import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { newTransferId } from '../../lib/ledger/ids.ts';
import type { Ledger } from '../../lib/ledger/ledger.ts';
import type { NewTransfer, Transfer } from '../../lib/ledger/transfer.ts';
import { scaled } from '../scale.ts';
import { accepted, at, BROKEN, openLedger, PUBLISHED, running, stateOf, succeed } from './ledger-setup.ts';

const COPY = { kind: 'copy', from: at('in', 'lake') } as const;
const TREE = { ...COPY, tree: true } as const satisfies Partial<NewTransfer>;
const REMOVAL = { kind: 'delete', tree: true } as const satisfies Partial<NewTransfer>;
const REMOVED = { outcome: 'removed', verified: [] } as const;

const slot = (kind: 'upload' | 'delete', path: string) => ({
  id: newTransferId(),
  kind,
  to: at(path),
  owner: 'ada',
  deadlineMs: Date.UTC(2100, 0),
});
const paths = (...names: string[]) => names.map((name) => at(name).path);
const claim = (ledger: Ledger, { id, epoch }: Pick<Transfer, 'id' | 'epoch'>, ...names: string[]) =>
  ledger.trees.claim(id, epoch, paths(...names));

describe('the turn of a tree on the targets of its files', () => {
  test('is theirs until it is given back, and no other transfer publishes there meanwhile', async () => {
    const ledger = await openLedger();
    const tree = await running(ledger, 'a', TREE);
    const single = await running(ledger, 'a/x');
    expect(await claim(ledger, tree, 'a/x', 'a/y')).toEqual(['ok', 'ok']);
    expect(await claim(ledger, tree, 'a/y', 'a/x', 'a/z')).toEqual(['ok', 'ok', 'ok']);
    expect(await ledger.transfers.publishing(single.id, 1)).toBe('occupied');
    expect(await ledger.transfers.takeSlot(slot('upload', 'a/x'))).toBe('occupied');
    expect(await ledger.transfers.takeSlot(slot('delete', 'a'))).toBe('occupied');
    expect(await ledger.transfers.takeSlot(slot('delete', ''))).toBe('occupied');
    expect(await ledger.transfers.takeSlot(slot('delete', 'a/x/y'))).toMatchObject({ epoch: 1 });
    await ledger.trees.release(tree.id, 1, paths('a/x', 'a/never'));
    expect(await ledger.transfers.publishing(single.id, 1)).toBe('ok');
    expect(await claim(ledger, tree, 'a/x', 'a/y')).toEqual(['wait', 'ok']);
  });

  test('is given back together with what is known of the files by now, and not by an older epoch', async () => {
    const ledger = await openLedger();
    const tree = await running(ledger, 'a', TREE);
    const names = Array.from({ length: 120 }, (_, n) => `a/${n}`);
    await claim(ledger, tree, ...names);
    const published = paths(...names).map((path, n) => ({
      path,
      etag: `v${n}`,
      size: n,
      sha256: n.toString(16).padStart(64, '0'),
      crc32: n,
    }));
    const versions = published.map(({ path, etag }, n) => ({ path, etag: n === 7 ? 'other' : etag }));
    const store = at('a').store;
    await ledger.trees.release(tree.id, 2, paths(...names), published);
    expect(new Set(await ledger.objects.knownOf(store, versions))).toEqual(new Set([undefined]));
    await ledger.trees.release(tree.id, 1, paths(...names), published);
    expect(await ledger.objects.knownOf(store, versions)).toEqual(
      published.map(({ sha256, crc32 }, n) => (n === 0 || n === 7 ? undefined : { sha256, crc32 })),
    );
    const single = await running(ledger, 'a/5');
    expect(await ledger.transfers.publishing(single.id, 1)).toBe('ok');
  });

  test('comes after what was accepted later and has landed', async () => {
    const ledger = await openLedger();
    const before = await running(ledger, 'a/before');
    await succeed(ledger, before);
    const tree = await running(ledger, 'a', TREE);
    const single = await running(ledger, 'a/x');
    expect(await claim(ledger, tree, 'a/before', 'a/x')).toEqual(['ok', 'ok']);
    await ledger.trees.release(tree.id, 1, paths('a/before', 'a/x'));
    await ledger.transfers.publishing(single.id, 1);
    expect(await claim(ledger, tree, 'a/before', 'a/x')).toEqual(['ok', 'wait']);
    await ledger.transfers.end(single.id, 1, { state: 'succeeded', result: PUBLISHED });
    expect(await claim(ledger, tree, 'a/before', 'a/x')).toEqual(['ok', 'superseded']);
    const skip = await running(ledger, 'a/y', { onExists: 'skip' });
    await ledger.transfers.end(skip.id, 1, {
      state: 'succeeded',
      result: { outcome: 'skipped', verified: [] },
    });
    expect(await claim(ledger, tree, 'a/y')).toEqual(['ok']);
  });

  test('comes after a synchronous PUT below it, which leaves a row for that', async () => {
    const ledger = await openLedger();
    const tree = await accepted(ledger, 'a', TREE);
    const put = slot('upload', 'a/b/x');
    expect(await ledger.transfers.takeSlot(put)).toEqual({ id: put.id, epoch: 1 });
    await ledger.transfers.start(tree.id, 1, 'w');
    expect(await claim(ledger, tree, 'a/b/x', 'a/b')).toEqual(['wait', 'ok']);
    await ledger.transfers.end(put.id, 1, { state: 'succeeded', result: PUBLISHED });
    expect(await claim(ledger, tree, 'a/b/x')).toEqual(['superseded']);
    expect(await ledger.transfers.takeSlot(slot('upload', 'ab'))).toBe('free');
  });

  test('comes after a synchronous DELETE of what holds the file', async () => {
    const ledger = await openLedger();
    const tree = await running(ledger, 'a', TREE);
    for (const [at, turns] of [
      ['a/b', ['superseded', 'superseded', 'ok']],
      ['a', ['superseded', 'superseded', 'superseded']],
    ] as const) {
      const removal = slot('delete', at);
      expect(await ledger.transfers.takeSlot(removal)).toMatchObject({ epoch: 1 });
      expect((await claim(ledger, tree, 'a/b', 'a/b/c/x'))?.slice(0, 2)).toEqual(['wait', 'wait']);
      await ledger.transfers.end(removal.id, 1, { state: 'succeeded', result: REMOVED });
      expect(await claim(ledger, tree, 'a/b', 'a/b/c/x', 'a/c')).toEqual(turns);
      await ledger.trees.release(tree.id, 1, paths('a/c'));
    }
  });

  test('is one of two trees on one target at a time', async () => {
    const ledger = await openLedger();
    const one = await running(ledger, 'a', TREE);
    const two = await running(ledger, 'a', TREE);
    expect(await claim(ledger, one, 'a/x')).toEqual(['ok']);
    expect(await claim(ledger, two, 'a/x', 'a/y')).toEqual(['wait', 'ok']);
    expect(await claim(ledger, one, 'a/y')).toEqual(['wait']);
    await ledger.trees.release(two.id, 1, paths('a/x', 'a/y'));
    expect(await claim(ledger, two, 'a/x')).toEqual(['wait']);
    await ledger.trees.release(one.id, 1, paths('a/x'));
    expect(await claim(ledger, two, 'a/x')).toEqual(['ok']);
    const elsewhere = await running(ledger, undefined, { ...TREE, to: at('a', 'other') });
    expect(await claim(ledger, elsewhere, 'a/x')).toEqual(['ok']);
  });

  test('is stale in another epoch, before it starts and after its end; a new epoch has those of the old one', async () => {
    const ledger = await openLedger();
    const tree = await accepted(ledger, 'a', TREE);
    expect(await claim(ledger, tree, 'a/x')).toBeUndefined();
    await ledger.transfers.start(tree.id, 1, 'w');
    expect(await claim(ledger, tree, 'a/x')).toEqual(['ok']);
    await ledger.transfers.requeue(tree.id, 1);
    await ledger.transfers.start(tree.id, 2, 'w');
    expect(await claim(ledger, tree, 'a/x')).toBeUndefined();
    await ledger.trees.release(tree.id, 1, paths('a/x'));
    const single = await running(ledger, 'a/x');
    expect(await ledger.transfers.publishing(single.id, 1)).toBe('occupied');
    expect(await claim(ledger, { id: tree.id, epoch: 2 }, 'a/x')).toEqual(['ok']);
    await ledger.trees.release(tree.id, 2, paths('a/x'));
    expect(await ledger.transfers.publishing(single.id, 1)).toBe('ok');
    await ledger.transfers.cancel(tree.id);
    expect(await claim(ledger, { id: tree.id, epoch: 2 }, 'a/y')).toBeUndefined();
  });

  test('outlives a cancel until what was on its way has stopped, so that nothing newer is overwritten', async () => {
    const ledger = await openLedger();
    const tree = await running(ledger, 'a', TREE);
    await claim(ledger, tree, 'a/x', 'a/y', 'a/z');
    expect(await ledger.transfers.cancel(tree.id)).toBe('cancelled');
    const single = await running(ledger, 'a/x');
    expect(await ledger.transfers.publishing(single.id, 1)).toBe('occupied');
    expect(await ledger.transfers.takeSlot(slot('upload', 'a/y'))).toBe('occupied');
    expect(await ledger.transfers.takeSlot(slot('delete', 'a'))).toBe('occupied');
    expect(await ledger.transfers.takeSlot(slot('upload', 'a/w'))).toBe('free');
    await ledger.trees.release(tree.id, 1, paths('a/x', 'a/y'));
    expect(await ledger.transfers.publishing(single.id, 1)).toBe('ok');
    expect(await ledger.transfers.takeSlot(slot('upload', 'a/y'))).toBe('free');
    expect(await ledger.trees.claimedOfEnded(10)).toEqual([tree.id]);

    expect(await ledger.transfers.retry(tree.id)).toMatchObject({ state: 'accepted' });
    expect(await ledger.trees.claimedOfEnded(10)).toEqual([]);
    const third = await running(ledger, 'a/z');
    expect(await ledger.transfers.publishing(third.id, 1)).toBe('ok');
  });

  test('of a transfer that has not ended is not given back as if it had', async () => {
    const ledger = await openLedger();
    const tree = await running(ledger, 'a', TREE);
    await claim(ledger, tree, 'a/x');
    await ledger.trees.releaseEnded(tree.id);
    expect(await ledger.trees.claimedOfEnded(10)).toEqual([]);
    expect(await ledger.transfers.takeSlot(slot('upload', 'a/x'))).toBe('occupied');
  });

  test.each(['cancel', 'failure', 'success'])('ends with the transfer and its jobs, by %s', async (how) => {
    const ledger = await openLedger();
    const tree = await running(ledger, 'a', TREE);
    const other = await running(ledger, 'a-b', TREE);
    await claim(ledger, tree, 'a', 'a/x', 'a/b/c');
    await claim(ledger, other, 'a-b/x');
    if (how === 'cancel') await ledger.transfers.cancel(tree.id);
    if (how === 'failure') await ledger.transfers.end(tree.id, 1, { state: 'failed', failure: BROKEN });
    if (how === 'success') await ledger.transfers.end(tree.id, 1, { state: 'succeeded', result: PUBLISHED });
    if (how !== 'success') await ledger.trees.releaseEnded(tree.id);
    for (const path of ['a', 'a/x', 'a/b/c']) {
      const single = await running(ledger, path);
      expect(await ledger.transfers.publishing(single.id, 1)).toBe('ok');
    }
    const taken = await running(ledger, 'a-b/x');
    expect(await ledger.transfers.publishing(taken.id, 1)).toBe('occupied');
  });

  test('is answered for a thousand files at once', async () => {
    const ledger = await openLedger();
    const tree = await running(ledger, '', TREE);
    const names = Array.from({ length: 1000 }, (_, n) => `d${n % 7}/e${n % 11}/f${n}`);
    for (const landed of [names[3]!, names[999]!]) await succeed(ledger, await running(ledger, landed));
    const turns = await claim(ledger, tree, ...names);
    expect(turns?.flatMap((turn, n) => (turn === 'ok' ? [] : [[n, turn]]))).toEqual([
      [3, 'superseded'],
      [999, 'superseded'],
    ]);
    await ledger.trees.release(tree.id, 1, paths(...names));
    expect(await ledger.transfers.takeSlot(slot('delete', 'd1'))).toMatchObject({ epoch: 1 });
  });
});

describe('a tree', () => {
  test('waits for what was accepted before it at, below or above its target', async () => {
    const ledger = await openLedger();
    const beside = await accepted(ledger, 'a-b', COPY);
    const below = await accepted(ledger, 'a/b/c', COPY);
    const above = await accepted(ledger, '', TREE);
    const tree = await accepted(ledger, 'a', TREE);
    const later = await accepted(ledger, 'a/b', COPY);
    expect(await ledger.trees.olderWaiting(tree.id)).toBe(true);
    await ledger.transfers.cancel(above.id);
    expect(await ledger.trees.olderWaiting(tree.id)).toBe(true);
    await ledger.transfers.cancel(below.id);
    expect(await ledger.trees.olderWaiting(tree.id)).toBe(false);
    await ledger.transfers.retry(below.id);
    expect(await ledger.trees.olderWaiting(tree.id)).toBe(false);
    expect(await ledger.trees.olderWaiting((await accepted(ledger, 'a', TREE)).id)).toBe(true);
    const download = { kind: 'download', from: at('a'), to: undefined, tree: true } as const;
    expect(await ledger.trees.olderWaiting((await accepted(ledger, undefined, download)).id)).toBe(false);
    for (const { id } of [beside, later]) expect(await stateOf(ledger, id)).toBe('accepted');
  });

  test('that was removed supersedes what was accepted before below it, one that was copied does not', async () => {
    const ledger = await openLedger();
    const single = await running(ledger, 'a/x');
    const copied = await running(ledger, 'a', TREE);
    await ledger.transfers.end(copied.id, 1, { state: 'succeeded', result: PUBLISHED });
    const onItsPath = await running(ledger, 'b');
    const there = await running(ledger, 'b', TREE);
    await ledger.transfers.end(there.id, 1, { state: 'succeeded', result: PUBLISHED });
    expect(await ledger.transfers.publishing(onItsPath.id, 1)).toBe('ok');
    const removal = await running(ledger, 'a', REMOVAL);
    const later = await running(ledger, 'a/x');
    expect(await claim(ledger, removal, 'a/x', 'a/y')).toEqual(['ok', 'ok']);
    expect(await ledger.transfers.publishing(single.id, 1)).toBe('occupied');
    await ledger.transfers.end(removal.id, 1, { state: 'succeeded', result: REMOVED });
    expect(await ledger.transfers.publishing(single.id, 1)).toBe('superseded');
    expect(await ledger.transfers.publishing(later.id, 1)).toBe('ok');
  });

  test('that publishes as a whole waits for the turns of others below it', async () => {
    const ledger = await openLedger();
    const copy = await running(ledger, 'a/b', TREE);
    await claim(ledger, copy, 'a/b/x');
    const removal = await running(ledger, 'a', REMOVAL);
    expect(await ledger.transfers.publishing(removal.id, 1)).toBe('occupied');
    await ledger.trees.release(copy.id, 1, paths('a/b/x'));
    expect(await ledger.transfers.publishing(removal.id, 1)).toBe('ok');
    expect(await claim(ledger, copy, 'a/b/x')).toEqual(['wait']);
    await ledger.transfers.end(removal.id, 1, { state: 'succeeded', result: REMOVED });
    expect(await claim(ledger, copy, 'a/b/x')).toEqual(['superseded']);
  });
});

/**
 * Singles, trees and requests, each a step at a time: it begins, takes its turn, lands a file. The oracle is the list
 * of what landed where.
 */
test('whatever the order of work, what lands at a path lands in the order of acceptance', async () => {
  const ledger = await openLedger();
  const wish = fc.constantFrom('t', 't/d', 't/x', 't/d/z', 'put t/x', 'put t/d/z', 'delete t/d');
  let runs = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(wish, { minLength: 3, maxLength: 6 }),
      fc.array(fc.nat({ max: 59 }), { minLength: 20, maxLength: 40 }),
      async (wishes, steps) => {
        const root = `r${runs++}`;
        const landed: Landed = [];
        const actors: (() => Promise<void>)[] = [];
        for (const one of wishes) actors.push(await actor(ledger, root, one, landed));
        for (const on of steps) await actors[on % actors.length]!();
        for (const file of FILES) {
          const order = landed.filter(({ path }) => path === `${root}/${file}`).map(({ seq }) => seq);
          expect(order).toEqual([...order].sort((a, b) => a - b));
        }
      },
    ),
    { numRuns: scaled(1000) },
  );
});

const FILES = ['t/x', 't/d/z'];
type Landed = { readonly path: string; readonly seq: number }[];

/** What carries a wish on by one step. */
async function actor(ledger: Ledger, root: string, wish: string, landed: Landed) {
  const files = FILES.map((file) => `${root}/${file}`);
  const [verb, name] = wish.includes(' ') ? wish.split(' ') : ['', wish];
  if (verb === 'put' || verb === 'delete') return request(ledger, verb, `${root}/${name}`, files, landed);
  return FILES.includes(wish)
    ? single(ledger, `${root}/${wish}`, landed)
    : tree(ledger, `${root}/${wish}`, files, landed);
}

async function single(ledger: Ledger, path: string, landed: Landed) {
  const { id, seq } = await accepted(ledger, path, COPY);
  await ledger.transfers.start(id, 1, 'w');
  let hasTurn = false;
  return async () => {
    if (!hasTurn) hasTurn = (await ledger.transfers.publishing(id, 1)) === 'ok';
    else if (await ledger.transfers.end(id, 1, { state: 'succeeded', result: PUBLISHED }))
      landed.push({ path, seq });
  };
}

async function tree(ledger: Ledger, root: string, files: readonly string[], landed: Landed) {
  const { id, seq } = await accepted(ledger, root, TREE);
  const left = files.filter((file) => file.startsWith(`${root}/`));
  const turns: string[] = [];
  let isRunning = false;
  return async () => {
    if (!isRunning) {
      if (await ledger.trees.olderWaiting(id)) return;
      await ledger.transfers.start(id, 1, 'w');
      isRunning = true;
    } else if (turns.length === 0) {
      const told = await ledger.trees.claim(id, 1, paths(...left));
      for (const [n, turn] of told?.entries() ?? []) if (turn === 'ok') turns.push(left[n]!);
      if (told?.every((turn) => turn === 'superseded'))
        await ledger.transfers.end(id, 1, { state: 'succeeded', result: PUBLISHED });
    } else {
      const path = turns.shift()!;
      landed.push({ path, seq });
      left.splice(left.indexOf(path), 1);
      await ledger.trees.release(id, 1, paths(path));
    }
  };
}

/** Where its turn costs no row, nobody who waits can tell when it landed. */
function request(
  ledger: Ledger,
  verb: 'put' | 'delete',
  name: string,
  files: readonly string[],
  landed: Landed,
) {
  const wanted = slot(verb === 'put' ? 'upload' : 'delete', name);
  let turn: 'none' | 'taken' | 'over' = 'none';
  return async () => {
    if (turn === 'none') {
      if (typeof (await ledger.transfers.takeSlot(wanted)) === 'object') turn = 'taken';
    } else if (turn === 'taken') {
      const { seq } = (await ledger.transfers.get(wanted.id))!;
      for (const path of files) if (path === name || path.startsWith(`${name}/`)) landed.push({ path, seq });
      turn = 'over';
      const result = verb === 'put' ? PUBLISHED : REMOVED;
      await ledger.transfers.end(wanted.id, 1, { state: 'succeeded', result });
    }
  };
}
