/** Runs one API for a test until standard input closes; says its URL on standard output. */
import { runApi } from '../../apps/api/main.ts';
import { configOf } from '../../lib/config.ts';

const api = await runApi(configOf(JSON.parse(process.argv[2] ?? '{}')));
process.stdout.write(`${api.url}\n`);
process.stdin.resume().once('end', async () => {
  await api.close();
  process.exit(0);
});
