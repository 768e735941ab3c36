/**
 * Runs one worker for a test until standard input closes. It dies at once when it opens a folder named `poison`, and the
 * first five times that it opens one named `late`; what is put there it publishes the sixth time, and dies then. It takes
 * six deaths for enough, and its locks are short.
 */
import { appendFileSync, existsSync, statSync } from 'node:fs';
import fs from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { configOf } from '../../lib/config.ts';
import { runWorker } from '../../workers/main.ts';

const settings = JSON.parse(process.argv[2] ?? '{}');
const die = (): void => void process.kill(process.pid, 'SIGKILL');
const deaths = `${settings.dataFolder}/deaths`;
const dieEarly = (): void => {
  if (existsSync(deaths) && statSync(deaths).size >= 5) return;
  appendFileSync(deaths, 'x');
  die();
};

const { open, rename } = fs;
fs.open = (path, ...more) => {
  if (String(path).endsWith('/poison')) die();
  if (String(path).endsWith('/late')) dieEarly();
  return open(path, ...more);
};
fs.rename = async (from, to) => {
  await rename(from, to);
  if (String(to).endsWith('late.bin')) die();
};
syncBuiltinESMExports();

const timings = { lockMs: 1500, stalledMs: 300, mostDeaths: 6 };
const worker = await runWorker(configOf(settings), timings);
process.stdout.write(`${worker.url}\n`);
process.stdin.resume().once('end', async () => {
  await worker.close();
  process.exit(0);
});
