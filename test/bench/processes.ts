/** CPU seconds and peak memory of a whole service: a process and everything it started, read from /proc (Linux). */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';

const TICKS_PER_SECOND = 100; // USER_HZ, fixed at 100 in the kernel's interface to user space
const SAMPLE_MS = 20;
const SYNC_MS = 60_000;

interface ProcessFacts {
  readonly pid: number;
  readonly parent: number;
  /** Its own and its ended children's, user and system. */
  readonly cpuSeconds: number;
  /** Its ended children's alone. */
  readonly endedSeconds: number;
  readonly peakBytes: number;
}

/** What one run of something cost. */
export interface Cost {
  readonly seconds: number;
  readonly cpuSeconds: number;
  /** Sum of each process's own peak: an upper bound of the peak of the whole. */
  readonly peakBytes: number;
}

function factsOf(pid: number): ProcessFacts | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const peak = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'latin1'));
    const seconds = (...at: number[]) =>
      at.reduce((sum, field) => sum + Number(fields[field]), 0) / TICKS_PER_SECOND;
    return {
      pid,
      parent: Number(fields[1]),
      cpuSeconds: seconds(11, 12, 13, 14),
      endedSeconds: seconds(13, 14),
      peakBytes: Number(peak?.[1] ?? 0) * 1024,
    };
  } catch {
    return undefined; // ended meanwhile
  }
}

export function treeOf(root: number): readonly ProcessFacts[] {
  const all = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((name) => factsOf(Number(name)))
    .filter((facts) => facts !== undefined);
  const tree = all.filter((facts) => facts.pid === root);
  for (let grown = true; grown; ) {
    const pids = new Set(tree.map((facts) => facts.pid));
    const more = all.filter((facts) => pids.has(facts.parent) && !pids.has(facts.pid));
    tree.push(...more);
    grown = more.length > 0;
  }
  return tree;
}

export const cpuSecondsOf = (root: number): number =>
  treeOf(root).reduce((sum, facts) => sum + facts.cpuSeconds, 0);

/** Sum of each process's own peak since it began or since `forgetPeaks`, in bytes. */
export const peakBytesOf = (root: number): number =>
  treeOf(root).reduce((sum, facts) => sum + facts.peakBytes, 0);

/** From here on peaks count anew. */
export function forgetPeaks(root: number): void {
  for (const { pid } of treeOf(root)) writeFileSync(`/proc/${pid}/clear_refs`, '5');
}

/** Peak of the largest process whose command line contains `part`, in bytes. */
export function largestPeakOf(root: number, part: string): number {
  let largest = 0;
  for (const facts of treeOf(root)) {
    let command: string;
    try {
      command = readFileSync(`/proc/${facts.pid}/cmdline`, 'latin1').replaceAll('\0', ' ');
    } catch {
      continue;
    }
    if (command.includes(part)) largest = Math.max(largest, facts.peakBytes);
  }
  return largest;
}

/** What one run left to be written to the disk is no part of the next one's time. */
export const writeBack = (folder: string): unknown => spawnSync('sync', ['-f', folder], { timeout: SYNC_MS });

/** `work` done by the service whose first process is `root`, from its beginning to its end. */
export async function costOf(root: number, work: () => Promise<unknown>): Promise<Cost> {
  forgetPeaks(root);
  const before = cpuSecondsOf(root);
  const began = performance.now();
  await work();
  const seconds = (performance.now() - began) / 1000;
  return { seconds, cpuSeconds: cpuSecondsOf(root) - before, peakBytes: peakBytesOf(root) };
}

/**
 * A program run to its end; `output` is its stdout. Only one at a time: an ended child's time counts as its parent's.
 * The peak is looked at now and then, so that of the very last moment is not seen. Rejects when it does not end with 0.
 */
export async function costOfProgram(
  command: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<Cost & { readonly output: string }> {
  const endedSeconds = () => factsOf(process.pid)?.endedSeconds ?? 0;
  const before = endedSeconds();
  const began = performance.now();
  const child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let peakBytes = 0;
  const sampling = setInterval(() => {
    peakBytes = Math.max(peakBytes, child.pid === undefined ? 0 : peakBytesOf(child.pid));
  }, SAMPLE_MS);
  try {
    const [output, complaint, [code]] = await Promise.all([
      text(child.stdout),
      text(child.stderr),
      once(child, 'close'),
    ]);
    const seconds = (performance.now() - began) / 1000;
    if (code !== 0) throw new Error(`${command} ${args.join(' ')}: ${complaint.slice(-2000)}`);
    return { seconds, cpuSeconds: endedSeconds() - before, peakBytes, output };
  } finally {
    clearInterval(sampling);
  }
}
