/**
 * Turns of a tree on the targets of its files. A page of files claims its paths together, so nothing here is asked
 * path by path: with a thousand of them the whole ledger would wait.
 */
import type { StorePath } from '../path.ts';
import { allOf, chunks, type Some } from './chunks.ts';
import type { Trees } from './contract.ts';
import type { Core } from './core.ts';
import type { Db } from './engine.ts';
import type { Recording } from './objects.ts';
import { type Prepared, prepare } from './prepared.ts';
import type { TransferRow } from './rows.ts';
import { isUnended, type Statements } from './statements.ts';
import { directoriesOf, landedLater, PUBLISHING, removedLater, type Targets } from './targets.ts';
import type { TransferState } from './transfer.ts';

type Mine = { readonly store: string; readonly seq: number };
type Found = Prepared<Mine & Some, { path: StorePath }>;

interface Queries {
  /** Transfers that publish in this store; there are few at any time. */
  readonly publishing: Prepared<{ store: string }, { path: StorePath | null; tree: number }>;
  readonly claimed: Found;
  readonly landedLater: Found;
  readonly removedLater: Prepared<Some & { seq: number }, Pick<TransferRow, 'to_store' | 'to_path'>>;
  readonly claim: Found;
  readonly release: Found;
  readonly releaseAll: Prepared<Mine & { low: StorePath; high: StorePath }, unknown>;
}

export class Claims {
  readonly #core: Core;
  readonly #statements: Statements;
  readonly #targets: Targets;
  readonly #record: Recording;
  readonly #queries: Queries;

  constructor(core: Core, statements: Statements, targets: Targets, record: Recording) {
    this.#core = core;
    this.#statements = statements;
    this.#targets = targets;
    this.#record = record;
    this.#queries = claimQueries(core.build);
  }

  readonly claim: Trees['claim'] = (id, epoch, paths) =>
    this.#core.writer.run(async (db) => {
      const row = await this.#running(db, id, epoch);
      if (!row) return undefined;
      if (row.to_store === null) return paths.map(() => 'ok');
      const mine = { store: row.to_store, seq: row.seq };
      const taken = await this.#taken(db, mine.store, mine, paths);
      const late = await this.#late(db, mine, paths);
      const turns = paths.map((path) => (taken(path) ? 'wait' : late(path) ? 'superseded' : 'ok'));
      const won = paths.filter((_, at) => turns[at] === 'ok');
      for (const some of chunks(won)) await this.#queries.claim.all(db, { ...mine, ...some });
      return turns;
    });

  readonly release: Trees['release'] = (id, epoch, paths, published = []) =>
    this.#core.writer.run(async (db) => {
      // also after its end: what was on its way then holds its turn until it has landed or stopped
      const row = await this.#statements.byId.first(db, { id });
      if (row?.epoch !== epoch || row.to_store === null) return;
      const mine = { store: row.to_store, seq: row.seq };
      for (const { path, ...facts } of published) await this.#record(db, { store: mine.store, path }, facts);
      for (const some of chunks(paths)) await this.#queries.release.all(db, { ...mine, ...some });
    });

  readonly releaseEnded: Trees['releaseEnded'] = async (id) => {
    const ended = (row: TransferRow | undefined) => (row && !isUnended(row.state) ? row : undefined);
    const found = await this.#core.reader.run((db) => this.#statements.byId.first(db, { id }));
    if (ended(found)?.to_tree !== 1) return;
    await this.#core.writer.run(async (db) => {
      const row = ended(await this.#statements.byId.first(db, { id }));
      if (row) await this.releaseAll(db, row);
    });
  };

  readonly claimedOfEnded: Trees['claimedOfEnded'] = (limit) =>
    this.#core.reader.run(async (db) => (await claimedOfEnded(db, limit).execute()).map((row) => row.id));

  readonly olderWaiting: Trees['olderWaiting'] = (id) =>
    this.#core.reader.run(async (db) => {
      const row = await this.#statements.byId.first(db, { id });
      if (!row || row.to_store === null || row.to_path === null) return false;
      const target = { store: row.to_store, path: row.to_path, tree: row.to_tree === 1 };
      return this.#targets.isWanted(db, target, row.seq);
    });

  /** All of them lie at or below its target. */
  async releaseAll(db: Db, row: TransferRow): Promise<void> {
    const { to_store: store, to_path: low, seq } = row;
    if (row.to_tree === 0 || row.synchronous === 1 || store === null || low === null) return;
    const high = `${low}\u{10ffff}` as StorePath;
    await this.#queries.releaseAll.all(db, { store, seq, low, high });
  }

  async #running(db: Db, id: string, epoch: number): Promise<TransferRow | undefined> {
    const row = await this.#statements.byId.first(db, { id });
    return row?.epoch === epoch && row.state === ('running' satisfies TransferState) ? row : undefined;
  }

  /** Whether somebody else is publishing at a path, or at a tree that holds it. */
  async #taken(db: Db, store: string, mine: Mine, paths: readonly StorePath[]) {
    const exactly = new Set<string>();
    const trees = new Set<string>();
    for (const { path, tree } of await this.#queries.publishing.all(db, { store })) {
      if (path === null) continue;
      exactly.add(path);
      if (tree === 1) trees.add(path);
    }
    for (const some of chunks(paths))
      for (const { path } of await this.#queries.claimed.all(db, { ...mine, ...some })) exactly.add(path);
    return (path: StorePath): boolean =>
      exactly.has(path) || (trees.size > 0 && directoriesOf(path).some((above) => trees.has(above)));
  }

  /** Whether what was accepted later has landed at a path, or removed a tree that held it. */
  async #late(db: Db, mine: Mine, paths: readonly StorePath[]) {
    const landed = new Set<string>();
    for (const some of chunks(paths))
      for (const { path } of await this.#queries.landedLater.all(db, { ...mine, ...some })) landed.add(path);
    const removed = new Set<string>();
    const directories = new Set(paths.flatMap(directoriesOf));
    for (const some of chunks([...directories]))
      for (const tree of await this.#queries.removedLater.all(db, { seq: mine.seq, ...some }))
        if (tree.to_store === mine.store && tree.to_path !== null) removed.add(tree.to_path);
    return (path: StorePath): boolean =>
      landed.has(path) || (removed.size > 0 && directoriesOf(path).some((above) => removed.has(above)));
  }
}

export const claimedOfEnded = (db: Db, limit: number) =>
  db
    .selectFrom('transfers')
    .select('id')
    .where('seq', 'in', (eb) => eb.selectFrom('tree_claims').select('tree_claims.seq'))
    .where('ended_ms', 'is not', null)
    .limit(limit);

export function claimQueries(build: Db): Queries {
  return {
    publishing: prepare<{ store: string }>()((p) =>
      build
        .selectFrom('transfers')
        .select(['to_path as path', 'to_tree as tree'])
        .where('to_store', '=', p.store)
        .where('state', '=', PUBLISHING),
    ),
    claimed: prepare<Mine & Some>()((p) =>
      build
        .selectFrom('tree_claims')
        .select('path')
        .where('store', '=', p.store)
        .where('path', 'in', allOf(p))
        .where('seq', '<>', p.seq),
    ),
    landedLater: prepare<Mine & Some>()((p) =>
      landedLater(build, p.seq)
        .select((eb) => eb.ref('to_path').$notNull().as('path'))
        .where('to_store', '=', p.store)
        .where('to_path', 'in', allOf(p)),
    ),
    removedLater: prepare<Some & { seq: number }>()((p) =>
      removedLater(build, p.seq).select(['to_store', 'to_path']).where('to_path', 'in', allOf(p)),
    ),
    claim: prepare<Mine & Some>()((p) =>
      build
        .insertInto('tree_claims')
        .values(allOf(p).map((path) => ({ store: p.store, path, seq: p.seq })))
        .onConflict((conflict) => conflict.doNothing())
        .returning('path'),
    ),
    release: prepare<Mine & Some>()((p) =>
      build
        .deleteFrom('tree_claims')
        .where('store', '=', p.store)
        .where('path', 'in', allOf(p))
        .where('seq', '=', p.seq)
        .returning('path'),
    ),
    releaseAll: prepare<Mine & { low: StorePath; high: StorePath }>()((p) =>
      build
        .deleteFrom('tree_claims')
        .where('store', '=', p.store)
        .where('path', '>=', p.low)
        .where('path', '<', p.high)
        .where('seq', '=', p.seq),
    ),
  };
}
