/**
 * Who else is on a target. Two overlap when their paths are the same, or when one of them is a tree (a synchronous
 * DELETE) and the other's path lies below it.
 *
 * SQLite picks an index by rough guesses: each query here leaves it one that fits, so that neither a path that was
 * written a hundred thousand times nor a store full of history costs anything.
 */
import { sql } from 'kysely';
import { parentOf, ROOT, type StorePath } from '../path.ts';
import type { Db } from './engine.ts';
import { type Prepared, prepare } from './prepared.ts';
import type { TransferRow } from './rows.ts';
import { isUnended } from './statements.ts';
import type { Place, TransferState } from './transfer.ts';

export interface Target extends Place {
  readonly tree: boolean;
}

type Tree = Pick<TransferRow, 'to_store' | 'state' | 'seq'>;
type Below = Place & { readonly low: StorePath; readonly high: StorePath };
/** `above0`, `above1` … are the directories that hold the path. */
type Above = { readonly [above: `above${number}`]: StorePath };

export class Targets {
  readonly #build: Db;
  readonly #at: {
    readonly publishing: Prepared<Place, { id: string }>;
    readonly unended: Prepared<Place, { id: string }>;
    readonly landedLater: Prepared<Place & { seq: number }, { id: string }>;
  };
  readonly #below: {
    readonly publishing: Prepared<Below, { id: string }>;
    readonly unended: Prepared<Below, { id: string }>;
  };
  /** By how many directories the path has. */
  readonly #trees = new Map<number, Prepared<Above, Tree>>();

  constructor(build: Db) {
    this.#build = build;
    const inStore = (p: Place) =>
      build.selectFrom('transfers').select('id').where('to_store', '=', p.store).limit(1);
    const exactly = (p: Place) => inStore(p).where('to_path', '=', p.path);
    const below = (p: Below) => inStore(p).where('to_path', '>', p.low).where('to_path', '<', p.high);
    // A literal: with a parameter SQLite would not see that the index of those who publish has it.
    const publishing = sql.lit<TransferState>('publishing');
    this.#at = {
      publishing: prepare<Place>()((p) => exactly(p).where('state', '=', publishing)),
      unended: prepare<Place>()((p) => exactly(p).where('ended_ms', 'is', null)),
      // What `skip` left as it was stands for nothing newer; what `skip-if-same` did is what it would have written.
      landedLater: prepare<Place & { seq: number }>()((p) =>
        exactly(p)
          .where('seq', '>', p.seq)
          .where('outcome', 'is not', null)
          .where((eb) => eb.or([eb('on_exists', '<>', 'skip'), eb('outcome', '<>', 'skipped')])),
      ),
    };
    this.#below = {
      publishing: prepare<Below>()((p) => below(p).where('state', '=', publishing)),
      unended: prepare<Below>()((p) => below(p).where('ended_ms', 'is', null)),
    };
  }

  /** What a running transfer, accepted as `seq`, finds at the path that it would publish at. */
  async turnAt(db: Db, place: Place, seq: number): Promise<'free' | 'occupied' | 'superseded'> {
    const trees = await this.#treesAbove(db, place);
    if (trees.some((tree) => tree.state === 'publishing')) return 'occupied';
    if (await this.#at.publishing.first(db, place)) return 'occupied';
    if (trees.some((tree) => tree.state === 'succeeded' && tree.seq > seq)) return 'superseded';
    return (await this.#at.landedLater.first(db, { ...place, seq })) ? 'superseded' : 'free';
  }

  /** Whether a transfer is publishing on an overlapping target. */
  async isOccupied(db: Db, target: Target): Promise<boolean> {
    if (await this.#at.publishing.first(db, target)) return true;
    if ((await this.#treesAbove(db, target)).some((tree) => tree.state === 'publishing')) return true;
    return target.tree && (await this.#below.publishing.first(db, belowOf(target))) !== undefined;
  }

  /** Whether a transfer that has not ended has an overlapping target. */
  async isWanted(db: Db, target: Target): Promise<boolean> {
    if (await this.#at.unended.first(db, target)) return true;
    if ((await this.#treesAbove(db, target)).some((tree) => isUnended(tree.state))) return true;
    return target.tree && (await this.#below.unended.first(db, belowOf(target))) !== undefined;
  }

  /** There are few trees: their stores and states are looked at here. */
  async #treesAbove(db: Db, { store, path }: Place): Promise<Tree[]> {
    const above = directoriesOf(path);
    if (above.length === 0) return [];
    const values: Above = Object.fromEntries(above.map((directory, at) => [`above${at}`, directory]));
    const trees = await this.#treesAt(above.length).all(db, values);
    return trees.filter((tree) => tree.to_store === store);
  }

  #treesAt(depth: number): Prepared<Above, Tree> {
    const known = this.#trees.get(depth);
    if (known) return known;
    const made = prepare<Above>()((p) =>
      this.#build
        .selectFrom('transfers')
        .select(['to_store', 'state', 'seq'])
        .where('to_tree', '=', sql.lit(1))
        .where(
          'to_path',
          'in',
          Array.from({ length: depth }, (_, at) => p[`above${at}`]!),
        ),
    );
    this.#trees.set(depth, made);
    return made;
  }
}

/** `0` is the character after `/`; the names in the root end before the last one of Unicode. */
function belowOf({ store, path }: Place): Below {
  const [low, high] = path === ROOT ? ['', '\u{10ffff}'] : [`${path}/`, `${path}0`];
  return { store, path, low: low as StorePath, high: high as StorePath };
}

/** Every directory that holds it, the root last; none for the root. */
function directoriesOf(path: StorePath): StorePath[] {
  const above: StorePath[] = [];
  for (let at = path; at !== ROOT; ) above.push((at = parentOf(at)));
  return above;
}
