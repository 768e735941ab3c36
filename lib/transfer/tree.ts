/**
 * A tree's own job: plans it once, hands its pages out as jobs, and when all have ended says how the whole did. It may
 * run any number of times; what is planned and what has ended is the ledger's word.
 */
import { Failure } from '../errors.ts';
import type { Transfer, TransferResult, TreeCounts, TreePage } from '../ledger/transfer.ts';
import { nameOf, storeAt } from './deps.ts';
import { endStaged } from './fetch.ts';
import { stageArchive } from './tree-archive.ts';
import { failedFiles, TOLD, tellLeftOut, unsupportedFailure } from './tree-endings.ts';
import { type EndedFile, readResult } from './tree-pages.ts';
import { placeOf, planRest, planTree, type TreeDeps } from './tree-plan.ts';

/** Pages with a job at once: what a million files are. */
const OUTSTANDING = 1000;
const LOOK_PAGES = 500;
/** How soon it is looked again whether older transfers have ended. */
export const COME_BACK_MS = 2000;

export interface TreeAttempt {
  readonly signal: AbortSignal;
  /** How long the bytes of a download stay unless they are read; ms. */
  readonly leaseMs: number;
  /** How long the plan of one that failed stays, so that it can be retried; ms. */
  readonly keepMs: number;
  onProgress(done: number, total: number | undefined): void;
  /** From here on nothing moves that could be seen: a store syncs, or clears away folders. */
  onRest(): void;
  /** Transfers that were accepted before it have not ended at its target. */
  onBehind(): void;
  /**
   * A job for each; those that have one keep it.
   * @param open so many pages have not ended, these among them
   * @throws Failure `unavailable` where they can't be made, or ended without any effect
   */
  handOut(pages: readonly TreePage[], open: number): Promise<void>;
}

/** `handed-out`: its pages are jobs of their own now, and another attempt goes on when they have ended. */
export type TreeEnd = 'succeeded' | 'failed' | 'handed-out' | 'stale';

/** @param row as `start` answered it. @throws Failure why this attempt did not end it */
export async function runTree(deps: TreeDeps, row: Transfer, attempt: TreeAttempt): Promise<TreeEnd> {
  if (row.kind === 'download') return archiveTree(deps, row, attempt);
  const { trees } = deps.ledger;
  if (await trees.olderWaiting(row.id)) {
    attempt.onBehind();
    throw notYet(row);
  }
  if (!(await trees.planned(row.id)).complete) {
    const root = placeOf(row, row.kind === 'delete' ? row.to : row.from);
    const { signal } = attempt;
    const onPlanned = (): void => attempt.onProgress(0, undefined);
    if (!(await planTree(deps, row, root, { signal, onPlanned }))) return 'stale';
  }
  let open = await trees.openPages(row.id, -1, OUTSTANDING);
  if (open.length === 0 && row.kind === 'delete') {
    await clearAway(deps, row, attempt);
    open = await trees.openPages(row.id, -1, OUTSTANDING);
  }
  if (open.length === 0) return endTree(deps, row, attempt);
  await attempt.handOut(open, open.length < OUTSTANDING ? open.length : await trees.open(row.id));
  return 'handed-out';
}

const notYet = ({ to }: Transfer): Failure =>
  new Failure(
    'busy',
    `could not begin with the tree at ${to ? nameOf(to) : 'its target'}: transfers that were accepted before it have not ended there`,
    { op: 'publish', retryAfterMs: COME_BACK_MS },
  );

/** The empty folders of a tree whose files were removed; what is there still is planned anew. */
async function clearAway(deps: TreeDeps, row: Transfer, { signal, onRest }: TreeAttempt): Promise<void> {
  onRest();
  const root = placeOf(row, row.to);
  await storeAt(deps, root).prune(root.path, signal);
  await planRest(deps, row, root, pagesOf(deps, row.id), signal);
}

async function endTree(
  deps: TreeDeps,
  row: Transfer,
  { signal, keepMs, onRest }: TreeAttempt,
): Promise<TreeEnd> {
  const { trees, transfers, objects } = deps.ledger;
  onRest();
  if (row.kind === 'delete') await objects.forget(placeOf(row, row.to));
  const files = await trees.totals(row.id);
  if (files.leftOut.files > 0) tellLeftOut(deps, row, files, await firstLeftOut(deps, row, signal));
  if (files.failed.files > 0 || (files.leftOut.files > 0 && row.onUnsupported === 'fail')) {
    const failure = await failureOfTree(deps, row, files);
    const stagedUntilMs = Date.now() + keepMs;
    const ended = await transfers.end(row.id, row.epoch, { state: 'failed', failure, stagedUntilMs });
    return ended ? 'failed' : 'stale';
  }
  const outcome = row.kind === 'delete' ? 'removed' : 'published';
  const notKeptFiles = await trees.notKept(row.id);
  const notKept = Object.keys(notKeptFiles).toSorted();
  const lacks = notKept.length > 0 && { notKept, notKeptFiles };
  const result: TransferResult = { outcome, size: files.done.bytes, files, ...lacks, verified: [] };
  return (await transfers.end(row.id, row.epoch, { state: 'succeeded', result })) ? 'succeeded' : 'stale';
}

/** It has the kind of the first one's. */
async function failureOfTree(deps: TreeDeps, { id }: Transfer, files: TreeCounts) {
  const some = files.failed.files > 0 ? 'failed' : 'leftOut';
  for await (const page of pagesOf(deps, id)) {
    if (page[some].files === 0 || !page.failure) continue;
    const told = some === 'failed' ? failedFiles : unsupportedFailure;
    const { kind, message } = told(files, page.failure);
    return { kind, message };
  }
  throw new Failure('bug', `the tree ${id} has failed files on no page`);
}

async function* pagesOf(deps: TreeDeps, id: string): AsyncGenerator<TreePage> {
  for (let after = -1; ; ) {
    const pages = await deps.ledger.trees.pages(id, after, LOOK_PAGES);
    yield* pages;
    const last = pages.at(-1);
    if (!last) return;
    after = last.page;
  }
}

async function firstLeftOut(deps: TreeDeps, { id }: Transfer, signal: AbortSignal): Promise<EndedFile[]> {
  const found: EndedFile[] = [];
  for await (const { page, leftOut } of pagesOf(deps, id)) {
    if (leftOut.files === 0) continue;
    const result = await readResult(deps.staging, id, page, signal);
    found.push(...(result?.files ?? []).filter(({ state }) => state === 'left-out'));
    if (found.length >= TOLD) break;
  }
  return found;
}

async function archiveTree(deps: TreeDeps, row: Transfer, attempt: TreeAttempt): Promise<TreeEnd> {
  const result = await stageArchive(deps, row, placeOf(row, row.from), attempt);
  return endStaged(deps, row, result, attempt.leaseMs);
}
