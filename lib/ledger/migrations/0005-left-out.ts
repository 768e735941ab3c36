/** How trees take links and what they cannot carry, and how much that was. */
import type { Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .alterTable('transfers')
    .addColumn('links', 'text', (c) => c.notNull().defaultTo('follow'))
    .execute();
  await db.schema
    .alterTable('transfers')
    .addColumn('on_unsupported', 'text', (c) => c.notNull().defaultTo('fail'))
    .execute();
  await db.schema
    .alterTable('tree_pages')
    .addColumn('left_out_files', 'integer', (c) => c.notNull().defaultTo(0))
    .execute();
  await db.schema
    .alterTable('tree_pages')
    .addColumn('left_out_bytes', 'bigint', (c) => c.notNull().defaultTo(0))
    .execute();
}
