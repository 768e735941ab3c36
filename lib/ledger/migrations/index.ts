import type { Kysely } from 'kysely';
import { Migrator } from 'kysely/migration';
import { Failure } from '../../errors.ts';
import type { Engine } from '../engine.ts';
import { up as transfers } from './0001-transfers.ts';
import { up as parts } from './0002-parts.ts';
import { up as trees } from './0003-trees.ts';
import { up as installation } from './0004-installation.ts';
import { up as leftOut } from './0005-left-out.ts';
import { up as preserve } from './0006-preserve.ts';

/** In order; a name never changes and none goes away once it was released. */
const MIGRATIONS = {
  '0001-transfers': transfers,
  '0002-parts': parts,
  '0003-trees': trees,
  '0004-installation': installation,
  '0005-left-out': leftOut,
  '0006-preserve': preserve,
};

/**
 * Brings the tables up to date, in one transaction: of several processes that start together one does it.
 * @throws Failure `invalid`: a newer version was here; what the database throws otherwise
 */
export async function migrate(engine: Engine): Promise<void> {
  const provided = Object.entries(MIGRATIONS).map(
    ([name, up]) => [name, { up: (db: Kysely<unknown>) => up(db, engine.types) }] as const,
  );
  const known = Object.fromEntries(provided);
  const migrator = new Migrator({ db: engine.writing, provider: { getMigrations: async () => known } });
  for (const done of await executed(engine))
    if (!(done in known))
      throw new Failure(
        'invalid',
        `could not open the ledger: it has ${done}, which this version does not know; run the version that made it, or a newer one`,
      );
  const { error } = await migrator.migrateToLatest();
  if (error) throw error;
}

async function executed(engine: Engine): Promise<string[]> {
  const tables = await engine.writing.introspection.getTables({ withInternalKyselyTables: true });
  if (!tables.some((table) => table.name === 'kysely_migration')) return [];
  const rows = await engine.writing
    .withTables<{ kysely_migration: { name: string } }>()
    .selectFrom('kysely_migration')
    .select('name')
    .execute();
  return rows.map((row) => row.name);
}
