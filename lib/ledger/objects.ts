import type { Selectable } from 'kysely';
import type { StorePath } from '../path.ts';
import { allOf, chunks, type Some } from './chunks.ts';
import type { KnownDigests, ObjectFacts, Objects } from './contract.ts';
import type { Core } from './core.ts';
import type { Db } from './engine.ts';
import { prepare } from './prepared.ts';
import type { ObjectTable } from './schema.ts';
import type { Place } from './transfer.ts';

/** Rows that one unit of the writer removes. */
const FORGET_UNIT = 500;

/** Writes down what is known of an object, within a unit of the writer. */
export type Recording = (db: Db, place: Place, object: ObjectFacts) => Promise<void>;

export function recording(build: Db): Recording {
  const upsert = prepare<ObjectTable>()((p) => {
    const { etag, sha256, crc32 } = p;
    return build
      .insertInto('objects')
      .values({ store: p.store, path: p.path, etag, sha256, crc32 })
      .onConflict((conflict) => conflict.columns(['store', 'path']).doUpdateSet({ etag, sha256, crc32 }));
  });
  return async (db, { store, path }, { etag, size, sha256, crc32 }) => {
    if (size === 0) return; // a row of an older version never matches this one's etag
    const bytes = sha256 === undefined ? null : Buffer.from(sha256, 'hex');
    await upsert.all(db, { store, path, etag, sha256: bytes, crc32: crc32 ?? null });
  };
}

export function objects({ reader, writer, build }: Core, record: Recording): Objects {
  const find = prepare<Pick<ObjectTable, 'store' | 'path' | 'etag'>>()((p) =>
    build
      .selectFrom('objects')
      .select(['sha256', 'crc32'])
      .where('store', '=', p.store)
      .where('path', '=', p.path)
      .where('etag', '=', p.etag),
  );
  const findAll = prepare<{ store: string } & Some>()((p) =>
    build
      .selectFrom('objects')
      .select(['path', 'etag', 'sha256', 'crc32'])
      .where('store', '=', p.store)
      .where('path', 'in', allOf(p)),
  );

  return {
    record: async (place, object) => {
      if (object.size > 0) await writer.run((db) => record(db, place, object));
    },
    known: async ({ store, path }, etag) => {
      const row = await reader.run((db) => find.first(db, { store, path, etag }));
      return row && knownOf(row);
    },
    knownOf: async (store, versions) => {
      const found = new Map<StorePath, Selectable<ObjectTable>>();
      for (const some of chunks(versions.map(({ path }) => path)))
        for (const row of await reader.run((db) => findAll.all(db, { store, ...some })))
          found.set(row.path, { store, ...row });
      return versions.map(({ path, etag }) => {
        const row = found.get(path);
        return row?.etag === etag ? knownOf(row) : undefined;
      });
    },
    forget: async (place) => {
      await writer.run((db) =>
        db.deleteFrom('objects').where('store', '=', place.store).where('path', '=', place.path).execute(),
      );
      for (let gone = FORGET_UNIT; gone === FORGET_UNIT; )
        gone = await writer.run((db) => forgetBelow(db, place));
    },
  };
}

const knownOf = ({ sha256, crc32 }: Pick<Selectable<ObjectTable>, 'sha256' | 'crc32'>): KnownDigests => ({
  ...(sha256 && { sha256: Buffer.from(sha256).toString('hex') }),
  ...(crc32 !== null && { crc32 }),
});

async function forgetBelow(db: Db, { store, path }: Place): Promise<number> {
  let below = db.selectFrom('objects').select('path').where('store', '=', store).limit(FORGET_UNIT);
  // `0` is the character after `/`.
  if (path !== '')
    below = below.where('path', '>', `${path}/` as StorePath).where('path', '<', `${path}0` as StorePath);
  const paths = (await below.execute()).map((row) => row.path);
  if (paths.length > 0)
    await db.deleteFrom('objects').where('store', '=', store).where('path', 'in', paths).execute();
  return paths.length;
}
