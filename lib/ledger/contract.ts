/**
 * What the ledger promises its callers, whatever database is below. A write's promise resolves once it is committed
 * and synced. Any call may reject with `Failure`: `unavailable` (locked for too long, or the disk failed),
 * `no-space`.
 */
import type { Failure, FailureKind } from '../errors.ts';
import type { StorePath } from '../path.ts';
import type {
  Attempt,
  EntryCount,
  NewTransfer,
  NotKeptFiles,
  Place,
  Transfer,
  TransferEvent,
  TransferKind,
  TransferResult,
  TransferState,
  TreeCounts,
  TreePage,
} from './transfer.ts';

export interface Idempotency {
  /** Who asks, and by which route. */
  readonly scope: string;
  /** As the caller gave it. */
  readonly key: string;
  /** Of everything that makes the request what it is, the bytes' SHA-256 included. */
  readonly requestHash: string;
}

/** All given fields hold. */
export interface TransferFilter {
  readonly state?: TransferState | undefined;
  readonly kind?: TransferKind | undefined;
  /** On either side. */
  readonly store?: string | undefined;
  readonly label?: { readonly key: string; readonly value: string } | undefined;
  readonly owner?: string | undefined;
  /** Accepted (last, where it was retried) at or after `fromMs` and before `toMs`; unix time in ms. */
  readonly fromMs?: number | undefined;
  readonly toMs?: number | undefined;
}
export interface TransferPage {
  readonly transfers: Transfer[];
  /** Opaque; absent on the last page. */
  readonly nextCursor?: string;
}

export type Ending =
  | {
      readonly state: 'succeeded';
      readonly result: TransferResult;
      readonly stagedUntilMs?: number | undefined;
      /** What is known of the object at its target: recorded with the ending, or neither is. */
      readonly object?: ObjectFacts;
    }
  | {
      readonly state: 'failed';
      readonly failure: { readonly kind: FailureKind; readonly message: string };
      readonly stagedUntilMs?: number | undefined;
    }
  | { readonly state: 'superseded'; readonly stagedUntilMs?: number | undefined };

/**
 * Every change is conditional on state and epoch: where nothing changed somebody else was quicker; touch nothing
 * then.
 */
export interface Transfers {
  /**
   * One row, its event and its key in one transaction. Same scope, key and hash: the transfer of the first time.
   * `stagedUntilMs` says that bytes are staged under the id (counted by `digests.size`), and until when they stay
   * should it be cancelled.
   * @throws Failure `unprocessable`: the key was used for another request
   */
  accept(
    transfer: NewTransfer,
    idempotency?: Idempotency,
    stagedUntilMs?: number,
  ): Promise<{ readonly transfer: Transfer; readonly replayed: boolean }>;
  findByKey(
    scope: string,
    key: string,
  ): Promise<{ readonly transfer: Transfer; readonly requestHash: string } | undefined>;
  get(id: string): Promise<Transfer | undefined>;
  /**
   * Newest first, by seq. @throws Failure `invalid`: not a cursor of ours
   */
  list(
    filter: TransferFilter,
    page: { readonly limit: number; readonly cursor?: string | undefined },
  ): Promise<TransferPage>;
  attemptsOf(id: string): Promise<Attempt[]>;
  /** Of those that exist. */
  statesOf(
    ids: readonly string[],
  ): Promise<Map<string, { readonly state: TransferState; readonly epoch: number }>>;

  /**
   * accepted → running, or running again for the same epoch (a second worker, a stalled job); opens an attempt. A
   * row whose worker died while publishing comes back with state `publishing`: settle by looking at the target,
   * then publish again or end. `undefined`: ended, other epoch, or held by a synchronous request: return quietly.
   *
   * An upload of at most `turnUpToBytes` staged bytes that replaces what is there also takes its turn on the target
   * when it starts for the first time, where that is free: it comes back with state `publishing` and one start.
   */
  start(id: string, epoch: number, worker: string, turnUpToBytes?: number): Promise<Transfer | undefined>;
  /**
   * running → publishing (`ok`; again `ok` while it is publishing). `stale`: ended or another epoch. `occupied`:
   * another transfer is publishing on an overlapping target: later. `superseded`: a later-accepted one already
   * succeeded there, and the row has ended.
   */
  publishing(id: string, epoch: number): Promise<'ok' | 'stale' | 'occupied' | 'superseded'>;
  /**
   * `succeeded` from running (nothing to publish) or publishing, the others from any unended state; closes the
   * attempt. Without `stagedUntilMs` staged bytes of a failed one stay as long as was said at `accept`; of any
   * other they may go now. A failed tree's plan stays until `stagedUntilMs`. `false`: stale.
   */
  end(id: string, epoch: number, ending: Ending): Promise<boolean>;
  /**
   * Closes the attempt; publishing → running. Answers the attempts spent so far, `undefined`: stale. With `attempt`
   * (`starts` of the row that `start` answered) it is stale as well when another worker took over since: that one
   * may be publishing.
   */
  attemptFailed(
    id: string,
    epoch: number,
    failure: Pick<Failure, 'kind' | 'message'>,
    spent: boolean,
    attempt?: number,
  ): Promise<number | undefined>;
  /**
   * The attempt goes on as jobs of its own: closes it without a failure; the state stays. A later `start` opens the
   * next one, and no worker is taken for dead. `attempt`: `starts` of the row that `start` answered. `false`: stale.
   */
  handedOut(id: string, epoch: number, attempt: number): Promise<boolean>;
  /**
   * accepted or running → cancelled (again `cancelled` when it was). `too-late`: publishing, or ended otherwise.
   * @param planUntilMs how long a tree's plan stays, so that it can go on when it is retried; default: as it was accepted with
   */
  cancel(id: string, planUntilMs?: number): Promise<'cancelled' | 'too-late' | 'not-found'>;
  /**
   * failed or cancelled → accepted: a new acceptance with a new seq and epoch and all attempts to spend; a deadline
   * that has passed is dropped. Of a tree's pages those with failed files are open again, and those that had not
   * ended; it is planned afresh where `stagedUntilMs`, which speaks of its plan, has passed or was never said.
   * `bytes-gone`: its staged bytes were freed or may be at any time. `not-failed`: in
   * any other state. `undefined`: no such transfer.
   */
  retry(id: string): Promise<Transfer | 'not-failed' | 'bytes-gone' | undefined>;
  /**
   * A synchronous PUT's or DELETE's turn on a target. `free`: no unended transfer overlaps, nothing was written
   * down, go on. `occupied`: one is publishing: try again. Else a row in state `publishing`, accepted now, that
   * only its owner ends, with `end`; without that it is `overdue` at its deadline, which `renewSlot` puts off.
   * A delete's target is everything at and below the path.
   */
  takeSlot(slot: {
    readonly id: string;
    readonly kind: 'upload' | 'delete';
    readonly to: Place;
    readonly owner: string;
    readonly deadlineMs: number;
  }): Promise<'free' | 'occupied' | { readonly id: string; readonly epoch: number }>;
  /** The turn is still in use. `false`: it was ended, because its deadline had come. */
  renewSlot(id: string, epoch: number, deadlineMs: number): Promise<boolean>;

  /**
   * The reconciler's: a new epoch for an unended row; running → accepted, while publishing stays publishing (the
   * target stays taken, and cancel stays too late). Answers the new epoch; `undefined`: stale, or held by a
   * synchronous request.
   */
  requeue(id: string, epoch: number): Promise<number | undefined>;
  /** Unended ones that a job should exist for, by (queuedMs, id); `after` goes on behind the last one seen. */
  unended(page: {
    readonly queuedBeforeMs: number;
    readonly limit: number;
    readonly after?: Pick<Transfer, 'queuedMs' | 'id'> | undefined;
  }): Promise<Transfer[]>;
  /**
   * Unended ones whose deadline has passed, synchronous ones too, and those never started that were accepted before
   * `acceptedBeforeMs`. Never one that a worker is publishing: it may be visible by now, and that is settled by looking.
   */
  overdue(query: {
    readonly nowMs: number;
    readonly acceptedBeforeMs?: number | undefined;
    readonly limit: number;
  }): Promise<Transfer[]>;

  counts(): Promise<Record<TransferState, number>>;
  /** What waits for a worker: accepted transfers, and the open pages of trees that run. */
  waiting(): Promise<StoreWork[]>;
  /** What was carried at or after then, `busyMs` in all workers together (ask for minutes, not days). */
  carriedSince(sinceMs: number): Promise<(StoreWork & { readonly busyMs: number })[]>;
  /** When the one that waits longest to be started was accepted; unix time in ms. */
  oldestAcceptedMs(): Promise<number | undefined>;
  /** Bytes in staging that rows account for, and those that parts are bringing there. */
  stagedBytes(): Promise<number>;

  /** A finished download was read: its bytes stay at least until then. `false`: they are gone already. */
  extendStaged(id: string, untilMs: number): Promise<boolean>;
  /** Ended ones whose staged bytes may go. */
  expiredStaged(nowMs: number, limit: number): Promise<Transfer[]>;
  /**
   * The row gives up its claim on staged bytes; remove the bytes after this, never before, or `retry` would find
   * none. With `expiredAtMs` only if the time they may be removed from has come by then (gc: nobody has renewed the
   * lease meanwhile). `false`: unended, renewed, or freed before.
   */
  freeStaged(id: string, expiredAtMs?: number): Promise<boolean>;
  /** Of ended ones that cannot be retried: their staged bytes were removed. A hundred at a time, not thousands. */
  stagedGone(ids: readonly string[]): Promise<void>;
  /** Which of these ids have a claim on staged bytes: unended, or kept after their end. Files of others may go. */
  holdingStaged(ids: readonly string[]): Promise<Set<string>>;
  /**
   * Forgets at most `limit` transfers that ended before then and have no staged bytes, with their events, attempts,
   * labels and keys. Never any that ended less than a day ago: keys are kept so long. Answers how many; fewer than
   * `limit`: that was all.
   */
  forgetHistory(beforeMs: number, limit: number): Promise<number>;
  /** How many `forgetHistory` would forget, at most `limit`. */
  forgettable(beforeMs: number, limit: number): Promise<number>;
}

/** One version of an object. */
export interface ObjectFacts {
  readonly etag: string;
  readonly size: number;
  /** Lower-case hex. */
  readonly sha256?: string | undefined;
  readonly crc32?: number | undefined;
}
export interface Version {
  readonly path: StorePath;
  readonly etag: string;
}
export interface KnownDigests {
  readonly sha256?: string;
  readonly crc32?: number;
}
/** Digests of objects that passed through here, valid for exactly the version they were taken of. */
export interface Objects {
  /** An empty object is not written down: its digests are known. */
  record(place: Place, object: ObjectFacts): Promise<void>;
  /** `undefined`: nothing is known of this version. */
  known(place: Place, etag: string): Promise<KnownDigests | undefined>;
  /** As `known`, of many versions in one store, in their order. */
  knownOf(store: string, versions: readonly Version[]): Promise<readonly (KnownDigests | undefined)[]>;
  /** The object and everything below it. */
  forget(place: Place): Promise<void>;
}

/** A multipart upload that was meant to begin and has not been seen to end. */
export interface OpenUpload {
  readonly id: string;
  readonly place: Place;
  /** Transfer id and epoch, or a request's id; of a parted one the transfer's id, with `.` and a page's number. */
  readonly owner: string;
  readonly intendedMs: number;
  /** The store's own id; `undefined`: it may or may not have begun. */
  readonly uploadId?: string | undefined;
  /** Of a parted one: whose it is in every epoch, for as long as that is unended. */
  readonly transfer?: string | undefined;
}
/** One that is carried out by jobs of its own, a part each. Its place may be in staging (a download): the path is the transfer's id. */
export interface PartedUpload extends OpenUpload {
  readonly transfer: string;
  readonly size: number;
  /** Of every part but the last. */
  readonly partBytes: number;
  /** As `begun` was told. */
  readonly notKept: readonly string[];
  /** Where bytes come from, pinned to a version; undefined: the transfer's staged bytes. */
  readonly from?: (Place & { readonly etag: string }) | undefined;
}
/** Multipart uploads are written down before they begin, so that none is forgotten in a store. */
export interface Uploads {
  intend(place: Place, owner: string): Promise<string>;
  /**
   * `notKept`: what the store did not take then of what the object is to carry.
   * `false`: it has another upload id already, or was collected: abandon yours.
   */
  begun(id: string, uploadId: string, notKept?: readonly string[]): Promise<boolean>;
  ended(id: string): Promise<void>;
  /** Which of these ids of a store are written down as those of open uploads. */
  named(uploadIds: readonly string[]): Promise<Set<string>>;
  /** Intended before then, oldest first, parted ones too. */
  open(intendedBeforeMs: number, limit: number): Promise<OpenUpload[]>;
  /**
   * Written down now unless this owner has one: then that one, as it was first written. A begin that is cut off
   * before `begun` leaves an upload that only its place tells of: write each down with `intend` beside this.
   */
  ensureParted(
    wanted: Pick<PartedUpload, 'place' | 'owner' | 'size' | 'partBytes' | 'from'>,
  ): Promise<PartedUpload>;
  parted(id: string): Promise<PartedUpload | undefined>;
  /** Of a transfer: its own and those of its pages. */
  partedOf(transfer: string): Promise<PartedUpload[]>;
  /** Parted ones of transfers that have ended or were forgotten: they may be abandoned at once. */
  partedOfEnded(limit: number): Promise<PartedUpload[]>;
}

/** Trees: a page of files is a row, a file is not. */
export interface Trees {
  /**
   * The whole plan, in order, or what is added to one of `after` pages; a plan that is there already, or has more pages
   * by now, stays as it is. `false`: stale.
   * @param stagedBytes what they take of staging for as long as they are kept
   */
  addPages(
    id: string,
    epoch: number,
    pages: readonly Pick<TreePage, 'page' | keyof EntryCount>[],
    stagedBytes: number,
    after?: number,
  ): Promise<boolean>;
  planned(id: string): Promise<{
    readonly pages: number;
    readonly files: number;
    readonly bytes: number;
    readonly directories: number;
    readonly complete: boolean;
  }>;
  /** Pages that have not ended. */
  open(id: string): Promise<number>;
  /** Those, in order, after that page (-1: from the first on). */
  openPages(id: string, after: number, limit: number): Promise<TreePage[]>;
  pages(id: string, after: number, limit: number): Promise<TreePage[]>;
  page(id: string, page: number): Promise<TreePage | undefined>;
  /**
   * Counts of all files of the page, also of those that an earlier round did. `busyMs`: how long it was worked on.
   * `false`: stale, or it has ended.
   */
  endPage(
    id: string,
    epoch: number,
    page: number,
    counts: TreeCounts &
      Pick<TreePage, 'failure'> & {
        readonly busyMs: number;
        /** Where the page turned out to be of other files than it was planned with. */
        readonly planned?: EntryCount | undefined;
        readonly notKept?: NotKeptFiles | undefined;
      },
  ): Promise<boolean>;
  totals(id: string): Promise<TreeCounts>;
  /** Of all its pages. */
  notKept(id: string): Promise<NotKeptFiles>;
  /**
   * Turns on targets for files about to be published; all in one transaction. `wait`: another transfer is
   * publishing there; `superseded`: a later-accepted one landed there already. A path that was claimed before is
   * `ok` again. `undefined`: stale.
   */
  claim(
    id: string,
    epoch: number,
    paths: readonly StorePath[],
  ): Promise<readonly ('ok' | 'wait' | 'superseded')[] | undefined>;
  /**
   * Gives turns back; nothing happens to paths that were not claimed: a page that is done releases all of its
   * paths, since a worker that died may have claimed some. Of another epoch: nothing happens. What is left goes with a
   * transfer that succeeds; one that was ended from outside keeps it, since its workers may be publishing there still.
   * @param published what is known of files that it has put into its target's store, recorded as `Objects.record` does
   */
  release(
    id: string,
    epoch: number,
    paths: readonly StorePath[],
    published?: readonly (ObjectFacts & { readonly path: StorePath })[],
  ): Promise<void>;
  /** Gives back all turns of a transfer that has ended, once none of its jobs runs any more. */
  releaseEnded(id: string): Promise<void>;
  /** Transfers that have ended and have turns yet. */
  claimedOfEnded(limit: number): Promise<string[]>;
  /**
   * Unended transfers accepted before it whose targets overlap with it: a tree begins only when there are none, so
   * that older ones land first.
   */
  olderWaiting(id: string): Promise<boolean>;
}

/** Of the queue's work on one store: a transfer's target, or the source of a download. A page of a tree is a job. */
export interface StoreWork {
  readonly kind: TransferKind;
  readonly store: string;
  readonly jobs: number;
  /** Those that are known: of what waits, only staged uploads and pages have them. */
  readonly bytes: number;
}

export interface Events {
  /** Oldest first. */
  after(seq: number, limit: number, transferId?: string): Promise<TransferEvent[]>;
  /** Seq of the newest; 0 where there is none. */
  last(): Promise<number>;
}
