/**
 * Who else is on a target. Two overlap when their paths are the same, or when one of them is a tree (a synchronous DELETE)
 * and the other's path lies below it.
 */
import { sql } from 'kysely';
import { parentOf, ROOT, type StorePath } from '../path.ts';
import type { Db } from './engine.ts';
import { type Prepared, prepare } from './prepared.ts';
import { UNENDED_STATES } from './statements.ts';
import type { Place } from './transfer.ts';

export interface Target extends Place {
  readonly tree: boolean;
}

/** `above0`, `above1` … are the directories that hold the path. */
type Values = {
  readonly store: string;
  readonly path: StorePath;
  readonly [above: `above${number}`]: StorePath;
  /** All that lies below the path: names from `low` to before `high`. */
  readonly low: StorePath;
  readonly high: StorePath;
  readonly id: string;
  readonly seq: number;
};
type Finder = Prepared<Values, { id: string }>;
type Which = 'publishing' | 'unended' | 'succeeded-later';

export class Targets {
  readonly #build: Db;
  /** By what is looked for and how many directories the path has. */
  readonly #finders = new Map<string, Finder>();

  constructor(build: Db) {
    this.#build = build;
  }

  /** Whether another transfer than `id` is publishing on an overlapping target. */
  isOccupied(db: Db, target: Target, id: string): Promise<boolean> {
    return this.#overlaps(db, 'publishing', target, { id, seq: 0 });
  }

  isWanted(db: Db, target: Target): Promise<boolean> {
    return this.#overlaps(db, 'unended', target, { id: '', seq: 0 });
  }

  /** Whether one accepted after `seq` has succeeded at the path, or removed a tree that the path is in. Not for trees. */
  isSuperseded(db: Db, place: Place, seq: number): Promise<boolean> {
    return this.#overlaps(db, 'succeeded-later', { ...place, tree: false }, { id: '', seq });
  }

  async #overlaps(db: Db, which: Which, target: Target, than: Pick<Values, 'id' | 'seq'>): Promise<boolean> {
    const { store, path } = target;
    const above = directoriesOf(path);
    const values: Values = {
      store,
      path,
      ...belowOf(path),
      ...than,
      ...Object.fromEntries(above.map((directory, at) => [`above${at}`, directory])),
    };
    if (await this.#atOrAbove(which, above.length).first(db, values)) return true;
    return target.tree && (await this.#below(which).first(db, values)) !== undefined;
  }

  #atOrAbove(which: Which, depth: number): Finder {
    return this.#kept(`${which} ${depth}`, () =>
      prepare<Values>()((p) => {
        const above = Array.from({ length: depth }, (_, at) => p[`above${at}`]!);
        return this.#rows(which, p)
          .where('to_path', 'in', [p.path, ...above])
          .where((eb) => eb.or([eb('to_path', '=', p.path), eb('to_tree', '=', 1)]));
      }),
    );
  }

  #below(which: Which): Finder {
    return this.#kept(`${which} below`, () =>
      prepare<Values>()((p) =>
        this.#rows(which, p).where('to_path', '>', p.low).where('to_path', '<', p.high),
      ),
    );
  }

  #rows(which: Which, p: Values) {
    const rows = this.#build.selectFrom('transfers').select('id').where('to_store', '=', p.store).limit(1);
    switch (which) {
      case 'publishing':
        return rows.where('state', '=', sql.lit('publishing')).where('id', '<>', p.id);
      case 'unended':
        return rows.where('state', 'in', UNENDED_STATES);
      case 'succeeded-later':
        return rows.where('state', '=', 'succeeded').where('seq', '>', p.seq);
    }
  }

  #kept(name: string, make: () => Finder): Finder {
    let finder = this.#finders.get(name);
    if (!finder) this.#finders.set(name, (finder = make()));
    return finder;
  }
}

/** `0` is the character after `/`; the root's names end before the last one of Unicode. */
function belowOf(path: StorePath): Pick<Values, 'low' | 'high'> {
  const [low, high] = path === '' ? ['', '\u{10ffff}'] : [`${path}/`, `${path}0`];
  return { low: low as StorePath, high: high as StorePath };
}

/** Every directory that holds it, the root last; none for the root. */
function directoriesOf(path: StorePath): StorePath[] {
  const above: StorePath[] = [];
  for (let at = path; at !== ROOT; ) above.push((at = parentOf(at)));
  return above;
}
