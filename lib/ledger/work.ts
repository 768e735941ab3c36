/** How much work there is and was, by kind and store: what a backlog is measured in. */
import { sql } from 'kysely';
import type { StoreWork, Transfers } from './contract.ts';
import type { Core } from './core.ts';
import type { Db } from './engine.ts';
import type { TransferRow } from './rows.ts';
import type { TransferState } from './transfer.ts';

type Work = StoreWork & { readonly busyMs: number };
type Row = Pick<TransferRow, 'kind' | 'to_store' | 'from_store'> & {
  jobs: number;
  bytes: number | null;
  busy_ms?: number | null;
};

export function work({ reader }: Core): Pick<Transfers, 'waiting' | 'carriedSince'> {
  return {
    waiting: () =>
      reader.run(async (db) => {
        const rows: Row[] = await accepted(db).execute();
        for (const { id, ...tree } of await runningTrees(db).execute())
          rows.push({ ...tree, ...(await openPages(db, id).executeTakeFirstOrThrow()) });
        return byStore(rows).map(({ busyMs: _, ...waiting }) => waiting);
      }),

    carriedSince: (sinceMs) =>
      reader.run(async (db) => {
        const ended = await carried(db, sinceMs).execute();
        return byStore([...ended, ...(await carriedPages(db, sinceMs).execute())]);
      }),
  };
}

const jobs = sql<number>`count(*)`.as('jobs');

/** Answered by its index alone, however long the backlog is. */
export const accepted = (db: Db) =>
  db
    .selectFrom('transfers')
    .select(['kind', 'to_store', 'from_store', jobs, sql<number | null>`sum(size)`.as('bytes')])
    .where('state', '=', sql.lit<TransferState>('accepted'))
    .groupBy(['kind', 'to_store', 'from_store']);

export const runningTrees = (db: Db) =>
  db
    .selectFrom('transfers')
    .select(['id', 'kind', 'to_store', 'from_store'])
    .where('to_tree', '=', sql.lit(1))
    .where('state', '=', 'running');

export const openPages = (db: Db, id: string) =>
  db
    .selectFrom('tree_pages')
    .select([jobs, sql<number | null>`sum(bytes)`.as('bytes')])
    .where('transfer_id', '=', id)
    .where('ended_ms', 'is', null);

/** Of what was there already no bytes were carried. A tree counts by its pages, save one that is fetched as an archive. */
export const carried = (db: Db, sinceMs: number) =>
  db
    .selectFrom('transfers')
    .select([
      'kind',
      'to_store',
      'from_store',
      jobs,
      sql<number | null>`sum(case outcome when 'skipped' then 0 else size end)`.as('bytes'),
      sql<number | null>`sum(ended_ms - started_ms)`.as('busy_ms'),
    ])
    .where('ended_ms', '>=', sinceMs)
    .where('outcome', 'is not', null)
    .where((eb) => eb.or([eb('to_tree', '=', 0), eb('kind', '=', 'download')]))
    .where('synchronous', '=', 0)
    .groupBy(['kind', 'to_store', 'from_store']);

export const carriedPages = (db: Db, sinceMs: number) =>
  db
    .selectFrom('tree_pages')
    .innerJoin('transfers', 'transfers.id', 'tree_pages.transfer_id')
    .select([
      'kind',
      'to_store',
      'from_store',
      jobs,
      sql<number | null>`sum(done_bytes)`.as('bytes'),
      sql<number | null>`sum(busy_ms)`.as('busy_ms'),
    ])
    .where('tree_pages.ended_ms', '>=', sinceMs)
    .groupBy(['kind', 'to_store', 'from_store']);

function byStore(rows: readonly Row[]): Work[] {
  const sums = new Map<string, Work>();
  for (const { kind, to_store, from_store, jobs, bytes, busy_ms } of rows) {
    const store = to_store ?? from_store;
    if (store === null || jobs === 0) continue;
    const key = `${kind} ${store}`;
    const sum = sums.get(key) ?? { kind, store, jobs: 0, bytes: 0, busyMs: 0 };
    sums.set(key, {
      ...sum,
      jobs: sum.jobs + Number(jobs),
      bytes: sum.bytes + Number(bytes),
      busyMs: sum.busyMs + Number(busy_ms ?? 0),
    });
  }
  return [...sums.values()];
}
