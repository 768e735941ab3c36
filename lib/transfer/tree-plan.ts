/** What a tree consists of, listed once and written down in pages before anything is carried. */

import { Failure } from '../errors.ts';
import type { Trees } from '../ledger/contract.ts';
import type { EntryCount, Place, Transfer, TreePage } from '../ledger/transfer.ts';
import { nameOf, type TransferDeps } from './deps.ts';
import { entriesOf, nothingAt, plannedOf } from './tree-entries.ts';
import { countOf, keyOf, type PlannedFile, readResult, writePlanPage } from './tree-pages.ts';

export interface TreeDeps extends TransferDeps {
  readonly ledger: TransferDeps['ledger'] & { readonly trees: Trees };
  /** From this size on a file is a page of its own. */
  readonly config: { readonly partThresholdBytes: number };
}

const PAGE_FILES = 1000;
/** The first pages are smaller, so that of a tree of some thousand files every worker gets some. */
const FIRST = { pages: 32, files: 250 } as const;
const PAGE_BYTES = 256 * 1024 * 1024;
/** Numbers of pages fit 31 bits: 17 for the page, 14 for the round of planning, so that those of two rounds never meet. */
const MOST_PAGES = 2 ** 17;
const EPOCHS = 2 ** 10;
const STARTS = 2 ** 4;

export function placeOf({ id, kind }: Transfer, place: Place | undefined): Place {
  if (place) return place;
  throw new Failure('bug', `the tree ${id} (${kind}) lacks a place: submit it again`);
}

/**
 * Lists the tree and writes it down. The plan counts from when all of its pages are committed at once: one that is cut
 * off before is made anew, under other page numbers, so that whoever was slower spoils nothing.
 * @returns `false`: another worker has the transfer by now
 * @throws Failure `not-found` where there is nothing to carry
 */
export async function planTree(
  deps: TreeDeps,
  row: Transfer,
  root: Place,
  attempt: { readonly signal: AbortSignal; onPlanned(files: number): void },
): Promise<boolean> {
  const planner = new Planner(deps, row, attempt.signal);
  for await (const page of entriesOf(deps, root, row, attempt.signal)) {
    for (const entry of page) await planner.add(plannedOf(deps, root, entry, row));
    attempt.onPlanned(planner.files);
  }
  await planner.flush();
  if (planner.files === 0 && row.kind !== 'delete') throw nothingAt(root);
  // as much again for what will have become of each file
  return deps.ledger.trees.addPages(row.id, row.epoch, planner.pages, 2 * planner.stagedBytes);
}

/** So often a tree that is removed may turn out to have more in it. */
const MOST_ROUNDS = 16;

/**
 * What is still there of a tree that was removed: a server may hide keys behind others (MinIO lists no `a/b` while there
 * is an `a`), and a folder that was emptied may be in one that nobody may write to. It is added to the plan, apart from
 * what has its end: so it goes as well, or is named.
 * @param known its pages, which have all ended
 * @returns `false`: nothing was added
 */
export async function planRest(
  deps: TreeDeps,
  row: Transfer,
  root: Place,
  known: AsyncIterable<TreePage>,
  signal: AbortSignal,
): Promise<boolean> {
  const stays = new Set<string>();
  const rounds = new Set<number>();
  const planner = new Planner(deps, row, signal);
  let pages = 0;
  for await (const { page, failed, skipped, leftOut } of known) {
    if (failed.files > 0) return false; // a retry looks again
    pages++;
    rounds.add(Math.floor(page / MOST_PAGES));
    planner.beginAfter(page);
    if (skipped.files + leftOut.files === 0) continue;
    for (const file of (await readResult(deps.staging, row.id, page, signal))?.files ?? [])
      if (file.state !== 'done') stays.add(keyOf(file));
  }
  if (pages === 0) return false;
  for await (const page of entriesOf(deps, root, row, signal))
    for (const entry of page) {
      const planned = plannedOf(deps, root, entry, row);
      if (!stays.has(keyOf(planned))) await planner.add(planned);
    }
  await planner.flush();
  if (planner.files === 0) return false;
  if (rounds.size >= MOST_ROUNDS)
    throw new Failure(
      'conflict',
      `${nameOf(root)}: ${planner.files} files were there still, or again, after everything in it was removed ${rounds.size} times`,
    );
  await deps.ledger.trees.addPages(row.id, row.epoch, planner.pages, 2 * planner.stagedBytes, pages);
  return true;
}

class Planner {
  files = 0;
  /** Of the pages themselves. */
  stagedBytes = 0;
  readonly pages: ({ readonly page: number } & EntryCount)[] = [];
  readonly #deps: TreeDeps;
  readonly #row: Transfer;
  readonly #signal: AbortSignal;
  #open: PlannedFile[] = [];
  #bytes = 0;
  #next: number;

  constructor(deps: TreeDeps, row: Transfer, signal: AbortSignal) {
    this.#deps = deps;
    this.#row = row;
    this.#signal = signal;
    const { epoch, starts } = row;
    this.#next = ((epoch % EPOCHS) * STARTS + (starts % STARTS)) * MOST_PAGES;
  }

  /** A page that is there may be of this round too, for their numbers come again. */
  beginAfter(page: number): void {
    const round = Math.floor(this.#next / MOST_PAGES);
    if (Math.floor(page / MOST_PAGES) === round) this.#next = Math.max(this.#next, page + 1);
  }

  async add(file: PlannedFile): Promise<void> {
    this.files++;
    if (this.#row.kind !== 'delete' && !file.end && file.size >= this.#deps.config.partThresholdBytes)
      return this.#write([file]);
    const most = this.pages.length < FIRST.pages ? FIRST.files : PAGE_FILES;
    if (this.#open.length >= most || (this.#bytes > 0 && this.#bytes + file.size > PAGE_BYTES))
      await this.flush();
    this.#open.push(file);
    this.#bytes += file.size;
  }

  async flush(): Promise<void> {
    const files = this.#open;
    this.#open = [];
    this.#bytes = 0;
    if (files.length > 0) await this.#write(files);
  }

  async #write(files: readonly PlannedFile[]): Promise<void> {
    const { id } = this.#row;
    if ((this.#next + 1) % MOST_PAGES === 0)
      throw new Failure(
        'invalid',
        `this tree has more than ${this.files.toLocaleString('en-US')} files: carry the folders in it one by one`,
      );
    const page = this.#next++;
    this.stagedBytes += await writePlanPage(this.#deps.staging, id, page, files, this.#signal);
    this.pages.push({ page, ...countOf(files) });
  }
}
