/**
 * How a job ends. The table of failures decides, the ledger counts and records, and only this file speaks BullMQ's
 * language of special errors: all but `done` put the job somewhere first and then throw what keeps BullMQ's hands off it.
 */
import { DelayedError, type Job, UnrecoverableError, WaitingChildrenError, WaitingError } from 'bullmq';
import type { Failure } from '../lib/errors.ts';
import type { Transfers } from '../lib/ledger/contract.ts';
import type { Transfer } from '../lib/ledger/transfer.ts';

/** What becomes of the job. The ledger has been told already. */
export type Ending =
  /** Acknowledged and removed. */
  | { readonly job: 'done' }
  /** Back in its queue after a while. */
  | { readonly job: 'delayed'; readonly delayMs: number; readonly note?: NoteChange }
  /** Back in its queue now, for somebody else. */
  | { readonly job: 'handed-back' }
  /** Runs again once all its children have ended; the ledger knows that it handed out its work. */
  | { readonly job: 'waiting-children'; readonly note?: NoteChange }
  /** The note cannot be read by this release: dropped, and the reconciler writes a new one. */
  | { readonly job: 'unreadable'; readonly why: string };

/** Fields of the note that are others when it comes back. */
type NoteChange = Readonly<Record<string, number>>;

export const DONE: Ending = { job: 'done' };
export const HANDED_BACK: Ending = { job: 'handed-back' };

const BACKOFF_BASE_MS = 1000;
const BACKOFF_MAX_MS = 5 * 60 * 1000;
const LATER_MIN_MS = 1000;
const LATER_MAX_MS = 15_000;

/** Full jitter: anything up to a limit that doubles with each attempt spent. A store's own wish is a lower bound. */
export function backoffMs(attempt: number, retryAfterMs = 0, random = Math.random): number {
  const limit = Math.min(BACKOFF_MAX_MS, BACKOFF_BASE_MS * 2 ** (attempt - 1));
  return retryAfterMs + Math.ceil(random() * limit);
}

/** Spread out, so that all that were put off do not come back at once. */
export function laterMs(retryAfterMs: number | undefined, random = Math.random): number {
  if (retryAfterMs !== undefined)
    return retryAfterMs + Math.ceil(random() * Math.max(LATER_MIN_MS, retryAfterMs / 5));
  return LATER_MIN_MS + Math.ceil(random() * (LATER_MAX_MS - LATER_MIN_MS));
}

export interface EndingRules {
  readonly transfers: Transfers;
  /** Attempts that a transfer may spend. */
  readonly attempts: number;
  /** How long the bytes of a failed transfer stay; ms. */
  readonly failedBytesMs: number;
}

/** What was decided, for the log and the metrics. */
export interface Decision {
  readonly ending: Ending;
  readonly as: 'failed' | 'cancelled' | 'retry' | 'later' | 'interrupted' | 'stale';
}

/**
 * Tells the ledger how an attempt failed and decides what becomes of the job.
 * @param expiresMs when the transfer's time is over; unix time in ms
 * @throws Failure when the ledger cannot be told: the job then comes back, for nothing was decided
 */
export async function endFailed(
  rules: EndingRules,
  row: Transfer,
  failure: Failure,
  expiresMs: number,
): Promise<Decision> {
  const { transfers } = rules;
  const { id, epoch } = row;
  const rule = failure.rule.retry;
  if (failure.kind === 'cancelled') return { ending: DONE, as: 'cancelled' };
  const over = rule === 'never' || (Date.now() >= expiresMs && rule !== 'now');
  // stale also when another worker has taken it up since: what happens to the transfer is that one's word
  const spent = await transfers.attemptFailed(id, epoch, failure, over || rule === 'backoff', row.starts);
  if (spent === undefined) return { ending: DONE, as: 'stale' };
  if (over) return fail(rules, row, failure);
  if (rule === 'now') return { ending: HANDED_BACK, as: 'interrupted' };
  if (rule === 'backoff' && spent >= rules.attempts) return fail(rules, row, failure);
  const { retryAfterMs } = failure.facts;
  // room is made by people, in their time
  const wishMs =
    rule === 'later' && failure.kind !== 'no-space'
      ? laterMs(retryAfterMs)
      : backoffMs(rule === 'later' ? row.starts : spent, retryAfterMs);
  const delayMs = Math.max(0, Math.min(wishMs, expiresMs - Date.now()));
  return { ending: { job: 'delayed', delayMs }, as: rule === 'later' ? 'later' : 'retry' };
}

async function fail(rules: EndingRules, row: Transfer, { kind, message }: Failure): Promise<Decision> {
  const staged = row.digests !== undefined && row.from === undefined;
  const stagedUntilMs = staged ? Date.now() + rules.failedBytesMs : undefined;
  const failure = { kind, message };
  const ended = await rules.transfers.end(row.id, row.epoch, { state: 'failed', failure, stagedUntilMs });
  return { ending: DONE, as: ended ? 'failed' : 'stale' };
}

/** Resolves for what BullMQ shall acknowledge; throws what makes it leave the job where this has put it. */
export async function settleJob(job: Job, token: string, ending: Ending): Promise<void> {
  switch (ending.job) {
    case 'done':
      return;
    case 'delayed':
      await changeNote(job, ending.note);
      await job.moveToDelayed(Date.now() + ending.delayMs, token);
      throw new DelayedError();
    case 'handed-back':
      // without the lock the job is somebody else's already, which is as good
      await job.moveToWait(token).catch(() => 0);
      throw new WaitingError();
    case 'waiting-children':
      await changeNote(job, ending.note);
      if (await job.moveToWaitingChildren(token)) throw new WaitingChildrenError();
      // they have all ended already
      return settleJob(job, token, HANDED_BACK);
    case 'unreadable':
      throw new UnrecoverableError(ending.why);
  }
}

async function changeNote(job: Job, change: NoteChange | undefined): Promise<void> {
  if (change) await job.updateData({ ...job.data, ...change });
}
