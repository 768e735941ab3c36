/** Transfers of trees: their plan's pages, and turns on the targets of their files. */
import { type Kysely, sql } from 'kysely';
import type { ColumnTypes } from '../engine.ts';

type AnySchema = Kysely<unknown>;

export async function up(db: AnySchema, types: ColumnTypes): Promise<void> {
  await db.schema
    .alterTable('transfers')
    .addColumn('planned', 'integer', (c) => c.notNull().defaultTo(0))
    .execute();
  await indexes(db);
  await pages(db, types);
  await db.schema
    .createTable('tree_claims')
    .addColumn('store', 'text', (c) => c.notNull())
    .addColumn('path', 'text', (c) => c.notNull())
    .addColumn('seq', 'bigint', (c) => c.notNull())
    .addPrimaryKeyConstraint('tree_claims_key', ['store', 'path'])
    .modifyEnd(sql.raw(types.clustered))
    .execute();
}

/** The trees that stand above a path are looked for among those that are unended, and among those that removed all. */
async function indexes(db: AnySchema): Promise<void> {
  await db.schema.dropIndex('transfers_trees').execute();
  await db.schema
    .createIndex('transfers_unended_trees')
    .on('transfers')
    .column('to_path')
    .where(sql<boolean>`to_tree = 1 and ended_ms is null`)
    .execute();
  await db.schema
    .createIndex('transfers_removed_trees')
    .on('transfers')
    .columns(['to_path', 'seq'])
    .where(sql<boolean>`to_tree = 1 and outcome = 'removed'`)
    .execute();
  await db.schema
    .createIndex('transfers_backlog')
    .on('transfers')
    .columns(['state', 'kind', 'to_store', 'from_store', 'size'])
    .where(sql<boolean>`state = 'accepted'`)
    .execute();
}

async function pages(db: AnySchema, types: ColumnTypes): Promise<void> {
  await db.schema
    .createTable('tree_pages')
    .addColumn('transfer_id', 'text', (c) => c.notNull().references('transfers.id').onDelete('cascade'))
    .addColumn('page', 'integer', (c) => c.notNull())
    .addColumn('files', 'integer', (c) => c.notNull())
    .addColumn('bytes', 'bigint', (c) => c.notNull())
    .addColumn('ended_ms', 'bigint')
    .addColumn('busy_ms', 'bigint', (c) => c.notNull())
    .addColumn('done_files', 'integer', (c) => c.notNull())
    .addColumn('done_bytes', 'bigint', (c) => c.notNull())
    .addColumn('skipped_files', 'integer', (c) => c.notNull())
    .addColumn('skipped_bytes', 'bigint', (c) => c.notNull())
    .addColumn('failed_files', 'integer', (c) => c.notNull())
    .addColumn('failed_bytes', 'bigint', (c) => c.notNull())
    .addColumn('failure_kind', 'text')
    .addColumn('failure_message', 'text')
    .addPrimaryKeyConstraint('tree_pages_key', ['transfer_id', 'page'])
    .modifyEnd(sql.raw(types.clustered))
    .execute();
  await db.schema
    .createIndex('tree_pages_ended')
    .on('tree_pages')
    .column('ended_ms')
    .where('ended_ms', 'is not', null)
    .execute();
}
