import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { scaled } from '../scale.ts';
import { requireServer } from '../servers/require.ts';
import { Client, pick, Reader } from './client.ts';
import { rowsIn } from './oracle.ts';
import type { Point, Role } from './points.ts';
import { carryOn } from './scene.ts';
import { randomOf, seedOf } from './seed.ts';
import { Service, type Target } from './service.ts';
import { type Random, Source, shuffled, sizes } from './sources.ts';

const MIB = 1024 * 1024;
const FULL = process.env.LONGSHORE_TEST_SCALE === 'full';
/** To each target: about 100 files, and more as long as it takes; 2 GiB in all. */
const FILES = Math.max(16, scaled(100));
const LARGEST = FULL ? 256 * MIB : 48 * MIB;
const MOST_BYTES = FULL ? 1400 * MIB : 200 * MIB;
/** Larger ones are rarely read by the reader. */
const SMALL_BYTES = 4 * MIB;
const CLIENTS = 4;
/** Actions at once. */
const KILLERS = 3;
const TEST_MS = FULL ? 3600_000 : 240_000;
const SETTLE_MS = FULL ? 600_000 : 90_000;

type Action = { readonly role: Role; readonly point: Point } | { readonly redis: 'restarted' | 'wiped' };

/** For each target. Both together, at full count: 300 of workers, 40 of the API, 40 of Redis, 4 with its data lost. */
function plan(random: Random): Action[] {
  const at = (role: Role, point: Point, full: number): Action[] =>
    Array.from({ length: scaled(full) }, () => ({ role, point }));
  const redis = (how: 'restarted' | 'wiped', full: number): Action[] =>
    Array.from({ length: scaled(full) }, () => ({ redis: how }));
  const [committed, ...othersCommitted] = at('api', 'committed', 5);
  const [wiped, ...othersWiped] = redis('wiped', 2);
  const others = [
    ...at('worker', 'sending', 34),
    ...at('worker', 'parts', 34),
    ...at('worker', 'started', 20),
    ...at('worker', 'publishing', 21),
    ...at('worker', 'published', 21),
    ...at('worker', 'ended', 20),
    ...at('api', 'staged', 5),
    ...othersCommitted,
    ...at('api', 'enqueued', 5),
    ...at('api', 'published', 5),
    ...redis('restarted', 20),
    ...othersWiped,
  ];
  // what only the outbox finds takes longest: once while there is much else to do
  return [committed!, wiped!, ...shuffled(others, random)];
}

class Run {
  readonly service: Service;
  readonly random: Random;
  readonly seed: number;
  readonly client: Client;
  /** Accepted, by the transfer's id; and stored, as a 200 said. */
  readonly accepted = new Map<string, Source>();
  readonly stored: Source[] = [];
  readonly #waiting: Source[] = [];
  readonly #begun: Source[] = [];
  readonly #actions: Action[];
  #more = 0;
  #redis: Promise<void> = Promise.resolve();
  readonly reader = new Reader();
  readonly redisKills = { 'kill.redis': 0, 'kill.redis.wiped': 0 };
  readonly startedMs = Date.now();
  killing = true;

  constructor(service: Service, seed: number) {
    this.service = service;
    this.seed = seed;
    this.random = randomOf(seed);
    this.client = new Client(() => service.url);
    this.#actions = plan(this.random);
    let bytes = 0;
    for (const [n, size] of sizes(FILES, LARGEST, this.random).entries()) {
      if (bytes + size > MOST_BYTES) continue;
      bytes += size;
      this.#waiting.push(new Source(`d${n % 7}/f${n}.bin`, size, seed));
    }
  }

  get known(): Source[] {
    return [...this.accepted.values(), ...this.stored];
  }

  /** Files until all are sent, then more of them as long as somebody is still to be killed. */
  async send(): Promise<void> {
    for (;;) {
      const source = this.#waiting.pop() ?? (this.killing ? this.#another() : undefined);
      if (!source) return;
      this.#begun.push(source);
      if (this.random() < 0.25) {
        await this.client.put(source);
        this.stored.push(source);
      } else this.accepted.set(await this.client.upload(source, `key ${source.path}`), source);
      if (this.#waiting.length === 0) await sleep(100);
    }
  }

  #another(): Source {
    const n = this.#more++;
    const size = n % 12 === 0 ? 18 * MIB : Math.floor(this.random() * 64 * 1024);
    return new Source(`more/${n}.bin`, size, this.seed);
  }

  async kill(): Promise<void> {
    for (let action = this.#actions.shift(); action; action = this.#actions.shift()) {
      if ('redis' in action) {
        const wipe = action.redis === 'wiped';
        this.#redis = this.#redis.then(() => this.service.killRedis({ wipe, awayMs: this.random() * 600 }));
        await this.#redis;
        this.redisKills[wipe ? 'kill.redis.wiped' : 'kill.redis']++;
        await sleep(500);
      } else {
        const { role, point } = action;
        const signal = AbortSignal.timeout(TEST_MS);
        expect(
          await this.service.points.next('kill', role, point, signal),
          `${role} at ${point}`,
        ).toBeDefined();
      }
    }
  }

  /** Looks at one artifact, in the store or through the API: it must be absent or whole. */
  async look(): Promise<string | undefined> {
    const source = pick(this.#begun, this.random);
    if (!source || (source.size > SMALL_BYTES && this.random() < 0.9)) return undefined;
    const mustBe = this.stored.includes(source);
    const { path } = source;
    const way = this.random();
    if (way < 0.4) {
      const found = await this.service.shelf.read(path);
      if (!found) return mustBe ? `${path} is not there any more` : undefined;
      return found.sha256 === source.sha256
        ? undefined
        : `${path}: ${found.size} of ${source.size} bytes, or others`;
    }
    if (way < 0.8) {
      const got = await this.client.get(`/api/2.0/mlflow-artifacts/artifacts/${path}`);
      if (got === undefined) return undefined;
      if (got === 'absent') return mustBe ? `GET says that ${path} is absent` : undefined;
      const whole = got.length === source.size && digest(got) === source.sha256;
      return whole ? undefined : `GET of ${path}: ${got.length} of ${source.size} bytes, or others`;
    }
    return this.#lookAtList(path.split('/')[0]!, mustBe ? path : undefined);
  }

  async #lookAtList(dir: string, wanted: string | undefined): Promise<string | undefined> {
    const got = await this.client.get(`/api/2.0/mlflow-artifacts/artifacts?path=${dir}`);
    if (got === undefined || got === 'absent') return undefined;
    const { files = [] } = JSON.parse(got.toString()) as { files?: { path: string; file_size?: number }[] };
    const sizes = new Map(this.#begun.map(({ path, size }) => [path, size]));
    for (const { path, file_size } of files) {
      const size = sizes.get(`${dir}/${path}`);
      if (size !== (file_size ?? 0))
        return `the list of ${dir} has ${path} with ${file_size} of ${size} bytes`;
    }
    if (wanted !== undefined && !files.some(({ path }) => `${dir}/${path}` === wanted))
      return `the list of ${dir} lacks ${wanted}`;
    return undefined;
  }
}

const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** What must be true when all is quiet. */
async function judge(run: Run): Promise<void> {
  const { service, known } = run;
  const lost: string[] = [];
  const corrupt: string[] = [];
  for (const source of known) {
    const found = await service.shelf.read(source.path);
    if (!found) lost.push(source.path);
    else if (found.sha256 !== source.sha256) corrupt.push(source.path);
  }
  expect({ lost, corrupt }).toEqual({ lost: [], corrupt: [] });
  expect((await service.shelf.paths()).sort()).toEqual(known.map(({ path }) => path).sort());
  const rows = rowsIn(service.ledger);
  const ids = new Set(rows.map(({ id }) => id));
  expect([...run.accepted.keys()].filter((id) => !ids.has(id))).toEqual([]);
  // a kill is nobody's fault: all of them succeed, and each says so once
  expect(rows.filter((row) => row.state !== 'succeeded' || row.endings !== 1)).toEqual([]);
  expect(rows.filter((row) => row.staged !== null && !run.accepted.has(row.id))).toEqual([]);
}

const targets: readonly Target[] = ['folder', 'MinIO'];
requireServer('redis', 'minio')('killing workers, the API and Redis while files are on their way', () => {
  for (const target of targets)
    test.concurrent(
      `to ${target === 'folder' ? 'a folder' : target} loses nothing, damages nothing, shows nothing by half and leaves nothing behind`,
      async () => {
        const seed = seedOf(`kills, ${target}`);
        const service = await Service.start(target, 3);
        const run = new Run(service, seed);
        try {
          await carryOn(run, { clients: CLIENTS, killers: KILLERS, settleMs: SETTLE_MS });
          await service.stopRoles();
          const paths = run.known.map(({ path }) => path);
          const forGc = await service.leftBehind(paths);
          await service.collect();
          await judge(run);
          expect(run.reader.seen).toEqual([]);
          expect(await service.leftBehind(paths)).toEqual([]);
          report(run, target, forGc.length);
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

function report(run: Run, target: Target, forGc: number): void {
  const bytes = run.known.reduce((sum, { size }) => sum + size, 0);
  console.log(
    `kills, ${target}, seed ${run.seed}: ${run.known.length} files, ${bytes} bytes, ` +
      `${run.service.points.sentBytes() - bytes} sent again, ${run.client.repeats} requests repeated, ` +
      `${run.reader.looks} looks, ${forGc} things left to gc, ${Date.now() - run.startedMs} ms; ` +
      JSON.stringify({ ...run.service.points.counts(), ...run.redisKills }),
  );
}
