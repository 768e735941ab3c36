/** BullMQ and nothing else, in the roles that our API and workers have: `add` puts jobs in, `process` takes them out. */
import { Queue, Worker } from 'bullmq';
import { connectRedis } from '../../lib/jobs/redis.ts';
import { createLog } from '../../lib/log.ts';

const [role, url, name, jobs, inFlight] = process.argv.slice(2) as [
  'add' | 'process',
  string,
  string,
  string,
  string,
];
const log = createLog({ level: 'silent', format: 'json', process: 'bench' });
const connection = connectRedis(url, role === 'add' ? 'producer' : 'worker', { log, name: 'bench' });
const place = { connection, prefix: '{bench}' };

if (role === 'add') {
  const queue = new Queue(name, place);
  await queue.waitUntilReady();
  process.send?.('ready');
  process.once('message', async () => {
    let next = 0;
    const one = async (): Promise<void> => {
      for (let at = next++; at < Number(jobs); at = next++) {
        const id = `${String(at).padStart(32, '0')}`;
        const options = { jobId: `${id}-1`, priority: 100, removeOnComplete: true, removeOnFail: true };
        await queue.add('upload', { transfer: id, epoch: 1 }, options);
      }
    };
    await Promise.all(Array.from({ length: Number(inFlight) }, one));
    process.send?.('done');
  });
} else {
  let left = Number(jobs);
  const worker = new Worker(name, async () => undefined, { ...place, concurrency: Number(inFlight) });
  worker.on('completed', () => {
    if (--left === 0) process.send?.('done');
  });
  await worker.waitUntilReady();
  process.send?.('ready');
}
process.on('disconnect', () => process.exit());
