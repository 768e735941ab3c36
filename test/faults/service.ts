/** API and workers as processes of their own, each started again when it dies; a Redis that can be killed; a target. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { configOf } from '../../lib/config.ts';
import { openDeps } from '../../lib/deps.ts';
import { COLLECT, type Collected } from '../../lib/transfer/gc.ts';
import { startMinio } from '../servers/minio.ts';
import { cleanEnvironment, freePort, watch } from '../servers/process.ts';
import { type RedisServer, startRedis } from '../servers/redis.ts';
import type { S3Server } from '../servers/s3.ts';
import type { Line } from './lines.ts';
import { bucketShelf, countIn, filesIn, folderShelf, jobKeysIn, type Shelf } from './oracle.ts';
import { Points, type Role } from './points.ts';

export type Target = 'folder' | 'MinIO';
const CHILD = join(import.meta.dirname, 'role-child.ts');
export const BUCKET = 'quay';
const DAY_MS = 24 * 3600_000;
const GC_MS = 60_000;

/** A role that is kept alive until it is stopped. */
class Kept {
  readonly role: Role;
  url = '';
  pid = 0;
  /** Of the process that runs now. */
  ready: Promise<void> = Promise.resolve();
  readonly #spawn: () => ChildProcess;
  #child: ChildProcess | undefined;
  #ended: Promise<unknown> = Promise.resolve();
  #stopping = false;

  constructor(role: Role, spawn: () => ChildProcess) {
    this.role = role;
    this.#spawn = spawn;
    this.start();
  }

  start(): void {
    const child = this.#spawn();
    watch(child);
    this.#child = child;
    this.pid = child.pid!;
    this.#ended = once(child, 'exit').then(() => {
      if (!this.#stopping) this.start();
    });
    const line = once(createInterface({ input: child.stdout! }), 'line').then(([url]) => {
      this.url = url as string;
    });
    // another test may have taken its port: then it ends, and the one after it is ready
    this.ready = Promise.race([line, this.#ended.then(() => (this.#stopping ? undefined : this.ready))]);
  }

  kill(): void {
    process.kill(this.pid, 'SIGKILL');
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    this.#child?.stdin?.end();
    await this.#ended;
  }

  /** Kills it, and it stays dead until `resume`. */
  async halt(): Promise<void> {
    this.#stopping = true;
    this.kill();
    await this.#ended;
  }

  async resume(): Promise<void> {
    this.#stopping = false;
    this.start();
    await this.ready;
  }
}

export class Service {
  readonly points = new Points();
  readonly folder = mkdtempSync(join(tmpdir(), 'longshore-faults-'));
  /** Of the artifact root, and of the further store `attic`, a folder. */
  readonly shelf: Shelf;
  readonly attic: Shelf;
  readonly roles: Kept[] = [];
  readonly url: string;
  redis: RedisServer;
  readonly #settings: Record<string, unknown>;
  readonly #elsewhere: Record<string, string>;
  readonly minio: S3Server | undefined;
  readonly line: Line | undefined;
  #unproven: readonly { readonly path: string; readonly id: string }[] = [];

  private constructor(
    redis: RedisServer,
    minio: S3Server | undefined,
    port: number,
    {
      settings,
      env = {},
      line,
    }: {
      readonly settings?: Record<string, unknown> | undefined;
      readonly env?: Record<string, string> | undefined;
      readonly line: Line | undefined;
    },
  ) {
    this.redis = redis;
    this.minio = minio;
    this.line = line;
    this.#elsewhere = env;
    this.url = `http://127.0.0.1:${port}`;
    const root = join(this.folder, 'artifacts');
    mkdirSync(root);
    mkdirSync(this.staging);
    mkdirSync(join(this.folder, 'attic'));
    this.attic = folderShelf(join(this.folder, 'attic'));
    this.shelf = minio ? bucketShelf(minio, BUCKET) : folderShelf(root);
    this.#settings = {
      port,
      dataFolder: this.folder,
      artifactsDestination: minio ? `s3://${BUCKET}` : root,
      stores: { attic: join(this.folder, 'attic') },
      stagingUri: this.staging,
      ledgerPath: this.ledger,
      redisUrl: redis.url,
      uploadConcurrency: 3,
      logLevel: 'warn',
      logFormat: 'json',
      graceMs: 3000,
      ...settings,
    };
  }

  /** `line`: what the processes reach MinIO over; `env`: what they reach S3 with that is not the service's own. */
  static async start(
    target: Target,
    workers: number,
    opts: {
      readonly settings?: Record<string, unknown>;
      readonly env?: Record<string, string>;
      readonly line?: (port: number) => Promise<Line>;
    } = {},
  ): Promise<Service> {
    const [redis, minio, port] = await Promise.all([
      startRedis(),
      target === 'MinIO' ? startMinio() : undefined,
      freePort(),
    ]);
    await minio?.makeBucket(BUCKET);
    const line = minio && (await opts.line?.(minio.port));
    const service = new Service(redis, minio, port, { settings: opts.settings, env: opts.env, line });
    service.#add('api');
    for (let n = 0; n < workers; n++) service.#add('worker');
    await Promise.all(service.roles.map((role) => role.ready));
    return service;
  }

  get staging(): string {
    return join(this.folder, 'staging');
  }
  get ledger(): string {
    return join(this.folder, 'ledger.db');
  }
  get workers(): Kept[] {
    return this.roles.filter((one) => one.role === 'worker');
  }
  /** What the processes had to say. */
  get log(): string {
    return readFileSync(join(this.folder, 'log'), 'utf8');
  }

  /** A worker with queues of its own, over the same ledger and stores. */
  async addWorker(redisPrefix: string): Promise<void> {
    await this.#add('worker', { redisPrefix }).ready;
  }

  get #env(): Record<string, string> {
    const { minio, line } = this;
    if (!minio) return this.#elsewhere;
    return { ...minio.env, ...(line && { MLFLOW_S3_ENDPOINT_URL: `http://127.0.0.1:${line.port}` }) };
  }

  #add(role: Role, more: Record<string, unknown> = {}): Kept {
    const settings = JSON.stringify({ ...this.#settings, ...more });
    const kept = new Kept(role, () => {
      const log = openSync(join(this.folder, 'log'), 'a');
      // as `longshore up` starts them, so that their memory is theirs in production
      const child = spawn(process.execPath, ['--max-semi-space-size=4', CHILD, role, settings], {
        env: cleanEnvironment({
          MALLOC_ARENA_MAX: '2',
          ...this.#env,
          ...this.points.env,
          NODE_COMPILE_CACHE: join(this.folder, 'compiled'),
        }),
        stdio: ['pipe', 'pipe', log],
        detached: true,
      });
      closeSync(log);
      return child;
    });
    this.roles.push(kept);
    return kept;
  }

  /** On the same data, or on none. */
  async killRedis(opts: { readonly wipe: boolean; readonly awayMs: number }): Promise<void> {
    await this.redis.kill();
    if (opts.wipe) rmSync(join(this.redis.dir, 'data'), { recursive: true, force: true });
    await sleep(opts.awayMs);
    this.redis = await startRedis({ again: this.redis });
  }

  async stopRoles(): Promise<void> {
    await Promise.all(this.roles.map((role) => role.stop()));
  }

  /** As the scheduled jobs do it once `aheadMs` have passed. Answers what stays in the stores because it is unproven. */
  async collect(aheadMs = DAY_MS + 60_000): Promise<NonNullable<Collected['unproven']>> {
    const config = configOf({ ...this.#settings, logLevel: 'silent' }, this.#env);
    const deps = await openDeps(config, 'worker');
    try {
      const signal = AbortSignal.timeout(GC_MS);
      const opts = { signal, dryRun: false, nowMs: Date.now() + aheadMs, historyMs: 30 * DAY_MS };
      await COLLECT.staging(deps, opts);
      const { unproven } = await COLLECT.uploads(deps, opts);
      await COLLECT.downloads(deps, opts);
      this.#unproven = (unproven?.get('artifacts')?.uploads ?? []).map(({ path, id }) => ({ path, id }));
      return unproven ?? new Map();
    } finally {
      await deps.close();
    }
  }

  /**
   * In staging, at the target, in Redis and in the ledger; without the uploads that the last collection has told as
   * unproven, of which each kill may leave one: between its begin and its row.
   */
  async leftBehind(paths: readonly string[]): Promise<string[]> {
    const open = countIn(this.ledger, 'uploads');
    const kills = Object.entries(this.points.counts()).reduce(
      (sum, [what, count]) => sum + (what.startsWith('kill.') ? count : 0),
      0,
    );
    const isTold = (name: string): boolean =>
      this.#unproven.some(({ path, id }) => name.startsWith(`upload ${id}`) && name.endsWith(` of ${path}`));
    return [
      ...filesIn(this.staging).map((name) => `staged ${name}`),
      ...(await this.shelf.hidden(paths)).filter((name) => !isTold(name)).map((name) => `hidden ${name}`),
      ...(this.#unproven.length > kills ? [`${this.#unproven.length} unproven uploads`] : []),
      ...(await this.attic.hidden(paths)).map((name) => `hidden in the attic ${name}`),
      ...(await jobKeysIn(this.redis.url)).map((key) => `in Redis: ${key}`),
      ...(open > 0 ? [`${open} multipart uploads in the ledger`] : []),
    ];
  }

  async close(): Promise<void> {
    await this.stopRoles();
    this.shelf.close();
    await this.line?.close();
    await Promise.all([this.redis.stop(), this.minio?.stop()]);
    this.points.close();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
