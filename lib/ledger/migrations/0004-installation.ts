/** Who this installation is: what it leaves in stores can be told from what others do. */
import { randomBytes } from 'node:crypto';
import { type Kysely, sql } from 'kysely';
import type { ColumnTypes } from '../engine.ts';

const KEY_BYTES = 32;

/** Migrations run in one transaction: of several processes that start together one makes the row. */
export async function up(db: Kysely<unknown>, types: ColumnTypes): Promise<void> {
  await db.schema
    .createTable('installation')
    .addColumn('id', 'text', (c) => c.primaryKey())
    .addColumn('key', sql.raw(types.bytes), (c) => c.notNull())
    .execute();
  await sql`
    insert into installation (id, key) values (${randomBytes(8).toString('hex')}, ${randomBytes(KEY_BYTES)})
  `.execute(db);
  await db.schema
    .createIndex('uploads_named')
    .on('uploads')
    .column('upload_id')
    .where('upload_id', 'is not', null)
    .execute();
}
