/**
 * What nobody needs any more. Each task works in bounded pages and asks the ledger again before it removes something,
 * so that it may run at any time, in several processes, and be cut off anywhere. It removes only what a row of the ledger
 * names, or what proves by its name that this installation made it: how a name begins, and when something was made, is
 * no proof.
 */
import { throwIfAborted } from '../deadline.ts';
import { failureOf } from '../errors.ts';
import type { OpenUpload } from '../ledger/contract.ts';
import { hasEnded, type Transfer } from '../ledger/transfer.ts';
import type { Store } from '../stores/store.ts';
import { findStore, type TransferDeps } from './deps.ts';
import { type UnprovenUploads, unprovenUploads } from './gc-unproven.ts';
import type { StagedFile } from './staging.ts';
import { ownerOf } from './tree-pages.ts';

/** Files and uploads that nobody touched for this long belong to no process that still works on them. */
const UNTOUCHED_MS = 24 * 3600 * 1000;
const PAGE = 200;
/** A run that finds more than this leaves the rest to the next one. */
const PAGES = 500;

export interface Collected {
  readonly items: number;
  /** Bytes that went, or would go, where that is known. */
  readonly bytes: number;
  /** What could not be removed, or looked at; the next run tries again. */
  readonly failed: number;
  /** Of `uploads`: by store that could be looked at, what stays because nobody can say whose it is. */
  readonly unproven?: ReadonlyMap<string, UnprovenUploads>;
}
export interface GcOptions {
  readonly signal: AbortSignal;
  /** Count only. */
  readonly dryRun: boolean;
  readonly nowMs: number;
  /** Ended transfers stay in the ledger this long; ms. */
  readonly historyMs: number;
}
type Gc = (deps: TransferDeps, opts: GcOptions) => Promise<Collected>;

/** By task: bytes of ended uploads and our files without a row, our uploads and hidden files in stores, downloads, rows. */
export const COLLECT = { staging, uploads, downloads, history } as const satisfies Record<string, Gc>;

/** Counts what goes; one item that does not go never keeps the others. */
class Tally {
  items = 0;
  bytes = 0;
  failed = 0;
  readonly #deps: TransferDeps;

  constructor(deps: TransferDeps) {
    this.#deps = deps;
  }

  async remove(what: string, bytes: number, removal: () => Promise<unknown>): Promise<void> {
    try {
      if ((await removal()) === false) return; // somebody else has it now, or had it first
      this.items++;
      this.bytes += bytes;
    } catch (error) {
      this.failed++;
      this.#deps.log.warn(
        { what, err: failureOf(error).message },
        'gc could not remove this; the next run tries again',
      );
    }
  }

  /** A store that cannot be looked at, or does not let us list uploads, keeps no other one. @throws when stopped */
  async look(store: Store, signal: AbortSignal, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      throwIfAborted(signal);
      this.failed++;
      this.#deps.log.warn(
        { store: store.name, err: failureOf(error).message },
        'gc could not look at all of this store; the next run tries again',
      );
    }
  }
}

async function staging(deps: TransferDeps, opts: GcOptions): Promise<Collected> {
  const tally = new Tally(deps);
  await expired(deps, opts, tally, (row) => row.kind !== 'download');
  for await (const page of deps.staging.names(opts.signal)) {
    const old = page.filter((file) => file.modifiedMs < opts.nowMs - UNTOUCHED_MS);
    for (let at = 0; at < old.length; at += PAGE) await orphans(deps, opts, tally, old.slice(at, at + PAGE));
  }
  await leftovers(deps, deps.staging.store, opts, tally);
  return tally;
}

async function orphans(
  deps: TransferDeps,
  opts: GcOptions,
  tally: Tally,
  files: readonly StagedFile[],
): Promise<void> {
  throwIfAborted(opts.signal);
  const wanted = await deps.ledger.transfers.holdingStaged(files.map((file) => ownerOf(file.id)));
  for (const { id, size } of files)
    if (!wanted.has(ownerOf(id)))
      await tally.remove(id, size, async () => opts.dryRun || deps.staging.free(id, opts.signal));
}

async function downloads(deps: TransferDeps, opts: GcOptions): Promise<Collected> {
  const tally = new Tally(deps);
  await expired(deps, opts, tally, (row) => row.kind === 'download');
  return tally;
}

/** Ended transfers whose bytes may go: the row gives up its claim before the file goes, so that a reader's renewal wins. */
async function expired(
  deps: TransferDeps,
  opts: GcOptions,
  tally: Tally,
  mine: (row: Transfer) => boolean,
): Promise<void> {
  const { transfers } = deps.ledger;
  const { nowMs, signal } = opts;
  if (opts.dryRun) {
    for (const row of (await transfers.expiredStaged(nowMs, PAGE * PAGES)).filter(mine))
      if (!isPlan(row)) await tally.remove(row.id, bytesOf(row), async () => true);
    return;
  }
  // the other task's rows stay where they are: the page grows by them until it shows something of ours
  for (let round = 0, skipped = 0; round < PAGES; round++) {
    throwIfAborted(signal);
    const page = await transfers.expiredStaged(nowMs, skipped + PAGE);
    const rows = page.filter(mine);
    let released = 0;
    for (const row of rows)
      await tally.remove(row.id, bytesOf(row), async () => {
        if (!(await transfers.freeStaged(row.id, nowMs))) return false;
        released++;
        if (isPlan(row)) return false;
        await deps.staging.free(row.id, signal);
        return true;
      });
    if (page.length < skipped + PAGE || (rows.length > 0 && released === 0)) return;
    skipped = page.length - rows.length;
  }
}

/** What it holds are pages of its plan, which `orphans` removes and counts a day after they were written. */
const isPlan = (row: Transfer): boolean => row.tree && row.kind !== 'download';

const bytesOf = (row: Transfer): number => row.result?.size ?? row.digests?.size ?? 0;

async function uploads(deps: TransferDeps, opts: GcOptions): Promise<Collected> {
  const tally = new Tally(deps);
  const beforeMs = opts.nowMs - UNTOUCHED_MS;
  await partedOfEnded(deps, opts, tally);
  for (const intent of await deps.ledger.uploads.open(beforeMs, PAGE * PAGES)) {
    throwIfAborted(opts.signal);
    if (intent.transfer !== undefined) continue;
    const store = findStore(deps, intent.place);
    // a store that is not configured any more may come back, and its uploads with it
    if (!store || (await isRunning(deps, intent))) continue;
    await tally.remove(`${intent.place.store}:${intent.place.path}`, 0, async () => {
      if (!opts.dryRun) await abandon(deps, store, intent, opts.signal);
    });
  }
  const unproven = new Map<string, UnprovenUploads>();
  for (const store of deps.stores.values()) {
    await tally.look(store, opts.signal, () => leftovers(deps, store, opts, tally));
    await tally.look(store, opts.signal, async () => {
      unproven.set(store.name, await unprovenUploads(deps, store, { beforeMs, signal: opts.signal }));
    });
  }
  const { items, bytes, failed } = tally;
  return { items, bytes, failed, unproven };
}

/**
 * A parted upload is its transfer's in every epoch, and nobody's as soon as that has ended: one that is retried begins
 * another.
 */
async function partedOfEnded(deps: TransferDeps, opts: GcOptions, tally: Tally): Promise<void> {
  for (const { id, place, uploadId } of await deps.ledger.uploads.partedOfEnded(PAGE * PAGES)) {
    throwIfAborted(opts.signal);
    const store = findStore(deps, place);
    if (!store) continue;
    await tally.remove(`${place.store}:${place.path}`, 0, async () => {
      if (opts.dryRun) return;
      if (uploadId !== undefined) await store.abandon({ path: place.path, id: uploadId }, opts.signal);
      await deps.ledger.uploads.ended(id);
    });
  }
}

/** `owner` is a token: transfer id, dash, epoch. An upload of an older epoch belongs to nobody. */
async function isRunning(deps: TransferDeps, { owner }: OpenUpload): Promise<boolean> {
  const [id = '', epoch] = owner.split('-');
  const found = (await deps.ledger.transfers.statesOf([id])).get(id);
  return found !== undefined && !hasEnded(found.state) && String(found.epoch) === epoch;
}

/**
 * Where its id was lost before it was written down it may have begun: a hidden file then proves that it is ours, and is a
 * leftover; an upload on S3 does not, and is counted as unproven.
 */
async function abandon(
  deps: TransferDeps,
  store: Store,
  { id, place: { path }, uploadId }: OpenUpload,
  signal: AbortSignal,
): Promise<void> {
  if (uploadId !== undefined) await store.abandon({ path, id: uploadId }, signal);
  await deps.ledger.uploads.ended(id);
}

/** Hidden files that are ours. Those of uploads that are written down go with their rows, not before. */
async function leftovers(deps: TransferDeps, store: Store, opts: GcOptions, tally: Tally): Promise<void> {
  for await (const page of store.leftovers(opts.signal)) {
    throwIfAborted(opts.signal);
    const old = page.filter(({ modifiedMs }) => modifiedMs < opts.nowMs - UNTOUCHED_MS);
    const inUse = await deps.ledger.uploads.named(old.flatMap(({ uploadId }) => uploadId ?? []));
    for (const { path, uploadId } of old)
      if (uploadId === undefined || !inUse.has(uploadId))
        await tally.remove(
          `${store.name}:${path}`,
          0,
          async () => opts.dryRun || store.removeLeftover(path, opts.signal),
        );
  }
}

async function history(deps: TransferDeps, opts: GcOptions): Promise<Collected> {
  const { transfers } = deps.ledger;
  const beforeMs = opts.nowMs - opts.historyMs;
  if (opts.dryRun) return { items: await transfers.forgettable(beforeMs, PAGE * PAGES), bytes: 0, failed: 0 };
  let items = 0;
  for (let round = 0; round < PAGES; round++) {
    throwIfAborted(opts.signal);
    const gone = await transfers.forgetHistory(beforeMs, PAGE);
    items += gone;
    if (gone < PAGE) break;
  }
  return { items, bytes: 0, failed: 0 };
}
