/** What gc asks of transfers: staged bytes whose time is over, and history that nobody needs any more. */
import type { Transfers } from './contract.ts';
import type { Core } from './core.ts';
import type { Db } from './engine.ts';
import { prepare } from './prepared.ts';
import { transferOf } from './rows.ts';

type Collection = Pick<
  Transfers,
  | 'extendStaged'
  | 'expiredStaged'
  | 'freeStaged'
  | 'stagedGone'
  | 'holdingStaged'
  | 'forgetHistory'
  | 'forgettable'
>;

/** Idempotency keys are kept at least so long, and their transfers with them. */
const KEYS_MS = 24 * 3600 * 1000;
/** Ids in one query; transfers forgotten in one unit of the writer. */
const CHUNK = 500;
const FORGET_UNIT = 50;
const ANY_MS = Number.MAX_SAFE_INTEGER;

export function collection({ reader, writer, build, now }: Core): Collection {
  const free = prepare<{ id: string; expiredAtMs: number }>()((p) =>
    build
      .updateTable('transfers')
      .set({ staged_until_ms: null, staged_bytes: 0 })
      .where('id', '=', p.id)
      .where('ended_ms', 'is not', null)
      .where('staged_until_ms', '<=', p.expiredAtMs),
  );
  const forgettableBefore = (beforeMs: number): number => Math.min(beforeMs, now() - KEYS_MS);

  return {
    extendStaged: (id, untilMs) =>
      writer.run(async (db) => {
        const row = await db
          .selectFrom('transfers')
          .select('staged_until_ms')
          .where('id', '=', id)
          .executeTakeFirst();
        if (!row || row.staged_until_ms === null) return false;
        if (row.staged_until_ms < untilMs)
          await db.updateTable('transfers').set({ staged_until_ms: untilMs }).where('id', '=', id).execute();
        return true;
      }),

    expiredStaged: (nowMs, limit) =>
      reader.run(async (db) => {
        const rows = await expired(db, nowMs, limit).execute();
        return rows.map(transferOf);
      }),

    freeStaged: (id, expiredAtMs = ANY_MS) =>
      writer.run(async (db) => (await free.changes(db, { id, expiredAtMs })) > 0),

    stagedGone: (ids) =>
      writer.run(async (db) => {
        for (const id of ids) await free.all(db, { id, expiredAtMs: ANY_MS });
      }),

    holdingStaged: (ids) =>
      reader.run(async (db) => {
        const holding = new Set<string>();
        for (let at = 0; at < ids.length; at += CHUNK) {
          const rows = await db
            .selectFrom('transfers')
            .select('id')
            .where('id', 'in', ids.slice(at, at + CHUNK))
            .where((eb) => eb.or([eb('staged_until_ms', 'is not', null), eb('ended_ms', 'is', null)]))
            .execute();
          for (const { id } of rows) holding.add(id);
        }
        return holding;
      }),

    forgetHistory: async (beforeMs, limit) => {
      const before = forgettableBefore(beforeMs);
      let gone = 0;
      for (let some = FORGET_UNIT; gone < limit && some === FORGET_UNIT; gone += some)
        some = await writer.run((db) => forget(db, before, Math.min(FORGET_UNIT, limit - gone)));
      return gone;
    },

    forgettable: (beforeMs, limit) =>
      reader.run(async (db) => (await ended(db, forgettableBefore(beforeMs), limit).execute()).length),
  };
}

export const expired = (db: Db, nowMs: number, limit: number) =>
  db
    .selectFrom('transfers')
    .selectAll()
    .where('staged_until_ms', '<=', nowMs)
    .where('ended_ms', 'is not', null)
    .orderBy('staged_until_ms')
    .limit(limit);

export const ended = (db: Db, beforeMs: number, limit: number) =>
  db
    .selectFrom('transfers')
    .select('id')
    .where('ended_ms', '<', beforeMs)
    .where('staged_until_ms', 'is', null)
    .orderBy('ended_ms')
    .limit(limit);

/** Attempts, labels and keys go with their transfer by themselves. */
async function forget(db: Db, beforeMs: number, limit: number): Promise<number> {
  const ids = (await ended(db, beforeMs, limit).execute()).map((row) => row.id);
  if (ids.length === 0) return 0;
  await db.deleteFrom('events').where('transfer_id', 'in', ids).execute();
  await db.deleteFrom('transfers').where('id', 'in', ids).execute();
  return ids.length;
}
