/** How a transfer moves from state to state, each time with an event in the same transaction. */
import type { Ending, Transfers } from './contract.ts';
import type { Core } from './core.ts';
import type { Db } from './engine.ts';
import type { Recording } from './objects.ts';
import type { TransferRow } from './rows.ts';
import { transferOf } from './rows.ts';
import { isUnended, type Statements } from './statements.ts';
import type { Target, Targets } from './targets.ts';
import { type TransferState, WORKER_GONE } from './transfer.ts';
import type { Claims } from './tree-claims.ts';

type Moves = Pick<
  Transfers,
  'start' | 'publishing' | 'end' | 'attemptFailed' | 'handedOut' | 'cancel' | 'requeue' | 'renewSlot'
>;
type FailureColumns = Pick<TransferRow, 'failure_kind' | 'failure_message'>;

interface Cancelled {
  readonly state: 'cancelled';
  readonly stagedUntilMs: number | undefined;
}

const NO_FAILURE: FailureColumns = { failure_kind: null, failure_message: null };
const TAKEN_OVER: FailureColumns = { failure_kind: 'interrupted', failure_message: WORKER_GONE };
const GIVEN_ANEW: FailureColumns = {
  failure_kind: 'interrupted',
  failure_message: 'the queue had lost its job, and it was given a new one',
};
const CANCELLED: FailureColumns = { failure_kind: 'cancelled', failure_message: 'it was cancelled' };

export function moves(
  core: Core,
  statements: Statements,
  targets: Targets,
  claims: Claims,
  record: Recording,
): Moves {
  const { writer, now } = core;

  /** The row where it is unended and of this epoch. */
  async function current(db: Db, id: string, epoch: number): Promise<TransferRow | undefined> {
    const row = await statements.byId.first(db, { id });
    return row && row.epoch === epoch && isUnended(row.state) ? row : undefined;
  }

  /**
   * Changes the row where it is still as it was read, and closes what attempt is open, which a failure adds to
   * those that were spent.
   */
  async function finish(db: Db, row: TransferRow, ending: Ending | Cancelled): Promise<void> {
    const { id, epoch, state: was } = row;
    const nowMs = now();
    const failure = failureColumns(ending);
    const closed = await statements.closeAttempts.changes(db, {
      id,
      nowMs,
      ...(ending.state === 'cancelled' ? CANCELLED : failure),
    });
    await statements.setEnded.all(db, {
      id,
      epoch,
      was,
      state: ending.state,
      attempts: row.attempts + (ending.state === 'failed' ? closed : 0),
      nowMs,
      ...failure,
      result: ending.state === 'succeeded' ? JSON.stringify(ending.result) : null,
      outcome: ending.state === 'succeeded' ? ending.result.outcome : null,
      size: row.size ?? (ending.state === 'succeeded' ? ending.result.size : undefined) ?? null,
      ...stagedAfter(row, ending, nowMs),
    });
    // where it was ended from outside, its workers hold their turns until they have stopped
    if (ending.state === 'succeeded') await claims.releaseAll(db, row);
    await statements.addEvent.all(db, { id, state: ending.state, nowMs });
  }

  async function setState(db: Db, row: TransferRow, state: TransferState, attempts = row.attempts) {
    const { id, epoch, state: was } = row;
    await statements.setState.all(db, { id, epoch, was, state, attempts });
    if (state !== was) await statements.addEvent.all(db, { id, state, nowMs: now() });
  }

  return {
    start: (id, epoch, worker, turnUpToBytes = 0) =>
      writer.run(async (db) => {
        const row = await current(db, id, epoch);
        if (!row || row.synchronous === 1) return undefined;
        const target = isSimple(row, turnUpToBytes) ? targetOf(row) : undefined;
        const publishes = target && (await targets.turnAt(db, target, row.seq)) === 'free';
        const state = publishes ? 'publishing' : 'running';
        return transferOf(await startAttempt(db, statements, row, { worker, nowMs: now(), state }));
      }),

    publishing: (id, epoch) =>
      writer.run(async (db) => {
        const row = await current(db, id, epoch);
        if (!row || row.state === 'accepted') return 'stale';
        if (row.state === 'publishing') return 'ok';
        const target = targetOf(row);
        if (target) {
          const turn = await targets.turnAt(db, target, row.seq);
          if (turn === 'superseded') await finish(db, row, { state: 'superseded' });
          if (turn !== 'free') return turn;
        }
        await setState(db, row, 'publishing');
        return 'ok';
      }),

    end: (id, epoch, ending) =>
      writer.run(async (db) => {
        const row = await current(db, id, epoch);
        if (!row || (ending.state === 'succeeded' && row.state === 'accepted')) return false;
        const { to_store: store, to_path: path } = row;
        if (ending.state === 'succeeded' && ending.object && store !== null && path !== null)
          await record(db, { store, path }, ending.object);
        await finish(db, row, ending);
        return true;
      }),

    attemptFailed: (id, epoch, failure, spent, attempt) =>
      writer.run(async (db) => {
        const row = await current(db, id, epoch);
        if (!row || row.state === 'accepted' || (attempt !== undefined && attempt !== row.starts))
          return undefined;
        const attempts = row.attempts + (spent ? 1 : 0);
        await statements.closeAttempts.all(db, {
          id,
          nowMs: now(),
          failure_kind: failure.kind,
          failure_message: failure.message,
        });
        await setState(db, row, 'running', attempts);
        return attempts;
      }),

    handedOut: (id, epoch, attempt) =>
      writer.run(async (db) => {
        const row = await current(db, id, epoch);
        if (!row || row.state === 'accepted' || row.starts !== attempt) return false;
        await statements.closeAttempts.all(db, { id, nowMs: now(), ...NO_FAILURE });
        return true;
      }),

    cancel: (id, planUntilMs) =>
      writer.run(async (db) => {
        const row = await statements.byId.first(db, { id });
        if (!row) return 'not-found';
        if (row.state === 'accepted' || row.state === 'running')
          await finish(db, row, { state: 'cancelled', stagedUntilMs: planUntilMs });
        else if (row.state !== 'cancelled') return 'too-late';
        return 'cancelled';
      }),

    requeue: (id, epoch) =>
      writer.run(async (db) => {
        const row = await current(db, id, epoch);
        if (!row || row.synchronous === 1) return undefined;
        const state = row.state === 'publishing' ? row.state : 'accepted';
        const nowMs = now();
        await db
          .updateTable('transfers')
          .set({ epoch: epoch + 1, state, queued_ms: nowMs })
          .where('id', '=', id)
          .where('epoch', '=', epoch)
          .where('state', '=', row.state)
          .execute();
        await statements.closeAttempts.all(db, { id, nowMs, ...GIVEN_ANEW });
        if (state !== row.state) await statements.addEvent.all(db, { id, state, nowMs });
        return epoch + 1;
      }),

    renewSlot: (id, epoch, deadlineMs) =>
      writer.run(async (db) => {
        const row = await current(db, id, epoch);
        if (row?.synchronous !== 1) return false;
        await statements.setDeadline.all(db, { id, deadlineMs });
        return true;
      }),
  };
}

/** Staged bytes that begin for the first time, with nothing to look at before they replace what is there. */
const isSimple = (row: TransferRow, mostBytes: number): boolean =>
  row.state === 'accepted' &&
  row.starts === 0 &&
  row.kind === 'upload' &&
  row.from_store === null &&
  row.to_tree === 0 &&
  row.on_exists === 'replace' &&
  row.size !== null &&
  row.size <= mostBytes;

const targetOf = ({ to_store: store, to_path: path, to_tree }: TransferRow): Target | undefined =>
  store === null || path === null ? undefined : { store, path, tree: to_tree === 1 };

/** `state`: where it had only been accepted. */
async function startAttempt(
  db: Db,
  statements: Statements,
  row: TransferRow,
  {
    worker,
    nowMs,
    state: next,
  }: { readonly worker: string; readonly nowMs: number; readonly state: 'running' | 'publishing' },
): Promise<TransferRow> {
  const { id, epoch, state: was } = row;
  const starts = row.starts + 1;
  const startedMs = row.started_ms ?? nowMs;
  if (was === 'accepted') {
    await statements.setStarted.all(db, { id, epoch, was, state: next, starts, startedMs });
    await statements.addEvent.all(db, { id, state: 'running', nowMs });
    if (next === 'publishing') await statements.addEvent.all(db, { id, state: next, nowMs });
  } else {
    await statements.closeAttempts.all(db, { id, nowMs, ...TAKEN_OVER });
    await statements.setStarts.all(db, { id, epoch, was, starts });
  }
  await statements.addAttempt.all(db, { id, epoch, worker, nowMs });
  const state = was === 'accepted' ? next : was;
  return { ...row, state, starts, started_ms: startedMs };
}

function failureColumns(ending: Ending | Cancelled): FailureColumns {
  if (ending.state !== 'failed') return NO_FAILURE;
  return { failure_kind: ending.failure.kind, failure_message: ending.failure.message };
}

/** A download that succeeded has bytes in staging now, a tree its plan; of the others those that had some. */
function stagedAfter(
  row: TransferRow,
  ending: Ending | Cancelled,
  nowMs: number,
): Pick<TransferRow, 'staged_until_ms' | 'staged_bytes'> {
  const wishMs = 'stagedUntilMs' in ending ? ending.stagedUntilMs : undefined;
  if (row.kind === 'download' && ending.state === 'succeeded')
    return { staged_until_ms: wishMs ?? nowMs, staged_bytes: ending.result.size ?? 0 };
  const { staged_until_ms, staged_bytes } = row;
  const retryable = ending.state === 'failed' || ending.state === 'cancelled';
  if (staged_until_ms === null) {
    const planUntilMs = row.to_tree === 1 && retryable ? wishMs : undefined;
    if (planUntilMs === undefined) return { staged_until_ms: null, staged_bytes: 0 };
    return { staged_until_ms: planUntilMs, staged_bytes };
  }
  return { staged_until_ms: wishMs ?? (retryable ? staged_until_ms : nowMs), staged_bytes };
}
