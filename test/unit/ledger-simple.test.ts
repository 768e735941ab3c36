import { describe, expect, test } from 'vitest';
import type { Ledger } from '../../lib/ledger/ledger.ts';
import type { NewTransfer, Transfer } from '../../lib/ledger/transfer.ts';
import {
  accepted,
  anUpload,
  at,
  BROKEN,
  eventsOf,
  openLedger,
  PUBLISHED,
  running,
  staged,
  stateOf,
  succeed,
} from './ledger-setup.ts';

const MOST_BYTES = 1000;
const begin = (ledger: Ledger, id: string, epoch = 1): Promise<Transfer | undefined> =>
  ledger.transfers.start(id, epoch, 'worker', MOST_BYTES);
const small = (ledger: Ledger, path?: string, more: Partial<NewTransfer> = {}): Promise<Transfer> =>
  accepted(ledger, path, { ...staged(MOST_BYTES), ...more });

describe('a small upload', () => {
  test('takes its turn on its target as it begins', async () => {
    const ledger = await openLedger();
    const { id } = await small(ledger);
    const other = await running(ledger);
    expect(await begin(ledger, id)).toMatchObject({ state: 'publishing', starts: 1 });
    expect(await ledger.transfers.publishing(other.id, 1)).toBe('occupied');
    expect(await ledger.transfers.cancel(id)).toBe('too-late');
    expect(await ledger.transfers.end(id, 1, { state: 'succeeded', result: PUBLISHED })).toBe(true);
    expect(await eventsOf(ledger, id)).toEqual(['accepted', 'running', 'publishing', 'succeeded']);
    expect(await ledger.transfers.attemptsOf(id)).toMatchObject([{ number: 1, worker: 'worker' }]);
  });

  test('begins without a turn where its target is taken, and waits for it as any other', async () => {
    const ledger = await openLedger();
    const busy = await running(ledger);
    await ledger.transfers.publishing(busy.id, 1);
    const { id } = await small(ledger);
    expect(await begin(ledger, id)).toMatchObject({ state: 'running', starts: 1 });
    expect(await ledger.transfers.publishing(id, 1)).toBe('occupied');
    await ledger.transfers.end(busy.id, 1, { state: 'succeeded', result: PUBLISHED });
    expect(await ledger.transfers.publishing(id, 1)).toBe('ok');
  });

  test('that is older than what landed at its target begins without a turn and is superseded', async () => {
    const ledger = await openLedger();
    const { id } = await small(ledger);
    await succeed(ledger, await running(ledger));
    expect(await begin(ledger, id)).toMatchObject({ state: 'running' });
    expect(await ledger.transfers.publishing(id, 1)).toBe('superseded');
  });

  test('that is begun again comes back publishing after a death, and running after a failure', async () => {
    const ledger = await openLedger();
    const { id } = await small(ledger);
    await begin(ledger, id);
    expect(await begin(ledger, id)).toMatchObject({ state: 'publishing', starts: 2 });
    expect(await ledger.transfers.attemptFailed(id, 1, BROKEN, true, 2)).toBe(1);
    expect(await stateOf(ledger, id)).toBe('running');
    expect(await begin(ledger, id)).toMatchObject({ state: 'running', starts: 3 });
  });

  test('that lost its job before it began takes its turn with the new one, but not when it had begun', async () => {
    const ledger = await openLedger();
    const [fresh, begun] = [await small(ledger, 'a'), await small(ledger, 'b')];
    await ledger.transfers.start(begun.id, 1, 'worker');
    for (const { id } of [fresh, begun]) await ledger.transfers.requeue(id, 1);
    expect(await begin(ledger, fresh.id, 2)).toMatchObject({ state: 'publishing', starts: 1 });
    expect(await begin(ledger, begun.id, 2)).toMatchObject({ state: 'running', starts: 2 });
  });
});

test('what has more to do than to replace its target by a few staged bytes begins without a turn', async () => {
  const ledger = await openLedger();
  const others: Partial<NewTransfer>[] = [
    staged(MOST_BYTES + 1),
    { onExists: 'skip' },
    { onExists: 'skip-if-same' },
    { onExists: 'fail' },
    { kind: 'copy', from: at('elsewhere') },
    { kind: 'delete' },
  ];
  for (const [n, more] of others.entries()) {
    const { id } = await small(ledger, `path/${n}`, more);
    expect(await begin(ledger, id)).toMatchObject({ state: 'running' });
  }
});

test('staged bytes that are gone are claimed by their transfers no more, unless these have not ended', async () => {
  const ledger = await openLedger();
  const accept = async (path: string): Promise<string> => {
    const { transfer } = await ledger.transfers.accept(anUpload(path, staged(10)), undefined, Date.now());
    await begin(ledger, transfer.id);
    return transfer.id;
  };
  const ids = [await accept('a'), await accept('b')];
  const open = await accept('c');
  for (const id of ids) await ledger.transfers.end(id, 1, { state: 'succeeded', result: PUBLISHED });
  expect(await ledger.transfers.stagedBytes()).toBe(30);
  await ledger.transfers.stagedGone([...ids, open, 'no such transfer']);
  expect(await ledger.transfers.stagedBytes()).toBe(10);
  expect(await ledger.transfers.expiredStaged(Date.now(), 10)).toEqual([]);
  expect(await ledger.transfers.holdingStaged([...ids, open])).toEqual(new Set([open]));
});
