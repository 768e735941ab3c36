/** What SQLite does for each query: it picks an index by rough guesses, and must have one that fits. */
import { DatabaseSync } from 'node:sqlite';
import { Kysely, type SqliteDatabase, SqliteDialect, type SqliteStatement } from 'kysely';
import { describe, expect, onTestFinished, test } from 'vitest';
import { ended, expired } from '../../lib/ledger/collection.ts';
import type { TransferFilter } from '../../lib/ledger/contract.ts';
import { neverStarted, pages, pastDeadline, unended } from '../../lib/ledger/reads.ts';
import type { LedgerTables } from '../../lib/ledger/schema.ts';
import { Targets } from '../../lib/ledger/targets.ts';
import { claimedOfEnded, claimQueries } from '../../lib/ledger/tree-claims.ts';
import { pages as treePages } from '../../lib/ledger/trees.ts';
import { named, ofOwner, ofTransfer, partedOfEnded } from '../../lib/ledger/uploads.ts';
import { accepted, carried, carriedPages, openPages, runningTrees } from '../../lib/ledger/work.ts';
import { at, ledgerPath, openLedger } from './ledger-setup.ts';

describe('every query of transfers', () => {
  /**
   * What SQLite would do, in the tables that the ledger made, for each query that runs on `db`; none of them finds
   * anything.
   */
  async function planner() {
    const path = ledgerPath();
    await openLedger(path);
    const file = new DatabaseSync(path, { readOnly: true });
    const plans: string[] = [];
    const database: SqliteDatabase = {
      close: () => file.close(),
      prepare(sql) {
        const rows = file.prepare(`explain query plan ${sql}`).all();
        plans.push(rows.map((row) => String(row.detail)).join('\n'));
        const none: SqliteStatement = {
          reader: true,
          all: () => [],
          run: () => ({ changes: 0, lastInsertRowid: 0 }),
          iterate: () => [].values(),
        };
        return none;
      },
    };
    const db = new Kysely<LedgerTables>({ dialect: new SqliteDialect({ database }) });
    onTestFinished(() => db.destroy());
    return { db, plans };
  }

  test('of a list walks one index in the order of the list, whatever the filter', async () => {
    const { db, plans } = await planner();
    const parts: TransferFilter[] = [
      { state: 'failed' },
      { kind: 'delete' },
      { store: 'lake' },
      { owner: 'ada' },
      { label: { key: 'run', value: 'a' } },
    ];
    for (const one of parts)
      for (const other of parts)
        for (const before of [undefined, 1000])
          for (const seqs of [{}, { first: 5, last: 500 }])
            for (const query of pages(db, { ...one, ...other }, { limit: 10, before }, seqs))
              await query.execute();
    for (const plan of plans) expect(plan).not.toMatch(/TEMP B-TREE|SCAN/);
  });

  test('of a list without a filter walks the table from its end', async () => {
    const { db, plans } = await planner();
    for (const query of pages(db, {}, { limit: 10, before: undefined }, {})) await query.execute();
    expect(plans).toEqual(['SCAN transfers']);
  });

  test('of the reconciler and of gc uses an index made for it', async () => {
    const { db, plans } = await planner();
    await unended(db, { queuedBeforeMs: 5, limit: 10 }).execute();
    await unended(db, { queuedBeforeMs: 5, limit: 10, after: { queuedMs: 1, id: 't' } }).execute();
    await pastDeadline(db, 5, 10).execute();
    await neverStarted(db, 5, 10).execute();
    await expired(db, 5, 10).execute();
    await ended(db, 5, 10).execute();
    expect(indexesOf(plans)).toEqual(['unended', 'unended', 'deadline', 'waiting', 'staged', 'ended']);
    expect(plans.join('\n')).not.toMatch(/TEMP B-TREE/);
  });

  test('of the order on a target uses the small index made for it, however deep the path', async () => {
    const { db, plans } = await planner();
    const targets = new Targets(db);
    const shown: (string | undefined)[][] = [];
    for (const path of ['x', 'a/b/c/d', Array.from({ length: 60 }, (_, n) => `d${n}`).join('/')]) {
      plans.length = 0;
      await targets.turnAt(db, { ...at(path), tree: false }, 7);
      await targets.isOccupied(db, { ...at(path), tree: true });
      await targets.isWanted(db, { ...at(path), tree: true });
      shown.push(indexesOf(plans));
    }
    const turns = ['claims', 'claims'];
    expect(shown[0]).toEqual([
      ...[expect.stringMatching(/INDEX transfers_unended_trees .*INDEX transfers_removed_trees /s)],
      ...['publishing', 'claims', 'landed'],
      ...['unended_trees', 'publishing', 'publishing', ...turns],
      ...['unended_target', 'unended_trees', 'unended_target', ...turns],
    ]);
    expect(shown.slice(1)).toEqual([shown[0], shown[0]]);
  });

  test('of a tree and of its turns walks no more than what it asks for', async () => {
    const { db, plans } = await planner();
    const claims = claimQueries(db);
    const mine = { store: 'artifacts', seq: 7, low: at('a').path, high: at('b').path };
    const some = Object.fromEntries(Array.from({ length: 50 }, (_, n) => [`path${n}`, at(`p${n}`).path]));
    await claims.publishing.all(db, mine);
    await claims.claimed.all(db, { ...mine, ...some });
    await claims.landedLater.all(db, { ...mine, ...some });
    await claims.removedLater.all(db, { ...mine, ...some });
    await claims.release.all(db, { ...mine, ...some });
    await claims.releaseAll.all(db, mine);
    await claimedOfEnded(db, 10).execute();
    await treePages(db, 't', -1, 10, true).execute();
    await treePages(db, 't', -1, 10, false).execute();
    expect(indexesOf(plans)).toEqual([
      ...['publishing', 'claims', 'landed', 'removed_trees', 'claims', 'claims'],
      // there are no more claims than files on their way
      expect.stringMatching(/^SEARCH transfers USING INTEGER PRIMARY KEY .*SCAN tree_claims$/s),
      ...['SEARCH tree_pages USING PRIMARY KEY (transfer_id=? AND page>?)'],
      ...['SEARCH tree_pages USING PRIMARY KEY (transfer_id=? AND page>?)'],
    ]);
  });

  test('of parted uploads and of the backlog uses an index made for it', async () => {
    const { db, plans } = await planner();
    await ofOwner(db, 't').execute();
    await ofTransfer(db, 't').execute();
    await partedOfEnded(db, 5).execute();
    await named(db, ['a', 'b']).execute();
    await accepted(db).execute();
    await runningTrees(db).execute();
    await openPages(db, 't').execute();
    await carried(db, 5).execute();
    await carriedPages(db, 5).execute();
    expect(plans.map((plan) => plan.split('\n'))).toMatchObject(
      [
        ['SEARCH uploads USING INDEX uploads_parted (owner=?)'],
        ['SEARCH uploads USING INDEX uploads_transfer (transfer_id=?)'],
        [/^SEARCH uploads USING INDEX uploads_transfer /, /^SEARCH transfers .* \(id=\?\)/],
        ['SEARCH uploads USING COVERING INDEX uploads_named (upload_id=?)'],
        ['SEARCH transfers USING COVERING INDEX transfers_backlog (state=?)'],
        ['SEARCH transfers USING INDEX transfers_state (state=?)'],
        ['SEARCH tree_pages USING PRIMARY KEY (transfer_id=?)'],
        ['SEARCH transfers USING INDEX transfers_ended (ended_ms>?)', /GROUP BY/],
        [
          'SEARCH tree_pages USING INDEX tree_pages_ended (ended_ms>?)',
          /^SEARCH transfers .* \(id=\?\)/,
          /GROUP/,
        ],
      ].map((lines) => lines.map((line) => (typeof line === 'string' ? line : expect.stringMatching(line)))),
    );
  });

  const indexesOf = (plans: readonly string[]): (string | undefined)[] =>
    plans.map((plan) => {
      if (/^SEARCH tree_claims USING (?:COVERING )?PRIMARY KEY /.test(plan)) return 'claims';
      return /^SEARCH transfers USING (?:COVERING )?INDEX transfers_(\w+) /.exec(plan)?.[1] ?? plan;
    });
});
