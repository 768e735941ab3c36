/** A transfer's job: takes the row up, carries it out within its limits, and sees to the ending. */
import { stopReason } from '../lib/deadline.ts';
import { type Failure, failureOf } from '../lib/errors.ts';
import { JOBS, type Note } from '../lib/jobs/jobs.ts';
import { ProgressReporter } from '../lib/jobs/progress.ts';
import type { Transfer } from '../lib/ledger/transfer.ts';
import type { AttemptEnd } from '../lib/transfer/attempt.ts';
import { runAttempt, settlePublished } from '../lib/transfer/copy.ts';
import type { TreeEnd } from '../lib/transfer/tree.ts';
import { deathsSpeakAgainst } from './deaths.ts';
import { type Decision, DONE, type Ending, endFailed, HANDED_BACK } from './endings.ts';
import type { JobRun, WorkerDeps } from './handlers.ts';
import { expiresMs, setLimits, stopIfWaitedTooLong, waitedTooLong } from './limits.ts';
import { PartsHandedOut } from './parts.ts';
import { carryTree, stillBehind } from './tree.ts';

/** What is read from staging in no time at all: nobody is kept from its target for longer than publishing takes. */
const TURN_AT_ONCE_BYTES = 1024 * 1024;

type As = AttemptEnd | TreeEnd | Decision['as'];

export async function carryOut(deps: WorkerDeps, note: Note<'upload'>, run: JobRun): Promise<Ending> {
  const { metrics, ledger, worker } = deps;
  const behind = await stillBehind(deps, note);
  if (behind) return behind;
  const row = await ledger.transfers.start(note.transfer, note.epoch, worker, TURN_AT_ONCE_BYTES);
  const parts = new PartsHandedOut(deps, note, run);
  if (!row) {
    deps.log.debug({ job: run.running.jobId }, 'nothing to do: ended, or it has a newer job');
    return parts.releaseIfEnded();
  }
  const { kind } = row;
  const startedMs = Date.now();
  run.running.transfer = { id: row.id, epoch: row.epoch };
  metrics.queueWait.observe({ queue: JOBS[kind].queue }, Math.max(0, startedMs - run.waitingSinceMs) / 1000);
  metrics.transfersInFlight.inc({ kind });
  const progress = new ProgressReporter(deps.queue, row.id, row.epoch);
  let bytes = 0;
  let as: As = 'stale';
  let ending = DONE;
  try {
    as = await attempt(deps, row, run, parts, (done, total) => {
      bytes = done;
      progress.report(done, total);
    });
    tell(deps, row, run, { bytes, startedMs, as });
    if (as === 'handed-out') ending = await parts.waitFor(row);
  } catch (error) {
    const { signal } = run.running.deadline;
    const failure = signal.aborted ? stopReason(signal) : failureOf(error);
    const decision = await end(deps, row, run, failure);
    as = decision.as;
    tell(deps, row, run, { bytes, startedMs, as, failure });
    ending = parts.anew(decision.ending);
  } finally {
    metrics.transfersInFlight.dec({ kind });
    if (as !== 'handed-out' && !parts.keepProgress(as)) progress.end();
  }
  return parts.mayBeLeft(row, as) ? parts.releaseIfEnded() : ending;
}

async function attempt(
  deps: WorkerDeps,
  row: Transfer,
  run: JobRun,
  parts: PartsHandedOut,
  report: (done: number, total: number | undefined) => void,
): Promise<AttemptEnd | TreeEnd> {
  const { running, mostDeaths } = run;
  const { deadline } = running;
  const blamed = await deathsSpeakAgainst(deps.ledger.transfers, row, mostDeaths);
  stopIfWaitedTooLong(deps, row, deadline);
  setLimits(deps, row, deadline);
  if (blamed) {
    const { signal } = deadline;
    const look = { signal, onMove: () => deadline.progress() };
    const settled = blamed.kind === 'bug' && !signal.aborted && (await settlePublished(deps, row, look));
    if (settled) return settled;
    deadline.stop(blamed);
  }
  if (deadline.signal.aborted) throw stopReason(deadline.signal);
  const onProgress = (done: number, total: number | undefined): void => {
    deadline.progress();
    report(done, total);
  };
  if (row.tree) return carryTree(deps, row, run, parts, onProgress);
  return runAttempt(deps, row, {
    signal: deadline.signal,
    leaseMs: deps.config.downloadLeaseMs,
    parts: parts.jobsOf(row),
    onProgress,
    onMove: () => deadline.progress(),
    onRest: () => deadline.rest(),
    onPublish: () => running.throwIfStopped(),
  });
}

async function end(
  deps: WorkerDeps,
  row: Transfer,
  { running }: JobRun,
  failure: Failure,
): Promise<Decision> {
  // whoever has the job now has the row as well: not a word to the ledger
  if (running.lostLock) return { ending: HANDED_BACK, as: 'interrupted' };
  const { config, ledger } = deps;
  const rules = {
    transfers: ledger.transfers,
    attempts: config.attempts,
    failedBytesMs: config.failedBytesMs,
  };
  return endFailed(rules, row, failure, waitedTooLong(config, row) ? 0 : expiresMs(deps, row));
}

interface Story {
  readonly bytes: number;
  readonly startedMs: number;
  readonly as: As;
  readonly failure?: Failure;
}

/** One line, and the series. */
function tell({ log, metrics, config }: WorkerDeps, row: Transfer, { running }: JobRun, story: Story): void {
  const { kind } = row;
  const { as, failure } = story;
  const nowMs = Date.now();
  const place = row.to ?? row.from;
  const line = {
    job: running.jobId,
    name: kind,
    store: place?.store,
    path: place?.path,
    bytes: story.bytes,
    ms: nowMs - story.startedMs,
    attempt: row.attempts + 1,
    of: config.attempts,
    ending: as,
    ...(failure && { kind: failure.kind, why: failure.message }),
  };
  if (as === 'failed') log.error(line, 'transfer failed');
  else if (as === 'retry') log.warn(line, 'transfer will be tried again');
  else log.info(line, 'transfer');

  if (failure && (as === 'retry' || as === 'later')) metrics.transferRetries.inc({ failure: failure.kind });
  if (as !== 'succeeded' && as !== 'superseded' && as !== 'failed') return; // a cancel is counted where it was asked for
  metrics.transfersEnded.inc({ kind, store: place?.store ?? 'artifacts', outcome: as });
  metrics.transferDuration.observe({ kind }, Math.max(0, nowMs - row.createdMs) / 1000);
}
