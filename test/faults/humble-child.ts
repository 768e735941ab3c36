/**
 * `humble-child.ts <settings as JSON> [uid]`: an API and a worker in one process until standard input closes; says the
 * API's URL. With `uid` it gives up all else that it may do before it touches a store: root is refused nothing.
 */
import { runApi } from '../../apps/api/main.ts';
import { configOf } from '../../lib/config.ts';
import { runWorker } from '../../workers/main.ts';

const [, , settings, uid] = process.argv;
if (uid !== undefined) {
  process.setgroups?.([]);
  process.setgid?.(Number(uid));
  process.setuid?.(Number(uid));
}
const config = configOf(JSON.parse(settings ?? '{}'));
const api = await runApi(config);
const worker = await runWorker(config);
process.stdout.write(`${api.url}\n`);
process.stdin.resume().once('end', async () => {
  await worker.close();
  await api.close();
  process.exit(0);
});
