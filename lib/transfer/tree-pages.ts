/**
 * The plan of a tree and what became of its files: pages of JSON lines in staging, named by the transfer and the page,
 * which is a row of the ledger. They stay as long as the transfer can be retried, and are how its files are looked up.
 */
import { Failure, type FailureKind, failureOf } from '../errors.ts';
import type { EntryCount } from '../ledger/transfer.ts';
import { collected, once } from '../stores/bytes.ts';
import type { Staging } from './staging.ts';

/** A file as it was listed, or what else was there. */
export interface PlannedFile {
  /** What comes after the tree's root: `''` is the object at the root's own path, else it begins with a slash. */
  readonly below: string;
  /** Bytes. */
  readonly size: number;
  readonly etag: string;
  /** Where the listing told of another one than the usual. */
  readonly storageClass?: string;
  /** A directory that is there on its own; its `size` is 0. */
  readonly dir?: true;
  /** It was seen when the tree was listed that it cannot be carried, and this is its end. */
  readonly end?: FileEnd;
  /** Nobody could look into it: a retry looks again, and carries what is in it then. */
  readonly closed?: true;
}

export const FILE_STATES = ['done', 'skipped', 'failed', 'left-out'] as const;
export type FileState = (typeof FILE_STATES)[number];
/** `superseded`: somebody who was accepted later has written or removed it already. */
export const FILE_OUTCOMES = ['published', 'removed', 'skipped', 'superseded'] as const;
export type FileOutcome = (typeof FILE_OUTCOMES)[number];

export type FileEnd =
  /** `failure`: why a link was skipped. */
  | {
      readonly state: 'done' | 'skipped';
      readonly outcome: FileOutcome;
      readonly failure?: FileFailure;
      /** Names of what the source has beside its bytes and the copy does not. */
      readonly notKept?: readonly string[];
    }
  | { readonly state: 'failed' | 'left-out'; readonly failure: FileFailure };
export interface FileFailure {
  readonly kind: FailureKind;
  readonly message: string;
}
/** `size`: where what was carried is another version than was planned, that one's. */
export type EndedFile = Pick<PlannedFile, 'below' | 'dir'> & { readonly size: number } & FileEnd;

/** What tells the files of a tree apart: in a store of keys a marker and an object may have one path. */
export const keyOf = ({ below, dir }: Pick<PlannedFile, 'below' | 'dir'>): string =>
  dir ? `${below}/` : `${below}\0`;

export function countOf(files: readonly PlannedFile[]): EntryCount {
  const directories = files.filter(({ dir }) => dir).length;
  const bytes = files.reduce((sum, { size }) => sum + size, 0);
  return { files: files.length - directories, bytes, directories };
}

/** The count that a state belongs to. */
export const COUNTED = { done: 'done', skipped: 'skipped', failed: 'failed', 'left-out': 'leftOut' } as const;

/** What is known of a page: of each file its end, if it has one. */
export interface PageResult {
  /** Those that failed for good in an older epoch are tried again: somebody asked for that. */
  readonly epoch: number;
  /** Rounds in which the store as a whole was in trouble. */
  readonly spent: number;
  readonly files: readonly EndedFile[];
}

/** The page of a download's archive with what is not in it. */
export const ARCHIVE_PAGE = 0;

const FILE_NAME = /^([a-z0-9]+)-(?:plan|done)-\d+$/;

/** The transfer that a staged file belongs to. */
export const ownerOf = (staged: string): string => FILE_NAME.exec(staged)?.[1] ?? staged;

const planName = (id: string, page: number): string => `${id}-plan-${page}`;
const resultName = (id: string, page: number): string => `${id}-done-${page}`;

/** Answers its bytes. */
export function writePlanPage(
  staging: Staging,
  id: string,
  page: number,
  files: readonly PlannedFile[],
  signal: AbortSignal,
): Promise<number> {
  return write(staging, planName(id, page), files, signal);
}

/** @throws Failure `not-found`: it is not kept any more */
export async function readPlanPage(
  staging: Staging,
  id: string,
  page: number,
  signal: AbortSignal,
): Promise<PlannedFile[]> {
  return (await read(staging, planName(id, page), signal)) as PlannedFile[];
}

export async function writeResult(
  staging: Staging,
  id: string,
  page: number,
  { epoch, spent, files }: PageResult,
  signal: AbortSignal,
): Promise<void> {
  await write(staging, resultName(id, page), [{ epoch, spent }, ...files], signal);
}

/** `undefined`: none was written yet. */
export async function readResult(
  staging: Staging,
  id: string,
  page: number,
  signal: AbortSignal,
): Promise<PageResult | undefined> {
  try {
    const [head, ...files] = await read(staging, resultName(id, page), signal);
    return { ...(head as Pick<PageResult, 'epoch' | 'spent'>), files: files as EndedFile[] };
  } catch (error) {
    if (failureOf(error).kind === 'not-found') return undefined;
    throw error;
  }
}

async function write(
  staging: Staging,
  name: string,
  lines: readonly object[],
  signal: AbortSignal,
): Promise<number> {
  const text = Buffer.from(lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
  await staging.stage(name, once(text), { signal, size: text.length });
  return text.length;
}

async function read(staging: Staging, name: string, signal: AbortSignal): Promise<unknown[]> {
  const { bytes } = await staging.open(name, undefined, signal);
  const text = (await collected(bytes)).toString();
  try {
    return text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as unknown);
  } catch (error) {
    throw new Failure(
      'bug',
      `the staged page ${name} is damaged: submit the transfer again`,
      {},
      {
        cause: error,
      },
    );
  }
}
