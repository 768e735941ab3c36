/**
 * Named places in the order of writes where a process can be killed or stopped, from outside of the product: a child
 * started with `points-child.ts` looks for an order in a folder each time it comes by, and the one that takes it obeys.
 */
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';

export type Role = 'api' | 'worker';
export const POINTS = [
  /** The bytes of an upload are durable in staging; the ledger doesn't know of them. */
  'staged',
  /** The ledger has accepted it; nobody was told. */
  'committed',
  /** The job is in Redis. */
  'enqueued',
  /** A worker has taken the transfer up in the ledger. */
  'started',
  /** A byte, or more than the largest part, has been taken for the target; nothing is visible. */
  'sending',
  'parts',
  /** The ledger says publishing; nothing is visible. */
  'publishing',
  /** It is visible; the ledger doesn't know. */
  'published',
  /** The ending is committed; staging and the job are still there. */
  'ended',
  /** Of what goes in parts: it is written down that an upload is to begin; the store doesn't know. */
  'intended',
  /** The store has begun it; its id is not written down. */
  'begun',
  /** Its id is. */
  'recorded',
  /** Bytes of a part were given to the store, which hasn't answered. */
  'part-sending',
  /** The store has the part; nobody was told. */
  'part-sent',
  /** The store has all parts; nothing is visible. */
  'all-sent',
  /** The store has joined them; the ledger doesn't know. */
  'completed',
  /** A file of a tree whose target's path begins with `carried/` is there; nobody was told. */
  'file',
] as const;
export type Point = (typeof POINTS)[number];
/** `tell`: it only takes the order, and goes on. */
export type Order = 'kill' | 'stop' | 'tell';

const CHILD = pathToFileURL(join(import.meta.dirname, 'points-child.ts')).href;
const LOOK_MS = 5;

export class Points {
  readonly folder = mkdtempSync(join(tmpdir(), 'longshore-points-'));
  #count = 0;

  constructor() {
    for (const name of ['orders', 'taken', 'hits', 'sent', 'parts', 'files'])
      mkdirSync(join(this.folder, name));
  }

  /** What a process needs in its environment to obey; its children get it from there. */
  get env(): Record<string, string> {
    return { NODE_OPTIONS: `--import=${CHILD}`, LONGSHORE_TEST_POINTS: this.folder };
  }

  /**
   * Resolves with the id of the process of this role that came by next and took the order; `undefined` where nobody
   * did until `signal` fired.
   */
  async next(order: Order, role: Role, point: Point, signal: AbortSignal): Promise<number | undefined> {
    const name = `${order}.${role}.${point}.${++this.#count}`;
    const file = join(this.folder, 'orders', name);
    writeFileSync(file, '');
    for (;;) {
      const taken = readdirSync(join(this.folder, 'taken')).find((one) => one.startsWith(`${name}.`));
      if (taken !== undefined) return Number(taken.slice(name.length + 1));
      if (signal.aborted && withdrawn(file)) return undefined;
      await sleep(LOOK_MS);
    }
  }

  /** Orders that were taken: `kill.worker.published` → 4. */
  counts(): Record<string, number> {
    const counts: Record<string, number> = {};
    for (const name of readdirSync(join(this.folder, 'taken')).sort()) {
      const what = name.split('.').slice(0, 3).join('.');
      counts[what] = (counts[what] ?? 0) + 1;
    }
    return counts;
  }

  /** Bytes that were taken for targets so far, by every process that lived; staging counts where parts are its target. */
  sentBytes(): number {
    const folder = join(this.folder, 'sent');
    return readdirSync(folder).reduce((sum, name) => {
      const bytes = readFileSync(join(folder, name));
      return sum + (bytes.length === 8 ? bytes.readDoubleLE() : 0);
    }, 0);
  }

  /** Lines that were written so far by every process that lived: `parts` that stores have taken, and whole `files`. */
  lines(of: 'parts' | 'files'): string[] {
    const folder = join(this.folder, of);
    return readdirSync(folder).flatMap((name) =>
      readFileSync(join(folder, name), 'utf8')
        .split('\n')
        .filter((line) => line !== ''),
    );
  }

  close(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** `false`: somebody took it at the last moment. */
function withdrawn(file: string): boolean {
  try {
    unlinkSync(file);
    return true;
  } catch {
    return false;
  }
}
