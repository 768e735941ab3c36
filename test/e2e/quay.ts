/** A ledger, stores on folders, staging and queues of its own for each test, with worker pools in this process. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { noAuth } from '../../apps/api/auth.ts';
import { buildServer } from '../../apps/api/server.ts';
import { type Config, configOf } from '../../lib/config.ts';
import { Queue } from '../../lib/jobs/queue.ts';
import { newTransferId } from '../../lib/ledger/ids.ts';
import { Ledger } from '../../lib/ledger/ledger.ts';
import { ENDED_STATES, type NewTransfer, type Place, type Transfer } from '../../lib/ledger/transfer.ts';
import { createLog } from '../../lib/log.ts';
import { createMetrics } from '../../lib/metrics.ts';
import { parsePath } from '../../lib/path.ts';
import { BufferPool } from '../../lib/stores/buffers.ts';
import type { Driver } from '../../lib/stores/driver.ts';
import { FileDriver } from '../../lib/stores/drivers/file.ts';
import { HiddenNames } from '../../lib/stores/hidden.ts';
import { Store } from '../../lib/stores/store.ts';
import { Staging } from '../../lib/transfer/staging.ts';
import type { WorkerDeps } from '../../workers/handlers.ts';
import { Pool, type Timings } from '../../workers/pool.ts';

export const TIMINGS: Timings = { lockMs: 2000, stalledMs: 500 };
const MIB = 1024 * 1024;
let count = 0;

export interface QuayOptions {
  readonly redisUrl: string;
  readonly config?: Partial<Config>;
  /** Puts something around the driver of a store: `artifacts`, `other` or `staging`. */
  readonly around?: (name: string, driver: Driver) => Driver;
  /** Further stores: their addresses, and the drivers on them. */
  readonly stores?: Readonly<
    Record<string, { readonly uri: string; readonly driver: (hidden: HiddenNames) => Driver }>
  >;
  /** The ledger's; unix time in ms. */
  readonly clock?: () => number;
}

export type Quay = Awaited<ReturnType<typeof openQuay>>;

export async function openQuay(options: QuayOptions) {
  const folder = mkdtempSync(join(tmpdir(), 'longshore-quay-'));
  const prefix = `{quay-${process.pid}-${++count}}`;
  const config: Config = {
    ...configOf({ dataFolder: folder, redisUrl: options.redisUrl, redisPrefix: prefix }),
    ...options.config,
  };
  const log = createLog({ level: 'silent', format: 'json', process: 'test' });
  const ledger = await Ledger.open({
    path: join(folder, 'ledger.db'),
    log,
    ...(options.clock && { clock: options.clock }),
  });
  const buffers = new BufferPool({ budgetBytes: 64 * MIB, slabBytes: MIB });
  const hidden = new HiddenNames(await ledger.installation());
  const open = (name: string): Store => {
    const root = join(folder, name);
    mkdirSync(root);
    const driver = new FileDriver(root, hidden);
    return new Store({ name, uri: root, driver: options.around?.(name, driver) ?? driver, buffers });
  };
  const stores = new Map(['artifacts', 'other'].map((name) => [name, open(name)]));
  for (const [name, { uri, driver }] of Object.entries(options.stores ?? {}))
    stores.set(name, new Store({ name, uri, driver: driver(hidden), buffers }));
  const staging = new Staging({
    store: open('staging'),
    limitBytes: config.stagingLimitBytes,
    transfers: ledger.transfers,
    hidden,
    log,
  });
  const metrics = createMetrics('worker', { stores: [...stores.keys(), 'staging'], version: '0' });
  const queues = [new Queue({ url: options.redisUrl, prefix, fairBy: config.fairBy }, log)];
  const pools: Pool[] = [];
  const apps: ReturnType<typeof buildServer>[] = [];
  const base = { config, log, metrics, ledger, stores, health: new Map(), staging, buffers };
  const deps: WorkerDeps = { ...base, queue: queues[0]!, worker: 'test' };

  const place = (path: string, store = 'artifacts'): Place => ({ store, path: parsePath(path) });
  const fileOf = (path: string, store = 'artifacts'): string => join(folder, store, path);

  return {
    folder,
    deps,
    ledger,
    queue: deps.queue,
    place,
    fileOf,
    hidden,
    /** The staged file of an id. */
    stagedFile: (id: string): string => fileOf(staging.pathOf(id), 'staging'),
    stagedBytes: (id: string): Buffer => readFileSync(fileOf(staging.pathOf(id), 'staging')),
    /** Ids of what is staged. */
    stagedIds: (): (string | undefined)[] =>
      readdirSync(fileOf('', 'staging')).map((name) => hidden.stagedId(name)),
    bytesAt: (path: string, store?: string): Buffer => readFileSync(fileOf(path, store)),

    /** Workers for this quay's queues, or with `apart` for other queues on the same ledger. */
    async work(
      more: { readonly apart?: Queue; readonly name?: string; readonly timings?: Timings } = {},
    ): Promise<Pool> {
      const pool = new Pool(
        { ...base, queue: more.apart ?? deps.queue, worker: more.name ?? 'test' },
        more.timings ?? TIMINGS,
      );
      pools.push(pool);
      await pool.started();
      return pool;
    },
    /** Queues that share the ledger only. */
    queuesApart(): Queue {
      const queue = new Queue({ url: options.redisUrl, prefix: `${prefix.slice(0, -1)}-apart}` }, log);
      queues.push(queue);
      return queue;
    },

    /** Accepted as the API does it; not in the queue. */
    async accept(
      given: Partial<NewTransfer> & Pick<NewTransfer, 'kind'>,
      bytes?: Uint8Array,
    ): Promise<Transfer> {
      const id = newTransferId();
      const signal = AbortSignal.timeout(60_000);
      const digests =
        bytes &&
        (await staging.stage(
          id,
          (async function* () {
            yield bytes;
          })(),
          { signal, size: bytes.length },
        ));
      const transfer: NewTransfer = {
        id,
        onExists: 'replace',
        tree: false,
        priority: 100,
        labels: {},
        owner: 'test',
        ...given,
        ...(digests && { digests }),
      };
      const untilMs = bytes || transfer.tree ? Date.now() + config.failedBytesMs : undefined;
      return (await ledger.transfers.accept(transfer, undefined, untilMs)).transfer;
    },
    /** Accepted and in the queue. */
    async submit(
      given: Partial<NewTransfer> & Pick<NewTransfer, 'kind'>,
      bytes?: Uint8Array,
    ): Promise<Transfer> {
      const transfer = await this.accept(given, bytes);
      await deps.queue.submit(transfer);
      return transfer;
    },
    get: async (id: string): Promise<Transfer> => (await ledger.transfers.get(id))!,
    /** Resolves with the transfer once `done` holds for it. */
    async until(id: string, done: (transfer: Transfer) => boolean, withinMs = 20_000): Promise<Transfer> {
      const lastMs = Date.now() + withinMs;
      for (;;) {
        const transfer = await this.get(id);
        if (done(transfer)) return transfer;
        if (Date.now() > lastMs) throw new Error(`not within ${withinMs} ms: ${JSON.stringify(transfer)}`);
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    },
    ended(id: string, withinMs?: number): Promise<Transfer> {
      return this.until(id, ({ state }) => (ENDED_STATES as readonly string[]).includes(state), withinMs);
    },
    /** An API on the same ledger, stores and queue; its address. */
    api(): Promise<string> {
      const artifacts = stores.get('artifacts')!;
      const app = buildServer({ ...deps, auth: noAuth, artifacts, instance: 'api' });
      apps.push(app);
      return app.listen({ host: '127.0.0.1', port: 0 });
    },
    async close(): Promise<void> {
      await Promise.all(apps.map((app) => app.close()));
      await Promise.all(pools.map((pool) => pool.close()));
      await Promise.all(queues.map((queue) => queue.close()));
      await staging.close();
      await Promise.all([...stores.values(), staging.store].map((store) => store.close()));
      await ledger.close();
      metrics.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

export async function eventually(done: () => boolean | Promise<boolean>, withinMs = 10_000): Promise<void> {
  const lastMs = Date.now() + withinMs;
  while (!(await done())) {
    if (Date.now() > lastMs) throw new Error(`it did not happen within ${withinMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
