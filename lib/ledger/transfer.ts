/** What a transfer is, as the ledger keeps it and as everything above speaks of it. */
import type { Digests, ExpectedDigests } from '../digests.ts';
import type { FailureKind } from '../errors.ts';
import type { StorePath } from '../path.ts';

export const TRANSFER_KINDS = ['upload', 'download', 'copy', 'delete'] as const;
export type TransferKind = (typeof TRANSFER_KINDS)[number];

/**
 * accepted → running → publishing → one of the endings. Every change is one conditional UPDATE on (id, state,
 * epoch).
 */
export const TRANSFER_STATES = [
  'accepted',
  'running',
  'publishing',
  'succeeded',
  'failed',
  'cancelled',
  'superseded',
] as const;
export type TransferState = (typeof TRANSFER_STATES)[number];
export const ENDED_STATES = [
  'succeeded',
  'failed',
  'cancelled',
  'superseded',
] as const satisfies readonly TransferState[];
export const hasEnded = (state: TransferState): boolean =>
  (ENDED_STATES as readonly TransferState[]).includes(state);

export const ON_EXISTS = ['replace', 'skip', 'skip-if-same', 'fail'] as const;
export type OnExists = (typeof ON_EXISTS)[number];

/** How a tree takes symbolic links: each is left out (`refuse`), skipped, or taken for what it leads to. */
export const LINKS = ['follow', 'skip', 'refuse'] as const;
export type Links = (typeof LINKS)[number];
/** What a tree comes to that had to leave something out: `fail`, or all the same `skip` it. */
export const ON_UNSUPPORTED = ['fail', 'skip'] as const;
export type OnUnsupported = (typeof ON_UNSUPPORTED)[number];

/** What a copy keeps only where it is asked to: permission bits, and when the content was changed last. */
export const PRESERVED = ['mode', 'modified'] as const;
export type Preserved = (typeof PRESERVED)[number];

/** An object in a configured store, by the store's name. The artifact root is the store `artifacts`. */
export interface Place {
  readonly store: string;
  readonly path: StorePath;
}

export interface NewTransfer {
  /** From `newTransferId()`; made before the bytes are staged, because it names them. */
  readonly id: string;
  readonly kind: TransferKind;
  /** Where the bytes come from; undefined for an upload whose bytes are staged, and for a delete. */
  readonly from?: Place | undefined;
  /** Where they go; undefined for a download (its bytes go to staging). */
  readonly to?: Place | undefined;
  /** Of the staged bytes. */
  readonly digests?: Digests | undefined;
  readonly expected?: ExpectedDigests | undefined;
  readonly onExists: OnExists;
  /** Everything at and below `from`, or below `to` for a delete; paths stay the same relative to it. */
  readonly tree: boolean;
  /** For trees; default `follow`. */
  readonly links?: Links | undefined;
  /** For trees; default `fail`. */
  readonly onUnsupported?: OnUnsupported | undefined;
  /** Of copies; default: nothing. */
  readonly preserve?: readonly Preserved[] | undefined;
  /** 1 (first) to 1000; 100 where the caller has no wish. */
  readonly priority: number;
  readonly labels: Readonly<Record<string, string>>;
  /** Unix time in ms after which it ends as `timeout`. */
  readonly deadlineMs?: number | undefined;
  /** Who asks; `anonymous` where auth is off. */
  readonly owner: string;
}

/** What happened to the bytes, for people: `{ check: 'crc32', by: 's3', … }`. */
export interface Verification {
  /** `size`, `sha256`, `crc32`, `md5` … */
  readonly check: string;
  /**
   * Whose word it was compared with: the `client`'s, the `store`'s (the backend itself), `staging`'s, or the `ledger`'s
   * of exactly this version of the source.
   */
  readonly by: string;
}
export interface TransferResult {
  /** `published`, `skipped` (onExists), `removed`, `ready` (a download that can be fetched). */
  readonly outcome: 'published' | 'skipped' | 'removed' | 'ready';
  readonly size?: number | undefined;
  readonly etag?: string | undefined;
  readonly sha256?: string | undefined;
  /** Of a tree. */
  readonly files?: TreeCounts | undefined;
  /** What the source has beside its bytes and the copy does not: names, each once, in order. */
  readonly notKept?: readonly string[] | undefined;
  /** Of a tree: of how many files. */
  readonly notKeptFiles?: NotKeptFiles | undefined;
  readonly verified: readonly Verification[];
}

/** How many files lack something their sources have, by its name. */
export type NotKeptFiles = Readonly<Record<string, number>>;

export interface FileCount {
  readonly files: number;
  readonly bytes: number;
}
/** `directories`: those that are there on their own, and markers of such. */
export interface EntryCount extends FileCount {
  readonly directories: number;
}
/** What became of all that was there: each is in one of them. A directory that did not get there counts as a file. */
export interface TreeCounts {
  readonly done: EntryCount;
  readonly skipped: FileCount;
  readonly failed: FileCount;
  /** It is nothing that can be carried, or nothing that the target can hold. */
  readonly leftOut: FileCount;
}
type Counting<T> = { -readonly [K in keyof T]: number };
export const noCounts = (): { [K in keyof TreeCounts]: Counting<TreeCounts[K]> } => ({
  done: { files: 0, bytes: 0, directories: 0 },
  skipped: { files: 0, bytes: 0 },
  failed: { files: 0, bytes: 0 },
  leftOut: { files: 0, bytes: 0 },
});

/**
 * Up to 1,000 files of a tree that one job carries, and what became of them: nothing before it has ended, except what
 * was done before a retry.
 */
export interface TreePage extends EntryCount, TreeCounts {
  /** From 0 in the order of the plan. */
  readonly page: number;
  readonly ended: boolean;
  /** Of one file that failed, or else was left out; the page's result file has all of them. */
  readonly failure?: { readonly kind: FailureKind; readonly message: string } | undefined;
}

export interface Transfer extends NewTransfer {
  readonly links: Links;
  readonly onUnsupported: OnUnsupported;
  readonly preserve: readonly Preserved[];
  /** Order of acceptance over all transfers; strictly increasing. */
  readonly seq: number;
  readonly state: TransferState;
  /** How often it was given a new job; part of the job's id. From 1. */
  readonly epoch: number;
  /** Attempts that failed (spent ones only); from 0 again after a retry. */
  readonly attempts: number;
  /**
   * How often a worker took it up since it was accepted or retried: many with no attempt spent is a transfer that
   * kills its workers.
   */
  readonly starts: number;
  /** It is a synchronous request's turn on its target: no job, no staged bytes. */
  readonly synchronous: boolean;
  readonly createdMs: number;
  /** When it was accepted, retried or given a new job, last. */
  readonly queuedMs: number;
  readonly startedMs?: number | undefined;
  readonly endedMs?: number | undefined;
  readonly failure?: { readonly kind: FailureKind; readonly message: string } | undefined;
  readonly result?: TransferResult | undefined;
  /**
   * The staged bytes (of an upload, or of a finished download) may be removed after this time; undefined: none
   * staged.
   */
  readonly stagedUntilMs?: number | undefined;
}

/** Of a row that `start` answered: it took its turn as it began, so nothing of it can be seen yet. */
export const tookTurnAtOnce = ({ state, starts }: Pick<Transfer, 'state' | 'starts'>): boolean =>
  state === 'publishing' && starts === 1;

/** Why an attempt ended whose worker died, or lost the job, without a word. */
export const WORKER_GONE = 'its worker was not heard of again, and another one took over';

export interface Attempt {
  readonly number: number;
  readonly epoch: number;
  readonly worker: string;
  readonly startedMs: number;
  readonly endedMs?: number | undefined;
  /** Why it ended without success; undefined for the one that succeeded or is still running. */
  readonly failure?: { readonly kind: FailureKind; readonly message: string } | undefined;
}

/** One state change; `seq` numbers all of them and is the SSE event id. */
export interface TransferEvent {
  readonly seq: number;
  readonly transferId: string;
  readonly state: TransferState;
  readonly atMs: number;
}
