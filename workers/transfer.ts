/** A transfer's job: takes the row up, carries it out within its limits, and sees to the ending. */
import { stopReason } from '../lib/deadline.ts';
import { Failure, failureOf } from '../lib/errors.ts';
import { JOBS, type Note } from '../lib/jobs/jobs.ts';
import { ProgressReporter } from '../lib/jobs/progress.ts';
import type { Transfer } from '../lib/ledger/transfer.ts';
import { type AttemptEnd, runAttempt } from '../lib/transfer/copy.ts';
import { deathsSpeakAgainst } from './deaths.ts';
import { type Decision, DONE, type Ending, endFailed, HANDED_BACK } from './endings.ts';
import type { JobRun, WorkerDeps } from './handlers.ts';

export async function carryOut(deps: WorkerDeps, note: Note<'upload'>, run: JobRun): Promise<Ending> {
  const { metrics, ledger, worker } = deps;
  const row = await ledger.transfers.start(note.transfer, note.epoch, worker);
  if (!row) {
    deps.log.debug({ job: run.running.jobId }, 'nothing to do: ended, or it has a newer job');
    return DONE;
  }
  const { kind } = row;
  const startedMs = Date.now();
  run.running.transfer = { id: row.id, epoch: row.epoch };
  metrics.queueWait.observe({ queue: JOBS[kind].queue }, Math.max(0, startedMs - run.waitingSinceMs) / 1000);
  metrics.transfersInFlight.inc({ kind });
  const progress = new ProgressReporter(deps.queue, row.id, row.epoch);
  let bytes = 0;
  try {
    const end = await attempt(deps, row, run, (done, total) => {
      bytes = done;
      progress.report(done, total);
    });
    tell(deps, row, run, { bytes, startedMs, as: end });
    return DONE;
  } catch (error) {
    const { signal } = run.running.deadline;
    const failure = signal.aborted ? stopReason(signal) : failureOf(error);
    const { ending, as } = await end(deps, row, run, failure);
    tell(deps, row, run, { bytes, startedMs, as, failure });
    return ending;
  } finally {
    metrics.transfersInFlight.dec({ kind });
    progress.end();
  }
}

async function attempt(
  deps: WorkerDeps,
  row: Transfer,
  { running, mostDeaths }: JobRun,
  report: (done: number, total: number | undefined) => void,
): Promise<AttemptEnd> {
  const { deadline } = running;
  const blamed = await deathsSpeakAgainst(deps.ledger.transfers, row, mostDeaths);
  if (blamed) deadline.stop(blamed);
  setLimits(deps, row, running.deadline);
  if (deadline.signal.aborted) throw stopReason(deadline.signal);
  return runAttempt(deps, row, {
    signal: deadline.signal,
    leaseMs: deps.config.downloadLeaseMs,
    onProgress(done, total) {
      deadline.progress();
      report(done, total);
    },
    onRest: () => deadline.rest(),
    onPublish: () => running.throwIfStopped(),
  });
}

const expiresMs = (deps: WorkerDeps, row: Transfer): number =>
  Math.min(row.deadlineMs ?? Number.POSITIVE_INFINITY, row.createdMs + deps.config.lifetimeMs);

const waitedTooLong = ({ queueWaitMs }: WorkerDeps['config'], row: Transfer): boolean =>
  queueWaitMs > 0 && row.starts === 1 && (row.startedMs ?? Date.now()) > row.createdMs + queueWaitMs;

function setLimits({ config }: WorkerDeps, row: Transfer, deadline: JobRun['running']['deadline']): void {
  const timeout = (message: string) => () => new Failure('timeout', `transfer ${row.id}: ${message}`);
  if (waitedTooLong(config, row))
    deadline.stop(timeout('it waited longer than the queue timeout for a worker; add workers')());
  if (row.deadlineMs !== undefined) deadline.limit(row.deadlineMs, timeout('its deadline passed'));
  deadline.limit(row.createdMs + config.lifetimeMs, timeout('it did not end within its lifetime'));
  if (config.attemptTimeoutMs > 0)
    deadline.limit(
      Date.now() + config.attemptTimeoutMs,
      timeout('the attempt took longer than the attempt timeout'),
    );
  deadline.watch(config.stallMs, timeout(`nothing moved for ${config.stallMs / 1000} s`));
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
  readonly as: AttemptEnd | Decision['as'];
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
