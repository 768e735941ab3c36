import type { Selectable } from 'kysely';
import { z } from 'zod';
import type { OpenUpload, PartedUpload, Uploads } from './contract.ts';
import type { Core } from './core.ts';
import type { Db } from './engine.ts';
import { newTransferId } from './ids.ts';
import type { UploadTable } from './schema.ts';

/** Ids in one query. */
const CHUNK = 500;

type Row = Selectable<UploadTable>;
const NAMES = z.array(z.string());
/** What only parted ones have. */
type Parts = Pick<
  Row,
  'transfer_id' | 'size' | 'part_bytes' | 'from_store' | 'from_path' | 'from_etag' | 'not_kept'
>;

const IN_ONE: Parts = {
  transfer_id: null,
  size: null,
  part_bytes: null,
  from_store: null,
  from_path: null,
  from_etag: null,
  not_kept: null,
};

export function uploads({ reader, writer, now }: Core): Uploads {
  const intended = (place: OpenUpload['place'], owner: string, parts: Parts): Row => ({
    id: newTransferId(),
    ...place,
    owner,
    upload_id: null,
    intended_ms: now(),
    ...parts,
  });

  return {
    intend: ({ store, path }, owner) => {
      const row = intended({ store, path }, owner, IN_ONE);
      return writer.run(async (db) => {
        await db.insertInto('uploads').values(row).execute();
        return row.id;
      });
    },
    begun: (id, uploadId, notKept = []) =>
      writer.run(async (db) => {
        const { numUpdatedRows } = await db
          .updateTable('uploads')
          .set({
            upload_id: uploadId,
            not_kept: notKept.length === 0 ? null : JSON.stringify(notKept),
          })
          .where('id', '=', id)
          .where('upload_id', 'is', null)
          .executeTakeFirst();
        return numUpdatedRows > 0n;
      }),
    ended: (id) =>
      writer.run(async (db) => {
        await db.deleteFrom('uploads').where('id', '=', id).execute();
      }),
    named: (uploadIds) =>
      reader.run(async (db) => {
        const found = new Set<string>();
        for (let at = 0; at < uploadIds.length; at += CHUNK) {
          const rows = await named(db, uploadIds.slice(at, at + CHUNK)).execute();
          for (const { upload_id: id } of rows) if (id !== null) found.add(id);
        }
        return found;
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
        return rows.map(openOf);
      }),

    ensureParted: async ({ place: { store, path }, owner, size, partBytes, from }) => {
      const there = await reader.run((db) => ofOwner(db, owner).executeTakeFirst());
      if (there) return partedOf(there);
      const row = intended({ store, path }, owner, {
        transfer_id: owner.split('.')[0]!,
        size,
        part_bytes: partBytes,
        from_store: from?.store ?? null,
        from_path: from?.path ?? null,
        from_etag: from?.etag ?? null,
        not_kept: null,
      });
      return writer.run(async (db) => {
        const first = await ofOwner(db, owner).executeTakeFirst();
        if (!first) await db.insertInto('uploads').values(row).execute();
        return partedOf(first ?? row);
      });
    },
    parted: (id) =>
      reader.run(async (db) => {
        const row = await parted(db).where('id', '=', id).executeTakeFirst();
        return row && partedOf(row);
      }),
    partedOf: (transfer) =>
      reader.run(async (db) => {
        const rows = await ofTransfer(db, transfer).execute();
        return rows.map(partedOf);
      }),
    partedOfEnded: (limit) =>
      reader.run(async (db) => (await partedOfEnded(db, limit).execute()).map(partedOf)),
  };
}

const parted = (db: Db) => db.selectFrom('uploads').selectAll().where('transfer_id', 'is not', null);
export const ofOwner = (db: Db, owner: string) => parted(db).where('owner', '=', owner);
export const ofTransfer = (db: Db, transfer: string) => parted(db).where('transfer_id', '=', transfer);

export const named = (db: Db, uploadIds: readonly string[]) =>
  db.selectFrom('uploads').select('upload_id').where('upload_id', 'in', uploadIds);

export const partedOfEnded = (db: Db, limit: number) =>
  db
    .selectFrom('uploads')
    .leftJoin('transfers', 'transfers.id', 'uploads.transfer_id')
    .selectAll('uploads')
    .where('transfer_id', 'is not', null)
    .where((eb) => eb.or([eb('transfers.id', 'is', null), eb('transfers.ended_ms', 'is not', null)]))
    .limit(limit);

const openOf = ({ id, store, path, owner, intended_ms, upload_id, transfer_id }: Row): OpenUpload => ({
  id,
  place: { store, path },
  owner,
  intendedMs: intended_ms,
  uploadId: upload_id ?? undefined,
  transfer: transfer_id ?? undefined,
});

/** `ensureParted` writes all that this reads. */
function partedOf(row: Row): PartedUpload {
  const { from_store: store, from_path: path, from_etag: etag } = row;
  return {
    ...openOf(row),
    transfer: row.transfer_id!,
    size: row.size!,
    partBytes: row.part_bytes!,
    notKept: row.not_kept === null ? [] : NAMES.parse(JSON.parse(row.not_kept)),
    from: store === null || path === null || etag === null ? undefined : { store, path, etag },
  };
}
