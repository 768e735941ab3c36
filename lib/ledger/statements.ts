/** The queries that most transfers need, built once a ledger. */
import { sql } from 'kysely';
import type { Db } from './engine.ts';
import { type Prepared, prepare } from './prepared.ts';
import type { TransferRow } from './rows.ts';
import type { AttemptTable } from './schema.ts';
import type { TransferState } from './transfer.ts';

const UNENDED = ['accepted', 'running', 'publishing'] as const satisfies readonly TransferState[];
/** In queries: `ended_ms is null`, which is what the indexes over unended rows say. */
export const isUnended = (state: TransferState): boolean =>
  (UNENDED as readonly TransferState[]).includes(state);

/** Which row, in which state: a change of anything else changes nothing. */
interface At {
  readonly id: string;
  readonly epoch: number;
  readonly was: TransferState;
}

export type Statements = ReturnType<typeof statements>;

export function statements(build: Db) {
  return {
    byId: prepare<{ id: string }>()((p) => build.selectFrom('transfers').selectAll().where('id', '=', p.id)),

    addEvent: prepare<{ id: string; state: TransferState; nowMs: number }>()((p) =>
      build
        .insertInto('events')
        .values({ transfer_id: p.id, state: p.state, at_ms: p.nowMs })
        .returning('seq'),
    ),

    addTransfer: inserting(build),

    setStarted: prepare<At & { state: TransferState; startedMs: number; starts: number }>()((p) =>
      at(build, p).set({ state: p.state, started_ms: p.startedMs, starts: p.starts }),
    ),
    /** Taken up again: its state stays. */
    setStarts: prepare<At & { starts: number }>()((p) => at(build, p).set({ starts: p.starts })),
    setState: prepare<At & { state: TransferState; attempts: number }>()((p) =>
      at(build, p).set({ state: p.state, attempts: p.attempts }),
    ),
    setEnded: prepare<
      At &
        Pick<
          TransferRow,
          'state' | 'attempts' | 'failure_kind' | 'failure_message' | 'result' | 'outcome' | 'size'
        > &
        Pick<TransferRow, 'staged_until_ms' | 'staged_bytes'> & { nowMs: number }
    >()((p) =>
      at(build, p).set({
        state: p.state,
        attempts: p.attempts,
        ended_ms: p.nowMs,
        failure_kind: p.failure_kind,
        failure_message: p.failure_message,
        result: p.result,
        outcome: p.outcome,
        size: p.size,
        staged_until_ms: p.staged_until_ms,
        staged_bytes: p.staged_bytes,
      }),
    ),
    setDeadline: prepare<{ id: string; deadlineMs: number }>()((p) =>
      build.updateTable('transfers').set({ deadline_ms: p.deadlineMs }).where('id', '=', p.id),
    ),

    addAttempt: prepare<{ id: string; epoch: number; worker: string; nowMs: number }>()((p) =>
      build.insertInto('attempts').values((eb) => ({
        transfer_id: p.id,
        number: eb
          .selectFrom('attempts')
          .select((inner) => sql<number>`coalesce(${inner.fn.max('number')}, 0) + 1`.as('next'))
          .where('transfer_id', '=', p.id),
        epoch: p.epoch,
        worker: p.worker,
        started_ms: p.nowMs,
        ended_ms: null,
        failure_kind: null,
        failure_message: null,
      })),
    ),
    closeAttempts: prepare<
      { id: string; nowMs: number } & Pick<AttemptTable, 'failure_kind' | 'failure_message'>
    >()((p) =>
      build
        .updateTable('attempts')
        .set({ ended_ms: p.nowMs, failure_kind: p.failure_kind, failure_message: p.failure_message })
        .where('transfer_id', '=', p.id)
        .where('ended_ms', 'is', null),
    ),
  };
}

const at = (build: Db, p: At) =>
  build
    .updateTable('transfers')
    .where('id', '=', p.id)
    .where('epoch', '=', p.epoch)
    .where('state', '=', p.was);

/** Inserts a row of all columns; the first one shows which those are. */
function inserting(build: Db): (db: Db, row: TransferRow) => Promise<unknown> {
  let insert: Prepared<TransferRow, unknown> | undefined;
  return (db, row) => {
    insert ??= prepare<TransferRow>()((p) => {
      const columns = Object.keys(row) as (keyof TransferRow)[];
      const holes = Object.fromEntries(columns.map((name) => [name, p[name]])) as unknown as TransferRow;
      return build.insertInto('transfers').values(holes);
    });
    return insert.all(db, row);
  };
}
