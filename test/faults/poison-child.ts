/**
 * Runs one worker for a test until standard input closes. It dies at once when it opens a folder named `poison`, takes
 * six deaths for enough, and its locks are short.
 */
import fs from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { configOf } from '../../lib/config.ts';
import { runWorker } from '../../workers/main.ts';

const { open } = fs;
fs.open = (path, ...more) => {
  if (String(path).endsWith('/poison')) process.kill(process.pid, 'SIGKILL');
  return open(path, ...more);
};
syncBuiltinESMExports();

const timings = { lockMs: 1500, stalledMs: 300, mostDeaths: 6 };
const worker = await runWorker(configOf(JSON.parse(process.argv[2] ?? '{}')), timings);
process.stdout.write(`${worker.url}\n`);
process.stdin.resume().once('end', async () => {
  await worker.close();
  process.exit(0);
});
