/** How a transfer comes into the ledger: accepted, retried, or as a synchronous request's turn. */
import { Failure } from '../errors.ts';
import type { Idempotency, Transfers } from './contract.ts';
import type { Core } from './core.ts';
import type { Db } from './engine.ts';
import { prepare } from './prepared.ts';
import { acceptedRow, type TransferRow, transferOf } from './rows.ts';
import type { Statements } from './statements.ts';
import type { Targets } from './targets.ts';
import type { NewTransfer } from './transfer.ts';
import type { Claims } from './tree-claims.ts';
import { reopenPages } from './trees.ts';

export function acceptance(
  core: Core,
  statements: Statements,
  targets: Targets,
  claims: Claims,
): Pick<Transfers, 'accept' | 'findByKey' | 'retry' | 'takeSlot'> {
  const { reader, writer, build, now } = core;

  const byKey = prepare<{ scope: string; key: string }>()((p) =>
    build
      .selectFrom('idempotency_keys')
      .innerJoin('transfers', 'transfers.id', 'idempotency_keys.transfer_id')
      .selectAll('transfers')
      .select('request_hash')
      .where('scope', '=', p.scope)
      .where('key', '=', p.key),
  );
  const addKey = prepare<{ scope: string; key: string; requestHash: string; id: string }>()((p) =>
    build
      .insertInto('idempotency_keys')
      .values({ scope: p.scope, key: p.key, request_hash: p.requestHash, transfer_id: p.id }),
  );

  async function replay(db: Db, { scope, key, requestHash }: Idempotency) {
    const known = await byKey.first(db, { scope, key });
    if (!known || known.request_hash === requestHash) return known && transferOf(known);
    throw new Failure(
      'unprocessable',
      `could not accept the transfer: its Idempotency-Key was used before for another request (transfer ${known.id}); use a new key`,
    );
  }

  async function insert(db: Db, transfer: NewTransfer, stagedUntilMs: number | undefined, nowMs: number) {
    const { id, labels } = transfer;
    const event = await statements.addEvent.first(db, { id, state: 'accepted', nowMs });
    const row = acceptedRow(transfer, { seq: event!.seq, nowMs, stagedUntilMs });
    await statements.addTransfer(db, row);
    const values = Object.entries(labels).map(([key, value]) => ({
      transfer_id: id,
      key,
      value,
      seq: row.seq,
    }));
    if (values.length > 0) await db.insertInto('transfer_labels').values(values).execute();
    return transferOf(row);
  }

  return {
    accept: (transfer, idempotency, stagedUntilMs) =>
      writer.run(async (db) => {
        const first = idempotency && (await replay(db, idempotency));
        if (first) return { transfer: first, replayed: true };
        const accepted = await insert(db, transfer, stagedUntilMs, now());
        if (idempotency) await addKey.all(db, { ...idempotency, id: transfer.id });
        return { transfer: accepted, replayed: false };
      }),

    findByKey: (scope, key) =>
      reader.run(async (db) => {
        const row = await byKey.first(db, { scope, key });
        return row && { transfer: transferOf(row), requestHash: row.request_hash };
      }),

    retry: (id) =>
      writer.run(async (db) => {
        const row = await statements.byId.first(db, { id });
        if (!row) return undefined;
        if (row.state !== 'failed' && row.state !== 'cancelled') return 'not-failed';
        const nowMs = now();
        return bytesAreGone(row, nowMs) ? 'bytes-gone' : acceptAgain(db, statements, claims, row, nowMs);
      }),

    takeSlot: async ({ id, kind, to, owner, deadlineMs }) => {
      const target = { ...to, tree: kind === 'delete' };
      // The usual case costs a read: what is accepted from now on overlaps with the request in time, and has no
      // order with it.
      if (!(await reader.run((db) => targets.isWanted(db, target)))) return 'free';
      return writer.run(async (db) => {
        if (!(await targets.isWanted(db, target))) return 'free';
        if (await targets.isOccupied(db, target)) return 'occupied';
        const nowMs = now();
        const event = await statements.addEvent.first(db, { id, state: 'publishing', nowMs });
        const wish = { onExists: 'replace', priority: 100, labels: {} } as const;
        await statements.addTransfer(db, {
          ...acceptedRow(
            { id, kind, to, owner, tree: target.tree, ...wish },
            { seq: event!.seq, nowMs, stagedUntilMs: undefined },
          ),
          state: 'publishing',
          synchronous: 1,
          started_ms: nowMs,
          deadline_ms: deadlineMs,
        });
        return { id, epoch: 1 };
      });
    },
  };
}

/** An upload's bytes came with the request, and the request is over. */
function bytesAreGone(row: TransferRow, nowMs: number): boolean {
  if (row.synchronous === 1) return true;
  if (row.kind !== 'upload' || row.from_store !== null) return false;
  return row.staged_until_ms === null || row.staged_until_ms <= nowMs;
}

/** As new, in a new place of the order. */
async function acceptAgain(db: Db, statements: Statements, claims: Claims, row: TransferRow, nowMs: number) {
  const { id } = row;
  // those that it has left are of its old place in the order
  await claims.releaseAll(db, row);
  const event = await statements.addEvent.first(db, { id, state: 'accepted', nowMs });
  const again = {
    seq: event!.seq,
    state: 'accepted',
    epoch: row.epoch + 1,
    attempts: 0,
    starts: 0,
    deadline_ms: row.deadline_ms !== null && row.deadline_ms > nowMs ? row.deadline_ms : null,
    accepted_ms: nowMs,
    queued_ms: nowMs,
    started_ms: null,
    ended_ms: null,
    failure_kind: null,
    failure_message: null,
    result: null,
    outcome: null,
  } as const;
  await db
    .updateTable('transfers')
    .set(again)
    .where('id', '=', id)
    .where('epoch', '=', row.epoch)
    .where('state', '=', row.state)
    .execute();
  await db.updateTable('transfer_labels').set({ seq: again.seq }).where('transfer_id', '=', id).execute();
  if (row.to_tree === 1)
    await reopenPages(db, id, row.staged_until_ms !== null && row.staged_until_ms > nowMs);
  return transferOf({ ...row, ...again });
}
