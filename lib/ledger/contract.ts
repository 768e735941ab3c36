/**
 * What the ledger promises its callers, whatever database is below. A write's promise resolves once it is committed
 * and synced. Any call may reject with `Failure`: `unavailable` (locked for too long, or the disk failed),
 * `no-space`.
 */
import type { Failure, FailureKind } from '../errors.ts';
import type {
  Attempt,
  NewTransfer,
  Place,
  Transfer,
  TransferEvent,
  TransferKind,
  TransferResult,
  TransferState,
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
   */
  start(id: string, epoch: number, worker: string): Promise<Transfer | undefined>;
  /**
   * running → publishing (`ok`; again `ok` while it is publishing). `stale`: ended or another epoch. `occupied`:
   * another transfer is publishing on an overlapping target: later. `superseded`: a later-accepted one already
   * succeeded there, and the row has ended.
   */
  publishing(id: string, epoch: number): Promise<'ok' | 'stale' | 'occupied' | 'superseded'>;
  /**
   * `succeeded` from running (nothing to publish) or publishing, the others from any unended state; closes the
   * attempt. Without `stagedUntilMs` staged bytes of a failed one stay as long as was said at `accept`; of any
   * other they may go now. `false`: stale.
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
   * accepted or running → cancelled (again `cancelled` when it was). `too-late`: publishing, or ended otherwise.
   */
  cancel(id: string): Promise<'cancelled' | 'too-late' | 'not-found'>;
  /**
   * failed or cancelled → accepted: a new acceptance with a new seq and epoch and all attempts to spend; a deadline
   * that has passed is dropped. `bytes-gone`: its staged bytes were freed or may be at any time. `not-failed`: in
   * any other state. `undefined`: no such transfer.
   */
  retry(id: string): Promise<Transfer | 'not-failed' | 'bytes-gone' | undefined>;
  /**
   * A synchronous PUT's or DELETE's turn on a target. `free`: no unended transfer overlaps, nothing was written
   * down, go on. `occupied`: one is publishing: try again. Else a row in state `publishing`, accepted now, that
   * only its owner ends, with `end`; without that it is `overdue` at its deadline, which `renewSlot` puts off.
   * A delete's target is everything at and below the path; that of a transfer which was accepted is exactly its
   * path, also of a delete.
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
  /** How many ended at or after then, by kind (for the rate at which work is done; ask for minutes, not days). */
  endedSince(sinceMs: number): Promise<Record<TransferKind, number>>;
  /** When the one that waits longest to be started was accepted; unix time in ms. */
  oldestAcceptedMs(): Promise<number | undefined>;
  /** Bytes in staging that rows account for. */
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

/** SHA-256 of objects that passed through here, valid for exactly the version they were taken of. */
export interface Objects {
  record(
    place: Place,
    object: { readonly etag: string; readonly size: number; readonly sha256: string },
  ): Promise<void>;
  /** Lower-case hex; `undefined` where this version is not known. */
  digest(place: Place, etag: string): Promise<string | undefined>;
  /** The object and everything below it. */
  forget(place: Place): Promise<void>;
}

/** A multipart upload that was meant to begin and has not been seen to end. */
export interface OpenUpload {
  readonly id: string;
  readonly place: Place;
  /** Transfer id and epoch, or a request's id. */
  readonly owner: string;
  readonly intendedMs: number;
  /** The store's own id; `undefined`: it may or may not have begun. */
  readonly uploadId?: string | undefined;
}
/** Multipart uploads are written down before they begin, so that none is forgotten in a store. */
export interface Uploads {
  intend(place: Place, owner: string): Promise<string>;
  /** `false`: it has another upload id already, or was collected: abandon yours. */
  begun(id: string, uploadId: string): Promise<boolean>;
  ended(id: string): Promise<void>;
  /** Intended before then, oldest first. */
  open(intendedBeforeMs: number, limit: number): Promise<OpenUpload[]>;
}

export interface Events {
  /** Oldest first. */
  after(seq: number, limit: number, transferId?: string): Promise<TransferEvent[]>;
  /** Seq of the newest; 0 where there is none. */
  last(): Promise<number>;
}
