/**
 * One attempt of a transfer, from the ledger's row to its recorded ending. It may run twice, even twice at once: nothing
 * here relies on being alone. The order of writes is the promise: the slot is committed, then the object is published
 * and verified, then the ending is committed, then staging is freed; only then does the caller acknowledge the job.
 */
import { pause } from '../deadline.ts';
import { crcOfHex } from '../digests.ts';
import { Failure } from '../errors.ts';
import type { ObjectFacts } from '../ledger/contract.ts';
import {
  type Place,
  type Transfer,
  type TransferKind,
  type TransferResult,
  tookTurnAtOnce,
} from '../ledger/transfer.ts';
import { merged } from '../stores/attributes.ts';
import type { FileEntry } from '../stores/driver.ts';
import type { Published } from '../stores/store.ts';
import type { Attempt, AttemptEnd } from './attempt.ts';
import { type CarriedAttributes, carriedByName, carriedOf, notKeptAt } from './carried.ts';
import { nameOf, storeAt, type TransferDeps } from './deps.ts';
import { fetchToStaging } from './fetch.ts';
import {
  alreadyExists,
  findSource,
  headOrNothing,
  isOurs,
  type Look,
  planFor,
  publishedOf,
  type Source,
} from './plan.ts';
import { type Sent, send } from './send.ts';

/** How long a prepared object waits for another one that is being published on its target. */
const TURN_MS = 5000;
const LOOK_AGAIN_MS = 100;
const COME_BACK_MS = 1000;

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

/**
 * For a transfer that shall not be tried again: ends it well where an earlier worker published before it died.
 * `undefined`: nothing of it can be seen.
 */
export async function settlePublished(
  deps: TransferDeps,
  row: Transfer,
  attempt: Pick<Attempt, 'signal' | 'onMove'>,
): Promise<AttemptEnd | undefined> {
  const { to } = row;
  if (row.state !== 'publishing' || to === undefined || row.tree) return undefined;
  const { signal, onMove } = attempt;
  const there = await headOrNothing(storeAt(deps, to), to, signal);
  if (row.kind === 'delete')
    return there ? undefined : succeed(deps, row, { outcome: 'removed', verified: [] });
  if (!there) return undefined;
  const source = await findSource(deps, row, signal);
  const { known } = source;
  const ours = await isOurs(deps, row, to, there, known, { signal, onBytes: onMove });
  if (!ours) return undefined;
  return succeed(deps, row, resultOf(there, source, await carriedFor(deps, row, source, to, signal)));
}

const carriedFor = async (
  deps: TransferDeps,
  row: Transfer,
  { entry }: Source,
  to: Place,
  signal: AbortSignal,
): Promise<CarriedAttributes> =>
  row.from && entry ? carriedOf(deps, row, row.from, entry, to, signal) : carriedByName(to);

/** Of what an earlier worker, or another one, has published. */
const resultOf = (
  there: FileEntry,
  { known: { sha256 } }: Pick<Source, 'known'>,
  carried: CarriedAttributes,
): TransferResult => ({
  outcome: 'published',
  size: there.size,
  etag: there.etag,
  ...(sha256 !== undefined && { sha256 }),
  ...namedIn(notKeptAt(carried, there)),
  verified: [],
});

const namedIn = (notKept: readonly string[]): Pick<TransferResult, 'notKept'> =>
  notKept.length === 0 ? {} : { notKept };

async function carry(deps: TransferDeps, row: Transfer, attempt: Attempt): Promise<AttemptEnd> {
  const to = targetOf(row);
  const source = await findSource(deps, row, attempt.signal);
  const look = lookOf(attempt);
  const plan = await planFor(deps, row, to, source, look);
  const carried = await carriedFor(deps, row, source, to, attempt.signal);
  if (plan.do === 'nothing')
    return succeed(deps, row, {
      ...(plan.outcome === 'published' && namedIn(notKeptAt(carried, plan.entry))),
      outcome: plan.outcome,
      size: plan.entry.size,
      etag: plan.entry.etag,
      // what `skip` left may be anything
      ...(source.known.sha256 !== undefined &&
        (plan.outcome === 'published' || row.onExists !== 'skip') && { sha256: source.known.sha256 }),
      verified: [],
    });

  const published = () => publishedOf(deps, row, to, source, look);
  const sent = await send({ deps, row, to, source, carried, mode: plan.mode, attempt, published });
  if (sent === 'handed-out') return sent;
  if ('published' in sent) return succeed(deps, row, resultOf(sent.published, source, carried));
  try {
    attempt.onRest();
    const turn = tookTurnAtOnce(row) ? 'ok' : await takeTurn(deps, row, to, attempt.signal);
    if (turn !== 'ok') {
      await sent.discard();
      if (turn === 'superseded') freeStaged(deps, row);
      return turn;
    }
    return await publish(deps, row, to, sent, carried, attempt);
  } catch (error) {
    await sent.discard();
    throw error;
  }
}

const lookOf = ({ signal, onMove }: Attempt): Look => ({ signal, onBytes: onMove });

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
  sent: Sent,
  carried: CarriedAttributes,
  attempt: Attempt,
): Promise<AttemptEnd> {
  const { known } = sent;
  let published: Published;
  try {
    attempt.onPublish();
    published = await sent.publish(attempt.signal);
  } catch (error) {
    if (!(error instanceof Failure) || error.kind !== 'already-exists') throw error;
    const there = await headOrNothing(storeAt(deps, to), to, attempt.signal);
    if (!there) throw error;
    const ours = await isOurs(deps, row, to, there, known, lookOf(attempt));
    await sent.discard();
    if (!ours && row.onExists !== 'skip') throw alreadyExists(to);
    published = { entry: there, verified: [] };
    if (!ours)
      return succeed(deps, row, { outcome: 'skipped', size: there.size, etag: there.etag, verified: [] });
    carried = { ...carried, notKept: notKeptAt(carried, there) };
  }
  const { entry, verified } = published;
  const { size, sha256, crc32 } = known;
  const { etag } = entry;
  const result: TransferResult = {
    outcome: 'published',
    size,
    etag,
    ...(sha256 !== undefined && { sha256 }),
    ...namedIn(merged(carried.notKept, sent.notKept, entry.notKept)),
    // a draft takes all that it was to compare for the client's wish; here some of it was staging's word
    verified: [...sent.checks, ...verified.filter((check) => check.by !== 'client')],
  };
  return succeed(deps, row, result, { etag, size, sha256, crc32: crcOfHex(crc32) });
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

async function succeed(
  deps: TransferDeps,
  row: Transfer,
  result: TransferResult,
  object?: ObjectFacts,
): Promise<AttemptEnd> {
  const ending = { state: 'succeeded', result, ...(object && { object }) } as const;
  if (!(await deps.ledger.transfers.end(row.id, row.epoch, ending))) return 'stale';
  freeStaged(deps, row);
  return 'succeeded';
}

/** The ending is committed, and it is none that can be tried again. */
function freeStaged({ staging }: TransferDeps, { id, from, digests }: Transfer): void {
  if (!from && digests) staging.freeSoon(id);
}
