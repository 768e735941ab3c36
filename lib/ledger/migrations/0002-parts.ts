/** Multipart uploads carried out by jobs of their own; known objects in less room, with their CRC-32. */
import { type Kysely, sql } from 'kysely';
import type { ColumnTypes } from '../engine.ts';

type AnySchema = Kysely<unknown>;

export async function up(db: AnySchema, types: ColumnTypes): Promise<void> {
  await uploads(db);
  await objects(db, types);
}

/** All of these are null but for parted uploads, of which an owner has one. */
async function uploads(db: AnySchema): Promise<void> {
  const add = (name: string, type: 'text' | 'bigint') =>
    db.schema.alterTable('uploads').addColumn(name, type).execute();
  await add('transfer_id', 'text');
  await add('size', 'bigint');
  await add('part_bytes', 'bigint');
  await add('from_store', 'text');
  await add('from_path', 'text');
  await add('from_etag', 'text');
  await db.schema
    .createIndex('uploads_parted')
    .on('uploads')
    .column('owner')
    .unique()
    .where(sql<boolean>`transfer_id is not null`)
    .execute();
  await db.schema
    .createIndex('uploads_transfer')
    .on('uploads')
    .column('transfer_id')
    .where('transfer_id', 'is not', null)
    .execute();
}

async function objects(db: AnySchema, types: ColumnTypes): Promise<void> {
  await db.schema.alterTable('objects').renameTo('objects_0001').execute();
  await db.schema
    .createTable('objects')
    .addColumn('store', 'text', (c) => c.notNull())
    .addColumn('path', 'text', (c) => c.notNull())
    .addColumn('etag', 'text', (c) => c.notNull())
    .addColumn('sha256', sql.raw(types.bytes))
    .addColumn('crc32', 'bigint')
    .addPrimaryKeyConstraint('objects_place', ['store', 'path'])
    .modifyEnd(sql.raw(types.clustered))
    .execute();
  await sql`
    insert into objects (store, path, etag, sha256)
    select store, path, etag, ${sql.raw(types.ofHex('sha256'))} from objects_0001 where size > 0
  `.execute(db);
  await db.schema.dropTable('objects_0001').execute();
}
