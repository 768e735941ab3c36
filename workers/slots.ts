import type { QueueName } from '../lib/jobs/jobs.ts';
import type { WorkerDeps } from './handlers.ts';

/** Jobs of each queue that one worker runs at once; of a queue that is not there it runs none. */
export const slotsOf = (config: WorkerDeps['config']): Partial<Record<QueueName, number>> => ({
  upload: config.uploadConcurrency,
  download: config.downloadConcurrency,
  'multipart-part': config.partConcurrency,
  gc: 1,
});
