import { Migrator } from 'kysely/migration';
import { expect, test } from 'vitest';
import { newTransferId } from '../../lib/ledger/ids.ts';
import { up as transfers } from '../../lib/ledger/migrations/0001-transfers.ts';
import { openSqlite } from '../../lib/ledger/sqlite.ts';
import { at, ledgerPath, openLedger, running, succeed } from './ledger-setup.ts';

/** A ledger as the first version made it, with what these statements put into it. */
async function firstVersion(path: string, statements: readonly string[]): Promise<void> {
  const { DatabaseSync } = await import('node:sqlite');
  const engine = openSqlite(path);
  const { error } = await new Migrator({
    db: engine.writing,
    provider: {
      getMigrations: async () => ({ '0001-transfers': { up: (db) => transfers(db, engine.types) } }),
    },
  }).migrateToLatest();
  await engine.close();
  expect(error).toBeUndefined();
  const file = new DatabaseSync(path);
  for (const statement of statements) file.exec(statement);
  file.close();
}

test('a ledger of the first version keeps its transfers, digests and uploads', async () => {
  const path = ledgerPath();
  const [done, waiting] = [newTransferId(), newTransferId()];
  const rows = [
    [1, done, 'succeeded', "'published'", 5],
    [2, waiting, 'accepted', 'null', 'null'],
  ];
  await firstVersion(path, [
    ...rows.map(
      ([seq, id, state, outcome, endedMs]) =>
        `insert into transfers (seq, id, kind, state, epoch, attempts, starts, synchronous, from_store, from_path, to_store,
           to_path, to_tree, on_exists, priority, owner, labels, created_ms, accepted_ms, queued_ms, outcome, ended_ms,
           staged_bytes)
         values (${seq}, '${id}', 'copy', '${state}', 1, 0, 0, 0, 'lake', 'in', 'artifacts', 'a/${seq}', 0, 'replace',
           100, 'ada', '{}', 5, 5, 5, ${outcome}, ${endedMs}, 0)`,
    ),
    `insert into events (seq, transfer_id, state, at_ms) values (1, '${done}', 'accepted', 5), (2, '${waiting}', 'accepted', 5)`,
    `insert into objects values ('artifacts', 'a/1', 'v1', 3, '${'ab'.repeat(32)}'), ('lake', 'empty', 'v1', 0, '${'cd'.repeat(32)}')`,
    `insert into uploads values ('u1', 'artifacts', 'a/2', '${waiting}-1', 'of the store', 7)`,
  ]);
  const ledger = await openLedger(path);
  expect(await ledger.transfers.get(done)).toMatchObject({ state: 'succeeded', tree: false });
  expect(await ledger.objects.known(at('a/1'), 'v1')).toEqual({ sha256: 'ab'.repeat(32) });
  expect(await ledger.objects.known(at('empty', 'lake'), 'v1')).toBeUndefined();
  expect(await ledger.uploads.open(8, 9)).toEqual([
    {
      id: 'u1',
      place: at('a/2'),
      owner: `${waiting}-1`,
      intendedMs: 7,
      uploadId: 'of the store',
      transfer: undefined,
    },
  ]);
  expect(await ledger.uploads.partedOfEnded(9)).toEqual([]);
  await ledger.transfers.start(waiting, 1, 'w');
  const newer = await running(ledger, 'a/2');
  await succeed(ledger, newer);
  expect(await ledger.transfers.publishing(waiting, 1)).toBe('superseded');
  expect(newer.seq).toBe(4);
});

test('a ledger that was brought up to date is opened again as it is', async () => {
  const path = ledgerPath();
  await firstVersion(path, []);
  const first = await openLedger(path);
  const { id } = await running(first, 'tree', { tree: true });
  await first.trees.addPages(id, 1, [{ page: 0, files: 1, bytes: 2, directories: 0 }], 0);
  await first.close();
  const again = await openLedger(path);
  expect(await again.trees.planned(id)).toEqual({
    pages: 1,
    files: 1,
    bytes: 2,
    directories: 0,
    complete: true,
  });
});
