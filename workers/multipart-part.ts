/**
 * One part of something large, as a job. It says nothing to the ledger: the store has the part or it has not, and whoever
 * waits for it looks there. A part that fails is tried again on its own; one that is given up ends the attempt of the
 * whole, which is told why.
 */
import { stopReason } from '../lib/deadline.ts';
import { Failure, failureOf } from '../lib/errors.ts';
import type { Note } from '../lib/jobs/jobs.ts';
import { giveUpPart, isGivenUp, PartReporter } from '../lib/jobs/parts.ts';
import { tellPace } from '../lib/jobs/parts-pace.ts';
import { hasEnded, type Transfer } from '../lib/ledger/transfer.ts';
import { sendPart } from '../lib/transfer/part.ts';
import { abandonAtStore, type BegunUpload, hasPart, isLost, partRange } from '../lib/transfer/parts.ts';
import { apartMs, SUSPECT_DEATHS } from './deaths.ts';
import { backoffMs, DONE, type Ending, HANDED_BACK, laterMs } from './endings.ts';
import type { JobRun, WorkerDeps } from './handlers.ts';
import { expiresMs, setLimits } from './limits.ts';
import { needless } from './parts.ts';

interface PartJob {
  readonly deps: WorkerDeps;
  readonly note: Note<'part'>;
  readonly run: JobRun;
  readonly row: Transfer;
  readonly upload: BegunUpload;
}

export async function carryPart(deps: WorkerDeps, note: Note<'part'>, run: JobRun): Promise<Ending> {
  const { ledger, metrics, queue } = deps;
  const row = await ledger.transfers.get(note.transfer);
  const upload = await ledger.uploads.parted(note.upload);
  const wanted = row !== undefined && row.epoch === note.epoch && !hasEnded(row.state);
  // in each of these cases whoever waits for it runs again, and sees for itself
  if (!wanted || upload?.uploadId === undefined || (await isGivenUp(queue, upload.id)))
    return needless(deps, run);
  const part: PartJob = { deps, note, run, row, upload: { ...upload, uploadId: upload.uploadId } };

  if (run.deaths >= run.mostDeaths) return giveUp(part, killer(part));
  if (run.deaths >= SUSPECT_DEATHS && run.deaths > note.apart)
    return { job: 'delayed', delayMs: apartMs(run.deaths), note: { apart: run.deaths } };

  const startedMs = Date.now();
  metrics.queueWait.observe({ queue: 'multipart-part' }, Math.max(0, startedMs - run.waitingSinceMs) / 1000);
  run.running.transfer = { id: row.id, epoch: row.epoch };
  try {
    await carry(part);
    const { signal } = run.running.deadline;
    // it was sent before that was seen, and whoever waits for it may not run for long
    if (signal.aborted && stopReason(signal).kind === 'cancelled') await stopped(part);
    tell(part, startedMs, DONE);
    tellPace(queue, 'multipart-part', Date.now() - startedMs); // those that had nothing to do are no measure
    return DONE;
  } catch (error) {
    const { signal } = run.running.deadline;
    const failure = signal.aborted ? stopReason(signal) : failureOf(error);
    const ending = await endingOf(part, failure);
    tell(part, startedMs, ending, failure);
    return ending;
  }
}

async function carry({ deps, note, run, row, upload }: PartJob): Promise<void> {
  const { deadline } = run.running;
  const { signal } = deadline;
  setLimits(deps, row, deadline);
  if (signal.aborted) throw stopReason(signal);
  const digests = upload.from ? undefined : row.digests;
  if (run.again && (await hasPart(deps, upload, note.number, digests, signal))) return;
  // of a tree its pages tell
  const whole = { transfer: row.id, epoch: row.epoch, total: upload.size };
  const progress = upload.owner === row.id ? new PartReporter(deps.queue, whole, note.number) : undefined;
  await sendPart(deps, upload, note.number, {
    signal,
    digests,
    onProgress(bytes) {
      deadline.progress();
      progress?.report(bytes);
    },
    onRest: () => deadline.rest(),
  });
  const { start, end } = partRange(upload, note.number);
  await progress?.done(end - start);
}

/** What becomes of a part that could not be brought to the store. */
async function endingOf(part: PartJob, failure: Failure): Promise<Ending> {
  const { deps, note, run, row, upload } = part;
  const { retry } = failure.rule;
  if (run.running.lostLock || retry === 'now') return HANDED_BACK;
  if (failure.kind === 'cancelled') {
    await stopped(part);
    return DONE;
  }
  const failed = note.failed + (retry === 'backoff' ? 1 : 0);
  const leftMs = expiresMs(deps, row) - Date.now();
  // of another version of the source, or of an upload that the store has lost, no part will ever go well
  if (failure.kind === 'precondition' || isLost(failure, upload))
    return giveUp(part, new Failure('unavailable', failure.message));
  if (retry === 'never' || failed >= deps.config.attempts || leftMs <= 0) return giveUp(part, failure);
  const { retryAfterMs } = failure.facts;
  const wishMs = retry === 'later' ? laterMs(retryAfterMs) : backoffMs(failed, retryAfterMs);
  deps.metrics.transferRetries.inc({ failure: failure.kind });
  return { job: 'delayed', delayMs: Math.min(wishMs, leftMs), note: { failed } };
}

/** Written down for the whole before the job is acknowledged. @throws where Redis is away: the job then comes back */
async function giveUp({ deps, note, upload }: PartJob, { kind, message }: Failure): Promise<Ending> {
  const { start, end } = partRange(upload, note.number);
  const which = `part ${note.number} (bytes ${start} to ${end - 1} of ${upload.size})`;
  await giveUpPart(deps.queue, upload.id, { kind, message: `${which} was given up: ${message}` });
  return DONE;
}

const killer = ({ note, run }: PartJob): Failure =>
  new Failure(
    'bug',
    `${run.deaths} workers died while they had part ${note.number} of transfer ${note.transfer}; look into their logs before it is retried`,
  );

/** Where the transfer has ended its parts go now; once all of its jobs have stopped they are looked for again. */
async function stopped({ deps, row, upload }: PartJob): Promise<void> {
  try {
    const found = (await deps.ledger.transfers.statesOf([row.id])).get(row.id);
    if (!found || hasEnded(found.state)) await abandonAtStore(deps, upload);
  } catch (error) {
    deps.log.debug({ transfer: row.id, err: error }, 'could not abandon parts yet');
  }
}

function tell(
  { deps, note, run, upload }: PartJob,
  startedMs: number,
  ending: Ending,
  failure?: Failure,
): void {
  const { start, end } = partRange(upload, note.number);
  const line = {
    job: run.running.jobId,
    name: 'part',
    store: upload.place.store,
    path: upload.place.path,
    part: note.number,
    bytes: end - start,
    ms: Date.now() - startedMs,
    ending: ending.job,
    ...(failure && { kind: failure.kind, why: failure.message }),
  };
  // thousands a transfer: only what went wrong is news
  if (failure && failure.rule.retry !== 'now' && failure.kind !== 'cancelled') deps.log.warn(line, 'part');
  else deps.log.debug(line, 'part');
}
