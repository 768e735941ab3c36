/** What differs from database to database; all else in the ledger is Kysely's queries over it. */
import type { ColumnDefinitionBuilder, Kysely } from 'kysely';
import type { Failure } from '../errors.ts';
import type { LedgerTables } from './schema.ts';

export type Db = Kysely<LedgerTables>;

/**
 * - `busy`: somebody else holds it or the transaction lost a conflict; nothing happened, run it again.
 * - `refused`: this statement alone (a constraint, say); the transaction goes on from its savepoint.
 * - `lost`: the whole transaction is, and why.
 */
export type EngineTrouble =
  | { readonly is: 'busy' }
  | { readonly is: 'refused' }
  | { readonly is: 'lost'; readonly failure: Failure };

/** How the migrations spell what each database spells its own way. */
export interface ColumnTypes {
  readonly bytes: 'blob' | 'bytea';
  /** A number that rows are kept in the order of. */
  readonly key: 'integer' | 'bigint';
  /** A key that the database counts up and never gives out twice. */
  readonly counted: (column: ColumnDefinitionBuilder) => ColumnDefinitionBuilder;
  /** Ends the definition of a table whose rows lie in the order of its primary key, where there is such a thing. */
  readonly clustered: 'without rowid' | '';
  /** The bytes that a column's hexadecimal text spells. */
  readonly ofHex: (column: string) => string;
}

export interface Engine {
  /**
   * For the writer alone. Its transactions are serializable, and see nothing that commits after they began:
   * PostgreSQL's `serializable`, SQLite's `begin immediate`. Text compares byte by byte; integers of 64 bits come
   * as numbers.
   */
  readonly writing: Db;
  /** Sees what is committed, and waits for no writer. */
  readonly reading: Db;
  readonly types: ColumnTypes;
  /** Resolves once all that was committed before is on disk; a commit alone need not be. */
  durable(): Promise<void>;
  /** The only code that looks inside a database's error. */
  classify(error: unknown): EngineTrouble;
  close(): Promise<void>;
}
