/**
 * Who else is on a target. Two overlap when their paths are the same, or when one of them is a tree and the other's
 * path lies below it. A tree that brings files takes its turns file by file, and claims each path meanwhile; one that
 * is removed in a synchronous request takes all of it at once.
 *
 * SQLite picks an index by rough guesses: each query here leaves it one that fits, so that neither a path that was
 * written a hundred thousand times nor a store full of history costs anything.
 */
import { sql } from 'kysely';
import { parentOf, ROOT, type StorePath } from '../path.ts';
import type { Db } from './engine.ts';
import { type Prepared, prepare } from './prepared.ts';
import type { TransferRow } from './rows.ts';
import type { Place, TransferState } from './transfer.ts';

export interface Target extends Place {
  readonly tree: boolean;
}

type Seq = { readonly seq: number };
type Tree = Pick<TransferRow, 'to_store' | 'state'>;
type Below = Place & { readonly low: StorePath; readonly high: StorePath };
/** `at0`, `at1` … are the path and the directories that hold it. */
type AtOrAbove = { readonly [at: `at${number}`]: StorePath };
type Trees = Prepared<AtOrAbove & Seq, Tree>;

/** What was accepted at any time. */
const EVER = Number.MAX_SAFE_INTEGER;

export class Targets {
  readonly #build: Db;
  readonly #at: Queries<Place & Seq>;
  readonly #landedLater: Prepared<Place & Seq, { id: string }>;
  readonly #below: Queries<Below & Seq>;
  /** By how many directories the path has. */
  readonly #trees = new Map<number, { readonly unended: Trees; readonly standing: Trees }>();

  constructor(build: Db) {
    this.#build = build;
    this.#at = queriesAt(build);
    this.#below = queriesBelow(build);
    this.#landedLater = prepare<Place & Seq>()((p) =>
      landedLater(build, p.seq).select('id').where('to_store', '=', p.store).where('to_path', '=', p.path),
    );
  }

  /** What a running transfer, accepted as `seq`, finds where it would publish. */
  async turnAt(db: Db, target: Target, seq: number): Promise<'free' | 'occupied' | 'superseded'> {
    const trees = await this.#treesAt(db, target, 'standing', seq);
    if (await this.#isTaken(db, target, trees, seq)) return 'occupied';
    if (trees.some((tree) => tree.state === 'succeeded')) return 'superseded';
    return (await this.#landedLater.first(db, { ...target, seq })) ? 'superseded' : 'free';
  }

  /** Whether a transfer is publishing on an overlapping target. */
  async isOccupied(db: Db, target: Target): Promise<boolean> {
    return this.#isTaken(db, target, await this.#treesAt(db, target, 'unended', EVER));
  }

  /**
   * Whether a transfer that has not ended, accepted before `seq` where that is given, has an overlapping target; without
   * `seq` also whether a file of one that was ended from outside may still be on its way there.
   */
  async isWanted(db: Db, target: Target, seq = EVER): Promise<boolean> {
    if (await this.#at.unended.first(db, { ...target, seq })) return true;
    if ((await this.#treesAt(db, target, 'unended', seq)).length > 0) return true;
    if (target.tree && (await this.#below.unended.first(db, { ...belowOf(target), seq }))) return true;
    return seq === EVER && this.#isClaimed(db, target, seq);
  }

  /** By another than `seq`. @param trees at or above the target */
  async #isTaken(db: Db, target: Target, trees: readonly Tree[], seq = 0): Promise<boolean> {
    if (trees.some((tree) => tree.state === 'publishing')) return true;
    if (await this.#at.publishing.first(db, { ...target, seq })) return true;
    if (target.tree && (await this.#below.publishing.first(db, { ...belowOf(target), seq }))) return true;
    return this.#isClaimed(db, target, seq);
  }

  async #isClaimed(db: Db, target: Target, seq: number): Promise<boolean> {
    if (await this.#at.claimed.first(db, { ...target, seq })) return true;
    return target.tree && (await this.#below.claimed.first(db, { ...belowOf(target), seq })) !== undefined;
  }

  /**
   * At or above a place. `unended`: accepted before `seq`; `standing`: all that are unended, and those that were removed
   * whole and accepted after `seq`.
   */
  async #treesAt(db: Db, { store, path }: Place, which: 'unended' | 'standing', seq: number) {
    const at = [path, ...directoriesOf(path)];
    const values: AtOrAbove = Object.fromEntries(at.map((one, n) => [`at${n}`, one]));
    const trees = await this.#queriesOf(at.length)[which].all(db, { ...values, seq });
    return trees.filter((tree) => tree.to_store === store);
  }

  #queriesOf(count: number) {
    const known = this.#trees.get(count);
    if (known) return known;
    const names = Array.from({ length: count }, (_, n) => `at${n}` as const);
    const columns = ['to_store', 'state'] as const;
    const atOrAbove = (p: AtOrAbove) => names.map((name) => p[name]!);
    const unended = (p: AtOrAbove) =>
      this.#build
        .selectFrom('transfers')
        .select(columns)
        .where('to_tree', '=', sql.lit(1))
        .where('ended_ms', 'is', null)
        .where('to_path', 'in', atOrAbove(p));
    const made = {
      unended: prepare<AtOrAbove & Seq>()((p) => unended(p).where('seq', '<', p.seq)),
      standing: prepare<AtOrAbove & Seq>()((p) =>
        unended(p).unionAll(
          removedLater(this.#build, p.seq).select(columns).where('to_path', 'in', atOrAbove(p)),
        ),
      ),
    };
    this.#trees.set(count, made);
    return made;
  }
}

interface Queries<P extends object> {
  readonly publishing: Prepared<P, { id: string }>;
  /** Accepted before `seq`. */
  readonly unended: Prepared<P, { id: string }>;
  /** By another than `seq`. */
  readonly claimed: Prepared<P, { seq: number }>;
}

// A literal: with a parameter SQLite would not see that the index of those who publish has it.
export const PUBLISHING = sql.lit<TransferState>('publishing');

function queriesAt(build: Db): Queries<Place & Seq> {
  const exactly = (p: Place) =>
    build
      .selectFrom('transfers')
      .select('id')
      .where('to_store', '=', p.store)
      .where('to_path', '=', p.path)
      .limit(1);
  return {
    publishing: prepare<Place & Seq>()((p) => exactly(p).where('state', '=', PUBLISHING)),
    unended: prepare<Place & Seq>()((p) => exactly(p).where('ended_ms', 'is', null).where('seq', '<', p.seq)),
    claimed: prepare<Place & Seq>()((p) =>
      build
        .selectFrom('tree_claims')
        .select('seq')
        .where('store', '=', p.store)
        .where('path', '=', p.path)
        .where('seq', '<>', p.seq),
    ),
  };
}

function queriesBelow(build: Db): Queries<Below & Seq> {
  const below = (p: Below) =>
    build
      .selectFrom('transfers')
      .select('id')
      .where('to_store', '=', p.store)
      .where('to_path', '>', p.low)
      .where('to_path', '<', p.high)
      .limit(1);
  return {
    publishing: prepare<Below & Seq>()((p) => below(p).where('state', '=', PUBLISHING)),
    unended: prepare<Below & Seq>()((p) => below(p).where('ended_ms', 'is', null).where('seq', '<', p.seq)),
    claimed: prepare<Below & Seq>()((p) =>
      build
        .selectFrom('tree_claims')
        .select('seq')
        .where('store', '=', p.store)
        .where('path', '>', p.low)
        .where('path', '<', p.high)
        .where('seq', '<>', p.seq)
        .limit(1),
    ),
  };
}

/**
 * What stands for something newer than `seq` at exactly its path. What `skip` left as it was does not; what
 * `skip-if-same` did is what it would have written. A tree that brought files did so below its path.
 */
export const landedLater = (build: Db, seq: number) =>
  build
    .selectFrom('transfers')
    .where('seq', '>', seq)
    .where('outcome', 'is not', null)
    .where((eb) => eb.or([eb('to_tree', '=', 0), eb('outcome', '=', 'removed')]))
    .where((eb) => eb.or([eb('on_exists', '<>', 'skip'), eb('outcome', '<>', 'skipped')]));

/** Trees that were removed whole, accepted after `seq`. */
export const removedLater = (build: Db, seq: number) =>
  build
    .selectFrom('transfers')
    .where('to_tree', '=', sql.lit(1))
    .where('outcome', '=', sql.lit('removed'))
    .where('seq', '>', seq);

/** `0` is the character after `/`; the names in the root end before the last one of Unicode. */
function belowOf({ store, path }: Place): Below {
  const [low, high] = path === ROOT ? ['', '\u{10ffff}'] : [`${path}/`, `${path}0`];
  return { store, path, low: low as StorePath, high: high as StorePath };
}

/** Every directory that holds it, the root last; none for the root. */
export function directoriesOf(path: StorePath): StorePath[] {
  const above: StorePath[] = [];
  for (let at = path; at !== ROOT; ) above.push((at = parentOf(at)));
  return above;
}
