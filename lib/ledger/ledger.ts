import { setTimeout as sleep } from 'node:timers/promises';
import { failureOf } from '../errors.ts';
import type { Log } from '../log.ts';
import { acceptance } from './acceptance.ts';
import { collection } from './collection.ts';
import type { Events, Objects, Transfers, Trees, Uploads } from './contract.ts';
import type { Core } from './core.ts';
import type { Engine } from './engine.ts';
import { events } from './events.ts';
import { migrate } from './migrations/index.ts';
import { moves } from './moves.ts';
import { objects, recording } from './objects.ts';
import { reads } from './reads.ts';
import { openSqlite, sqliteTrouble } from './sqlite.ts';
import { statements } from './statements.ts';
import { Targets } from './targets.ts';
import { Claims } from './tree-claims.ts';
import { trees } from './trees.ts';
import { uploads } from './uploads.ts';
import { work } from './work.ts';
import { lockedTooLong, Reader, Writer } from './writer.ts';

export interface LedgerOptions {
  /** Of the SQLite file; its folder exists. `-wal` and `-shm` files appear beside it. */
  readonly path: string;
  readonly log: Log;
  /** Unix time in ms; the system's where none is given. */
  readonly clock?: () => number;
  /** Told of each transaction how long it took, its sync included; ms. */
  readonly onCommit?: (ms: number) => void;
}

/** How long a call waits for other processes. */
const PATIENCE_MS = 10_000;

/** What was promised and how it ended. Any number of processes may have the same file open. */
export class Ledger {
  readonly transfers: Transfers;
  readonly objects: Objects;
  readonly uploads: Uploads;
  readonly trees: Trees;
  readonly events: Events;
  readonly #engine: Engine;
  readonly #reader: Reader;
  readonly #writer: Writer;

  /** @throws Failure `invalid` (not a ledger, or a newer one's), `no-space`, `unavailable` */
  static async open({ path, log, clock, onCommit }: LedgerOptions): Promise<Ledger> {
    const engine = await opened(path);
    log.debug({ path }, 'ledger opened');
    return new Ledger(engine, clock ?? Date.now, onCommit);
  }

  private constructor(engine: Engine, now: () => number, onCommit?: (ms: number) => void) {
    this.#engine = engine;
    this.#reader = new Reader(engine, PATIENCE_MS);
    this.#writer = new Writer(engine, PATIENCE_MS, onCommit);
    const core: Core = { reader: this.#reader, writer: this.#writer, build: engine.reading, now };
    const shared = statements(core.build);
    const targets = new Targets(core.build);
    const record = recording(core.build);
    const claims = new Claims(core, shared, targets, record);
    this.transfers = {
      ...acceptance(core, shared, targets, claims),
      ...moves(core, shared, targets, claims, record),
      ...reads(core, shared),
      ...work(core),
      ...collection(core),
    };
    this.objects = objects(core, record);
    this.uploads = uploads(core);
    this.trees = trees(core, shared, claims);
    this.events = events(core);
  }

  /** Since it was opened: transactions committed, writes in them, and times that another process held the lock. */
  get writes(): { readonly groups: number; readonly units: number; readonly busy: number } {
    return { ...this.#writer.stats };
  }

  /** Who this installation is, as names in stores tell it: made once with the ledger. The key is a secret. */
  installation(): Promise<{ readonly id: string; readonly key: Uint8Array }> {
    return this.#reader.run((db) =>
      db.selectFrom('installation').select(['id', 'key']).executeTakeFirstOrThrow(),
    );
  }

  /** Resolves when a read answers. */
  async ping(signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    await this.#reader.run((db) => db.selectFrom('events').select('seq').limit(1).execute(), signal);
  }

  /** Writes that were asked for before are committed first. */
  async close(): Promise<void> {
    await this.#writer.close();
    this.#reader.close();
    await this.#engine.close();
  }
}

/** Several processes may open the file at once, and the first of them makes it: the others wait. */
async function opened(path: string): Promise<Engine> {
  for (const startedMs = performance.now(); ; ) {
    let engine: Engine | undefined;
    try {
      engine = openSqlite(path);
      await migrate(engine);
      return engine;
    } catch (error) {
      await engine?.close();
      const trouble = sqliteTrouble(error, path);
      if (trouble.is === 'lost') throw trouble.failure;
      if (trouble.is === 'refused') throw failureOf(error);
      if (performance.now() - startedMs > PATIENCE_MS) throw lockedTooLong(PATIENCE_MS);
    }
    await sleep(5 + Math.random() * 20);
  }
}
