import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { scaled } from '../scale.ts';
import { requireServer } from '../servers/require.ts';
import { Client, pick, Reader } from './client.ts';
import { foundAt, type Haul, haul, lookAtTarget, originOf, staysInRedis, WAYS } from './hauls.ts';
import { hasEnded, keysIn, receivedBy, rowsIn } from './oracle.ts';
import type { Point } from './points.ts';
import { carryOn } from './scene.ts';
import { randomOf, seedOf } from './seed.ts';
import { Service, type Target } from './service.ts';
import { type Random, Source, shuffled } from './sources.ts';

const MIB = 1024 * 1024;
const FULL = process.env.LONGSHORE_TEST_SCALE === 'full';
/** Everything in these tests goes in parts. */
const THRESHOLD_BYTES = 17 * MIB;
const PART_BYTES = 16 * MIB;
/** Parts that one worker carries at once. */
const SLOTS = 2;
const WORKERS = 3;
/** Of those that are sent whatever happens; while somebody is still to be killed more of them follow. */
const FIRST_BYTES = FULL ? 900 * MIB : 100 * MIB;
const LARGEST = FULL ? 200 * MIB : 40 * MIB;
const CLIENTS = 3;
const KILLERS = 3;
/** MinIO counts headers and small requests, too. */
const OVERHEAD_BYTES = 16 * MIB;
const TEST_MS = FULL ? 3600_000 : 240_000;
const SETTLE_MS = FULL ? 600_000 : 90_000;

/** For each target; both together 300 workers at full count, and Redis loses its data twice. */
const KILLS: readonly (readonly [Point, number])[] = [
  ['part-sending', 40],
  ['part-sent', 20],
  ['intended', 14],
  ['begun', 14],
  ['recorded', 14],
  ['all-sent', 16],
  ['completed', 16],
  ['ended', 16],
];

class Run {
  readonly service: Service;
  readonly client: Client;
  readonly random: Random;
  readonly seed: number;
  readonly hauls: Haul[] = [];
  readonly begun: Pick<Haul, 'way' | 'source'>[] = [];
  readonly reader = new Reader();
  readonly startedMs = Date.now();
  wipes = 0;
  killing = true;
  readonly #sizes: number[] = [];
  readonly #points: Point[];
  #wipe: boolean;

  constructor(service: Service, seed: number) {
    this.service = service;
    this.seed = seed;
    this.random = randomOf(seed);
    this.client = new Client(() => service.url);
    this.#points = shuffled(
      KILLS.flatMap(([point, full]) => Array<Point>(scaled(full)).fill(point)),
      this.random,
    );
    this.#wipe = FULL;
    for (let left = FIRST_BYTES; left > 0; left -= this.#sizes.at(-1)!) this.#sizes.push(this.#size());
  }

  /** Mostly two parts; some are larger, on a logarithmic scale. */
  #size(): number {
    const most = this.random() < 0.8 ? 20 * MIB : LARGEST;
    return Math.floor(THRESHOLD_BYTES * (most / THRESHOLD_BYTES) ** this.random());
  }

  async send(): Promise<void> {
    for (;;) {
      const size = this.#sizes.pop() ?? (this.killing ? THRESHOLD_BYTES + this.begun.length : undefined);
      if (size === undefined) return;
      const nth = this.begun.length;
      const way = WAYS[nth % WAYS.length]!;
      const source = new Source(`d${nth % 5}/${way}-${nth}.bin`, size, this.seed);
      this.begun.push({ way, source });
      this.hauls.push(await haul(this.service, this.client, way, source));
      while (this.#waiting() > 2 * WORKERS) await sleep(100);
    }
  }

  #waiting(): number {
    return rowsIn(this.service.ledger).filter((row) => !hasEnded(row)).length;
  }

  async kill(): Promise<void> {
    const signal = AbortSignal.timeout(TEST_MS);
    for (let point = this.#points.shift(); point; point = this.#points.shift()) {
      const pid = await this.service.points.next('kill', 'worker', point, signal);
      expect(pid, `a worker at ${point}`).toBeDefined();
      if (this.#wipe && this.#points.length < 60) {
        this.#wipe = false;
        await this.service.killRedis({ wipe: true, awayMs: this.random() * 600 });
        this.wipes++;
      }
    }
  }

  look(): Promise<string | undefined> {
    const one = pick(this.begun, this.random);
    return one ? lookAtTarget(this.service, one, this.random() < 0.1) : Promise.resolve(undefined);
  }
}

/** What must be true when all is quiet; downloads are read while the API still runs. */
async function judge({ service, hauls, reader }: Run): Promise<void> {
  const wrong: string[] = [];
  for (const one of hauls) {
    const { size, sha256 } = one.source;
    const found = await foundAt(service, one);
    if (found?.sha256 !== sha256)
      wrong.push(`${one.way} of ${size} bytes (${one.id}): ${found ? `${found.size} bytes` : 'nothing'}`);
  }
  expect(wrong).toEqual([]);
  expect(reader.seen).toEqual([]);
  const rows = rowsIn(service.ledger);
  expect(rows.map(({ id }) => id).sort()).toEqual(hauls.map(({ id }) => id).sort());
  // a kill is nobody's fault: all of them succeed, and each says so once
  expect(rows.filter((row) => row.state !== 'succeeded' || row.endings !== 1)).toEqual([]);
}

/** What was sent more than once, against one part for each slot of each worker that lost its work. */
async function count(run: Run, target: Target): Promise<string> {
  const { service, hauls, begun, wipes } = run;
  const bytes = hauls.reduce((sum, { source }) => sum + source.size, 0);
  const kills = Object.values(service.points.counts()).reduce((sum, n) => sum + n, 0);
  const again = service.points.sentBytes() - bytes;
  const bound = (kills + wipes * WORKERS) * SLOTS * PART_BYTES;
  expect(again).toBeGreaterThanOrEqual(0);
  expect(again).toBeLessThanOrEqual(bound);
  const taken = service.points.lines('parts');
  const parts = hauls.reduce((sum, { source }) => sum + Math.ceil(source.size / PART_BYTES), 0);
  let received = '';
  if (service.minio) {
    const of = (ways: readonly string[]): number =>
      begun.reduce((sum, { way, source }) => sum + (ways.includes(way) ? source.size : 0), 0);
    // what was laid out for copies and downloads was sent there by the test
    const more = (await receivedBy(service.minio)) - of(['upload', 'send', 'bring', 'fetch']);
    expect(more).toBeLessThanOrEqual(bound + OVERHEAD_BYTES);
    received = ` (MinIO's own count: ${more} more than once)`;
  }
  return (
    `kills in parts, ${target}, seed ${run.seed}: ${hauls.length} objects, ${bytes} bytes, ${kills} kills, ` +
    `${wipes} wipes; ${again} bytes sent again of at most ${bound}${received}, ` +
    `${taken.length} parts taken of ${parts} that there are, ${taken.length - new Set(taken).size} twice; ` +
    `${run.reader.looks} looks, ${Date.now() - run.startedMs} ms; ${JSON.stringify(service.points.counts())}`
  );
}

const targets: readonly Target[] = ['folder', 'MinIO'];
requireServer('redis', 'minio')('killing workers while large objects go in parts', () => {
  for (const target of targets)
    test.concurrent(
      `between ${target === 'folder' ? 'folders' : `folders and ${target}`} loses, damages and shows by half nothing, and sends again a part per kill and slot at most`,
      async () => {
        const seed = seedOf(`kills in parts, ${target}`);
        const settings = { partThresholdBytes: THRESHOLD_BYTES, partConcurrency: SLOTS };
        const service = await Service.start(target, WORKERS, { settings });
        const run = new Run(service, seed);
        try {
          await carryOn(run, { clients: CLIENTS, killers: KILLERS, settleMs: SETTLE_MS });
          await judge(run);
          await service.stopRoles();
          const paths = run.begun.flatMap(({ source }) => [source.path, originOf(source)]);
          const forGc = await service.leftBehind(paths);
          await service.collect();
          expect(await service.leftBehind(paths)).toEqual([]);
          const keys = await keysIn(service.redis.url);
          expect(keys.filter((key) => !staysInRedis(key))).toEqual([]);
          console.log(
            `${await count(run, target)}; left to gc: ${forGc.length}; in Redis: ${keys.join(' ')}`,
          );
        } catch (error) {
          console.log(service.log.slice(-4000), service.points.counts());
          throw error;
        } finally {
          await run.reader.stop();
          await run.client.close();
          await service.close();
        }
      },
      TEST_MS,
    );
});
