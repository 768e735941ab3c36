import type { Events } from './contract.ts';
import type { Core } from './core.ts';

export function events({ reader }: Core): Events {
  return {
    after: (seq, limit, transferId) =>
      reader.run(async (db) => {
        let query = db.selectFrom('events').selectAll().where('seq', '>', seq).orderBy('seq').limit(limit);
        if (transferId !== undefined) query = query.where('transfer_id', '=', transferId);
        const rows = await query.execute();
        return rows.map((row) => ({
          seq: row.seq,
          transferId: row.transfer_id,
          state: row.state,
          atMs: row.at_ms,
        }));
      }),
    last: () =>
      reader.run(async (db) => {
        const row = await db
          .selectFrom('events')
          .select('seq')
          .orderBy('seq', 'desc')
          .limit(1)
          .executeTakeFirst();
        return row?.seq ?? 0;
      }),
  };
}
