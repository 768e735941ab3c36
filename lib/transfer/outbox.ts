/**
 * Brings together what the ledger promised and what the queue knows: an unended transfer without a job is given a new
 * one, and one whose time is over is ended. Any number of processes may do this at once.
 */
import { failureOf } from '../errors.ts';
import type { Transfers } from '../ledger/contract.ts';
import type { Transfer } from '../ledger/transfer.ts';
import type { Log } from '../log.ts';

/** The part of the queue that this needs. */
interface JobQueue {
  submit(transfer: Transfer): Promise<void>;
  /** Those without a job that will be worked on. */
  lacking(transfers: readonly Transfer[]): Promise<Transfer[]>;
}

export interface OutboxOptions {
  readonly transfers: Transfers;
  readonly queue: JobQueue;
  readonly log: Log;
  /** A transfer that has not ended this long after acceptance fails; ms. */
  readonly lifetimeMs: number;
  /** One that was never started this long after acceptance fails; ms, 0: never. */
  readonly queueWaitMs: number;
  /** How long bytes of a failed transfer stay in staging; ms. */
  readonly failedBytesMs: number;
  readonly onRequeue?: () => void;
  /** Told of each transfer that is ended here. */
  readonly onEnded?: (transfer: Transfer) => void;
}

const EVERY_MS = 5000;
/** A transfer younger than this may still be on its way into the queue. */
const SETTLED_MS = 10_000;
const PAGE = 200;
/** A round looks at this many pages at most, and the next one goes on from there. */
const PAGES = 25;

export class Outbox {
  readonly #opts: OutboxOptions;
  #timer: NodeJS.Timeout | undefined;
  #round: Promise<void> = Promise.resolve();
  #closed = false;
  #after: Pick<Transfer, 'queuedMs' | 'id'> | undefined;
  #troubled = false;

  constructor(opts: OutboxOptions) {
    this.#opts = opts;
  }

  /** Right after the commit: gives the job to the queue, for at most about a second. Never throws. */
  async accepted(transfer: Transfer): Promise<void> {
    try {
      await this.#opts.queue.submit(transfer);
    } catch (error) {
      this.#opts.log.warn(
        { transfer: transfer.id, why: failureOf(error).message },
        'accepted, but the queue was not told; the reconciler will',
      );
    }
  }

  /** Begins at once: what a crash left is found first. */
  start(): void {
    this.#schedule(Math.random() * 500);
  }

  #schedule(inMs: number): void {
    if (this.#closed) return;
    this.#timer = setTimeout(() => {
      this.#round = this.#guarded().finally(() => this.#schedule(EVERY_MS * (0.75 + Math.random() / 2)));
    }, inMs);
  }

  async #guarded(): Promise<void> {
    try {
      await this.reconcile();
      this.#troubled = false;
    } catch (error) {
      if (!this.#troubled)
        this.#opts.log.warn({ why: failureOf(error).message }, 'could not reconcile; trying again');
      this.#troubled = true;
    }
  }

  /** One bounded round. Answers how many were given a job. @throws Failure when the ledger or Redis is away */
  async reconcile(): Promise<number> {
    await this.#endOverdue();
    const queuedBeforeMs = Date.now() - SETTLED_MS;
    let requeued = 0;
    for (let n = 0; n < PAGES && !this.#closed; n++) {
      const page = await this.#opts.transfers.unended({ queuedBeforeMs, limit: PAGE, after: this.#after });
      if (page.length > 0) requeued += await this.#requeue(await this.#opts.queue.lacking(page));
      this.#after = page.length < PAGE ? undefined : page.at(-1);
      if (!this.#after) break;
    }
    return requeued;
  }

  async #requeue(orphans: readonly Transfer[]): Promise<number> {
    const { transfers, queue, log, onRequeue } = this.#opts;
    let count = 0;
    for (const orphan of orphans) {
      const epoch = await transfers.requeue(orphan.id, orphan.epoch);
      if (epoch === undefined) continue; // ended meanwhile, or another process was quicker
      await queue.submit({ ...orphan, epoch });
      log.info({ transfer: orphan.id, epoch }, 'had no job and was given a new one');
      onRequeue?.();
      count++;
    }
    return count;
  }

  async #endOverdue(): Promise<void> {
    const { transfers, lifetimeMs, queueWaitMs, failedBytesMs, onEnded } = this.#opts;
    const nowMs = Date.now();
    const waitMs = Math.min(queueWaitMs === 0 ? lifetimeMs : queueWaitMs, lifetimeMs);
    const overdue = await transfers.overdue({ nowMs, acceptedBeforeMs: nowMs - waitMs, limit: PAGE });
    for (const transfer of overdue) {
      // what is being published may be visible by now: its worker, or the next one, settles that by looking
      if (transfer.state === 'publishing' && !transfer.synchronous) continue;
      const message = overdueMessage(transfer, nowMs);
      const stagedUntilMs = transfer.digests && !transfer.from ? nowMs + failedBytesMs : undefined;
      const failure = { kind: 'timeout', message } as const;
      if (await transfers.end(transfer.id, transfer.epoch, { state: 'failed', failure, stagedUntilMs }))
        onEnded?.(transfer);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#round;
  }
}

function overdueMessage(transfer: Transfer, nowMs: number): string {
  if (transfer.deadlineMs !== undefined && transfer.deadlineMs <= nowMs)
    return `its deadline (${new Date(transfer.deadlineMs).toISOString()}) passed before it ended`;
  return `no worker took it for ${Math.round((nowMs - transfer.createdMs) / 1000)} s: are workers running?`;
}
