/** What copies are to keep besides the bytes by wish, and what they could not keep. */
import type { Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .alterTable('transfers')
    .addColumn('preserve', 'text', (c) => c.notNull().defaultTo('[]'))
    .execute();
  await db.schema.alterTable('uploads').addColumn('not_kept', 'text').execute();
  await db.schema.alterTable('tree_pages').addColumn('not_kept', 'text').execute();
}
