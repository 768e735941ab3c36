/** Transfers with what belongs to them, known objects, multipart uploads. */
import { type Kysely, sql } from 'kysely';
import type { ColumnTypes } from '../engine.ts';

// Migrations are history: they name tables and states by themselves, never through today's types.
type AnySchema = Kysely<unknown>;

export async function up(db: AnySchema, types: ColumnTypes): Promise<void> {
  await transfers(db, types);
  await transferIndexes(db);
  await belongings(db, types);
  await stores(db);
}

async function transfers(db: AnySchema, types: ColumnTypes): Promise<void> {
  await db.schema
    .createTable('transfers')
    .addColumn('seq', types.key, (c) => c.primaryKey())
    .addColumn('id', 'text', (c) => c.notNull().unique())
    .addColumn('kind', 'text', (c) => c.notNull())
    .addColumn('state', 'text', (c) => c.notNull())
    .addColumn('epoch', 'integer', (c) => c.notNull())
    .addColumn('attempts', 'integer', (c) => c.notNull())
    .addColumn('starts', 'integer', (c) => c.notNull())
    .addColumn('synchronous', 'integer', (c) => c.notNull())
    .addColumn('from_store', 'text')
    .addColumn('from_path', 'text')
    .addColumn('to_store', 'text')
    .addColumn('to_path', 'text')
    .addColumn('to_tree', 'integer', (c) => c.notNull())
    .addColumn('on_exists', 'text', (c) => c.notNull())
    .addColumn('priority', 'integer', (c) => c.notNull())
    .addColumn('owner', 'text', (c) => c.notNull())
    .addColumn('size', 'bigint')
    .addColumn('sha256', 'text')
    .addColumn('block_crcs', sql.raw(types.bytes))
    .addColumn('expected', 'text')
    .addColumn('labels', 'text', (c) => c.notNull())
    .addColumn('deadline_ms', 'bigint')
    .addColumn('created_ms', 'bigint', (c) => c.notNull())
    .addColumn('accepted_ms', 'bigint', (c) => c.notNull())
    .addColumn('queued_ms', 'bigint', (c) => c.notNull())
    .addColumn('started_ms', 'bigint')
    .addColumn('ended_ms', 'bigint')
    .addColumn('failure_kind', 'text')
    .addColumn('failure_message', 'text')
    .addColumn('result', 'text')
    .addColumn('outcome', 'text')
    .addColumn('staged_until_ms', 'bigint')
    .addColumn('staged_bytes', 'bigint', (c) => c.notNull())
    .execute();
}

async function transferIndexes(db: AnySchema): Promise<void> {
  const index = (name: string, columns: string[]) =>
    db.schema.createIndex(`transfers_${name}`).on('transfers').columns(columns);
  // For lists, newest first.
  await index('state', ['state', 'seq']).execute();
  await index('kind', ['kind', 'seq']).execute();
  await index('owner', ['owner', 'seq']).execute();
  await index('from', ['from_store', 'seq']).where('from_store', 'is not', null).execute();
  await index('to', ['to_store', 'seq']).where('to_store', 'is not', null).execute();
  await index('accepted', ['accepted_ms', 'seq']).execute();
  // For the order on a target: who is publishing (one at most), who is unended, what landed later, which trees
  // there are.
  await index('publishing', ['to_store', 'to_path'])
    .unique()
    .where(sql<boolean>`state = 'publishing'`)
    .execute();
  await index('unended_target', ['to_store', 'to_path']).where('ended_ms', 'is', null).execute();
  await index('landed', ['to_store', 'to_path', 'seq']).where('outcome', 'is not', null).execute();
  await index('trees', ['to_path']).where(sql<boolean>`to_tree = 1`).execute();
  // For the reconciler and gc.
  await index('unended', ['queued_ms', 'id']).where('ended_ms', 'is', null).execute();
  await index('deadline', ['deadline_ms']).where('ended_ms', 'is', null).execute();
  await index('waiting', ['accepted_ms'])
    .where('started_ms', 'is', null)
    .where('ended_ms', 'is', null)
    .execute();
  await index('staged', ['staged_until_ms', 'staged_bytes'])
    .where('staged_until_ms', 'is not', null)
    .execute();
  await index('ended', ['ended_ms', 'kind']).where('ended_ms', 'is not', null).execute();
}

/**
 * Rows that come and go with a transfer, save events: an event is inserted before the transfer that takes its
 * number.
 */
async function belongings(db: AnySchema, types: ColumnTypes): Promise<void> {
  await db.schema
    .createTable('events')
    .addColumn('seq', types.key, types.counted)
    .addColumn('transfer_id', 'text', (c) => c.notNull())
    .addColumn('state', 'text', (c) => c.notNull())
    .addColumn('at_ms', 'bigint', (c) => c.notNull())
    .execute();
  await db.schema.createIndex('events_transfer').on('events').columns(['transfer_id', 'seq']).execute();
  await db.schema
    .createTable('attempts')
    .addColumn('transfer_id', 'text', (c) => c.notNull().references('transfers.id').onDelete('cascade'))
    .addColumn('number', 'integer', (c) => c.notNull())
    .addColumn('epoch', 'integer', (c) => c.notNull())
    .addColumn('worker', 'text', (c) => c.notNull())
    .addColumn('started_ms', 'bigint', (c) => c.notNull())
    .addColumn('ended_ms', 'bigint')
    .addColumn('failure_kind', 'text')
    .addColumn('failure_message', 'text')
    .addPrimaryKeyConstraint('attempts_key', ['transfer_id', 'number'])
    .execute();
  await db.schema
    .createTable('transfer_labels')
    .addColumn('transfer_id', 'text', (c) => c.notNull().references('transfers.id').onDelete('cascade'))
    .addColumn('key', 'text', (c) => c.notNull())
    .addColumn('value', 'text', (c) => c.notNull())
    .addColumn('seq', 'bigint', (c) => c.notNull())
    .addPrimaryKeyConstraint('transfer_labels_key', ['transfer_id', 'key'])
    .execute();
  await db.schema
    .createIndex('transfer_labels_value')
    .on('transfer_labels')
    .columns(['key', 'value', 'seq', 'transfer_id'])
    .execute();
  await db.schema
    .createTable('idempotency_keys')
    .addColumn('scope', 'text', (c) => c.notNull())
    .addColumn('key', 'text', (c) => c.notNull())
    .addColumn('request_hash', 'text', (c) => c.notNull())
    .addColumn('transfer_id', 'text', (c) => c.notNull().references('transfers.id').onDelete('cascade'))
    .addPrimaryKeyConstraint('idempotency_keys_key', ['scope', 'key'])
    .execute();
  await db.schema
    .createIndex('idempotency_keys_transfer')
    .on('idempotency_keys')
    .column('transfer_id')
    .execute();
}

async function stores(db: AnySchema): Promise<void> {
  await db.schema
    .createTable('objects')
    .addColumn('store', 'text', (c) => c.notNull())
    .addColumn('path', 'text', (c) => c.notNull())
    .addColumn('etag', 'text', (c) => c.notNull())
    .addColumn('size', 'bigint', (c) => c.notNull())
    .addColumn('sha256', 'text', (c) => c.notNull())
    .addPrimaryKeyConstraint('objects_key', ['store', 'path'])
    .execute();
  await db.schema
    .createTable('uploads')
    .addColumn('id', 'text', (c) => c.primaryKey())
    .addColumn('store', 'text', (c) => c.notNull())
    .addColumn('path', 'text', (c) => c.notNull())
    .addColumn('owner', 'text', (c) => c.notNull())
    .addColumn('upload_id', 'text')
    .addColumn('intended_ms', 'bigint', (c) => c.notNull())
    .execute();
  await db.schema.createIndex('uploads_intended').on('uploads').column('intended_ms').execute();
}
