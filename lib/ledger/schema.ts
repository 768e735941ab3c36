/** The tables as queries see them. What makes them is `migrations/`; times are unix times in ms, flags 0 or 1. */
import type { Generated } from 'kysely';
import type { FailureKind } from '../errors.ts';
import type { StorePath } from '../path.ts';
import type {
  Links,
  OnExists,
  OnUnsupported,
  TransferKind,
  TransferResult,
  TransferState,
} from './transfer.ts';

export interface TransferTable {
  /** That of the event of its (last) acceptance: one sequence numbers both. */
  seq: number;
  id: string;
  kind: TransferKind;
  state: TransferState;
  epoch: number;
  attempts: number;
  starts: number;
  synchronous: number;
  from_store: string | null;
  from_path: StorePath | null;
  to_store: string | null;
  to_path: StorePath | null;
  /** It is about everything at and below its paths. */
  to_tree: number;
  on_exists: OnExists;
  links: Links;
  on_unsupported: OnUnsupported;
  /** JSON array of `Preserved`. */
  preserve: string;
  priority: number;
  owner: string;
  /** Of staged bytes, or of those that were carried. */
  size: number | null;
  sha256: string | null;
  /** Unsigned 32-bit numbers, little-endian, one a block. */
  block_crcs: Uint8Array | null;
  /** JSON of `ExpectedDigests`. */
  expected: string | null;
  /** JSON object; `transfer_labels` has them again for the index. */
  labels: string;
  deadline_ms: number | null;
  created_ms: number;
  accepted_ms: number;
  queued_ms: number;
  started_ms: number | null;
  ended_ms: number | null;
  failure_kind: FailureKind | null;
  failure_message: string | null;
  /** JSON of `TransferResult`, whose outcome is repeated for queries. */
  result: string | null;
  outcome: TransferResult['outcome'] | null;
  staged_until_ms: number | null;
  staged_bytes: number;
  /** The plan of a tree is complete. */
  planned: number;
}

/** `seq` is the transfer's, so that an index gives them newest first. */
export interface TransferLabelTable {
  transfer_id: string;
  key: string;
  value: string;
  seq: number;
}

export interface AttemptTable {
  transfer_id: string;
  number: number;
  epoch: number;
  worker: string;
  started_ms: number;
  ended_ms: number | null;
  failure_kind: FailureKind | null;
  failure_message: string | null;
}

export interface EventTable {
  /** Never used twice, also when the newest rows were deleted. */
  seq: Generated<number>;
  transfer_id: string;
  state: TransferState;
  at_ms: number;
}

export interface IdempotencyTable {
  scope: string;
  key: string;
  request_hash: string;
  transfer_id: string;
}

export interface ObjectTable {
  store: string;
  path: StorePath;
  etag: string;
  sha256: Uint8Array | null;
  /** Unsigned. */
  crc32: number | null;
}

export interface UploadTable {
  id: string;
  store: string;
  path: StorePath;
  owner: string;
  upload_id: string | null;
  intended_ms: number;
  /** Set in parted uploads only, as are the following. */
  transfer_id: string | null;
  size: number | null;
  part_bytes: number | null;
  from_store: string | null;
  from_path: StorePath | null;
  from_etag: string | null;
  /** JSON array: what the store did not take of what the object is to carry. */
  not_kept: string | null;
}

/** One row. */
export interface InstallationTable {
  id: string;
  key: Uint8Array;
}

/** A page of a tree's plan. */
export interface TreePageTable {
  transfer_id: string;
  page: number;
  files: number;
  bytes: number;
  ended_ms: number | null;
  busy_ms: number;
  done_files: number;
  done_bytes: number;
  skipped_files: number;
  skipped_bytes: number;
  failed_files: number;
  failed_bytes: number;
  directories: number;
  done_directories: number;
  left_out_files: number;
  left_out_bytes: number;
  /** JSON object: of how many files something was not kept, by its name. */
  not_kept: string | null;
  failure_kind: FailureKind | null;
  failure_message: string | null;
}

/** A running tree publishes here. */
export interface TreeClaimTable {
  store: string;
  path: StorePath;
  /** The transfer's. */
  seq: number;
}

export interface LedgerTables {
  transfers: TransferTable;
  transfer_labels: TransferLabelTable;
  attempts: AttemptTable;
  events: EventTable;
  idempotency_keys: IdempotencyTable;
  objects: ObjectTable;
  uploads: UploadTable;
  installation: InstallationTable;
  tree_pages: TreePageTable;
  tree_claims: TreeClaimTable;
}
