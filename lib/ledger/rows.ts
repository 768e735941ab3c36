/** Rows as transfers and back. What is JSON in a row is checked on its way out. */
import type { Selectable } from 'kysely';
import { z } from 'zod';
import type { Digests, ExpectedDigests } from '../digests.ts';
import type { FailureKind } from '../errors.ts';
import type { StorePath } from '../path.ts';
import type { AttemptTable, TransferTable } from './schema.ts';
import {
  type Attempt,
  type NewTransfer,
  type Place,
  PRESERVED,
  type Transfer,
  type TransferResult,
} from './transfer.ts';

export type TransferRow = Selectable<TransferTable>;

const LABELS = z.record(z.string(), z.string());
const EXPECTED = z.object({
  sha256: z.string().optional(),
  sha512: z.string().optional(),
  md5: z.string().optional(),
  crc32: z.string().optional(),
}) satisfies z.ZodType<ExpectedDigests>;
const PRESERVE = z.array(z.enum(PRESERVED));
const COUNT = z.object({ files: z.number(), bytes: z.number() });
const RESULT = z.object({
  outcome: z.enum(['published', 'skipped', 'removed', 'ready']),
  size: z.number().optional(),
  etag: z.string().optional(),
  sha256: z.string().optional(),
  notKept: z.array(z.string()).optional(),
  notKeptFiles: z.record(z.string(), z.number()).optional(),
  files: z
    .object({
      done: COUNT.extend({ directories: z.number().default(0) }),
      skipped: COUNT,
      failed: COUNT,
      leftOut: COUNT,
    })
    .optional(),
  verified: z.array(z.object({ check: z.string(), by: z.string() })),
}) satisfies z.ZodType<TransferResult>;

export function transferOf(row: TransferRow): Transfer {
  return {
    id: row.id,
    kind: row.kind,
    from: placeOf(row.from_store, row.from_path),
    to: placeOf(row.to_store, row.to_path),
    digests: digestsOf(row),
    expected: row.expected === null ? undefined : EXPECTED.parse(JSON.parse(row.expected)),
    onExists: row.on_exists,
    tree: row.to_tree === 1,
    links: row.links,
    onUnsupported: row.on_unsupported,
    preserve: row.preserve === '[]' ? [] : PRESERVE.parse(JSON.parse(row.preserve)),
    priority: row.priority,
    labels: row.labels === '{}' ? {} : LABELS.parse(JSON.parse(row.labels)),
    deadlineMs: row.deadline_ms ?? undefined,
    owner: row.owner,
    seq: row.seq,
    state: row.state,
    epoch: row.epoch,
    attempts: row.attempts,
    starts: row.starts,
    synchronous: row.synchronous === 1,
    createdMs: row.created_ms,
    queuedMs: row.queued_ms,
    startedMs: row.started_ms ?? undefined,
    endedMs: row.ended_ms ?? undefined,
    failure: failureOfRow(row),
    result: row.result === null ? undefined : RESULT.parse(JSON.parse(row.result)),
    stagedUntilMs: row.staged_until_ms ?? undefined,
  };
}

/** As it is accepted now; `seq` is that of its event. */
export function acceptedRow(
  transfer: NewTransfer,
  facts: { readonly seq: number; readonly nowMs: number; readonly stagedUntilMs: number | undefined },
): TransferRow {
  const { digests, from, to } = transfer;
  return {
    seq: facts.seq,
    id: transfer.id,
    kind: transfer.kind,
    state: 'accepted',
    epoch: 1,
    attempts: 0,
    starts: 0,
    synchronous: 0,
    from_store: from?.store ?? null,
    from_path: from?.path ?? null,
    to_store: to?.store ?? null,
    to_path: to?.path ?? null,
    to_tree: transfer.tree ? 1 : 0,
    on_exists: transfer.onExists,
    links: transfer.links ?? 'follow',
    on_unsupported: transfer.onUnsupported ?? 'fail',
    preserve: JSON.stringify(transfer.preserve ?? []),
    priority: transfer.priority,
    owner: transfer.owner,
    size: digests?.size ?? null,
    sha256: digests?.sha256 ?? null,
    block_crcs: digests ? bytesOfCrcs(digests.blockCrcs) : null,
    expected: transfer.expected ? JSON.stringify(transfer.expected) : null,
    labels: JSON.stringify(transfer.labels),
    deadline_ms: transfer.deadlineMs ?? null,
    created_ms: facts.nowMs,
    accepted_ms: facts.nowMs,
    queued_ms: facts.nowMs,
    started_ms: null,
    ended_ms: null,
    failure_kind: null,
    failure_message: null,
    result: null,
    outcome: null,
    staged_until_ms: facts.stagedUntilMs ?? null,
    staged_bytes: facts.stagedUntilMs === undefined ? 0 : (digests?.size ?? 0),
    planned: 0,
  };
}

export function attemptOf(row: Selectable<AttemptTable>): Attempt {
  return {
    number: row.number,
    epoch: row.epoch,
    worker: row.worker,
    startedMs: row.started_ms,
    endedMs: row.ended_ms ?? undefined,
    failure: failureOfRow(row),
  };
}

export function failureOfRow(row: { failure_kind: FailureKind | null; failure_message: string | null }) {
  return row.failure_kind === null
    ? undefined
    : { kind: row.failure_kind, message: row.failure_message ?? '' };
}

const placeOf = (store: string | null, path: StorePath | null): Place | undefined =>
  store === null || path === null ? undefined : { store, path };

function digestsOf(row: TransferRow): Digests | undefined {
  if (row.size === null || row.sha256 === null) return undefined;
  return { size: row.size, sha256: row.sha256, blockCrcs: crcsOfBytes(row.block_crcs ?? new Uint8Array()) };
}

function bytesOfCrcs(crcs: Uint32Array): Uint8Array {
  const bytes = new DataView(new ArrayBuffer(crcs.length * 4));
  for (const [at, crc] of crcs.entries()) bytes.setUint32(at * 4, crc, true);
  return new Uint8Array(bytes.buffer);
}

function crcsOfBytes(bytes: Uint8Array): Uint32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Uint32Array.from({ length: bytes.length / 4 }, (_, at) => view.getUint32(at * 4, true));
}
