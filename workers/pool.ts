/** The BullMQ workers of one process, one a queue, with what watches over them; and their orderly end. */
import { type Job, Worker } from 'bullmq';
import type { Redis } from 'ioredis';
import { hearCancels } from '../lib/jobs/control.ts';
import type { QueueName } from '../lib/jobs/jobs.ts';
import { connectRedis } from '../lib/jobs/redis.ts';
import { Outbox } from '../lib/transfer/outbox.ts';
import { MOST_DEATHS } from './deaths.ts';
import type { WorkerDeps } from './handlers.ts';
import { createProcessor } from './run.ts';
import { slotsOf } from './slots.ts';
import { Watch } from './watch.ts';

export interface Timings {
  /** How long a job stays ours without a sign of life. */
  readonly lockMs: number;
  /** How often jobs of dead workers are looked for: twice this after the lock they are found. */
  readonly stalledMs: number;
  /** A transfer that so many workers died with is ended for it. */
  readonly mostDeaths?: number;
}
export const TIMINGS: Timings = { lockMs: 30_000, stalledMs: 15_000 };
/** BullMQ's count of stalls is never reset; a transfer that kills its workers is ended by the ledger's count. */
const MAX_STALLED_COUNT = 1_000_000;
/** A worker that lost Redis looks again this soon. */
const RUN_RETRY_MS = 1000;
/** Kept back from the grace period for closing what is still open. */
const CLOSING_MS = 2000;

export class Pool {
  readonly #deps: WorkerDeps;
  readonly #redis: Redis;
  readonly #watch: Watch;
  readonly #outbox: Outbox;
  readonly #workers: Worker[];
  readonly #cancels: { close(): void };
  #ready = true;
  #closing: Promise<void> | undefined;

  constructor(deps: WorkerDeps, timings: Timings = TIMINGS) {
    const { config, log, ledger, metrics, queue } = deps;
    this.#deps = deps;
    this.#watch = new Watch({
      transfers: ledger.transfers,
      log,
      lockMs: timings.lockMs,
      onLostLock: (name) => metrics.lockLosses.inc({ queue: name }),
    });
    this.#outbox = new Outbox(deps);
    this.#redis = connectRedis(queue.url, 'worker', { log, name: 'workers' });
    const processor = createProcessor(deps, this.#watch, timings.mostDeaths ?? MOST_DEATHS);
    this.#workers = Object.entries(slotsOf(config)).map(([name, concurrency]) =>
      this.#startWorker(name as QueueName, concurrency, processor, timings),
    );
    this.#watch.start();
    this.#outbox.start();
    this.#cancels = hearCancels(queue, log, (transfer) => this.#watch.heard(transfer));
  }

  #startWorker(
    name: QueueName,
    concurrency: number,
    processor: ReturnType<typeof createProcessor>,
    { lockMs, stalledMs }: Timings,
  ): Worker {
    const worker = new Worker<unknown, void>(name, processor, {
      connection: this.#redis,
      prefix: this.#deps.queue.prefix,
      concurrency,
      lockDuration: lockMs,
      lockRenewTime: lockMs / 4, // looked at each eighth: well before the fence at 0.7
      stalledInterval: stalledMs,
      maxStalledCount: MAX_STALLED_COUNT,
      runRetryDelay: RUN_RETRY_MS,
    });
    const log = this.#deps.log.child({ queue: name });
    worker.on('error', (error) => log.debug({ err: error.message }, 'queue'));
    worker.on('stalled', (jobId) =>
      log.warn({ job: jobId }, 'its worker is gone: the job is given to another'),
    );
    worker.on('failed', (job: Job | undefined, error) =>
      log.warn({ job: job?.id, err: error.message }, 'the ending could not be recorded: the job comes back'),
    );
    this.#watch.attach(worker, name);
    return worker;
  }

  /** Resolves when every queue is being listened to. */
  async started(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.waitUntilReady()));
  }

  /** Jobs are being taken. */
  get ready(): boolean {
    return this.#ready;
  }

  /** Takes no more jobs, stops those that run and hands them back, within the grace period. What is left then stalls and is found by others. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const { config, log } = this.#deps;
    const untilMs = Date.now() + Math.max(config.graceMs, CLOSING_MS);
    this.#ready = false;
    await Promise.all(this.#workers.map((worker) => worker.pause(true)));
    this.#watch.shutdown();
    const outboxClosed = this.#outbox.close();
    const left = await within(this.#watch.idle(), untilMs - CLOSING_MS - Date.now());
    if (left)
      log.warn(
        { jobs: this.#watch.size },
        'jobs did not stop within the grace period; others will find them',
      );
    const closed = Promise.all([outboxClosed, ...this.#workers.map((worker) => worker.close(left))]);
    if (await within(closed, untilMs - Date.now())) {
      log.warn('the queues did not let go in time');
      await within(Promise.all(this.#workers.map((worker) => worker.getBackend().close(true))), CLOSING_MS);
    }
    this.#watch.close();
    this.#cancels.close();
    this.#redis.disconnect();
  }
}

/** `true`: it took longer. */
async function within(work: Promise<unknown>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<true>((resolve) => {
    timer = setTimeout(() => resolve(true), Math.max(0, ms));
  });
  const done = work.then(
    () => false,
    () => false,
  );
  const result = await Promise.race([done, late]);
  clearTimeout(timer);
  return result;
}
