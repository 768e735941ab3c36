/**
 * Watches over the jobs that run in this process: stops those whose transfer was cancelled or taken over, those whose
 * lock could not be renewed in time (somebody else may have the job by now), and all of them at shutdown.
 */
import type { Worker } from 'bullmq';
import { Deadline, stopReason } from '../lib/deadline.ts';
import { Failure } from '../lib/errors.ts';
import type { QueueName } from '../lib/jobs/jobs.ts';
import type { Transfers } from '../lib/ledger/contract.ts';
import { hasEnded, type TransferState } from '../lib/ledger/transfer.ts';
import type { Log } from '../lib/log.ts';

/** How often the ledger is asked about all running transfers together. */
const LOOK_MS = 300;
/** Stop well before the lock is gone. */
const FENCE_SHARE = 0.7;

export class Running implements Disposable {
  readonly queue: QueueName;
  readonly jobId: string;
  readonly deadline = new Deadline();
  /** Set once the note was read; a gc job has none. */
  transfer: { readonly id: string; readonly epoch: number } | undefined;
  lostLock = false;
  renewedMs = Date.now();
  readonly #fence: () => void;
  readonly #leave: () => void;

  constructor(
    queue: QueueName,
    jobId: string,
    watch: { fence(job: Running): void; leave(job: Running): void },
  ) {
    this.queue = queue;
    this.jobId = jobId;
    this.#fence = () => watch.fence(this);
    this.#leave = () => watch.leave(this);
  }

  /** For the last moment before something can be seen: a process that slept through its lock hears no timer first. */
  throwIfStopped(): void {
    this.#fence();
    const { signal } = this.deadline;
    if (signal.aborted) throw stopReason(signal);
  }

  [Symbol.dispose](): void {
    this.#leave();
    this.deadline[Symbol.dispose]();
  }
}

export class Watch {
  readonly #transfers: Pick<Transfers, 'statesOf'>;
  readonly #log: Log;
  readonly #lockMs: number;
  readonly #onLostLock: (queue: QueueName) => void;
  readonly #jobs = new Set<Running>();
  #timer: NodeJS.Timeout | undefined;
  #looking = false;
  #shutdown: Failure | undefined;
  #idle: (() => void)[] = [];

  constructor(opts: {
    readonly transfers: Pick<Transfers, 'statesOf'>;
    readonly log: Log;
    readonly lockMs: number;
    readonly onLostLock: (queue: QueueName) => void;
  }) {
    this.#transfers = opts.transfers;
    this.#log = opts.log;
    this.#lockMs = opts.lockMs;
    this.#onLostLock = opts.onLostLock;
  }

  get size(): number {
    return this.#jobs.size;
  }

  start(): void {
    this.#timer = setInterval(() => {
      for (const job of this.#jobs) this.#fence(job);
      void this.look();
    }, LOOK_MS);
  }

  /** From its start to its ending; dispose of it then. */
  enter(queue: QueueName, jobId: string): Running {
    const job = new Running(queue, jobId, {
      fence: (running) => this.#fence(running),
      leave: (left) => this.#left(left),
    });
    this.#jobs.add(job);
    if (this.#shutdown) job.deadline.stop(this.#shutdown);
    return job;
  }

  #left(job: Running): void {
    this.#jobs.delete(job);
    if (this.#jobs.size === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }

  /** BullMQ stops nothing when a lock is lost, and says nothing when Redis cannot be asked: both are heard here. */
  attach(worker: Worker, queue: QueueName): void {
    worker.on('locksRenewed', ({ jobIds }) => {
      for (const job of this.#of(queue, jobIds)) job.renewedMs = Date.now();
    });
    worker.on('lockRenewalFailed', (jobIds) => {
      for (const job of this.#of(queue, jobIds)) this.#lose(job, 'its lock was gone');
    });
  }

  #of(queue: QueueName, jobIds: readonly string[]): Running[] {
    return [...this.#jobs].filter((job) => job.queue === queue && jobIds.includes(job.jobId));
  }

  #fence(job: Running): void {
    const oldest = Date.now() - FENCE_SHARE * this.#lockMs;
    if (!job.lostLock && job.renewedMs < oldest) this.#lose(job, 'its lock could not be renewed in time');
  }

  #lose(job: Running, why: string): void {
    job.lostLock = true;
    this.#onLostLock(job.queue);
    job.deadline.stop(new Failure('interrupted', `stopped: ${why}; another worker may have the job by now`));
  }

  /** Asks the ledger now, about all. Never throws. */
  async look(): Promise<void> {
    const watched = [...this.#jobs].filter((job) => job.transfer && !job.deadline.signal.aborted);
    if (this.#looking || watched.length === 0) return;
    this.#looking = true;
    try {
      const states = await this.#transfers.statesOf(watched.map((job) => job.transfer?.id ?? ''));
      for (const job of watched) {
        const why = job.transfer && whyStop(job.transfer.epoch, states.get(job.transfer.id));
        if (why) job.deadline.stop(new Failure('cancelled', why));
      }
    } catch (error) {
      this.#log.debug({ err: error }, 'could not ask the ledger about running transfers');
    } finally {
      this.#looking = false;
    }
  }

  /** A push arrived: it may be mistaken, so the ledger is asked. */
  heard(transfer: string): void {
    if ([...this.#jobs].some((job) => job.transfer?.id === transfer)) void this.look();
  }

  /** Stops all, also those that come after. */
  shutdown(): void {
    this.#shutdown = new Failure('interrupted', 'stopped: this worker is shutting down');
    for (const job of this.#jobs) job.deadline.stop(this.#shutdown);
  }

  /** Resolves when no job runs. */
  idle(): Promise<void> {
    return this.#jobs.size === 0 ? Promise.resolve() : new Promise((resolve) => this.#idle.push(resolve));
  }

  close(): void {
    clearInterval(this.#timer);
  }
}

function whyStop(
  epoch: number,
  found: { state: TransferState; epoch: number } | undefined,
): string | undefined {
  if (!found) return 'the transfer is not in the ledger any more';
  if (found.state === 'cancelled') return 'cancelled on request';
  if (found.epoch !== epoch) return 'it was given a new job';
  return hasEnded(found.state) ? 'it was ended elsewhere' : undefined;
}
