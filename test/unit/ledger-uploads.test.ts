import { describe, expect, test } from 'vitest';
import { accepted, at, BROKEN, clockAt, openLedger, running } from './ledger-setup.ts';

const NOW_MS = Date.UTC(2026, 10, 21);
const BIG = { place: at('big'), size: 100, partBytes: 16 };

describe('a parted upload', () => {
  test('is written down once for its owner, as it was wanted first', async () => {
    const ledger = await openLedger(undefined, clockAt(NOW_MS));
    const { id } = await accepted(ledger);
    const from = { ...at('source', 'lake'), etag: 'v1' };
    const wishes = [
      { ...BIG, owner: id, from },
      { ...BIG, owner: id, partBytes: 32 },
    ];
    const [one, two] = await Promise.all(wishes.map((wish) => ledger.uploads.ensureParted(wish)));
    expect(one).toEqual({
      id: one!.id,
      place: BIG.place,
      owner: id,
      transfer: id,
      intendedMs: NOW_MS,
      uploadId: undefined,
      size: 100,
      partBytes: 16,
      from,
      notKept: [],
    });
    expect(two).toEqual(one);
    expect(await ledger.uploads.ensureParted(wishes[1]!)).toEqual(one);
    expect(await ledger.uploads.begun(one!.id, 'of the store')).toBe(true);
    expect(await ledger.uploads.begun(one!.id, 'of the slower one')).toBe(false);
    expect(await ledger.uploads.parted(one!.id)).toEqual({ ...one, uploadId: 'of the store' });
    await ledger.uploads.ended(one!.id);
    expect(await ledger.uploads.parted(one!.id)).toBeUndefined();
    expect(await ledger.uploads.ensureParted(wishes[1]!)).toMatchObject({ partBytes: 32, from: undefined });
  });

  test('is told by the id that its store gave it, among many that are asked for', async () => {
    const ledger = await openLedger();
    const ids = Array.from({ length: 1200 }, (_, n) => `upload-${n}`);
    for (const id of [ids[0]!, ids[700]!, 'another'])
      await ledger.uploads.begun(await ledger.uploads.intend(at('x'), 't-1'), id);
    await ledger.uploads.intend(at('x'), 't-1');
    expect(await ledger.uploads.named(ids)).toEqual(new Set([ids[0], ids[700]]));
    expect(await ledger.uploads.named([])).toEqual(new Set());
  });

  test('belongs to its transfer, also where a page of it is the owner', async () => {
    const ledger = await openLedger();
    const tree = await accepted(ledger);
    const other = await accepted(ledger);
    const made = [];
    for (const owner of [tree.id, `${tree.id}.3`, `${tree.id}.12`, other.id, `${other.id}.3`])
      made.push(await ledger.uploads.ensureParted({ ...BIG, owner }));
    await ledger.uploads.intend(at('small'), `${tree.id}-1`);
    const ids = (uploads: { readonly id: string }[]) => uploads.map((upload) => upload.id).sort();
    expect(ids(await ledger.uploads.partedOf(tree.id))).toEqual(ids(made.slice(0, 3)));
    expect(ids(await ledger.uploads.partedOf(other.id))).toEqual(ids(made.slice(3)));
    expect(await ledger.uploads.partedOf('tnobody')).toEqual([]);
  });

  test('is listed with the others that are open, and says whose it is', async () => {
    const clock = clockAt(NOW_MS);
    const ledger = await openLedger(undefined, clock);
    const { id } = await accepted(ledger);
    const parted = await ledger.uploads.ensureParted({ ...BIG, owner: id });
    clock.nowMs += 1;
    await ledger.uploads.intend(at('small'), `${id}-1`);
    const open = await ledger.uploads.open(NOW_MS + 2, 9);
    expect(open).toMatchObject([
      { id: parted.id, transfer: id },
      { owner: `${id}-1`, transfer: undefined },
    ]);
  });

  test('may go as soon as its transfer has ended, and never before', async () => {
    const ledger = await openLedger();
    const { id } = await running(ledger, undefined, { kind: 'copy', from: at('in', 'lake') });
    const { id: upload } = await ledger.uploads.ensureParted({ ...BIG, owner: `${id}.0` });
    const forgotten = await ledger.uploads.ensureParted({ ...BIG, owner: 'tforgotten' });
    const collectable = async () => (await ledger.uploads.partedOfEnded(9)).map((one) => one.id).sort();
    expect(await collectable()).toEqual([forgotten.id]);
    await ledger.transfers.requeue(id, 1);
    expect(await collectable()).toEqual([forgotten.id]);
    await ledger.transfers.end(id, 2, { state: 'failed', failure: BROKEN });
    expect(await collectable()).toEqual([forgotten.id, upload].sort());
    await ledger.transfers.retry(id);
    expect(await collectable()).toEqual([forgotten.id]);
  });
});

describe('an attempt that is handed out', () => {
  test('closes without a failure, and the next start takes no worker for dead', async () => {
    const ledger = await openLedger();
    const { id, starts } = await running(ledger);
    expect(await ledger.transfers.handedOut(id, 1, starts)).toBe(true);
    expect(await ledger.transfers.start(id, 1, 'another')).toMatchObject({ state: 'running', starts: 2 });
    const attempts = await ledger.transfers.attemptsOf(id);
    expect(attempts).toMatchObject([{ number: 1 }, { number: 2, worker: 'another' }]);
    expect(attempts[0]!.endedMs).toBeDefined();
    expect(attempts.map((attempt) => attempt.failure)).toEqual([undefined, undefined]);
    await ledger.transfers.end(id, 1, { state: 'failed', failure: BROKEN });
    expect(await ledger.transfers.get(id)).toMatchObject({ attempts: 1 });
  });

  test('is stale where another worker took over, in another epoch, and after the end', async () => {
    const ledger = await openLedger();
    const { id } = await running(ledger);
    await ledger.transfers.start(id, 1, 'another');
    expect(await ledger.transfers.handedOut(id, 1, 1)).toBe(false);
    expect(await ledger.transfers.handedOut(id, 2, 2)).toBe(false);
    expect((await ledger.transfers.attemptsOf(id))[1]!.endedMs).toBeUndefined();
    await ledger.transfers.cancel(id);
    expect(await ledger.transfers.handedOut(id, 1, 2)).toBe(false);
    expect(await ledger.transfers.handedOut('tnobody', 1, 1)).toBe(false);
  });
});
