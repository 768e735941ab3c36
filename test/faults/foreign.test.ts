/**
 * Clean-up takes what is proved to be ours and nothing else: not what is called like ours, not what another installation
 * has on its way in the same places, not an upload of which nobody can say whose it is.
 */
import { writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { scaled } from '../scale.ts';
import { requireServer } from '../servers/require.ts';
import { Client, pick } from './client.ts';
import { Shore } from './foreign.ts';
import { countIn, hasEnded, jobKeysIn, rowsIn } from './oracle.ts';
import { until } from './scene.ts';
import { randomOf, seedOf } from './seed.ts';
import type { Service } from './service.ts';
import { type Random, Source } from './sources.ts';

const MIB = 1024 * 1024;
const DAY_MS = 24 * 3600_000;
/** A collection amid the load takes what nobody has touched for so long. */
const GRACE_MS = 4000;
const KILLS = scaled(40);
const WORKERS = scaled(20) > 2 ? 2 : 1;
const COLLECTIONS = scaled(20);
const KEYS = scaled(1000);
const TREE_FILES = 12;
const DIRS = ['', 'mix', 'mix/deep', 'tree'];
const SETTLE_MS = 90_000;
const TEST_MS = 10 * 60_000;

/** What one installation is asked to do, over and over, until it is enough. */
class Load {
  readonly #service: Service;
  readonly #name: string;
  readonly #client: Client;
  readonly #random: Random;
  #nth = 0;
  sent = 0;

  constructor(service: Service, name: string, random: Random) {
    this.#service = service;
    this.#name = name;
    this.#client = new Client(() => service.url);
    this.#random = random;
  }

  async until(isEnough: () => boolean): Promise<void> {
    await Promise.all([
      this.#kind(isEnough, this.#put),
      this.#kind(isEnough, this.#upload),
      this.#kind(isEnough, this.#tree),
    ]);
  }

  async #kind(isEnough: () => boolean, send: (key: string) => Promise<unknown>): Promise<void> {
    while (!isEnough()) {
      await send.call(this, `${this.#name}-${++this.#nth}`);
      this.sent++;
    }
  }

  /** Some are more than fits one part, in a folder or on S3. */
  #source(key: string): Source {
    const size = this.#nth % 12 === 3 ? 18 * MIB : Math.floor(this.#random() * 50_000);
    return new Source(`mix/deep/${key}`, size, 1);
  }

  #put = (key: string): Promise<unknown> => this.#client.put(this.#source(`put-${key}`));
  #upload = (key: string): Promise<unknown> => this.#client.upload(this.#source(`up-${key}`), key);
  #tree = async (key: string): Promise<void> => {
    const from = { store: 'trees', path: '' };
    const to = this.#nth % 2 === 0 ? `tree/${key}` : { store: 'other', path: `tree/${key}` };
    const id = await this.#client.submit({ kind: 'copy', tree: true, from, to }, key);
    await until(`the end of ${id}`, SETTLE_MS, () =>
      rowsIn(this.#service.ledger).find((row) => row.id === id && hasEnded(row)),
    );
  };

  close(): Promise<void> {
    return this.#client.close();
  }
}

async function settled(side: Service): Promise<void> {
  await until('the end of all transfers', SETTLE_MS, () =>
    rowsIn(side.ledger).every(hasEnded) ? true : undefined,
  );
  await until('the end of all jobs', SETTLE_MS, async () =>
    (await jobKeysIn(side.redis.url)).length === 0 ? true : undefined,
  );
}

/** A source for trees: small files, and a large one that goes in parts. */
async function makeTree(src: string): Promise<void> {
  await mkdir(join(src, 'd'), { recursive: true });
  for (let n = 0; n < TREE_FILES; n++) writeFileSync(join(src, n % 2 ? 'd' : '', `f${n}`), `file ${n}`);
  writeFileSync(join(src, 'large'), Buffer.alloc(18 * MIB, 3));
}

/** Again and again, as a job that comes every moment. */
async function gcAmid(side: Service, told: () => void, isEnough: () => boolean): Promise<void> {
  while (!isEnough()) {
    await side.collect(DAY_MS - GRACE_MS);
    told();
  }
}

requireServer('redis', 'minio')('two installations on one folder, one bucket and one staging folder', () => {
  test(
    'remove nothing of others, and leave nothing of their own but uploads that are counted as unproven',
    async () => {
      const startedMs = Date.now();
      const random = randomOf(seedOf('foreign'));
      const shore = await Shore.open(WORKERS);
      const loads = shore.sides.map((side, n) => new Load(side, 'ab'[n]!, random));
      try {
        await makeTree(shore.trees);
        shore.plantFiles(1000, DIRS);
        await shore.plantKeys(KEYS, DIRS);
        await shore.plantUploads([
          'mix/deep/put-a-1',
          'mix/deep/up-b-2',
          'tree/large',
          'theirs',
          'mix/theirs',
        ]);
        shore.leaveOwn(DIRS);

        // under load, with kills, and collections of both at once
        let kills = 0;
        const runs = shore.sides.map(() => 0);
        const isEnough = (): boolean => kills >= KILLS && Math.min(...runs) >= COLLECTIONS;
        const load = Promise.all(loads.map((one) => one.until(isEnough)));
        const gcs = Promise.all(shore.sides.map((side, n) => gcAmid(side, () => runs[n]!++, isEnough)));
        const killing = (async () => {
          for (; !isEnough(); kills++) {
            await sleep(200 + random() * 500);
            const role = pick(pick(shore.sides, random)!.roles, random)!;
            await role.ready;
            role.kill();
          }
        })();
        await Promise.all([killing, load, gcs]);
        expect(await shore.missing()).toEqual([]);

        let outlived = 0;
        // one lies dead amid its work while the other collects, a day on, again and again
        for (const [n, dead] of shore.sides.entries()) {
          const other = shore.sides[1 - n]!;
          await settled(other);
          let isOver = false;
          const sending = loads[n]!.until(() => isOver);
          await until('something on its way', SETTLE_MS, async () =>
            (await shore.onTheirWay(other)).size > 0 ? true : undefined,
          );
          await Promise.all(dead.roles.map((role) => role.halt()));
          shore.leaveOwn(DIRS, [dead]);
          const own = await shore.onTheirWay(other);
          expect(own.size).toBeGreaterThan(0);
          for (let run = 0; run < 3; run++) await other.collect();
          const after = await shore.onTheirWay();
          expect([...own].filter(([name, what]) => after.get(name) !== what)).toEqual([]);
          outlived += own.size;
          isOver = true;
          await Promise.all(dead.roles.map((role) => role.resume()));
          await sending;
        }

        await Promise.all(shore.sides.map(settled));
        await Promise.all(shore.sides.map((side) => side.stopRoles()));
        for (const side of shore.sides) await side.collect();
        const told = await Promise.all(shore.sides.map((side) => side.collect()));
        expect(await shore.missing()).toEqual([]);
        const left = [...(await shore.onTheirWay()).keys()];
        expect(left.filter((what) => !what.startsWith('upload '))).toEqual([]);
        // all that is pending is told by each of them, and nothing else
        const pending = (await shore.pending()).map(({ UploadId }) => UploadId);
        for (const [n, unproven] of told.entries()) {
          const { count, uploads } = unproven.get(n === 0 ? 'other' : 'artifacts')!;
          expect(count).toBe(pending.length);
          expect(uploads.map(({ id }) => id).toSorted()).toEqual(
            pending.map((id) => id.slice(0, 12)).toSorted(),
          );
        }
        for (const side of shore.sides) expect(countIn(side.ledger, 'uploads')).toBe(0);
        console.log(
          `foreign: ${kills} kills, ${loads.map(({ sent }) => sent).join(' and ')} sent, ${runs.join(' and ')} ` +
            `collections amid; ${shore.files.size} files, ${shore.keys.size} keys, ${shore.uploads.size} uploads of others: all there; ${outlived} of the dead outlived collections of the other; ` +
            `${pending.length - shore.uploads.size} unproven uploads of ours; ${Date.now() - startedMs} ms`,
        );
      } finally {
        await Promise.all(loads.map((one) => one.close()));
        await shore.close();
      }
    },
    TEST_MS,
  );
});
