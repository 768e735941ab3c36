/** What could not be looked into when a tree was listed, and is looked at again because somebody asked for a retry. */
import { Failure, failureOf } from '../errors.ts';
import type { Transfer } from '../ledger/transfer.ts';
import { entriesOf, placeBelow, plannedOf } from './tree-entries.ts';
import { type PlannedFile, writePlanPage } from './tree-pages.ts';
import { placeOf, type TreeDeps } from './tree-plan.ts';

/** What one page may grow to; it is read into memory whole. */
const MOST_FILES = 20_000;

/** The files of a page with what is in its closed places by now. It is written down before anything is carried. */
export async function lookedAgain(
  deps: TreeDeps,
  row: Transfer,
  page: number,
  files: readonly PlannedFile[],
  signal: AbortSignal,
): Promise<readonly PlannedFile[]> {
  if (!files.some(({ closed }) => closed)) return files;
  const now: PlannedFile[] = [];
  for (const file of files) now.push(...(file.closed ? await foundAt(deps, row, file, signal) : [file]));
  await writePlanPage(deps.staging, row.id, page, now, signal);
  return now;
}

async function foundAt(
  deps: TreeDeps,
  row: Transfer,
  file: PlannedFile,
  signal: AbortSignal,
): Promise<readonly PlannedFile[]> {
  const root = placeOf(row, row.kind === 'delete' ? row.to : row.from);
  const stillClosed = ({ kind, message }: Failure): PlannedFile[] => [
    { ...file, end: { state: 'failed', failure: { kind, message } } },
  ];
  const found: PlannedFile[] = [];
  try {
    for await (const entries of entriesOf(deps, placeBelow(root, file.below), row, signal)) {
      found.push(...entries.map((entry) => plannedOf(deps, root, entry, row)));
      if (found.length > MOST_FILES)
        return stillClosed(
          new Failure(
            'unsupported',
            `it could not be looked into at first and has more than ${MOST_FILES} files: submit it as a tree of its own`,
          ),
        );
    }
  } catch (error) {
    const failure = failureOf(error);
    if (failure.rule.retry !== 'never' || signal.aborted) throw error;
    return stillClosed(failure);
  }
  // it has gone: carried as a file, it is found to be absent
  return found.length > 0 ? found : [{ below: file.below, size: 0, etag: '' }];
}
