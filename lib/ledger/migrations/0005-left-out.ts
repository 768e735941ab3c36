/** How trees take links and what they cannot carry, how much that was, and how many directories they have. */
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
  for (const name of ['directories', 'done_directories'])
    await db.schema
      .alterTable('tree_pages')
      .addColumn(name, 'integer', (c) => c.notNull().defaultTo(0))
      .execute();
}
