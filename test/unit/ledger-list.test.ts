import { describe, expect, test } from 'vitest';
import type { TransferFilter } from '../../lib/ledger/contract.ts';
import type { Ledger } from '../../lib/ledger/ledger.ts';
import type { Transfer } from '../../lib/ledger/transfer.ts';
import { accepted, at, clockAt, openLedger, running, succeed } from './ledger-setup.ts';

const NOW_MS = Date.UTC(2026, 10, 21);

/** Every page of `limit`, one after the other. */
async function all(ledger: Ledger, filter: TransferFilter, limit = 3): Promise<string[]> {
  const found: string[] = [];
  for (let cursor: string | undefined; ; ) {
    const page = await ledger.transfers.list(filter, { limit, cursor });
    expect(page.transfers.length).toBeLessThanOrEqual(limit);
    found.push(...page.transfers.map((one) => one.id));
    cursor = page.nextCursor;
    if (cursor === undefined) return found;
  }
}

describe('listing transfers', () => {
  async function twelve() {
    const clock = clockAt(NOW_MS);
    const ledger = await openLedger(undefined, clock);
    const made: Transfer[] = [];
    for (let n = 0; n < 12; n++) {
      clock.nowMs += 1000;
      const kind = (['upload', 'copy', 'download', 'delete'] as const)[n % 4]!;
      made.push(
        await accepted(ledger, `p${n}`, {
          kind,
          ...(kind === 'copy' && { from: at('in', n % 8 === 1 ? 'lake' : 'artifacts') }),
          ...(kind === 'download' && { from: at('in', 'lake'), to: undefined }),
          labels: n % 2 ? { run: 'odd', n: String(n) } : { run: 'even' },
          owner: n < 6 ? 'ada' : 'bob',
        }),
      );
    }
    const idsOf = (wanted: (transfer: Transfer, n: number) => boolean): string[] =>
      made
        .filter(wanted)
        .map((one) => one.id)
        .reverse();
    return { ledger, clock, made, idsOf };
  }

  test('shows the newest first, page by page, each once', async () => {
    const { ledger, idsOf } = await twelve();
    for (const limit of [1, 5, 12, 100]) expect(await all(ledger, {}, limit)).toEqual(idsOf(() => true));
  });

  test('goes on where it was while others are accepted', async () => {
    const { ledger, idsOf } = await twelve();
    const first = await ledger.transfers.list({}, { limit: 4 });
    await accepted(ledger, 'newer');
    const second = await ledger.transfers.list({}, { limit: 100, cursor: first.nextCursor });
    expect([...first.transfers, ...second.transfers].map((one) => one.id)).toEqual(idsOf(() => true));
  });

  test('by kind, owner and label', async () => {
    const { ledger, idsOf } = await twelve();
    expect(await all(ledger, { kind: 'copy' })).toEqual(idsOf((one) => one.kind === 'copy'));
    expect(await all(ledger, { owner: 'bob' })).toEqual(idsOf((one) => one.owner === 'bob'));
    const odd = { key: 'run', value: 'odd' };
    expect(await all(ledger, { label: odd })).toEqual(idsOf((_, n) => n % 2 === 1));
    expect(await all(ledger, { label: odd, owner: 'ada', kind: 'delete' }, 1)).toEqual(
      idsOf((one, n) => n % 2 === 1 && one.owner === 'ada' && one.kind === 'delete'),
    );
    expect(await all(ledger, { label: { key: 'run', value: 'none' } })).toEqual([]);
  });

  test('by a store on either side, showing none twice', async () => {
    const { ledger, idsOf } = await twelve();
    for (const store of ['lake', 'artifacts'])
      expect(await all(ledger, { store }, 2)).toEqual(
        idsOf((one) => one.from?.store === store || one.to?.store === store),
      );
  });

  test('by state, and by time of acceptance with the beginning included and the end not', async () => {
    const { ledger, made, idsOf } = await twelve();
    for (const one of made.slice(0, 2)) await ledger.transfers.cancel(one.id);
    expect(await all(ledger, { state: 'cancelled' })).toEqual(idsOf((_, n) => n < 2));
    const [fromMs, toMs] = [made[3]!.createdMs, made[7]!.createdMs];
    expect(await all(ledger, { fromMs, toMs })).toEqual(idsOf((_, n) => n >= 3 && n < 7));
    expect(await all(ledger, { fromMs: toMs })).toEqual(idsOf((_, n) => n >= 7));
    expect(await all(ledger, { toMs: NOW_MS })).toEqual([]);
    expect(await all(ledger, { fromMs: NOW_MS + 1e6 })).toEqual([]);
  });

  test('a retried one is found by its labels in its new place', async () => {
    const { ledger, made, idsOf } = await twelve();
    await ledger.transfers.cancel(made[1]!.id);
    await ledger.transfers.retry(made[1]!.id);
    const odd = idsOf((_, n) => n % 2 === 1).filter((id) => id !== made[1]!.id);
    expect(await all(ledger, { label: { key: 'run', value: 'odd' } })).toEqual([made[1]!.id, ...odd]);
  });

  test('refuses a cursor that it did not give', async () => {
    const { ledger } = await twelve();
    for (const cursor of ['x', '', 'MTI=', Buffer.from('-1').toString('base64url')])
      await expect(ledger.transfers.list({}, { limit: 1, cursor })).rejects.toMatchObject({
        kind: 'invalid',
      });
  });

  test('counts what there is by state, and what ended lately by kind', async () => {
    const { ledger, clock, made } = await twelve();
    const one = await running(ledger, 'x');
    await succeed(ledger, one);
    clock.nowMs += 60_000;
    await ledger.transfers.cancel(made[1]!.id);
    expect(await ledger.transfers.counts()).toEqual({
      accepted: 11,
      running: 0,
      publishing: 0,
      succeeded: 1,
      failed: 0,
      cancelled: 1,
      superseded: 0,
    });
  });
});
