/** What a transfer of a tree has planned and done: a row a page of files. */
import type { Selectable } from 'kysely';
import { z } from 'zod';
import type { Trees } from './contract.ts';
import type { Core } from './core.ts';
import type { Db } from './engine.ts';
import { prepare } from './prepared.ts';
import type { TransferRow } from './rows.ts';
import { failureOfRow } from './rows.ts';
import type { TreePageTable } from './schema.ts';
import { isUnended, type Statements } from './statements.ts';
import type { NotKeptFiles, TreeCounts, TreePage } from './transfer.ts';
import type { Claims } from './tree-claims.ts';

type Row = Selectable<TreePageTable>;

export function trees(core: Core, statements: Statements, claims: Claims): Trees {
  const { reader, writer, build, now } = core;

  const addPage = prepare<{ id: string } & Pick<Row, 'page' | 'files' | 'bytes' | 'directories'>>()((p) =>
    build
      .insertInto('tree_pages')
      .values({
        transfer_id: p.id,
        page: p.page,
        files: p.files,
        bytes: p.bytes,
        directories: p.directories,
        busy_ms: 0,
        done_files: 0,
        done_bytes: 0,
        done_directories: 0,
        skipped_files: 0,
        skipped_bytes: 0,
        failed_files: 0,
        failed_bytes: 0,
        left_out_files: 0,
        left_out_bytes: 0,
      })
      .onConflict((conflict) => conflict.doNothing()),
  );

  async function current(db: Db, id: string, epoch: number): Promise<TransferRow | undefined> {
    const row = await statements.byId.first(db, { id });
    return row?.epoch === epoch && isUnended(row.state) && row.state !== 'accepted' ? row : undefined;
  }

  const list = (id: string, after: number, limit: number, open: boolean) =>
    reader.run(async (db) => (await pages(db, id, after, limit, open).execute()).map(pageOf));

  return {
    addPages: (id, epoch, planned, stagedBytes, after) =>
      writer.run(async (db) => {
        const row = await current(db, id, epoch);
        if (!row) return false;
        const isNext =
          after === undefined
            ? row.planned === 0
            : row.planned === 1 && (await planOf(db, id)).pages === after;
        if (!isNext) return true;
        for (const { page, files, bytes, directories } of planned)
          await addPage.all(db, { id, page, files, bytes, directories });
        const plan = { planned: 1, staged_bytes: (after === undefined ? 0 : row.staged_bytes) + stagedBytes };
        await db.updateTable('transfers').set(plan).where('id', '=', id).execute();
        return true;
      }),

    planned: (id) =>
      reader.run(async (db) => {
        // Before its pages: when it says that the plan is complete, they are all there.
        const row = await statements.byId.first(db, { id });
        const sums = await planOf(db, id);
        return { ...sums, complete: row?.planned === 1 };
      }),

    open: (id) =>
      reader.run(async (db) => {
        const open = db.selectFrom('tree_pages').where('transfer_id', '=', id).where('ended_ms', 'is', null);
        const { pages } = await open
          .select(({ fn }) => fn.countAll<number>().as('pages'))
          .executeTakeFirstOrThrow();
        return Number(pages);
      }),
    openPages: (id, after, limit) => list(id, after, limit, true),
    pages: (id, after, limit) => list(id, after, limit, false),
    page: async (id, page) => (await list(id, page - 1, 1, false)).find((found) => found.page === page),

    endPage: (id, epoch, page, counts) =>
      writer.run(async (db) => {
        if (!(await current(db, id, epoch))) return false;
        const { numUpdatedRows } = await db
          .updateTable('tree_pages')
          .set({
            ...columnsOf(counts),
            ...counts.planned,
            ended_ms: now(),
            busy_ms: counts.busyMs,
            not_kept: notKeptText(counts.notKept),
            failure_kind: counts.failure?.kind ?? null,
            failure_message: counts.failure?.message ?? null,
          })
          .where('transfer_id', '=', id)
          .where('page', '=', page)
          .where('ended_ms', 'is', null)
          .executeTakeFirst();
        return numUpdatedRows > 0n;
      }),

    totals: (id) => reader.run((db) => totalsOf(db, id)),
    notKept: (id) => reader.run((db) => notKeptOf(db, id)),

    claim: claims.claim,
    release: claims.release,
    releaseEnded: claims.releaseEnded,
    claimedOfEnded: claims.claimedOfEnded,
    olderWaiting: claims.olderWaiting,
  };
}

/**
 * A tree that is accepted again goes on where it was: pages that ended with failed files are open again, and their
 * counts keep what was done. Where the plan's files are gone from staging, so are the pages.
 */
export async function reopenPages(db: Db, id: string, planIsThere: boolean): Promise<void> {
  if (!planIsThere) {
    await db.deleteFrom('tree_pages').where('transfer_id', '=', id).execute();
    const none = { planned: 0, staged_bytes: 0 };
    await db.updateTable('transfers').set(none).where('id', '=', id).execute();
    return;
  }
  await db
    .updateTable('tree_pages')
    .set({ ended_ms: null, failed_files: 0, failed_bytes: 0, failure_kind: null, failure_message: null })
    .where('transfer_id', '=', id)
    .where('failed_files', '>', 0)
    .execute();
}

export function pages(db: Db, id: string, after: number, limit: number, open: boolean) {
  const found = db
    .selectFrom('tree_pages')
    .selectAll()
    .where('transfer_id', '=', id)
    .where('page', '>', after)
    .orderBy('page')
    .limit(limit);
  return open ? found.where('ended_ms', 'is', null) : found;
}

async function planOf(db: Db, id: string) {
  const row = await db
    .selectFrom('tree_pages')
    .select(({ fn }) => [
      fn.countAll<number>().as('pages'),
      fn.sum<number | null>('files').as('files'),
      fn.sum<number | null>('bytes').as('bytes'),
      fn.sum<number | null>('directories').as('directories'),
    ])
    .where('transfer_id', '=', id)
    .executeTakeFirstOrThrow();
  const { pages, files, bytes, directories } = row;
  return {
    pages: Number(pages),
    files: Number(files),
    bytes: Number(bytes),
    directories: Number(directories),
  };
}

async function totalsOf(db: Db, id: string): Promise<TreeCounts> {
  const row = await db
    .selectFrom('tree_pages')
    .select(({ fn }) => [
      fn.sum<number | null>('done_files').as('done_files'),
      fn.sum<number | null>('done_bytes').as('done_bytes'),
      fn.sum<number | null>('done_directories').as('done_directories'),
      fn.sum<number | null>('skipped_files').as('skipped_files'),
      fn.sum<number | null>('skipped_bytes').as('skipped_bytes'),
      fn.sum<number | null>('failed_files').as('failed_files'),
      fn.sum<number | null>('failed_bytes').as('failed_bytes'),
      fn.sum<number | null>('left_out_files').as('left_out_files'),
      fn.sum<number | null>('left_out_bytes').as('left_out_bytes'),
    ])
    .where('transfer_id', '=', id)
    .executeTakeFirstOrThrow();
  return countsOf(row);
}

const NOT_KEPT = z.record(z.string(), z.number());
const notKeptText = (files: NotKeptFiles = {}): string | null =>
  Object.keys(files).length === 0 ? null : JSON.stringify(files);

/** Pages of a tree are much alike: what they say is read once for all that say the same. */
async function notKeptOf(db: Db, id: string): Promise<NotKeptFiles> {
  const said = await db
    .selectFrom('tree_pages')
    .select(({ fn }) => ['not_kept', fn.countAll<number>().as('pages')])
    .where('transfer_id', '=', id)
    .where('not_kept', 'is not', null)
    .groupBy('not_kept')
    .execute();
  const sums: Record<string, number> = {};
  for (const { not_kept, pages } of said)
    for (const [name, files] of Object.entries(NOT_KEPT.parse(JSON.parse(not_kept!))))
      sums[name] = (sums[name] ?? 0) + files * Number(pages);
  return sums;
}

type CountColumns<N> = Record<
  `${'done' | 'skipped' | 'failed' | 'left_out'}_${'files' | 'bytes'}` | 'done_directories',
  N
>;

/** The sum of no rows is null. */
const countsOf = (row: CountColumns<number | null>): TreeCounts => ({
  done: {
    files: Number(row.done_files),
    bytes: Number(row.done_bytes),
    directories: Number(row.done_directories),
  },
  skipped: { files: Number(row.skipped_files), bytes: Number(row.skipped_bytes) },
  failed: { files: Number(row.failed_files), bytes: Number(row.failed_bytes) },
  leftOut: { files: Number(row.left_out_files), bytes: Number(row.left_out_bytes) },
});

const columnsOf = ({ done, skipped, failed, leftOut }: TreeCounts): CountColumns<number> => ({
  done_files: done.files,
  done_bytes: done.bytes,
  done_directories: done.directories,
  skipped_files: skipped.files,
  skipped_bytes: skipped.bytes,
  failed_files: failed.files,
  failed_bytes: failed.bytes,
  left_out_files: leftOut.files,
  left_out_bytes: leftOut.bytes,
});

const pageOf = (row: Row): TreePage => ({
  page: row.page,
  files: row.files,
  bytes: row.bytes,
  directories: row.directories,
  ended: row.ended_ms !== null,
  ...countsOf(row),
  failure: failureOfRow(row),
});
