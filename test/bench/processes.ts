/** CPU seconds and peak memory of a whole service: a process and everything it started, read from /proc (Linux). */
import { readdirSync, readFileSync } from 'node:fs';

const TICKS_PER_SECOND = 100; // USER_HZ, fixed at 100 in the kernel's interface to user space

interface ProcessFacts {
  readonly pid: number;
  readonly parent: number;
  readonly cpuSeconds: number;
  readonly peakBytes: number;
}

function factsOf(pid: number): ProcessFacts | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const peak = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'latin1'));
    return {
      pid,
      parent: Number(fields[1]),
      // its own and its ended children's, user and system
      cpuSeconds: [11, 12, 13, 14].reduce((sum, at) => sum + Number(fields[at]), 0) / TICKS_PER_SECOND,
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

/** Sum of each process's own peak: an upper bound of the peak of the whole, in bytes. */
export const peakBytesOf = (root: number): number =>
  treeOf(root).reduce((sum, facts) => sum + facts.peakBytes, 0);

/** Peak of the largest process whose command line contains `text`, in bytes. */
export function largestPeakOf(root: number, text: string): number {
  let largest = 0;
  for (const facts of treeOf(root)) {
    let command: string;
    try {
      command = readFileSync(`/proc/${facts.pid}/cmdline`, 'latin1').replaceAll('\0', ' ');
    } catch {
      continue;
    }
    if (command.includes(text)) largest = Math.max(largest, facts.peakBytes);
  }
  return largest;
}
