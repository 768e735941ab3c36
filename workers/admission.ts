/**
 * Keeps the trouble of one store from the jobs of the others. Before a job is begun, and before the ledger hears of it,
 * its stores are looked at: one that fails gets one job at a time, one that says nothing or wants a pause gets no more
 * than its share of a queue's slots. Who may not begin goes back into its queue for a moment, with no attempt spent; who
 * began before the trouble was seen and is over that share, too.
 */
import { Failure } from '../lib/errors.ts';
import type { QueueName } from '../lib/jobs/jobs.ts';
import { hasEnded, type Transfer } from '../lib/ledger/transfer.ts';
import { Breaker } from './breaker.ts';
import type { Ending } from './endings.ts';
import type { WorkerDeps } from './handlers.ts';
import { expiresMs } from './limits.ts';
import { slotsOf } from './slots.ts';
import type { Running } from './watch.ts';

/** A store of which nothing is heard for so long, although something is asked of it, is in trouble. */
const SILENT_MS = 5000;
/** So is one that wants to be left alone for longer than is waited for. */
const PAUSED_MS = 2000;
const LOOK_MS = 500;
const DELAY_MS = 1000;
const DELAY_MAX_MS = 30_000;
/** Those that are put back return one after the other. */
const APART_MS = 10;

type Trouble = 'none' | 'silent' | 'failing';
const LEVELS = { none: 0, silent: 1, failing: 2 } as const;

interface Begun {
  readonly running: Running;
  readonly transfer: string;
  /** Looked up when it matters. */
  stores?: readonly string[];
}

export class Admission {
  readonly #deps: Omit<WorkerDeps, 'staging'>;
  readonly #breakers: ReadonlyMap<string, Breaker>;
  readonly #begun = new Set<Begun>();
  readonly #told = new Map<string, Trouble>();
  #timer: NodeJS.Timeout | undefined;
  #lastDueMs = 0;

  constructor(deps: Omit<WorkerDeps, 'staging'>) {
    this.#deps = deps;
    const healths = [...deps.health].filter(([store]) => deps.stores.has(store));
    this.#breakers = new Map(
      healths.map(([store, health]) => [store, new Breaker(health, () => this.#tell(store))]),
    );
  }

  /** Does `work` if it may begin. @param data the job's note */
  async during(running: Running, data: unknown, work: () => Promise<Ending>): Promise<Ending> {
    const transfer = transferIn(data);
    if (transfer === undefined) return work();
    const begun: Begun = { running, transfer };
    const over: (() => void)[] = [];
    try {
      if (this.#troubled().length > 0) {
        const delayMs = await this.#refusal(begun, over);
        if (delayMs !== undefined) return { job: 'delayed', delayMs };
      }
      this.#enter(begun);
      return await work();
    } finally {
      for (const end of over) end();
      this.#begun.delete(begun);
    }
  }

  #enter(begun: Begun): void {
    this.#begun.add(begun);
    this.#timer ??= setInterval(() => void this.#look(), LOOK_MS).unref();
  }

  /** How long it has to wait; undefined: it may begin. */
  async #refusal(begun: Begun, over: (() => void)[]): Promise<number | undefined> {
    const row = await this.#deps.ledger.transfers.get(begun.transfer);
    if (!row || hasEnded(row.state)) return undefined;
    begun.stores = storesOf(row);
    const leftMs = this.#dueMs(row) - Date.now();
    if (leftMs <= 0) return undefined; // it ends as soon as it begins
    await this.#know();
    for (const store of begun.stores) {
      const waitMs = this.#waitFor(store, begun.running.queue, over);
      if (waitMs === undefined) continue;
      this.#deps.metrics.jobsHeldBack.inc({ store });
      return Math.min(leftMs, this.#spread(waitMs));
    }
    return undefined;
  }

  #waitFor(store: string, queue: QueueName, over: (() => void)[]): number | undefined {
    const trouble = this.#troubleOf(store);
    if (trouble === 'none') return undefined;
    const pausedMs = this.#deps.health.get(store)?.pausedMs ?? 0;
    if (pausedMs > PAUSED_MS) return pausedMs;
    if (this.#on(store, queue).length >= this.#share(queue)) return DELAY_MS;
    if (trouble === 'silent') return undefined;
    const verdict = this.#breakers.get(store)!.ask();
    if (!verdict.go) return verdict.waitMs;
    if (verdict.over) over.push(verdict.over);
    return undefined;
  }

  #spread(waitMs: number): number {
    const now = performance.now();
    this.#lastDueMs = Math.max(this.#lastDueMs + APART_MS, now + waitMs + Math.random() * DELAY_MS);
    return Math.min(DELAY_MAX_MS, this.#lastDueMs - now);
  }

  #troubleOf(store: string): Trouble {
    if (this.#breakers.get(store)?.isOpen) return 'failing';
    const { silentMs = 0, pausedMs = 0 } = this.#deps.health.get(store) ?? {};
    // a share of the slots is kept for other stores: where there is none, nobody would use it
    const shares = this.#breakers.size > 1 && silentMs > SILENT_MS;
    return shares || pausedMs > PAUSED_MS ? 'silent' : 'none';
  }

  #troubled(): string[] {
    return [...this.#breakers.keys()].filter((store) => this.#troubleOf(store) !== 'none');
  }

  /** Slots of a queue that a store in trouble may have. */
  #share(queue: QueueName): number {
    const slots = slotsOf(this.#deps.config)[queue] ?? 1;
    return Math.max(1, slots - Math.max(1, Math.floor(slots / 4)));
  }

  /** Those at work for a store, the oldest first. */
  #on(store: string, queue: QueueName): Begun[] {
    return [...this.#begun].filter(
      ({ running, stores }) =>
        running.queue === queue && stores?.includes(store) && !running.deadline.signal.aborted,
    );
  }

  /** Finds out which stores those at work need. */
  async #know(): Promise<void> {
    const unknown = [...this.#begun].filter(({ stores }) => !stores);
    await Promise.all(
      unknown.map(async (begun) => {
        const row = await this.#deps.ledger.transfers.get(begun.transfer);
        begun.stores = row ? storesOf(row) : [];
      }),
    );
  }

  async #look(): Promise<void> {
    for (const store of this.#breakers.keys()) this.#tell(store);
    const troubled = this.#troubled();
    if (troubled.length === 0 && this.#begun.size === 0) {
      clearInterval(this.#timer);
      this.#timer = undefined;
    }
    if (troubled.length === 0 || this.#breakers.size < 2) return;
    try {
      await this.#know();
    } catch (error) {
      this.#deps.log.debug({ err: error }, 'could not ask the ledger which stores running jobs need');
      return;
    }
    for (const store of troubled) this.#takeSlotsFrom(store);
  }

  #takeSlotsFrom(store: string): void {
    for (const queue of Object.keys(slotsOf(this.#deps.config)) as QueueName[])
      for (const { running } of this.#on(store, queue).slice(this.#share(queue))) {
        this.#deps.metrics.jobsHeldBack.inc({ store });
        running.deadline.stop(
          new Failure('busy', `put back: ${store} does not answer, and others need the slot`, {
            store,
            retryAfterMs: DELAY_MS,
          }),
        );
      }
  }

  /** When the transfer's time is over; Unix time in ms. */
  #dueMs(row: Transfer): number {
    const { queueWaitMs } = this.#deps.config;
    const waits = queueWaitMs > 0 && row.starts === 0;
    return Math.min(
      expiresMs(this.#deps, row),
      waits ? row.createdMs + queueWaitMs : Number.POSITIVE_INFINITY,
    );
  }

  /** Once for each change. */
  #tell(store: string): void {
    const { log, metrics } = this.#deps;
    const trouble = this.#troubleOf(store);
    if ((this.#told.get(store) ?? 'none') === trouble) return;
    this.#told.set(store, trouble);
    metrics.storeTrouble.set({ store }, LEVELS[trouble]);
    if (trouble === 'none') log.info({ store }, 'a store is well again');
    else if (trouble === 'silent')
      log.warn({ store }, 'a store says nothing, or wants a pause: others go first');
    else log.warn({ store }, 'a store fails: its jobs wait, one at a time tries');
  }
}

const storesOf = ({ from, to }: Transfer): string[] => [
  ...new Set([from?.store, to?.store].filter((store) => store !== undefined)),
];

function transferIn(data: unknown): string | undefined {
  const { transfer } = (data ?? {}) as { readonly transfer?: unknown };
  return typeof transfer === 'string' ? transfer : undefined;
}
