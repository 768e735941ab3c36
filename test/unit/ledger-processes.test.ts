import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import type { Ledger } from '../../lib/ledger/ledger.ts';
import { scaled } from '../scale.ts';
import { ledgerPath, openLedger } from './ledger-setup.ts';

const CHILD = fileURLToPath(new URL('ledger-child.ts', import.meta.url));
const PROCESSES = 3;

interface Summary {
  readonly written: number;
  readonly slowestMs: number;
  readonly writes: { readonly groups: number; readonly units: number; readonly busy: number };
}
interface Child {
  readonly process: ChildProcess;
  /** Key and transfer id of each acceptance that it was promised so far. */
  readonly promised: [key: string, id: string][];
  readonly ready: Promise<void>;
  /** Undefined where it was killed. */
  readonly ended: Promise<Summary | undefined>;
  /** Resolves when it was promised so many. */
  promisedAtLeast(count: number): Promise<void>;
}

/** @param hammer seconds, writers at once, and the scope of its keys */
function startChild(path: string, hammer: { seconds: number; concurrency: number; scope: string }): Child {
  const args = [CHILD, path, String(hammer.seconds), String(hammer.concurrency), hammer.scope];
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const promised: [string, string][] = [];
  const { promise: ready, resolve: isReady } = Promise.withResolvers<void>();
  let wanted = { count: Number.POSITIVE_INFINITY, reached: () => {} };
  let summary: Summary | undefined;
  let rest = '';
  child.stdout.on('data', (chunk: Buffer) => {
    const lines = (rest + chunk).split('\n');
    // Killed in the middle of a line, it has promised nothing with it.
    rest = lines.pop() ?? '';
    for (const line of lines)
      if (line === 'ready') isReady();
      else if (line.startsWith('{')) summary = JSON.parse(line) as Summary;
      else promised.push(line.split(' ') as [string, string]);
    if (promised.length >= wanted.count) wanted.reached();
  });
  return {
    process: child,
    promised,
    ready,
    ended: once(child, 'close').then(() => summary),
    promisedAtLeast: (count) =>
      new Promise((reached) => {
        wanted = { count, reached };
      }),
  };
}

async function startTogether(children: readonly Child[]): Promise<void> {
  await Promise.all(children.map((child) => child.ready));
  for (const child of children) child.process.stdin?.write('go\n');
}

async function idsInOrder(ledger: Ledger): Promise<string[]> {
  const ids: string[] = [];
  for (let seq = 0; ; ) {
    const events = await ledger.events.after(seq, 1000);
    ids.push(...events.map((event) => event.transferId));
    seq = events.at(-1)?.seq ?? 0;
    if (events.length < 1000) return ids;
  }
}

test('three processes that write at once lose no write, group theirs, and none waits for a second', async () => {
  const path = ledgerPath();
  const ledger = await openLedger(path);
  const children = Array.from({ length: PROCESSES }, (_, n) =>
    startChild(path, { seconds: scaled(3), concurrency: 16, scope: `process ${n}` }),
  );
  await startTogether(children);
  const summaries = await Promise.all(children.map((child) => child.ended));
  const promised = children.flatMap((child) => child.promised.map(([, id]) => id));
  expect((await idsInOrder(ledger)).sort()).toEqual(promised.sort());
  for (const summary of summaries) {
    expect(summary!.writes.units).toBe(summary!.written);
    expect(summary!.writes.units / summary!.writes.groups).toBeGreaterThan(4);
    expect(summary!.slowestMs).toBeLessThan(1000);
  }
  const counts = summaries.map((summary) => summary!.written);
  expect(Math.min(...counts)).toBeGreaterThan(Math.max(...counts) / 4);
}, 30_000);

test('the same keys from three processes at once make each transfer once, and all are told of the same one', async () => {
  const path = ledgerPath();
  const ledger = await openLedger(path);
  const children = Array.from({ length: PROCESSES }, () =>
    startChild(path, { seconds: 0.5, concurrency: 8, scope: 'shared' }),
  );
  await startTogether(children);
  await Promise.all(children.map((child) => child.ended));
  const byKey = new Map(children.flatMap((child) => child.promised));
  for (const child of children) for (const [key, id] of child.promised) expect(byKey.get(key)).toBe(id);
  expect((await idsInOrder(ledger)).sort()).toEqual([...byKey.values()].sort());
}, 30_000);

test('a process killed while it writes has kept every promise it made, and stops nobody', async () => {
  const path = ledgerPath();
  const ledger = await openLedger(path);
  const victim = startChild(path, { seconds: 25, concurrency: 16, scope: 'victim' });
  const other = startChild(path, { seconds: 3, concurrency: 16, scope: 'other' });
  await startTogether([victim, other]);
  await victim.promisedAtLeast(50);
  victim.process.kill('SIGKILL');
  await victim.ended;
  const before = other.promised.length;
  const summary = await other.ended;
  expect(other.promised.length).toBeGreaterThan(before);
  expect(summary!.slowestMs).toBeLessThan(1000);
  const there = new Set(await idsInOrder(ledger));
  expect(victim.promised.length).toBeGreaterThanOrEqual(50);
  for (const [, id] of [...victim.promised, ...other.promised]) expect(there).toContain(id);
}, 30_000);
