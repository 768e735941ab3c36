/**
 * `role-child.ts <api|worker> <settings as JSON>`: one role until standard input closes; says its URL. A worker's lock is
 * short here, so that jobs of the dead are found in seconds.
 */
import { flushCompileCache } from 'node:module';
import { configOf } from '../../lib/config.ts';

/** So much dying is nobody's fault here. */
const TIMINGS = { lockMs: 2000, stalledMs: 500, mostDeaths: 1000 };

const [, , role, settings] = process.argv;
const config = configOf(JSON.parse(settings ?? '{}'));
const running =
  role === 'api'
    ? await (await import('../../apps/api/main.ts')).runApi(config)
    : await (await import('../../workers/main.ts')).runWorker(config, TIMINGS);
process.stdout.write(`${running.url}\n`);
flushCompileCache(); // those who are killed have no time for it
process.stdin.resume().once('end', async () => {
  await running.close();
  process.exit(0);
});
