/**
 * One queue of writes a process. What has gathered while the last transaction was on its way goes into the next
 * one, and one sync serves all that committed before it began; between two transactions it pauses, so that other processes get their turn: SQLite knows no
 * queue for its lock.
 */
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { CompiledQuery } from 'kysely';
import { Failure, failureOf } from '../errors.ts';
import type { Db, Engine } from './engine.ts';

const GROUP_UNITS = 256;
/** A group takes no further unit once it has run this long; nothing else in the process runs meanwhile. */
const GROUP_MS = 10;
/**
 * Of the time that the lock was held: with it three busy processes wait for one another for about 100 ms at worst,
 * and one alone loses little.
 */
const PAUSE_SHARE = 1 / 3;
const PAUSE_MS = { least: 1, most: 10 } as const;
const RETRY_MOST_MS = 20;

const SAVEPOINT = CompiledQuery.raw('savepoint unit');
const RELEASE = CompiledQuery.raw('release savepoint unit');
const ROLL_BACK = CompiledQuery.raw('rollback to savepoint unit');

/**
 * Reads and writes that belong together. It may run more than once and must wait for nothing but `db`: the whole
 * database is locked meanwhile.
 */
export type Unit<T> = (db: Db) => Promise<T>;

/** One that waits. It is told after the commit, so that an answer never speaks of what could still be undone. */
interface Waiting {
  readonly sinceMs: number;
  readonly work: (db: Db) => Promise<() => void>;
  readonly failed: (failure: Failure) => void;
}

export class Writer {
  /** Since the start: transactions committed, units in them, and times that another process held the lock. */
  readonly stats = { groups: 0, units: 0, busy: 0 };
  readonly #engine: Engine;
  readonly #patienceMs: number;
  readonly #onCommit: (ms: number) => void;
  readonly #syncing = new Set<Promise<void>>();
  #queue: Waiting[] = [];
  #draining: Promise<void> | undefined;
  #closed = false;

  /** `patienceMs`: how long a unit waits for other processes before it fails as `unavailable`. */
  constructor(engine: Engine, patienceMs: number, onCommit: (ms: number) => void = () => {}) {
    this.#engine = engine;
    this.#patienceMs = patienceMs;
    this.#onCommit = onCommit;
  }

  /** Resolves once the unit's transaction is committed and synced; a unit that throws is undone alone. */
  run<T>(unit: Unit<T>): Promise<T> {
    if (this.#closed)
      return Promise.reject(new Failure('unavailable', 'could not write to the ledger: it is closed'));
    return new Promise<T>((resolve, reject) => {
      this.#queue.push({
        sinceMs: performance.now(),
        work: async (db) => {
          const value = await unit(db);
          return () => resolve(value);
        },
        failed: reject,
      });
      this.#draining ??= this.#drain();
    });
  }

  /** Commits what was asked for before. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#draining;
    await Promise.all(this.#syncing);
  }

  async #drain(): Promise<void> {
    // Whatever else this turn of the event loop asks for comes along.
    await turn();
    for (let busy = 0; this.#queue.length > 0; ) {
      const startedMs = performance.now();
      if (await this.#commitGroup()) {
        busy = 0;
        const heldMs = performance.now() - startedMs;
        await sleep(Math.min(Math.max(heldMs * PAUSE_SHARE, PAUSE_MS.least), PAUSE_MS.most));
      } else {
        busy++;
        this.stats.busy++;
        this.#giveUpOld();
        await sleep(1 + Math.random() * Math.min(RETRY_MOST_MS, 2 * busy));
      }
    }
    this.#draining = undefined;
  }

  /** `false`: somebody else has the lock. Else the group has left the queue, every unit of it told. */
  async #commitGroup(): Promise<boolean> {
    const group = this.#queue.slice(0, GROUP_UNITS);
    const outcomes: (() => void)[] = [];
    const startedMs = performance.now();
    try {
      await this.#engine.writing.transaction().execute(async (db) => {
        for (const waiting of group) {
          if (outcomes.length > 0 && performance.now() - startedMs > GROUP_MS) break;
          outcomes.push(await this.#inSavepoint(db, waiting));
        }
      });
    } catch (error) {
      const trouble = this.#engine.classify(error);
      if (trouble.is === 'busy') return false;
      const failure = trouble.is === 'lost' ? trouble.failure : failureOf(error);
      this.#queue = this.#queue.slice(group.length);
      for (const waiting of group) waiting.failed(failure);
      return true;
    }
    this.stats.groups++;
    this.stats.units += outcomes.length;
    this.#queue = this.#queue.slice(outcomes.length);
    this.#tellWhenDurable(startedMs, group.slice(0, outcomes.length), outcomes);
    return true;
  }

  /** The next group need not wait for it. */
  #tellWhenDurable(startedMs: number, group: readonly Waiting[], outcomes: readonly (() => void)[]): void {
    const told = this.#engine
      .durable()
      .then(
        () => {
          this.#onCommit(performance.now() - startedMs);
          for (const tell of outcomes) tell();
        },
        (error: unknown) => {
          const why = error instanceof Error ? error.message : String(error);
          const failure = new Failure(
            'unavailable',
            `could not sync the ledger: ${why}; look at its disk and at the system log`,
            {},
            { cause: error },
          );
          for (const waiting of group) waiting.failed(failure);
        },
      )
      .finally(() => this.#syncing.delete(told));
    this.#syncing.add(told);
  }

  /** What to tell the unit after the commit. Throws when the transaction as a whole is lost. */
  async #inSavepoint(db: Db, waiting: Waiting): Promise<() => void> {
    await db.executeQuery(SAVEPOINT);
    try {
      const tell = await waiting.work(db);
      await db.executeQuery(RELEASE);
      return tell;
    } catch (error) {
      if (this.#engine.classify(error).is !== 'refused') throw error;
      await db.executeQuery(ROLL_BACK);
      await db.executeQuery(RELEASE);
      return () => waiting.failed(failureOf(error));
    }
  }

  #giveUpOld(): void {
    const nowMs = performance.now();
    const patient: Waiting[] = [];
    for (const waiting of this.#queue) {
      if (nowMs - waiting.sinceMs < this.#patienceMs) patient.push(waiting);
      else waiting.failed(lockedTooLong(this.#patienceMs));
    }
    this.#queue = patient;
  }
}

/** Reads, in no transaction: each query sees what is committed. */
export class Reader {
  readonly #engine: Engine;
  readonly #patienceMs: number;
  #closed = false;

  constructor(engine: Engine, patienceMs: number) {
    this.#engine = engine;
    this.#patienceMs = patienceMs;
  }

  /** Readers wait for no writer; `busy` can still be while another process recovers or closes the file. */
  async run<T>(query: (db: Db) => Promise<T>, signal?: AbortSignal): Promise<T> {
    for (const startedMs = performance.now(); ; ) {
      if (this.#closed) throw new Failure('unavailable', 'could not read the ledger: it is closed');
      try {
        return await query(this.#engine.reading);
      } catch (error) {
        const trouble = this.#engine.classify(error);
        if (trouble.is === 'lost') throw trouble.failure;
        if (trouble.is === 'refused') throw failureOf(error);
        if (performance.now() - startedMs > this.#patienceMs) throw lockedTooLong(this.#patienceMs);
      }
      await sleep(1 + Math.random() * RETRY_MOST_MS, undefined, signal && { signal });
    }
  }

  close(): void {
    this.#closed = true;
  }
}

export function lockedTooLong(ms: number): Failure {
  return new Failure(
    'unavailable',
    `could not use the ledger: other processes held its lock for ${ms} ms; see that none of them hangs, and try again`,
  );
}
