/** What is said of a tree, or an archive of one, that lacks something. */
import { Failure } from '../errors.ts';
import type { NotKeptFiles, Transfer, TreeCounts } from '../ledger/transfer.ts';
import { printable } from '../path-bytes.ts';
import type { TransferDeps } from './deps.ts';
import { withoutSlash } from './tree-entries.ts';
import type { EndedFile, FileFailure } from './tree-pages.ts';

/** Names in one line of the log. */
export const TOLD = 10;

const count = (files: number): string => files.toLocaleString('en-US');

export const allOf = ({ done, skipped, failed, leftOut }: TreeCounts): number =>
  done.files + skipped.files + failed.files + leftOut.files;

/** @param first why one of them was */
export function unsupportedFailure(counts: TreeCounts, first: FileFailure): Failure {
  return new Failure(
    first.kind,
    `left out ${count(counts.leftOut.files)} of ${count(allOf(counts))} files, the first: ${first.message}; ` +
      'list them with files?state=left-out, or say "onUnsupported": "skip" to go on without such',
  );
}

export function failedFiles(counts: TreeCounts, first: FileFailure): Failure {
  const also = counts.leftOut.files > 0 ? `; ${count(counts.leftOut.files)} more were left out` : '';
  return new Failure(
    first.kind,
    `${count(counts.failed.files)} of ${count(allOf(counts))} files failed, the first: ${first.message}${also}`,
  );
}

/** Of how many files something was not kept; names in order, so that pages that are alike say the same. */
export function notKeptIn(files: readonly (EndedFile | undefined)[]): NotKeptFiles {
  const sums: Record<string, number> = {};
  for (const file of files)
    if (file && 'notKept' in file) for (const name of file.notKept ?? []) sums[name] = (sums[name] ?? 0) + 1;
  return Object.fromEntries(Object.entries(sums).toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

/** One line with the first of those that were left out. */
export function tellLeftOut(
  { log }: Pick<TransferDeps, 'log'>,
  { id }: Pick<Transfer, 'id'>,
  { leftOut }: TreeCounts,
  files: readonly EndedFile[],
): void {
  if (leftOut.files === 0) return;
  const first = files
    .filter((file) => file.state === 'left-out')
    .slice(0, TOLD)
    .map(({ below, failure }) => `${printable(withoutSlash(below))}: ${failure?.message ?? ''}`);
  log.warn({ transfer: id, leftOut: leftOut.files, first }, 'a tree was carried without some of its files');
}
