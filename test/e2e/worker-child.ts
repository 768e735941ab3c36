/** Runs one worker for a test until standard input closes; says its URL on standard output. */
import { configOf } from '../../lib/config.ts';
import { runWorker } from '../../workers/main.ts';
import { TIMINGS } from './quay.ts';

const worker = await runWorker(configOf(JSON.parse(process.argv[2] ?? '{}')), TIMINGS);
process.stdout.write(`${worker.url}\n`);
process.stdin.resume().once('end', async () => {
  await worker.close();
  process.exit(0);
});
