/** The files of a tree and what became of them, looked up in the pages that staging keeps. */
import { Failure, failureOf } from '../errors.ts';
import type { Transfer, TreePage } from '../ledger/transfer.ts';
import type { StorePath } from '../path.ts';
import {
  type EndedFile,
  type FileFailure,
  type FileOutcome,
  type FileState,
  readPlanPage,
  readResult,
} from './tree-pages.ts';
import type { TreeDeps } from './tree-plan.ts';

export interface ListedFile {
  readonly path: StorePath;
  readonly size: number;
  readonly state: FileState | 'pending';
  readonly outcome?: FileOutcome;
  readonly failure?: FileFailure;
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
  if (row.kind === 'download')
    throw new Failure('not-found', `the files of download ${row.id} are in its archive: read its content`);
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
        files.push(file);
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

const mayHave = (page: TreePage, state: ListedFile['state']): boolean =>
  page.ended ? state !== 'pending' && page[state].files > 0 : state === 'pending' || page[state].files > 0;

async function filesOf(
  { staging }: Pick<TreeDeps, 'staging'>,
  { id, epoch }: Transfer,
  { page, ended }: TreePage,
  signal: AbortSignal,
): Promise<readonly ListedFile[]> {
  try {
    const result = await readResult(staging, id, page, signal);
    if (ended && result) return result.files;
    const known = new Map<string, EndedFile>(result?.files.map((file) => [file.path, file]));
    return (await readPlanPage(staging, id, page, signal)).map(({ path, size }) => {
      const end = known.get(path);
      // what failed in an older epoch is being tried again
      return end && (end.state !== 'failed' || result?.epoch === epoch)
        ? end
        : { path, size, state: 'pending' };
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
