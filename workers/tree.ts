/** Jobs of trees: the tree's own, which plans and hands out, and a page's, which carries up to a thousand files. */
import { stopReason } from '../lib/deadline.ts';
import { Failure, failureOf } from '../lib/errors.ts';
import { JOBS, type Note, pageJobId } from '../lib/jobs/jobs.ts';
import { forgetParts, PartReporter } from '../lib/jobs/parts.ts';
import { hasEnded, type Transfer } from '../lib/ledger/transfer.ts';
import { COME_BACK_MS, runTree, type TreeEnd } from '../lib/transfer/tree.ts';
import { carryPage as carryFiles, type PageEnd } from '../lib/transfer/tree-page.ts';
import { backoffMs, DONE, type Ending, HANDED_BACK, laterMs } from './endings.ts';
import type { JobRun, WorkerDeps } from './handlers.ts';
import { expiresMs, setLimits } from './limits.ts';
import { needless, PartsHandedOut } from './parts.ts';

/** One run of the tree's own job. @throws Failure why it did not end, or hand out, the tree */
export async function carryTree(
  deps: WorkerDeps,
  row: Transfer,
  { running }: JobRun,
  parts: PartsHandedOut,
  onProgress: (done: number, total: number | undefined) => void,
): Promise<TreeEnd> {
  const { config, queue } = deps;
  const end = await runTree(deps, row, {
    signal: running.deadline.signal,
    leaseMs: config.downloadLeaseMs,
    keepMs: config.failedBytesMs,
    onProgress,
    onRest: () => running.deadline.rest(),
    onBehind: () => parts.noteBehind(),
    async handOut(pages, open) {
      parts.expect(open, `the jobs of ${open} pages have ended, and none of these pages has`);
      const { id, epoch, priority } = row;
      const jobs = pages.map(({ page }) => {
        const note = { transfer: id, epoch, page, waitedFor: 0 };
        return { name: 'page' as const, note, jobId: pageJobId(note), priority };
      });
      return queue.addChildren(running, jobs, running.deadline.signal);
    },
  });
  if (end !== 'handed-out') await forgetParts(queue, row.id, []);
  return end;
}

/** Of a tree that has to wait still: when it looks again. No attempt is opened for a look. */
export async function stillBehind(
  deps: WorkerDeps,
  { transfer, epoch, behind }: Note<'upload'>,
): Promise<Ending | undefined> {
  const row = behind === 0 ? undefined : await deps.ledger.transfers.get(transfer);
  if (row?.epoch !== epoch || hasEnded(row.state)) return undefined;
  const leftMs = expiresMs(deps, row) - Date.now();
  if (leftMs <= 0 || !(await deps.ledger.trees.olderWaiting(transfer))) return undefined;
  return { job: 'delayed', delayMs: Math.min(leftMs, laterMs(COME_BACK_MS)) };
}

/** A page's job. What the tree as a whole comes to is the word of the tree's own, which waits for this one. */
export async function carryPage(deps: WorkerDeps, note: Note<'page'>, run: JobRun): Promise<Ending> {
  const { running } = run;
  const row = await deps.ledger.transfers.get(note.transfer);
  const wanted = row?.epoch === note.epoch && row.state === 'running';
  // where its time is over the tree's own job sees to that, once its pages are through
  if (!wanted || Date.now() >= expiresMs(deps, row)) return needless(deps, run);
  running.transfer = { id: row.id, epoch: row.epoch };
  const startedMs = Date.now();
  const waitedMs = Math.max(0, startedMs - run.waitingSinceMs);
  deps.metrics.queueWait.observe({ queue: JOBS.page.queue }, waitedMs / 1000);
  const say = (as: string, bytes: number, failure?: Failure): void => {
    const { kind, to, from } = row;
    const line = {
      job: running.jobId,
      name: 'page',
      of: kind,
      store: (to ?? from)?.store,
      bytes,
      ending: as,
    };
    const why = failure && { kind: failure.kind, why: failure.message };
    deps.log[failure ? 'warn' : 'info']({ ...line, ms: Date.now() - startedMs, ...why }, 'page of a tree');
  };
  const parts = new PartsHandedOut(deps, note, run);
  let bytes = 0;
  try {
    const { bytes: total } = await deps.ledger.trees.planned(row.id);
    const progress = new PartReporter(deps.queue, { transfer: row.id, epoch: row.epoch, total }, note.page);
    const end = await roundOf(deps, row, note, run, parts, (done) => {
      bytes = done;
      progress.report(done);
    });
    await progress.done(bytes);
    say(end.as, bytes, end.as === 'again' ? end.failure : undefined);
    return end.as === 'handed-out' ? parts.waiting : parts.anew(endingOf(end));
  } catch (error) {
    const { signal } = running.deadline;
    const failure = signal.aborted ? stopReason(signal) : failureOf(error);
    say('stopped', bytes, failure);
    if (failure.kind === 'cancelled') {
      await forgetParts(deps.queue, row.id, []);
      return DONE;
    }
    if (failure.kind === 'interrupted') return HANDED_BACK;
    return { job: 'delayed', delayMs: laterMs(failure.facts.retryAfterMs) };
  }
}

function roundOf(
  deps: WorkerDeps,
  row: Transfer,
  note: Note<'page'>,
  { running, again, deaths, mostDeaths }: JobRun,
  parts: PartsHandedOut,
  onBytes: (done: number) => void,
): Promise<PageEnd> {
  const { deadline } = running;
  setLimits(deps, row, deadline);
  return carryFiles(deps, row, note.page, {
    signal: deadline.signal,
    again: again || note.epoch > 1,
    parts: parts.jobsOf(row),
    rounds: deps.config.attempts,
    givenUp: deaths < mostDeaths ? undefined : deadly(row, deaths),
    onProgress(done) {
      deadline.progress();
      onBytes(done);
    },
    onRest: () => deadline.rest(),
    onPublish: () => running.throwIfStopped(),
    isMine: () => !running.lostLock,
  });
}

const deadly = ({ id }: Transfer, deaths: number): Failure =>
  new Failure(
    'bug',
    `transfer ${id}: ${deaths} workers died while they had these files; look into their logs before it is retried`,
  );

function endingOf(end: PageEnd): Ending {
  if (end.as !== 'again') return DONE;
  const { retryAfterMs } = end.failure.facts;
  const delayMs = end.spent === undefined ? laterMs(retryAfterMs) : backoffMs(end.spent, retryAfterMs);
  return { job: 'delayed', delayMs };
}
