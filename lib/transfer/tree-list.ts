/** The files of a tree and what became of them, looked up in the pages that staging keeps. */
import { Failure, failureOf } from '../errors.ts';
import type { Transfer, TreePage } from '../ledger/transfer.ts';
import { type WrittenPath, writtenPath } from '../path.ts';
import { withoutSlash } from './tree-entries.ts';
import {
  ARCHIVE_PAGE,
  COUNTED,
  type EndedFile,
  type FileFailure,
  type FileOutcome,
  type FileState,
  keyOf,
  type PlannedFile,
  readPlanPage,
  readResult,
} from './tree-pages.ts';
import type { TreeDeps } from './tree-plan.ts';

type File = EndedFile | (Pick<PlannedFile, 'below' | 'size' | 'dir'> & { readonly state: 'pending' });

export interface ListedFile extends WrittenPath {
  /** It is a directory that is there on its own. */
  readonly directory?: true;
  readonly size: number;
  readonly state: FileState | 'pending';
  readonly outcome?: FileOutcome;
  readonly failure?: FileFailure;
  readonly notKept?: readonly string[];
}

/** Pages whose files one question may read. */
const MOST_READ = 20;
const LOOK_PAGES = 100;

/**
 * In the order of the plan. A page may be shorter than `limit`; it is the last one when it has no `nextCursor`.
 * @throws Failure `invalid`: not a cursor of ours; `not-found`: its files are not kept (any more)
 */
export async function listFiles(
  deps: Pick<TreeDeps, 'staging' | 'ledger'>,
  row: Transfer,
  query: {
    readonly state?: ListedFile['state'] | undefined;
    readonly limit: number;
    readonly cursor?: string | undefined;
  },
  signal: AbortSignal,
): Promise<{ files: ListedFile[]; nextCursor?: string }> {
  if (!row.tree)
    throw new Failure('not-found', `transfer ${row.id} is of one object: it has no list of files`);
  if (row.kind === 'download') return listUnarchived(deps, row, query, signal);
  const { state, limit } = query;
  const files: ListedFile[] = [];
  const cursor = cursorOf(query.cursor);
  let after = cursor.page - 1;
  for (let read = 0; ; ) {
    const pages = await deps.ledger.trees.pages(row.id, after, LOOK_PAGES);
    for (const page of pages) {
      after = page.page;
      if (state !== undefined && !mayHave(page, state)) continue;
      const from = page.page === cursor.page ? cursor.at : 0;
      if (read++ === MOST_READ) return { files, nextCursor: `${page.page}-${from}` };
      for (const [at, file] of (await filesOf(deps, row, page, signal)).entries()) {
        if (at < from || (state !== undefined && file.state !== state)) continue;
        if (files.length === limit) return { files, nextCursor: `${page.page}-${at}` };
        files.push(listed(file));
      }
    }
    if (pages.length < LOOK_PAGES) return { files };
  }
}

function cursorOf(given = '0-0'): { readonly page: number; readonly at: number } {
  const [, page, at] = /^(\d{1,10})-(\d{1,5})$/.exec(given) ?? [];
  if (page === undefined)
    throw new Failure('invalid', `'${given}' is no cursor: give the nextCursor of a page`);
  return { page: Number(page), at: Number(at) };
}

/** The files of a download are in its archive: these are the others. */
async function listUnarchived(
  { staging }: Pick<TreeDeps, 'staging'>,
  { id }: Transfer,
  { state, limit, cursor: given }: Parameters<typeof listFiles>[2],
  signal: AbortSignal,
): Promise<{ files: ListedFile[]; nextCursor?: string }> {
  const from = cursorOf(given).at;
  const all = (await readResult(staging, id, ARCHIVE_PAGE, signal))?.files ?? [];
  const wanted = all.filter((file) => state === undefined || file.state === state);
  const files = wanted.slice(from, from + limit).map(listed);
  return { files, ...(from + limit < wanted.length && { nextCursor: `0-${from + limit}` }) };
}

const listed = ({ below, dir, ...file }: File): ListedFile => ({
  ...writtenPath(withoutSlash(below)),
  ...(dir && { directory: true }),
  ...file,
});

const mayHave = (page: TreePage, state: ListedFile['state']): boolean =>
  state === 'pending'
    ? !page.ended
    : page[COUNTED[state]].files > 0 || (state === 'done' && page.done.directories > 0);

async function filesOf(
  { staging }: Pick<TreeDeps, 'staging'>,
  { id, epoch }: Transfer,
  { page, ended }: TreePage,
  signal: AbortSignal,
): Promise<readonly File[]> {
  try {
    const result = await readResult(staging, id, page, signal);
    if (ended && result) return result.files;
    const known = new Map<string, EndedFile>(result?.files.map((file) => [keyOf(file), file]));
    return (await readPlanPage(staging, id, page, signal)).map((file) => {
      const end = known.get(keyOf(file));
      // what failed in an older epoch is being tried again
      if (end && (end.state !== 'failed' || result?.epoch === epoch)) return end;
      const { below, size, dir } = file;
      return { below, size, ...(dir && { dir }), state: 'pending' };
    });
  } catch (error) {
    if (failureOf(error).kind !== 'not-found') throw error;
    throw new Failure(
      'not-found',
      `the list of the files of transfer ${id} is not kept any more`,
      {},
      { cause: error },
    );
  }
}
