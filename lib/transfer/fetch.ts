/** One attempt of a download: an object of a store into staging, where it stays until its lease ends. */
import type { PartedUpload } from '../ledger/contract.ts';
import type { Place, Transfer, TransferResult, Verification } from '../ledger/transfer.ts';
import type { FileEntry } from '../stores/driver.ts';
import type { Attempt, AttemptEnd } from './attempt.ts';
import type { TransferDeps } from './deps.ts';
import { joinParts } from './join.ts';
import { isLost, isOf, multipartAt, partBytesOf, type Whole } from './parts.ts';
import { findSource, headOrNothing, type Source } from './plan.ts';
import {
  assertUncontradicted,
  demands,
  needsOnePass,
  partsOf,
  sourceChecks,
  tokenOf,
  wholeOf,
} from './send.ts';

/** What is known of bytes that are staged now. */
type Staged = Pick<TransferResult, 'size' | 'sha256' | 'verified'>;

export async function fetchToStaging(
  deps: TransferDeps,
  row: Transfer,
  attempt: Attempt,
): Promise<AttemptEnd> {
  const source = await findSource(deps, row, attempt.signal);
  assertUncontradicted(row, source);
  const inParts = needsOnePass(row, source) ? undefined : await stageInParts(deps, row, source, attempt);
  if (inParts === 'handed-out') return inParts;
  const staged = inParts ?? (await stageInOnePass(deps, row, source, attempt));
  const result: TransferResult = {
    outcome: 'ready',
    ...staged,
    ...(source.entry && { etag: source.entry.etag }),
  };
  return endStaged(deps, row, result, attempt.leaseMs);
}

/** Its bytes are staged whole, and stay for so long unless they are read; ms. */
export async function endStaged(
  deps: TransferDeps,
  { id, epoch }: Transfer,
  result: TransferResult,
  leaseMs: number,
): Promise<'succeeded' | 'stale'> {
  const { transfers } = deps.ledger;
  const stagedUntilMs = Date.now() + leaseMs;
  if (await transfers.end(id, epoch, { state: 'succeeded', result, stagedUntilMs })) {
    deps.staging.accounted(id);
    return 'succeeded';
  }
  // cancelled at the last moment: nobody else would remove the bytes before long
  if (!(await transfers.holdingStaged([id])).has(id)) await freeFile(deps, id);
  return 'stale';
}

async function stageInParts(
  deps: TransferDeps,
  row: Transfer,
  source: Source,
  attempt: Attempt,
): Promise<Staged | 'handed-out' | undefined> {
  const { size, sha256 } = source.known;
  const { signal } = attempt;
  const to: Place = { store: deps.staging.store.name, path: deps.staging.pathOf(row.id) };
  const whole = wholeOf(row, to, source);
  if (partBytesOf(deps, whole, attempt.parts.thresholdBytes) === undefined) return undefined;
  const staged = (checks: readonly Verification[]): Staged => ({
    size,
    ...(sha256 !== undefined && { sha256 }),
    verified: [{ check: 'size', by: 'staging' }, ...checks],
  });
  const [upload] = await deps.ledger.uploads.partedOf(row.id);
  if (!upload) await deps.staging.makeRoom(row.id, size);
  else if (await joinedOf(deps, upload, whole, signal)) return staged([]);
  const published = async () => {
    const [now] = await deps.ledger.uploads.partedOf(row.id);
    return now && joinedOf(deps, now, whole, signal);
  };
  const ready = await partsOf({ deps, row, to, source, published }, attempt);
  deps.staging.accounted(row.id); // its upload is written down
  if (ready === undefined || ready === 'handed-out') return ready;
  if ('published' in ready) return staged([]);
  const { parts, crc32, checks } = ready;
  attempt.onRest();
  await joinParts(deps, parts, { crc32, mode: 'replace', token: tokenOf(row), published, signal });
  return staged(checks);
}

/**
 * What another worker has joined, which died before it could say so, or is about to: its upload is over, and what it was
 * for is there.
 */
async function joinedOf(
  deps: TransferDeps,
  upload: PartedUpload,
  whole: Pick<Whole, 'to' | 'size' | 'from'>,
  signal: AbortSignal,
): Promise<FileEntry | undefined> {
  const { to, size } = whole;
  const there = await headOrNothing(deps.staging.store, to, signal);
  if (!there || upload.uploadId === undefined) return undefined;
  if (isOf(upload, whole) && there.size === size) {
    const parts = multipartAt(deps, to).parts({ path: to.path, id: upload.uploadId }, { signal });
    try {
      for await (const _ of parts) break;
    } catch (error) {
      if (isLost(error, upload)) return there;
      throw error;
    }
  }
  // of another version of the source: never to be taken for this one's
  await deps.staging.store.remove([to.path], signal);
  return undefined;
}

async function stageInOnePass(
  deps: TransferDeps,
  row: Transfer,
  source: Source,
  { signal, onProgress, onRest }: Attempt,
): Promise<Staged> {
  const { size } = source.known;
  const digests = await deps.staging.stage(row.id, source.bytes(signal), {
    tooLarge: 'invalid',
    signal,
    size,
    ...demands(row, source),
    onProgress: (done) => onProgress(done, size),
    onRest,
  });
  return {
    size: digests.size,
    sha256: digests.sha256,
    verified: [{ check: 'size', by: 'staging' }, ...sourceChecks(row, source)],
  };
}

/** Never throws: gc removes what this does not. */
export async function freeFile(deps: TransferDeps, transfer: string): Promise<void> {
  try {
    await deps.staging.free(transfer, AbortSignal.timeout(10_000));
  } catch (error) {
    deps.log.warn({ transfer, err: error }, 'could not remove a staged file; gc will');
  }
}
