/** From an operator's address to a working store; the one place that knows which drivers there are. */
import { randomUUID } from 'node:crypto';
import { Failure, failureOf } from '../errors.ts';
import type { Log } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import { ROOT, type StorePath } from '../path.ts';
import type { BufferPool } from './buffers.ts';
import type { Driver } from './driver.ts';
import type { S3Settings } from './drivers/s3-config.ts';
import type { Gate } from './gate.ts';
import type { StoreHealth } from './health.ts';
import type { HiddenNames } from './hidden.ts';
import { limit } from './layers/limit.ts';
import { type Meter, meter } from './layers/meter.ts';
import { RETRY_DEFAULTS, retry } from './layers/retry.ts';
import { stall } from './layers/stall.ts';
import { vital } from './layers/vital.ts';
import { Store } from './store.ts';
import { formatStoreUri, parseStoreUri, type StoreUri } from './uri.ts';

export interface StoreSettings {
  readonly s3: S3Settings;
  /** ms without progress after which a call is given up. */
  readonly stallMs: number;
}
export interface StoreDeps {
  readonly buffers: BufferPool;
  /** Of this installation. */
  readonly hidden: HiddenNames;
  readonly log: Log;
  readonly metrics: Pick<Metrics, 'storeRequests' | 'storeBytes'>;
  /** Where requests to this store wait for their turn; default: nowhere. */
  readonly gate?: Gate | undefined;
  /** Is told how the store is doing; default: nobody. */
  readonly health?: StoreHealth;
}

/**
 * Opens no connection: a store that cannot be reached just now fails call by call.
 * @throws Failure `invalid` or `unsupported` for an address or settings that cannot work
 */
export async function openStore(
  name: string,
  uri: string,
  settings: StoreSettings,
  deps: StoreDeps,
): Promise<Store> {
  const address = parseStoreUri(uri);
  const driver = await openDriver(name, address, settings, deps);
  const gated = address.scheme === 's3'; // request by request, beneath all layers
  return new Store({
    name,
    uri: formatStoreUri(address),
    driver: layered(
      name,
      driver,
      settings,
      gated ? { ...deps, gate: undefined } : deps,
      deps.gate?.connections,
    ),
    buffers: deps.buffers,
  });
}

/**
 * From the vendor outwards. Stall watches the vendor alone: time spent waiting for a connection or between two tries is
 * no stall. Meter sees each try as one call and not the wait for its turn. Limit is below retry, so that who waits for
 * the next try holds no connection. Vital is above limit: when all turns are taken by calls that hang, the store is silent.
 */
function layered(
  name: string,
  driver: Driver,
  { stallMs }: StoreSettings,
  { gate, health, log, metrics }: StoreDeps,
  connections = driver.traits.connections,
): Driver {
  const watched = stall(driver, { stallMs });
  const measured = meter(watched, meterOf(name, metrics));
  const limited = limit(measured, { connections: Math.min(connections, driver.traits.connections), gate });
  return retry(health ? vital(limited, health) : limited, {
    ...RETRY_DEFAULTS,
    onRetry: (op, kind) => log.debug({ store: name, op, kind }, 'trying again'),
  });
}

function meterOf(store: string, metrics: StoreDeps['metrics']): Meter {
  return {
    observe: (op, ms, outcome) => metrics.storeRequests.observe({ store, op, outcome }, ms / 1000),
    bytes: (direction, count) => metrics.storeBytes.inc({ store, direction }, count),
  };
}

/** A vendor's code and SDK are loaded when the first store of theirs is opened. */
async function openDriver(
  name: string,
  address: StoreUri,
  { s3 }: StoreSettings,
  { hidden, gate }: StoreDeps,
): Promise<Driver> {
  if (address.scheme === 's3') {
    const { S3Driver } = await import('./drivers/s3.ts');
    return new S3Driver(address, s3, hidden, gate);
  }
  const { openFileDriver } = await import('./drivers/file.ts');
  try {
    return await openFileDriver(address.path, hidden);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new Failure(
      'invalid',
      `could not open the folder of ${name}: ${why}`,
      { op: 'open', store: name },
      { cause: error },
    );
  }
}

export const CHECKS = ['write', 'read', 'list', 'delete'] as const;
export type Check = (typeof CHECKS)[number];

/**
 * Writes, reads, lists and deletes a canary of a few bytes, telling each step that worked. Its name is a hidden one of
 * this installation, and it is removed by that name, and only once it was written here.
 * @throws Failure whose `facts.op` is the first step that did not; nothing is left behind where deleting is allowed
 */
export async function checkStore(
  store: Store,
  hidden: HiddenNames,
  signal: AbortSignal,
  onStep: (check: Check, ms: number) => void = () => {},
): Promise<void> {
  const token = `doctor-${randomUUID()}`;
  const canary = store.hiddenObject(hidden.nameIn(ROOT, token) as StorePath, signal);
  const content = Buffer.from('Longshore was here for a moment.\n');
  const step = async (check: Check, work: () => Promise<unknown>): Promise<void> => {
    const began = performance.now();
    try {
      await work();
    } catch (error) {
      const { kind, message, facts } = failureOf(error);
      throw new Failure(
        kind,
        `${check} failed: ${message}`,
        { ...facts, op: check, store: store.name },
        { cause: error },
      );
    }
    onStep(check, performance.now() - began);
  };
  await step('write', () => canary.write(content, token));
  try {
    await step('read', async () => {
      if (!content.equals(await canary.read()))
        throw new Failure('corrupt', 'other bytes came back than were written');
    });
    await step('list', async () => {
      if (!(await canary.isTold()))
        throw new Failure('unavailable', 'what was just written is not in the listing');
    });
  } catch (error) {
    await canary.remove().catch(() => undefined);
    throw error;
  }
  await step('delete', () => canary.remove());
}
