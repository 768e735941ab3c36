/**
 * SQLite, the one inside Node, for Kysely. Two connections a process: one that writes, in WAL mode, and one that only
 * reads, so that a read neither waits for a group of writes nor sees it half done.
 *
 * Calls are synchronous: whoever waits for a lock or for the disk stops its process's event loop. Hence no busy timeout
 * (the patience is the writer's), and hence a commit only writes into the log: the log is synced right after by a
 * thread (`durable`), and nobody is told before. SQLite itself syncs it before it copies from it, so that the
 * file stays sound whatever happens (its `synchronous = normal`).
 */
import { closeSync, fsyncSync, openSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite';
import {
  CompiledQuery,
  type DatabaseConnection,
  Kysely,
  SqliteAdapter,
  type SqliteDatabase,
  SqliteDialect,
  SqliteDriver,
  type SqliteStatement,
} from 'kysely';
import { Coalesced } from '../coalesced.ts';
import { Failure } from '../errors.ts';
import type { ColumnTypes, Engine, EngineTrouble } from './engine.ts';
import type { LedgerTables } from './schema.ts';
import { restored, storable } from './text.ts';

/** SQLite would sleep on the event loop until a lock is free: it answers at once, and writer and reader try again. */
const BUSY_MS = 0;
/**
 * What the log grows by before it is copied into the file, which stops the event loop for two syncs. Under many small
 * writes most pages are written over and over, and are copied once; 8 MiB.
 */
const CHECKPOINT_PAGES = 2048;
/** Prepared statements kept for one connection; more than the ledger's queries have shapes. */
const STATEMENTS = 250;

/** SQLite's primary result codes. */
const CODE = {
  busy: 5,
  locked: 6,
  nomem: 7,
  readonly: 8,
  ioerr: 10,
  corrupt: 11,
  full: 13,
  cantopen: 14,
  notadb: 26,
} as const;

const TYPES: ColumnTypes = {
  bytes: 'blob',
  key: 'integer',
  counted: (column) => column.primaryKey().autoIncrement(),
  clustered: 'without rowid',
  ofHex: (column) => `unhex(${column})`,
};

/** @throws an SQLite error; `sqliteTrouble` tells what it means */
export function openSqlite(path: string): Engine {
  const writer = new DatabaseSync(path, { timeout: BUSY_MS });
  let reader: DatabaseSync;
  try {
    writer.exec('pragma journal_mode = wal');
    writer.exec('pragma synchronous = normal');
    writer.exec('pragma foreign_keys = on');
    writer.exec(`pragma wal_autocheckpoint = ${CHECKPOINT_PAGES}`);
    // What a savepoint may have to undo is otherwise written into a file of its own, made anew for each group.
    writer.exec('pragma temp_store = memory');
    // A WAL that one long read let grow is cut back at the next checkpoint.
    writer.exec(`pragma journal_size_limit = ${64 * 1024 * 1024}`);
    reader = new DatabaseSync(path, { timeout: BUSY_MS, readOnly: true });
  } catch (error) {
    writer.close();
    throw error;
  }
  const writing = new Kysely<LedgerTables>({ dialect: new NodeSqliteDialect(writer) });
  const reading = new Kysely<LedgerTables>({ dialect: new NodeSqliteDialect(reader) });
  const log = new LogSync(`${path}-wal`);
  return {
    writing,
    reading,
    types: TYPES,
    durable: () => log.sync(),
    classify: (error) => sqliteTrouble(error, path),
    close: async () => {
      await log.close();
      // Kysely closes only what it has used.
      for (const db of [reader, writer]) if (db.isOpen) db.close();
    },
  };
}

/** Syncs the write-ahead log. The file stays the same one as long as a connection is open. */
class LogSync {
  readonly #path: string;
  readonly #syncs = new Coalesced(() => this.#syncNow());
  #file: Promise<FileHandle> | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  sync(): Promise<void> {
    return this.#syncs.run();
  }

  async #syncNow(): Promise<void> {
    this.#file ??= this.#open();
    await (await this.#file).datasync();
  }

  async #open(): Promise<FileHandle> {
    const file = await open(this.#path, 'r+');
    const folder = openSync(dirname(this.#path), 'r');
    try {
      fsyncSync(folder); // the log may just have been made
    } finally {
      closeSync(folder);
    }
    return file;
  }

  async close(): Promise<void> {
    await this.#syncs.settled();
    await (await this.#file?.catch(() => undefined))?.close();
  }
}

/**
 * Everything but the statement's own fault ends the transaction: after most of these SQLite has rolled it back by
 * itself.
 */
export function sqliteTrouble(error: unknown, path: string): EngineTrouble {
  const code = codeOf(error);
  if (code === undefined) return { is: 'refused' };
  const failed = (kind: Failure['kind'], todo: string): EngineTrouble => {
    const reason = error instanceof Error ? error.message : String(error);
    return {
      is: 'lost',
      failure: new Failure(
        kind,
        `could not use the ledger ${path}: ${reason}; ${todo}`,
        {},
        { cause: error },
      ),
    };
  };
  switch (code) {
    case CODE.busy:
    case CODE.locked:
      return { is: 'busy' };
    case CODE.full:
      return failed('no-space', 'make room on its disk');
    case CODE.ioerr:
    case CODE.nomem:
      return failed('unavailable', 'look at its disk and at the system log');
    case CODE.readonly:
    case CODE.cantopen:
      return failed('unavailable', 'its folder and files must be there and writable for this user');
    case CODE.corrupt:
    case CODE.notadb:
      return failed(
        'invalid',
        'it is damaged or not a ledger: restore it from a backup, or name another folder',
      );
    default:
      return { is: 'refused' };
  }
}

function codeOf(error: unknown): number | undefined {
  if (!(error instanceof Error) || !('errcode' in error) || typeof error.errcode !== 'number')
    return undefined;
  return error.errcode & 0xff;
}

class NodeSqliteDialect extends SqliteDialect {
  readonly #database: DatabaseSync;

  constructor(database: DatabaseSync) {
    super({ database: new Statements(database) });
    this.#database = database;
  }

  override createDriver(): SqliteDriver {
    return new ImmediateDriver(this.#database);
  }

  override createAdapter(): SqliteAdapter {
    return new TransactionalDdl();
  }
}

/** SQLite's DDL is transactional; Kysely says no because migrations may want pragmas, which ours do not. */
class TransactionalDdl extends SqliteAdapter {
  override get supportsTransactionalDdl(): boolean {
    return true;
  }
}

/** Takes the write lock at the start: a transaction that reads first and writes later could only fail by then. */
class ImmediateDriver extends SqliteDriver {
  readonly #database: DatabaseSync;

  constructor(database: DatabaseSync) {
    super({ database: new Statements(database) });
    this.#database = database;
  }

  override async beginTransaction(connection: DatabaseConnection): Promise<void> {
    await connection.executeQuery(BEGIN);
  }

  override async rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    // After a full disk, say, it is rolled back already.
    if (this.#database.isTransaction) await super.rollbackTransaction(connection);
  }
}
const BEGIN = CompiledQuery.raw('begin immediate');

/** `node:sqlite` in the shape that Kysely's SQLite driver expects; keeps what it prepared. */
class Statements implements SqliteDatabase {
  readonly #database: DatabaseSync;
  readonly #kept = new Map<string, Statement>();

  constructor(database: DatabaseSync) {
    this.#database = database;
  }

  prepare(sql: string): SqliteStatement {
    const known = this.#kept.get(sql);
    if (known) return known;
    const statement = new Statement(this.#database.prepare(sql));
    if (this.#kept.size >= STATEMENTS) this.#kept.delete(this.#kept.keys().next().value ?? '');
    this.#kept.set(sql, statement);
    return statement;
  }

  close(): void {
    this.#kept.clear();
    this.#database.close();
  }
}

class Statement implements SqliteStatement {
  readonly reader: boolean;
  readonly #statement: StatementSync;

  constructor(statement: StatementSync) {
    this.#statement = statement;
    this.reader = statement.columns().length > 0;
  }

  all(parameters: readonly unknown[]): unknown[] {
    const rows = this.#statement.all(...bindable(parameters));
    for (const row of rows) restore(row);
    return rows;
  }

  run(parameters: readonly unknown[]): { changes: number | bigint; lastInsertRowid: number | bigint } {
    return this.#statement.run(...bindable(parameters));
  }

  *iterate(parameters: readonly unknown[]): IterableIterator<unknown> {
    for (const row of this.#statement.iterate(...bindable(parameters))) {
      restore(row);
      yield row;
    }
  }
}

/** The tables' types allow nothing that SQLite cannot bind; it throws on anything else. */
const bindable = (parameters: readonly unknown[]): SQLInputValue[] =>
  parameters.map((value) => (typeof value === 'string' ? storable(value) : (value as SQLInputValue)));

function restore(row: Record<string, unknown>): void {
  for (const column in row) {
    const value = row[column];
    if (typeof value === 'string') row[column] = restored(value);
  }
}
