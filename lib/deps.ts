/** What every process works with, built once at its start and passed on. */
import { dirname } from 'node:path';
import type { Config } from './config.ts';
import { Failure } from './errors.ts';
import { Limits } from './jobs/limits.ts';
import { Queue } from './jobs/queue.ts';
import { Ledger } from './ledger/ledger.ts';
import { createLog, type Log } from './log.ts';
import { createMetrics, type Metrics, type Role } from './metrics.ts';
import { makeFolder } from './path-folder.ts';
import { BufferPool } from './stores/buffers.ts';
import { StoreHealth } from './stores/health.ts';
import { HiddenNames } from './stores/hidden.ts';
import { openStore } from './stores/open.ts';
import type { Store } from './stores/store.ts';
import { Staging } from './transfer/staging.ts';
import { VERSION } from './version.ts';

export interface Deps {
  readonly config: Config;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly ledger: Ledger;
  /** The configured stores by name; `artifacts` is the artifact root. Staging is not one of them. */
  readonly stores: ReadonlyMap<string, Store>;
  /** How each of them does, and staging, as this process sees it. */
  readonly health: ReadonlyMap<string, StoreHealth>;
  readonly staging: Staging;
  /** This process's memory for bytes in flight; all its stores share it. */
  readonly buffers: BufferPool;
  readonly queue: Queue;
}

export interface OpenDeps extends Deps {
  /** Lets go of everything, in the order in which it is needed no more. */
  close(): Promise<void>;
}

/** Of the store that is the artifact root, and of staging, in messages, metrics and the ledger. */
export const ARTIFACTS = 'artifacts';
export const STAGING = 'staging';

/**
 * Opens everything that `config` names. Redis need not answer: what is committed reaches it later.
 * @throws Failure `invalid` for a setting that can't work; whatever was opened before is closed again
 */
export async function openDeps(config: Config, role: Role): Promise<OpenDeps> {
  if (config.redisUrl === undefined)
    throw new Failure(
      'invalid',
      'no Redis is configured: say --redis-url, or run `longshore up`, which runs one',
    );
  const opened: { close(): Promise<void> }[] = [];
  const close = async (): Promise<void> => {
    for (const one of opened.splice(0).reverse()) await one.close();
  };
  try {
    const log = createLog({ level: config.logLevel, format: config.logFormat, process: role });
    const uris = { [ARTIFACTS]: config.artifactsDestination, ...config.stores };
    const names = [...Object.keys(uris), STAGING];
    refuseUnknown(config.storeLimits, names);
    const metrics = createMetrics(role, { stores: names, version: VERSION });
    opened.push({ close: async () => metrics.close() });
    await makeFolder(dirname(config.ledgerPath));
    const ledger = await Ledger.open({
      path: config.ledgerPath,
      log,
      onCommit: (ms) => metrics.ledgerCommit.observe({}, ms / 1000),
    });
    opened.push(ledger);
    const hidden = new HiddenNames(await ledger.installation());
    const buffers = new BufferPool({ budgetBytes: config.bufferBytes });
    const queue = new Queue({ url: config.redisUrl, prefix: config.redisPrefix, fairBy: config.fairBy }, log);
    opened.push(queue);
    const { limits, health } = watchOver(names, { config, log, metrics, queue });
    opened.push(limits);
    const open = async (name: string, uri: string): Promise<Store> => {
      const store = await openStore(name, uri, config, {
        buffers,
        hidden,
        log,
        metrics,
        gate: limits.gate(name),
        health: health.get(name)!,
      });
      opened.push(store);
      return store;
    };
    const stores = new Map<string, Store>();
    for (const [name, uri] of Object.entries(uris)) stores.set(name, await open(name, uri));
    const staging = new Staging({
      store: await open(STAGING, config.stagingUri),
      limitBytes: config.stagingLimitBytes,
      transfers: ledger.transfers,
      hidden,
      log,
    });
    opened.push(staging);
    return { config, log, metrics, ledger, stores, health, staging, buffers, queue, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Limits and health of the stores; a store that wants a pause has one from all processes. */
function watchOver(
  names: readonly string[],
  { config, log, metrics, queue }: Pick<Deps, 'config' | 'log' | 'metrics' | 'queue'>,
): { readonly limits: Limits; readonly health: ReadonlyMap<string, StoreHealth> } {
  const limits = new Limits({
    queue,
    limits: config.storeLimits,
    processes: config.workers + 1,
    log,
    metrics,
    onThrottled: (store, ms) => health.get(store)?.pauseFor(ms),
  });
  const healthOf = (store: string): StoreHealth =>
    new StoreHealth(store, (ms) => {
      metrics.storeThrottled.inc({ store });
      log.info({ store, ms }, 'a store asked for fewer requests: all pause');
      limits.tellThrottled(store, ms);
    });
  const health = new Map(names.map((name) => [name, healthOf(name)]));
  return { limits, health };
}

function refuseUnknown(limits: Config['storeLimits'], names: readonly string[]): void {
  const unknown = Object.keys(limits).find((name) => !names.includes(name));
  if (unknown !== undefined)
    throw new Failure(
      'invalid',
      `--store-limit names ${unknown}, and there is no such store; there are ${names.join(', ')}`,
    );
}
