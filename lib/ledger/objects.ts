import type { StorePath } from '../path.ts';
import type { Objects } from './contract.ts';
import type { Core } from './core.ts';
import type { Db } from './engine.ts';
import { prepare } from './prepared.ts';
import type { ObjectTable } from './schema.ts';
import type { Place } from './transfer.ts';

/** Rows that one unit of the writer removes. */
const FORGET_UNIT = 500;

export function objects({ reader, writer, build }: Core): Objects {
  const upsert = prepare<ObjectTable>()((p) => {
    const { etag, size, sha256 } = p;
    return build
      .insertInto('objects')
      .values({ store: p.store, path: p.path, etag, size, sha256 })
      .onConflict((conflict) => conflict.columns(['store', 'path']).doUpdateSet({ etag, size, sha256 }));
  });
  const find = prepare<Pick<ObjectTable, 'store' | 'path' | 'etag'>>()((p) =>
    build
      .selectFrom('objects')
      .select('sha256')
      .where('store', '=', p.store)
      .where('path', '=', p.path)
      .where('etag', '=', p.etag),
  );

  return {
    record: ({ store, path }, { etag, size, sha256 }) =>
      writer.run(async (db) => {
        await upsert.all(db, { store, path, etag, size, sha256 });
      }),
    digest: ({ store, path }, etag) =>
      reader.run(async (db) => (await find.first(db, { store, path, etag }))?.sha256),
    forget: async (place) => {
      await writer.run((db) =>
        db.deleteFrom('objects').where('store', '=', place.store).where('path', '=', place.path).execute(),
      );
      for (let gone = FORGET_UNIT; gone === FORGET_UNIT; )
        gone = await writer.run((db) => forgetBelow(db, place));
    },
  };
}

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
