/** What a tree consists of, listed once and written down in pages before anything is carried. */

import { Failure } from '../errors.ts';
import type { Trees } from '../ledger/contract.ts';
import type { EntryCount, Place, Transfer } from '../ledger/transfer.ts';
import type { TransferDeps } from './deps.ts';
import { entriesOf, nothingAt, plannedOf } from './tree-entries.ts';
import { countOf, type PlannedFile, writePlanPage } from './tree-pages.ts';

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

  constructor(deps: TreeDeps, row: Transfer, signal: AbortSignal) {
    this.#deps = deps;
    this.#row = row;
    this.#signal = signal;
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
    const { id, epoch, starts } = this.#row;
    if (this.pages.length === MOST_PAGES)
      throw new Failure(
        'invalid',
        `this tree has more than ${this.files.toLocaleString('en-US')} files: carry the folders in it one by one`,
      );
    const round = (epoch % EPOCHS) * STARTS + (starts % STARTS);
    const page = round * MOST_PAGES + this.pages.length;
    this.stagedBytes += await writePlanPage(this.#deps.staging, id, page, files, this.#signal);
    this.pages.push({ page, ...countOf(files) });
  }
}
