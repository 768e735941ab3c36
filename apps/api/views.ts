/** A transfer as `/api/v1` answers it. */
import type { Progress } from '../../lib/jobs/progress.ts';
import {
  type Attempt,
  type EntryCount,
  hasEnded,
  type Place,
  type Transfer,
  type TransferResult,
  type TreeCounts,
} from '../../lib/ledger/transfer.ts';
import { writtenPath } from '../../lib/path.ts';
import type { TransferView } from './schemas.ts';

export const TRANSFERS = '/api/v1/transfers';

/** `prefix`: the static prefix that the request came through, which the links in the answer repeat. */
export function transferPath(prefix: string, id: string): string {
  return `${prefix}${TRANSFERS}/${id}`;
}

/** Of a tree; `planned` once all of it was listed. */
export interface FilesSoFar extends TreeCounts {
  readonly planned?: EntryCount;
}

const placeView = ({ store, path }: Place) => ({ store, ...writtenPath(path) });

const iso = (ms: number): string => new Date(ms).toISOString();

export function viewOf(
  transfer: Transfer,
  prefix: string,
  more: {
    readonly progress?: Progress | undefined;
    readonly attempts?: readonly Attempt[];
    readonly files?: FilesSoFar | undefined;
  } = {},
): TransferView {
  const { id, kind, state, from, to, tree, priority, onExists, labels, owner, failure, result } = transfer;
  const { links, onUnsupported, preserve } = transfer;
  const files = more.files ?? result?.files;
  const view: TransferView = {
    id,
    kind,
    state,
    ...(from && { from: placeView(from) }),
    ...(to && { to: placeView(to) }),
    tree,
    ...(tree && { links, onUnsupported }),
    ...(preserve.length > 0 && { preserve: [...preserve] }),
    ...(files && { files }),
    priority,
    onExists,
    labels: { ...labels },
    owner,
    createdAt: iso(transfer.createdMs),
    failedAttempts: transfer.attempts,
    ...(more.files ? treeBytesOf(transfer, more.files) : bytesOf(transfer, more.progress)),
  };
  if (transfer.startedMs !== undefined) view.startedAt = iso(transfer.startedMs);
  if (transfer.endedMs !== undefined) view.endedAt = iso(transfer.endedMs);
  if (transfer.deadlineMs !== undefined) view.deadline = iso(transfer.deadlineMs);
  const kept = hasEnded(state) ? transfer.stagedUntilMs : undefined;
  if (kept !== undefined && kept > (transfer.endedMs ?? 0)) view.bytesKeptUntil = iso(kept);
  if (more.attempts) view.attempts = more.attempts.map(attemptOf);
  if (failure) view.failure = { kind: failure.kind, message: failure.message };
  if (result) view.result = resultOf(result);
  if (result?.outcome === 'ready' && kept !== undefined) view.content = `${transferPath(prefix, id)}/content`;
  return view;
}

const resultOf = ({ verified, notKept, notKeptFiles, ...result }: TransferResult) => ({
  ...result,
  ...(notKept && { notKept: [...notKept] }),
  ...(notKeptFiles && { notKeptFiles: { ...notKeptFiles } }),
  verified: [...verified],
});

function bytesOf(transfer: Transfer, progress: Progress | undefined) {
  const total = transfer.result?.size ?? progress?.total ?? transfer.digests?.size;
  const facts = {
    ...(total !== undefined && { bytesTotal: total }),
    ...(transfer.state === 'succeeded' && total !== undefined && { bytesDone: total }),
  };
  if (!progress || (transfer.state !== 'running' && transfer.state !== 'publishing')) return facts;
  const rate = progress.bytesPerSecond;
  return {
    ...facts,
    bytesDone: progress.done,
    bytesPerSecond: rate,
    ...(rate > 0 && total !== undefined && { etaSeconds: Math.max(0, total - progress.done) / rate }),
  };
}

/** Counted by pages: the ledger knows those that have ended. */
function treeBytesOf({ state, startedMs }: Transfer, { planned, ...files }: FilesSoFar) {
  const { done, skipped, failed, leftOut } = files;
  const bytesDone = done.bytes + skipped.bytes + failed.bytes + leftOut.bytes;
  const facts = { bytesDone, ...(planned && { bytesTotal: planned.bytes }) };
  if (state !== 'running' || startedMs === undefined) return facts;
  const bytesPerSecond = Math.round((bytesDone * 1000) / Math.max(1, Date.now() - startedMs));
  if (!planned || bytesPerSecond === 0) return { ...facts, bytesPerSecond };
  return { ...facts, bytesPerSecond, etaSeconds: Math.max(0, planned.bytes - bytesDone) / bytesPerSecond };
}

const attemptOf = ({ number, worker, startedMs, endedMs, failure }: Attempt) => ({
  number,
  worker,
  startedAt: iso(startedMs),
  ...(endedMs !== undefined && { endedAt: iso(endedMs) }),
  ...(failure && { failure: { kind: failure.kind, message: failure.message } }),
});
