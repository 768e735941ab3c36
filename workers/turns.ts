/** Where a job goes on in its queue when it comes back to it. */
import type { Job } from 'bullmq';
import { frontOf } from '../lib/jobs/fair.ts';
import type { QueueName } from '../lib/jobs/jobs.ts';
import type { Queue } from '../lib/jobs/queue.ts';
import type { Ending } from './endings.ts';

/**
 * A job that was put off takes a turn in its tenant's second line, as many of its like may come back; one that was
 * interrupted, or only waits to bring together what its children did, goes first. Never throws: a job whose turn could
 * not be changed keeps the one it had.
 */
export async function keepTurn(
  { queue }: { readonly queue: Queue },
  name: QueueName,
  job: Job,
  ending: Ending,
): Promise<void> {
  const { id, priority } = job;
  if (id === undefined || priority === 0) return;
  try {
    if (ending.job === 'delayed') await queue.putOff(name, { id, priority, data: job.data });
    if (ending.job === 'handed-back' || ending.job === 'waiting-children')
      await job.changePriority({ priority: frontOf(priority) });
  } catch {}
}
