/** What BullMQ alone takes for each job, added and processed by processes of their own on a Redis as `up` runs it. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { startEmbeddedRedis } from '../../lib/jobs/embedded-redis.ts';
import { cleanEnvironment, watch } from '../servers/process.ts';
import { cpuSecondsOf } from './processes.ts';

const CHILD = fileURLToPath(new URL('bare-queue-child.ts', import.meta.url));
const IN_FLIGHT = 8;
/** Enough for both processes to be warm most of the time, as ours are. */
const JOBS = 5000;

interface BareCost {
  readonly seconds: number;
  readonly cpuSeconds: number;
}

/** Prints what of one transfer, whose cost is given, is the queue's. */
export async function reportQueueShare(what: string, folder: string, each: BareCost): Promise<void> {
  const total = await costOfBareQueue(folder, JOBS);
  const bare = { seconds: total.seconds / JOBS, cpuSeconds: total.cpuSeconds / JOBS };
  const ms = (seconds: number) => `${(seconds * 1000).toFixed(2)} ms`;
  const share = (part: number, whole: number) => `${((part / whole) * 100).toFixed(0)} %`;
  console.log(
    `\n${what}: ${ms(each.seconds)} and ${ms(each.cpuSeconds)} of CPU each; BullMQ alone adds and processes ` +
      `${(1 / bare.seconds).toFixed(0)} jobs/s, ${ms(bare.seconds)} and ${ms(bare.cpuSeconds)} of CPU each: ` +
      `${share(bare.seconds, each.seconds)} of the time, ${share(bare.cpuSeconds, each.cpuSeconds)} of the CPU is the queue's\n`,
  );
}

/** Of `jobs` jobs, from the first added to the last processed; CPU of both processes and Redis. */
async function costOfBareQueue(folder: string, jobs: number): Promise<BareCost> {
  const redis = await startEmbeddedRedis(join(folder, 'bare-queue'));
  const children = ['process', 'add'].map((role) => {
    const args = [role, redis.url, 'bare', String(jobs), String(IN_FLIGHT)];
    const child = fork(CHILD, args, { env: cleanEnvironment(), detached: true });
    watch(child);
    return child;
  });
  try {
    for (const child of children) await once(child, 'message');
    const pids = [redis.pid, ...children.map(({ pid }) => pid!)];
    const cpu = () => pids.reduce((sum, pid) => sum + cpuSecondsOf(pid), 0);
    const before = cpu();
    const began = performance.now();
    children[1]!.send('go');
    await Promise.all(children.map((child) => once(child, 'message')));
    return { seconds: (performance.now() - began) / 1000, cpuSeconds: cpu() - before };
  } finally {
    for (const child of children) child.disconnect();
    await redis.stop();
  }
}
