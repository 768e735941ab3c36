/** The one processor: every job of every queue comes through here, whatever its handler is. */
import type { Job } from 'bullmq';
import { Failure } from '../lib/errors.ts';
import { jobAt } from '../lib/jobs/children.ts';
import { JOBS, type JobName, type Note } from '../lib/jobs/jobs.ts';
import { Admission } from './admission.ts';
import { type Ending, settleJob } from './endings.ts';
import { HANDLERS, type JobRun, type WorkerDeps } from './handlers.ts';
import { keepTurn } from './turns.ts';
import type { Watch } from './watch.ts';

export type Processor = (
  job: Job,
  token: string | undefined,
  signal: AbortSignal | undefined,
) => Promise<void>;

/**
 * Resolves for a job that is done; throws BullMQ's special errors for one that was put elsewhere, and anything else when
 * the ledger could not be told of the ending: then BullMQ brings the job back after some seconds.
 */
export function createProcessor(deps: WorkerDeps, watch: Watch, mostDeaths: number): Processor {
  const admission = new Admission(deps);
  // BullMQ looks at how many parameters it names: with fewer than three a job gets no signal
  return async (job: Job, token: string | undefined, signal: AbortSignal | undefined): Promise<void> => {
    if (!isJobName(job.name) || job.id === undefined || token === undefined)
      return settleJob(job, token ?? '', { job: 'unreadable', why: `no job of this release: ${job.name}` });
    using running = watch.enter(JOBS[job.name].queue, job.id);
    signal?.addEventListener('abort', () =>
      running.deadline.stop(new Failure('interrupted', 'stopped: the queue took the job back')),
    );
    const waitingSinceMs = job.attemptsStarted > 1 ? Date.now() : job.timestamp + job.delay;
    const [again, deaths] = [job.attemptsStarted > 1, job.stalledCounter];
    const parent = job.parentKey === undefined ? undefined : jobAt(job.parentKey);
    const run: JobRun = { running, mostDeaths, parent, waitingSinceMs, again, deaths };
    const { name } = job;
    const { queue } = JOBS[name];
    const ending = await admission.during(running, job.data, () => handle(deps, name, job.data, run));
    await keepTurn(deps, queue, job, ending);
    await settleJob(job, token, ending);
  };
}

const isJobName = (name: string): name is JobName => Object.hasOwn(JOBS, name);

async function handle<N extends JobName>(
  deps: WorkerDeps,
  name: N,
  data: unknown,
  run: JobRun,
): Promise<Ending> {
  const parsed = JOBS[name].note.safeParse(data);
  if (!parsed.success) {
    deps.log.error({ job: run.running.jobId, name, err: parsed.error.message }, 'a note that cannot be read');
    return { job: 'unreadable', why: `its note cannot be read: ${parsed.error.message}` };
  }
  return HANDLERS[name](deps, parsed.data as Note<N>, run);
}
