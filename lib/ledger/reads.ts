/** What the ledger answers about transfers. Nothing here waits for a writer. */
import type { SelectQueryBuilder } from 'kysely';
import { Failure } from '../errors.ts';
import type { TransferFilter, Transfers } from './contract.ts';
import type { Core } from './core.ts';
import type { Db } from './engine.ts';
import { attemptOf, type TransferRow, transferOf } from './rows.ts';
import type { LedgerTables } from './schema.ts';
import type { Statements } from './statements.ts';
import { TRANSFER_STATES, type TransferState } from './transfer.ts';

type Reads = Pick<
  Transfers,
  | 'get'
  | 'list'
  | 'attemptsOf'
  | 'statesOf'
  | 'unended'
  | 'overdue'
  | 'counts'
  | 'oldestAcceptedMs'
  | 'stagedBytes'
>;

/** The store in which downloads come together: in its uploads only parted ones say their size. */
const STAGING = 'staging';
/** Ids in one query. */
const CHUNK = 500;

export function reads({ reader }: Core, statements: Statements): Reads {
  return {
    get: (id) =>
      reader.run(async (db) => {
        const row = await statements.byId.first(db, { id });
        return row && transferOf(row);
      }),

    list: (filter, { limit, cursor }) =>
      reader.run(async (db) => {
        // One more than is shown says whether there is a next page.
        const rows = await newest(db, filter, { limit: limit + 1, before: seqOf(cursor) });
        const transfers = rows.slice(0, limit).map(transferOf);
        const last = transfers.at(-1);
        if (rows.length <= limit || !last) return { transfers };
        return { transfers, nextCursor: cursorOf(last.seq) };
      }),

    attemptsOf: (id) =>
      reader.run(async (db) => {
        const rows = await db
          .selectFrom('attempts')
          .selectAll()
          .where('transfer_id', '=', id)
          .orderBy('number')
          .execute();
        return rows.map(attemptOf);
      }),

    statesOf: (ids) =>
      reader.run(async (db) => {
        const found = new Map<string, { state: TransferState; epoch: number }>();
        for (let at = 0; at < ids.length; at += CHUNK) {
          const some = ids.slice(at, at + CHUNK);
          const rows = await db
            .selectFrom('transfers')
            .select(['id', 'state', 'epoch'])
            .where('id', 'in', some)
            .execute();
          for (const { id, state, epoch } of rows) found.set(id, { state, epoch });
        }
        return found;
      }),

    unended: (page) => reader.run(async (db) => (await unended(db, page).execute()).map(transferOf)),

    overdue: ({ nowMs, acceptedBeforeMs, limit }) =>
      reader.run(async (db) => {
        const rows = await pastDeadline(db, nowMs, limit).execute();
        const seen = new Set(rows.map((row) => row.id));
        if (acceptedBeforeMs !== undefined && rows.length < limit)
          for (const row of await neverStarted(db, acceptedBeforeMs, limit).execute())
            if (!seen.has(row.id) && rows.length < limit) rows.push(row);
        return rows.map(transferOf);
      }),

    counts: () =>
      reader.run(async (db) => {
        const rows = await db
          .selectFrom('transfers')
          .select(['state', (eb) => eb.fn.countAll<number>().as('count')])
          .groupBy('state')
          .execute();
        return totals(TRANSFER_STATES, new Map(rows.map((row) => [row.state, row.count])));
      }),

    oldestAcceptedMs: () =>
      reader.run(async (db) => {
        const row = await db
          .selectFrom('transfers')
          .select('accepted_ms')
          .where('started_ms', 'is', null)
          .where('ended_ms', 'is', null)
          .orderBy('accepted_ms')
          .limit(1)
          .executeTakeFirst();
        return row?.accepted_ms;
      }),

    stagedBytes: () =>
      reader.run(async (db) => {
        const row = await db
          .selectFrom('transfers')
          .select((eb) => eb.fn.sum<number>('staged_bytes').as('bytes'))
          .where('staged_until_ms', 'is not', null)
          .executeTakeFirst();
        const inParts = await db
          .selectFrom('uploads')
          .select((eb) => eb.fn.sum<number>('size').as('bytes'))
          .where('transfer_id', 'is not', null)
          .where('store', '=', STAGING)
          .executeTakeFirst();
        return Number(row?.bytes ?? 0) + Number(inParts?.bytes ?? 0);
      }),
  };
}

/** Each of `names`, 0 where none was counted. */
const totals = <N extends string>(names: readonly N[], counted: ReadonlyMap<N, number>): Record<N, number> =>
  Object.fromEntries(names.map((name) => [name, Number(counted.get(name) ?? 0)])) as Record<N, number>;

export function unended(db: Db, { queuedBeforeMs, limit, after }: Parameters<Transfers['unended']>[0]) {
  const rows = db
    .selectFrom('transfers')
    .selectAll()
    .where('ended_ms', 'is', null)
    .where('synchronous', '=', 0)
    .where('queued_ms', '<', queuedBeforeMs)
    .orderBy('queued_ms')
    .orderBy('id')
    .limit(limit);
  if (!after) return rows;
  return rows.where((eb) => eb(eb.refTuple('queued_ms', 'id'), '>', eb.tuple(after.queuedMs, after.id)));
}

export const pastDeadline = (db: Db, nowMs: number, limit: number) =>
  db
    .selectFrom('transfers')
    .selectAll()
    .where('ended_ms', 'is', null)
    .where('deadline_ms', '<=', nowMs)
    .where((eb) => eb.or([eb('state', '<>', 'publishing'), eb('synchronous', '=', 1)]))
    .orderBy('deadline_ms')
    .limit(limit);

export const neverStarted = (db: Db, acceptedBeforeMs: number, limit: number) =>
  db
    .selectFrom('transfers')
    .selectAll()
    .where('started_ms', 'is', null)
    .where('ended_ms', 'is', null)
    .where('accepted_ms', '<', acceptedBeforeMs)
    .orderBy('accepted_ms')
    .limit(limit);

interface Page {
  readonly limit: number;
  /** Seq. */
  readonly before: number | undefined;
}

async function newest(db: Db, filter: TransferFilter, page: Page): Promise<TransferRow[]> {
  const times = await seqsOfTimes(db, filter);
  if (times === 'none') return [];
  const found = await Promise.all(pages(db, filter, page, times).map((query) => query.execute()));
  return found
    .flat()
    .sort((a, b) => b.seq - a.seq)
    .slice(0, page.limit);
}

type PageQuery = SelectQueryBuilder<LedgerTables, 'transfers', TransferRow>;

/** First and last seq that there is at these times. */
interface Seqs {
  readonly first?: number | undefined;
  readonly last?: number | undefined;
}

/** Each walks one index from its newest row on. A store may be on either side, which is an index each. */
export function pages(db: Db, filter: TransferFilter, page: Page, seqs: Seqs): PageQuery[] {
  const { store } = filter;
  if (store === undefined) return [pageQuery(db, filter, page, seqs)];
  const query = pageQuery(db, filter, page, seqs);
  return [
    query.where('to_store', '=', store),
    query
      .where('from_store', '=', store)
      .where((eb) => eb.or([eb('to_store', 'is', null), eb('to_store', '<>', store)])),
  ];
}

function pageQuery(db: Db, filter: TransferFilter, { limit, before }: Page, seqs: Seqs): PageQuery {
  const { state, kind, owner, label } = filter;
  let query = label ? labelled(db, label) : db.selectFrom('transfers').selectAll('transfers');
  const seq = db.dynamic.ref<'transfers.seq'>(label ? 'transfer_labels.seq' : 'transfers.seq');
  if (state !== undefined) query = query.where('state', '=', state);
  if (kind !== undefined) query = query.where('kind', '=', kind);
  if (owner !== undefined) query = query.where('owner', '=', owner);
  if (before !== undefined) query = query.where(seq, '<', before);
  if (seqs.first !== undefined) query = query.where(seq, '>=', seqs.first);
  if (seqs.last !== undefined) query = query.where(seq, '<=', seqs.last);
  return query.orderBy(seq, 'desc').limit(limit);
}

/** Led by the label's index, which has the seq as well. */
function labelled(db: Db, { key, value }: NonNullable<TransferFilter['label']>): PageQuery {
  return db
    .selectFrom('transfers')
    .innerJoin('transfer_labels', 'transfer_labels.seq', 'transfers.seq')
    .selectAll('transfers')
    .where('transfer_labels.key', '=', key)
    .where('transfer_labels.value', '=', value);
}

/** Seqs rise with the time of acceptance: so a time is looked up once, and the list goes on by seq alone. */
async function seqsOfTimes(db: Db, { fromMs, toMs }: TransferFilter): Promise<Seqs | 'none'> {
  const rows = db.selectFrom('transfers').select('seq').limit(1);
  const first =
    fromMs === undefined
      ? undefined
      : await rows
          .where('accepted_ms', '>=', fromMs)
          .orderBy('accepted_ms')
          .orderBy('seq')
          .executeTakeFirst();
  const last =
    toMs === undefined
      ? undefined
      : await rows
          .where('accepted_ms', '<', toMs)
          .orderBy('accepted_ms', 'desc')
          .orderBy('seq', 'desc')
          .executeTakeFirst();
  if ((fromMs !== undefined && !first) || (toMs !== undefined && !last)) return 'none';
  return { first: first?.seq, last: last?.seq };
}

const cursorOf = (seq: number): string => Buffer.from(String(seq)).toString('base64url');

function seqOf(cursor: string | undefined): number | undefined {
  if (cursor === undefined) return undefined;
  const text = Buffer.from(cursor, 'base64url').toString();
  if (/^[1-9]\d{0,15}$/.test(text) && cursorOf(Number(text)) === cursor) return Number(text);
  throw new Failure(
    'invalid',
    `could not list transfers: '${cursor}' is not a cursor of this list; start without one`,
  );
}
