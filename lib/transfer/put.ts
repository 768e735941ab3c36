/** The synchronous story: bytes of a request to their target before the request is answered, without a queue. */
import { pause } from '../deadline.ts';
import { type Digests, type ExpectedDigests, wholeCrc } from '../digests.ts';
import { Failure, failureOf } from '../errors.ts';
import { newTransferId } from '../ledger/ids.ts';
import type { Place, Verification } from '../ledger/transfer.ts';
import type { Bytes, FileEntry } from '../stores/driver.ts';
import type { PrepareOptions, Removed } from '../stores/store.ts';
import { nameOf, storeAt, type TransferDeps } from './deps.ts';
import { uploadJournal } from './journal.ts';

/** How long a request waits for a transfer that is publishing on its target. */
const TURN_MS = 30_000;
const LOOK_AGAIN_MS = 50;
/** A turn that nobody renews for this long was its process's last: others may publish there again. */
const TURN_LEASE_MS = 60_000;
const RENEW_MS = 15_000;

export interface PutOptions {
  readonly signal: AbortSignal;
  readonly owner: string;
  /** Declared length; bytes that are shorter or longer publish nothing. */
  readonly size?: number | undefined;
  readonly expected?: ExpectedDigests | undefined;
  readonly mediaType?: string | undefined;
  readonly mode?: 'replace' | 'create';
  readonly ifMatch?: string | undefined;
  readonly onProgress?: (bytesSoFar: number) => void;
}
export interface PutResult {
  readonly entry: FileEntry;
  readonly digests: Digests;
  readonly verified: readonly Verification[];
}

/**
 * Sends, takes its turn on the target, publishes and verifies. Resolves when the object is durable and its digest is
 * in the ledger.
 * @throws Failure `invalid` where size or digest differ, `already-exists`, `precondition`, `busy` where another transfer
 *   publishes there for too long, or the store's; nothing is published then
 */
export async function putNow(
  deps: TransferDeps,
  place: Place,
  bytes: Bytes,
  opts: PutOptions,
): Promise<PutResult> {
  const store = storeAt(deps, place);
  const id = newTransferId();
  const draft = await store.prepare(place.path, bytes, prepareOptions(deps, place, `${id}-1`, opts));
  try {
    return await inTurn(deps, { id, kind: 'upload', to: place }, opts, async () => {
      const { entry, verified } = await draft.publish({ signal: opts.signal });
      const { digests } = draft;
      return {
        value: { entry, digests, verified },
        result: {
          outcome: 'published',
          size: entry.size,
          etag: entry.etag,
          sha256: digests.sha256,
          verified,
        },
        record: deps.ledger.objects.record(place, {
          etag: entry.etag,
          size: entry.size,
          sha256: digests.sha256,
          crc32: wholeCrc(digests),
        }),
      };
    });
  } catch (error) {
    await draft.discard();
    throw error;
  }
}

function prepareOptions(deps: TransferDeps, place: Place, token: string, opts: PutOptions): PrepareOptions {
  return {
    signal: opts.signal,
    token,
    journal: uploadJournal(deps.ledger.uploads, place.store, token),
    ...(opts.size !== undefined && { size: opts.size }),
    ...(opts.expected && { expected: opts.expected }),
    ...(opts.mediaType !== undefined && { mediaType: opts.mediaType }),
    ...(opts.mode && { mode: opts.mode }),
    ...(opts.ifMatch !== undefined && { ifMatch: opts.ifMatch }),
    ...(opts.onProgress && { onProgress: opts.onProgress }),
  };
}

/**
 * Removes what is at `place` and everything below it, as far as the store's rights reach (`Store.removeTree`). Absent is
 * fine. @throws Failure as `putNow`
 */
export async function deleteNow(
  deps: TransferDeps,
  place: Place,
  opts: { readonly owner: string; readonly signal: AbortSignal },
): Promise<Removed> {
  const store = storeAt(deps, place);
  const removed = await inTurn(deps, { id: newTransferId(), kind: 'delete', to: place }, opts, async () => ({
    value: await store.removeTree(place.path, opts.signal),
    result: { outcome: 'removed', verified: [] },
    record: deps.ledger.objects.forget(place),
  }));
  if (removed.unseen)
    deps.log.warn(
      { store: place.store, path: place.path, why: removed.unseen.message },
      'removed an object; what may lie below it was not looked at, for want of a right, and stays',
    );
  return removed;
}

type Slot = Parameters<TransferDeps['ledger']['transfers']['takeSlot']>[0];
interface Done<T> {
  readonly value: T;
  readonly result: {
    outcome: 'published' | 'removed';
    size?: number;
    etag?: string;
    sha256?: string;
    verified: readonly Verification[];
  };
  /** What the ledger is told of the object, under way. */
  readonly record: Promise<void>;
}

/** Runs `work` while nobody else publishes on the target; where no transfer wants it, that costs no row. */
async function inTurn<T>(
  deps: TransferDeps,
  what: Pick<Slot, 'id' | 'kind' | 'to'>,
  { owner, signal }: { readonly owner: string; readonly signal: AbortSignal },
  work: () => Promise<Done<T>>,
): Promise<T> {
  const { transfers } = deps.ledger;
  const slot = await takeSlot(deps, { ...what, owner }, signal);
  // publishing may take as long as it takes: a store that joins thousands of parts says nothing for minutes
  const renewing = slot === 'free' ? undefined : setInterval(() => void renew(deps, slot), RENEW_MS);
  let done: Done<T>;
  try {
    done = await work();
  } catch (error) {
    if (slot !== 'free') {
      const { kind, message } = failureOf(error);
      await settled(
        deps,
        transfers.end(slot.id, slot.epoch, { state: 'failed', failure: { kind, message } }),
      );
    }
    throw error;
  } finally {
    clearInterval(renewing);
  }
  // what is published stays published: a ledger that fails now costs a digest, not the answer
  const ending =
    slot !== 'free' && transfers.end(slot.id, slot.epoch, { state: 'succeeded', result: done.result });
  await Promise.all([settled(deps, done.record), ending && settled(deps, ending)]);
  return done.value;
}

async function takeSlot(deps: TransferDeps, slot: Omit<Slot, 'deadlineMs'>, signal: AbortSignal) {
  const untilMs = Date.now() + TURN_MS;
  for (;;) {
    const taken = await deps.ledger.transfers.takeSlot({ ...slot, deadlineMs: Date.now() + TURN_LEASE_MS });
    if (taken !== 'occupied') return taken;
    if (Date.now() > untilMs)
      throw new Failure(
        'busy',
        `could not ${slot.kind === 'delete' ? 'delete' : 'put'} ${nameOf(slot.to)}: a transfer has been publishing there for ${TURN_MS / 1000} s; try again`,
        { op: 'publish', store: slot.to.store, path: slot.to.path, retryAfterMs: 1000 },
      );
    await pause(LOOK_AGAIN_MS * (1 + Math.random()), signal);
  }
}

/** Never throws: a renewal that fails is tried again before the turn is over. */
async function renew({ ledger, log }: TransferDeps, slot: { readonly id: string; readonly epoch: number }) {
  try {
    if (!(await ledger.transfers.renewSlot(slot.id, slot.epoch, Date.now() + TURN_LEASE_MS)))
      log.warn({ transfer: slot.id }, 'a request lost its turn on its target before it had published');
  } catch (error) {
    log.warn({ transfer: slot.id, why: failureOf(error).message }, 'could not renew a turn on a target');
  }
}

async function settled(deps: TransferDeps, write: Promise<unknown>): Promise<void> {
  await write.catch((error: unknown) => {
    deps.log.error({ err: error }, 'the ledger was not told of what a request has done');
  });
}
