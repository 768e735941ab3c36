import type { Uploads } from './contract.ts';
import type { Core } from './core.ts';
import { newTransferId } from './ids.ts';

export function uploads({ reader, writer, now }: Core): Uploads {
  return {
    intend: ({ store, path }, owner) => {
      const id = newTransferId();
      return writer.run(async (db) => {
        await db
          .insertInto('uploads')
          .values({ id, store, path, owner, upload_id: null, intended_ms: now() })
          .execute();
        return id;
      });
    },
    begun: (id, uploadId) =>
      writer.run(async (db) => {
        const { numUpdatedRows } = await db
          .updateTable('uploads')
          .set({ upload_id: uploadId })
          .where('id', '=', id)
          .where('upload_id', 'is', null)
          .executeTakeFirst();
        return numUpdatedRows > 0n;
      }),
    ended: (id) =>
      writer.run(async (db) => {
        await db.deleteFrom('uploads').where('id', '=', id).execute();
      }),
    open: (intendedBeforeMs, limit) =>
      reader.run(async (db) => {
        const rows = await db
          .selectFrom('uploads')
          .selectAll()
          .where('intended_ms', '<', intendedBeforeMs)
          .orderBy('intended_ms')
          .limit(limit)
          .execute();
        return rows.map(({ id, store, path, owner, upload_id, intended_ms }) => ({
          id,
          place: { store, path },
          owner,
          intendedMs: intended_ms,
          uploadId: upload_id ?? undefined,
        }));
      }),
  };
}
