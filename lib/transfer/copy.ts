/**
 * One attempt of a transfer, from the ledger's row to its recorded ending. It may run twice, even twice at once: nothing
 * here relies on being alone. The order of writes is the promise: the slot is committed, then the object is published
 * and verified, then the ending is committed, then staging is freed; only then does the caller acknowledge the job.
 */
import { pause } from '../deadline.ts';
import { Failure } from '../errors.ts';
import type { Place, Transfer, TransferKind, TransferResult, Verification } from '../ledger/transfer.ts';
import { baseName } from '../path.ts';
import type { Draft, PrepareOptions, Published } from '../stores/store.ts';
import { nameOf, storeAt, type TransferDeps } from './deps.ts';
import { uploadJournal } from './journal.ts';
import { contentTypeOf } from './media-type.ts';
import { alreadyExists, findSource, headOrNothing, isOurs, type Look, planFor, type Source } from './plan.ts';
import { knownOf } from './same.ts';

/** How long a prepared object waits for another one that is being published on its target. */
const TURN_MS = 5000;
const LOOK_AGAIN_MS = 100;
const COME_BACK_MS = 1000;

export interface Attempt {
  readonly signal: AbortSignal;
  /** How long the bytes of a download stay unless they are read; ms. */
  readonly leaseMs: number;
  /** Bytes of this attempt so far; `total` where it is known. Called for every chunk. */
  onProgress(done: number, total: number | undefined): void;
  /** From here on nothing moves that could be seen: the store joins and syncs. */
  onRest(): void;
  /** Now it is going to be seen. @throws Failure `interrupted`: another worker may have the job by now */
  onPublish(): void;
}

/** `stale`: somebody else ended it, or it has a newer epoch; nothing is left to do. */
export type AttemptEnd = 'succeeded' | 'superseded' | 'stale';

const RUN: Record<
  TransferKind,
  (deps: TransferDeps, row: Transfer, attempt: Attempt) => Promise<AttemptEnd>
> = {
  upload: carry,
  copy: carry,
  download: fetchToStaging,
  delete: removeObject,
};

/** @param row as `start` answered it. @throws Failure why this attempt did not end it; nothing new is visible then */
export const runAttempt = (deps: TransferDeps, row: Transfer, attempt: Attempt): Promise<AttemptEnd> =>
  RUN[row.kind](deps, row, attempt);

async function carry(deps: TransferDeps, row: Transfer, attempt: Attempt): Promise<AttemptEnd> {
  const to = targetOf(row);
  const source = await findSource(deps, row, attempt.signal);
  const plan = await planFor(deps, row, to, source, lookOf(attempt, source.known.size));
  if (plan.do === 'nothing')
    return succeed(deps, row, {
      outcome: plan.outcome,
      size: plan.entry.size,
      etag: plan.entry.etag,
      // what `skip` left may be anything
      ...(source.known.sha256 !== undefined &&
        (plan.outcome === 'published' || row.onExists !== 'skip') && { sha256: source.known.sha256 }),
      verified: [],
    });

  const draft = await send(deps, row, to, source, plan.mode, attempt);
  try {
    attempt.onRest();
    const turn = await takeTurn(deps, row, to, attempt.signal);
    if (turn !== 'ok') {
      await draft.discard();
      if (turn === 'superseded') await freeStaged(deps, row);
      return turn;
    }
    return await publish(deps, row, to, draft, source.known, attempt);
  } catch (error) {
    await draft.discard();
    throw error;
  }
}

const lookOf = ({ signal, onProgress }: Attempt, size: number): Look => ({
  signal,
  onBytes: () => onProgress(0, size),
});

async function send(
  deps: TransferDeps,
  row: Transfer,
  to: Place,
  source: Source,
  mode: 'replace' | 'create',
  { signal, onProgress }: Attempt,
): Promise<Draft> {
  const token = `${row.id}-${row.epoch}`;
  const { size } = source.known;
  const opts: PrepareOptions = {
    signal,
    token,
    size,
    ...demands(row, source),
    mode,
    mediaType: contentTypeOf(baseName(to.path)),
    journal: uploadJournal(deps.ledger.uploads, to.store, token),
    onProgress: (done) => onProgress(done, size),
  };
  return storeAt(deps, to).prepare(to.path, source.bytes(signal), opts);
}

/**
 * What the bytes must be: what their store vouches for, else they were damaged on the way and another attempt may go
 * well; and what the caller declared, who else named another object, and that no attempt changes.
 * @throws Failure `invalid`: the two contradict each other
 */
function demands(row: Transfer, { known }: Source): Pick<PrepareOptions, 'expected' | 'mismatch'> {
  const declared = row.expected ?? {};
  for (const name of ['sha256', 'crc32'] as const)
    if (
      row.from &&
      known[name] !== undefined &&
      declared[name] !== undefined &&
      known[name] !== declared[name]
    )
      throw new Failure(
        'invalid',
        `nothing was stored: the ${name} of ${nameOf(row.from)} is ${known[name]}, not ${declared[name]} as was declared`,
        { op: 'read', store: row.from.store, path: row.from.path },
      );
  const vouched = (what: string): boolean =>
    row.from === undefined ||
    what === 'size' ||
    ((what === 'sha256' || what === 'crc32') && known[what] !== undefined);
  // of what others have put there the ledger knows no SHA-256: then the store's own CRC32 says what it has
  const { sha256 } = known;
  return {
    expected: { ...(sha256 === undefined ? { crc32: known.crc32 } : { sha256 }), ...declared },
    mismatch: (what) => (vouched(what) ? 'corrupt' : 'invalid'),
  };
}

/** Commits `publishing`. @throws Failure `busy`: another one has been publishing there for a while */
async function takeTurn(deps: TransferDeps, row: Transfer, to: Place, signal: AbortSignal) {
  const untilMs = Date.now() + TURN_MS;
  for (;;) {
    const turn = await deps.ledger.transfers.publishing(row.id, row.epoch);
    if (turn !== 'occupied') return turn;
    if (Date.now() > untilMs)
      throw new Failure(
        'busy',
        `could not publish ${nameOf(to)}: another transfer has been publishing there for ${TURN_MS / 1000} s; this one waits for its turn`,
        { op: 'publish', store: to.store, path: to.path, retryAfterMs: COME_BACK_MS },
      );
    await pause(LOOK_AGAIN_MS * (1 + Math.random()), signal);
  }
}

async function publish(
  deps: TransferDeps,
  row: Transfer,
  to: Place,
  draft: Draft,
  known: Source['known'],
  attempt: Attempt,
): Promise<AttemptEnd> {
  const { digests } = draft;
  let published: Published;
  try {
    attempt.onPublish();
    published = await draft.publish({ signal: attempt.signal });
  } catch (error) {
    if (!(error instanceof Failure) || error.kind !== 'already-exists') throw error;
    const there = await headOrNothing(storeAt(deps, to), to, attempt.signal);
    if (!there) throw error;
    const ours = await isOurs(deps, row, to, there, knownOf(digests), lookOf(attempt, digests.size));
    await draft.discard();
    if (!ours && row.onExists !== 'skip') throw alreadyExists(to);
    published = { entry: there, verified: [] };
    if (!ours)
      return succeed(deps, row, { outcome: 'skipped', size: there.size, etag: there.etag, verified: [] });
  }
  const { entry, verified } = published;
  const { sha256, size } = digests;
  await deps.ledger.objects.record(to, { etag: entry.etag, size, sha256 });
  return succeed(deps, row, {
    outcome: 'published',
    size,
    etag: entry.etag,
    sha256,
    // a draft takes all that it was to compare for the client's wish; here some of it was staging's word
    verified: [...sourceChecks(row, known), ...verified.filter((check) => check.by !== 'client')],
  });
}

/** What `send` compared, beyond what the store says of itself. */
function sourceChecks(row: Transfer, known: Source['known']): Verification[] {
  const byClient = Object.entries(row.expected ?? {})
    .filter(([, digest]) => digest !== undefined)
    .map(([check]) => ({ check, by: 'client' }));
  if (!row.from) return [...byClient, { check: 'sha256', by: 'staging' }];
  return known.sha256 === undefined ? byClient : [...byClient, { check: 'sha256', by: 'ledger' }];
}

async function fetchToStaging(deps: TransferDeps, row: Transfer, attempt: Attempt): Promise<AttemptEnd> {
  const { signal, onProgress } = attempt;
  const source = await findSource(deps, row, signal);
  const { size } = source.known;
  const digests = await deps.staging.stage(row.id, source.bytes(signal), {
    signal,
    size,
    ...demands(row, source),
    onProgress: (done) => onProgress(done, size),
  });
  const result: TransferResult = {
    outcome: 'ready',
    size: digests.size,
    sha256: digests.sha256,
    verified: [{ check: 'size', by: 'staging' }, ...sourceChecks(row, source.known)],
    ...(source.entry && { etag: source.entry.etag }),
  };
  const stagedUntilMs = Date.now() + attempt.leaseMs;
  if (await deps.ledger.transfers.end(row.id, row.epoch, { state: 'succeeded', result, stagedUntilMs }))
    return 'succeeded';
  // cancelled at the last moment: nobody else would remove the bytes before long
  const wanted = await deps.ledger.transfers.holdingStaged([row.id]);
  if (!wanted.has(row.id)) await freeFile(deps, row);
  return 'stale';
}

/** Exactly this object: what lies below the path stays. */
async function removeObject(deps: TransferDeps, row: Transfer, attempt: Attempt): Promise<AttemptEnd> {
  const to = targetOf(row);
  const { signal } = attempt;
  const turn = await takeTurn(deps, row, to, signal);
  if (turn !== 'ok') return turn;
  attempt.onPublish();
  await storeAt(deps, to).remove([to.path], signal);
  await deps.ledger.objects.forget(to);
  return succeed(deps, row, { outcome: 'removed', verified: [] });
}

function targetOf(row: Transfer): Place {
  if (row.to) return row.to;
  throw new Failure('bug', `transfer ${row.id} (${row.kind}) has no target: submit it again`);
}

async function succeed(deps: TransferDeps, row: Transfer, result: TransferResult): Promise<AttemptEnd> {
  if (!(await deps.ledger.transfers.end(row.id, row.epoch, { state: 'succeeded', result }))) return 'stale';
  await freeStaged(deps, row);
  return 'succeeded';
}

/** The ending is committed: what cannot be freed now is freed by gc. Never throws. */
async function freeStaged(deps: TransferDeps, row: Transfer): Promise<void> {
  if (row.from || !row.digests) return;
  try {
    if (await deps.ledger.transfers.freeStaged(row.id)) await freeFile(deps, row);
  } catch (error) {
    deps.log.warn({ transfer: row.id, err: error }, 'could not free staged bytes; gc will');
  }
}

async function freeFile(deps: TransferDeps, row: Transfer): Promise<void> {
  try {
    await deps.staging.free(row.id, AbortSignal.timeout(10_000));
  } catch (error) {
    deps.log.warn({ transfer: row.id, err: error }, 'could not remove a staged file; gc will');
  }
}
