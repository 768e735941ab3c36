/** Workers as processes of their own, to be killed. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { Config } from '../../lib/config.ts';
import { cleanEnvironment, watch } from '../servers/process.ts';

const CHILD = new URL('./worker-child.ts', import.meta.url).pathname;

export interface WorkerProcess {
  readonly url: string;
  /** SIGKILL; resolves when it is gone. */
  kill(): Promise<void>;
  /** Its standard input ends; resolves with its exit code. */
  stop(): Promise<number>;
}

/** Resolves when it takes jobs. */
export async function startWorker(
  settings: Partial<Config>,
  env: Readonly<Record<string, string>> = {},
): Promise<WorkerProcess> {
  const given = JSON.stringify({ logLevel: 'error', graceMs: 3000, ...settings });
  const child = spawn(process.execPath, [CHILD, given], {
    env: cleanEnvironment(env),
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true,
  });
  watch(child);
  const ended = once(child, 'exit');
  const [url] = (await Promise.race([
    once(createInterface({ input: child.stdout }), 'line'),
    ended.then(() => {
      throw new Error('the worker ended before it took jobs');
    }),
  ])) as [string];
  return {
    url,
    kill: async () => {
      process.kill(child.pid!, 'SIGKILL');
      await ended;
    },
    stop: async () => {
      child.stdin.end();
      return ((await ended) as [number])[0];
    },
  };
}
