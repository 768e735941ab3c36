import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { scaled } from '../scale.ts';
import { requireServer } from '../servers/require.ts';
import { staysInRedis } from './hauls.ts';
import { countIn, etagsIn, filesIn, hasEnded, keysIn, rowsIn } from './oracle.ts';
import { type PutsLine, putsLine } from './puts.ts';
import { jobsEnded, onStage, type Scene } from './scene.ts';
import { seedOf } from './seed.ts';
import { BUCKET, Service } from './service.ts';
import { Source } from './sources.ts';

const MIB = 1024 * 1024;
const FULL = process.env.LONGSHORE_TEST_SCALE === 'full';
const WORKERS = 2;
/** In each direction. */
const KILLS = Math.max(2, scaled(20));
const PAGE_FILES = 1000;
/** Pages that a worker has at hand at once. */
const SLOTS = 3;
const MOST_LEDGER_BYTES = 20 * MIB;
const MOST_RESIDENT_BYTES = 300 * MIB;
const LOOK_MS = 200;
const TEST_MS = FULL ? 3600_000 : 240_000;

const TREES = [
  { what: 'empty files', files: FULL ? 100_000 : 4000, size: 0 },
  { what: 'files of 64 KiB', files: FULL ? 20_000 : 800, size: 64 * 1024 },
] as const;
type Tree = (typeof TREES)[number];

const bytesOf = (path: string, size: number, seed: number): Buffer =>
  Buffer.concat([...new Source(path, size, seed).chunks()]);
const digest = (how: 'md5' | 'sha256', bytes: Buffer): string => createHash(how).update(bytes).digest('hex');

/** Highest that was seen; a process that was killed between two looks had no more than those that live longer. */
class Peaks {
  ledgerBytes = 0;
  residentBytes = 0;
  readonly #service: Service;
  readonly #stop = new AbortController();
  readonly #done: Promise<void>;

  constructor(service: Service) {
    this.#service = service;
    this.#done = this.#loop();
  }

  async #loop(): Promise<void> {
    for (const { signal } = this.#stop; !signal.aborted; await sleep(LOOK_MS)) this.#look();
  }

  #look(): void {
    const { ledger, workers } = this.#service;
    const size = (file: string): number => statSync(file, { throwIfNoEntry: false })?.size ?? 0;
    this.ledgerBytes = Math.max(this.ledgerBytes, size(ledger) + size(`${ledger}-wal`));
    for (const { pid } of workers)
      try {
        const [, kib = 0] = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
        this.residentBytes = Math.max(this.residentBytes, Number(kib) * 1024);
      } catch {
        // it was killed a moment ago
      }
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#done;
    this.#look();
  }
}

/** Resolves when the transfer has ended; a worker is killed each time that another share of the files was sent. */
async function carry(service: Service, id: string, files: number, sent: () => number): Promise<number> {
  const row = () => rowsIn(service.ledger).find((one) => one.id === id);
  const isOver = (): boolean => hasEnded(row() ?? { state: '' });
  const over = new AbortController();
  const killing = (async () => {
    let kills = 0;
    for (let nth = 1; nth <= KILLS && !over.signal.aborted; nth++) {
      while (!over.signal.aborted && sent() < (nth * files) / (KILLS + 1)) await sleep(LOOK_MS);
      if (await service.points.next('kill', 'worker', 'file', over.signal)) kills++;
    }
    return kills;
  })();
  for (const untilMs = Date.now() + TEST_MS; !isOver() && Date.now() < untilMs; ) await sleep(LOOK_MS);
  over.abort();
  expect(row()).toMatchObject({ state: 'succeeded', endings: 1 });
  return killing;
}

/** Sent more than once, of those that were. */
function again(counts: ReadonlyMap<string, number>): number {
  return [...counts.values()].reduce((sum, count) => sum + count - 1, 0);
}

function counted(lines: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const line of lines) counts.set(line, (counts.get(line) ?? 0) + 1);
  return counts;
}

interface TreeScene extends Scene {
  readonly line: PutsLine;
  /** Relative paths. */
  readonly names: readonly string[];
  readonly seed: number;
}

async function toMinio({ service, client, line, names, seed }: TreeScene, { size }: Tree): Promise<string> {
  const body = { kind: 'copy', tree: true, from: `file://${service.folder}/attic/src`, to: 'carried/there' };
  const kills = await carry(service, await client.submit(body, 'there'), names.length, () => line.puts.size);
  const wanted = new Map(
    names.map((name) => [`carried/there/${name}`, `${size} ${digest('md5', bytesOf(name, size, seed))}`]),
  );
  // MinIO has taken the MD5 of what it was given
  expect(differing(wanted, await etagsIn(service.minio!, BUCKET))).toEqual([]);
  const twice = again(line.puts);
  expect(twice).toBeLessThanOrEqual(kills * PAGE_FILES);
  return `to MinIO: ${kills} kills, ${twice} files sent again`;
}

async function back({ service, client, line, names, seed }: TreeScene, { size }: Tree): Promise<string> {
  const to = `file://${service.folder}/attic/carried/back`;
  const sent = (): string[] =>
    service.points.lines('files').filter((path) => path.startsWith('carried/back'));
  const before = line.lists.pages;
  const body = { kind: 'copy', tree: true, from: 'carried/there', to };
  const kills = await carry(service, await client.submit(body, 'back'), names.length, () => sent().length);
  const folder = join(service.folder, 'attic', 'carried', 'back');
  const wanted = new Map(names.map((name) => [name, digest('sha256', bytesOf(name, size, seed))]));
  // hidden ones that the dead left are gc's
  const found = filesIn(folder)
    .filter((name) => !name.includes('/.longshore-'))
    .map((name): [string, string] => [name, digest('sha256', readFileSync(join(folder, name)))]);
  expect(differing(wanted, new Map(found))).toEqual([]);
  const twice = again(counted(sent()));
  expect(twice).toBeLessThanOrEqual(kills * PAGE_FILES);
  return `back: ${kills} kills, ${twice} files sent again, ${line.lists.pages - before} pages listed`;
}

/** At most ten, which is enough to see. */
function differing(wanted: ReadonlyMap<string, string>, found: ReadonlyMap<string, string>): string[] {
  const names = new Set([...wanted.keys(), ...found.keys()]);
  return [...names]
    .filter((name) => wanted.get(name) !== found.get(name))
    .map((name) => `${name}: ${wanted.get(name)} should be there, ${found.get(name)} is`)
    .slice(0, 10);
}

async function amid(tree: Tree, seed: number, act: (scene: TreeScene) => Promise<void>): Promise<void> {
  let line: PutsLine | undefined;
  const service = await Service.start('MinIO', WORKERS, {
    settings: { uploadConcurrency: SLOTS },
    line: async (port) => (line = await putsLine(port)),
  });
  const names = Array.from({ length: tree.files }, (_, n) => `d${n % 37}/f${n}`);
  for (let n = 0; n < 37; n++) mkdirSync(join(service.folder, 'attic', 'src', `d${n}`), { recursive: true });
  for (const name of names)
    writeFileSync(join(service.folder, 'attic', 'src', name), bytesOf(name, tree.size, seed));
  await onStage(service, (scene) => act({ ...scene, line: line!, names, seed }));
}

requireServer('redis', 'minio')('killing workers while a tree is on its way', () => {
  for (const tree of TREES)
    test(
      `of ${tree.what} to MinIO and back loses and damages none, and sends again a page per kill at most`,
      async () => {
        const seed = seedOf(`kills in trees, ${tree.what}`);
        await amid(tree, seed, async (scene) => {
          const { service } = scene;
          const startedMs = Date.now();
          const peaks = new Peaks(service);
          const there = await toMinio(scene, tree);
          const andBack = await back(scene, tree);
          await jobsEnded(scene, TEST_MS);
          await peaks.stop();
          await service.stopRoles();
          await service.collect();
          expect(await service.leftBehind([])).toEqual([]);
          const keys = await keysIn(service.redis.url);
          expect(keys.filter((key) => !staysInRedis(key))).toEqual([]);
          expect(countIn(service.ledger, 'tree_claims')).toBe(0);
          expect(countIn(service.ledger, 'uploads')).toBe(0);
          // how many files each page had is part of the transfers' history
          const pages = countIn(service.ledger, 'tree_pages');
          expect(peaks.ledgerBytes).toBeLessThan(MOST_LEDGER_BYTES);
          expect(peaks.residentBytes).toBeLessThanOrEqual(MOST_RESIDENT_BYTES);
          console.log(
            `kills in trees, ${tree.files} ${tree.what}, seed ${seed}: ${there}; ${andBack}; ledger at most ` +
              `${peaks.ledgerBytes} bytes, ${pages} pages; a worker at most ${peaks.residentBytes} bytes; ` +
              `${Date.now() - startedMs} ms; ${JSON.stringify(service.points.counts())}`,
          );
        });
      },
      TEST_MS,
    );
});
