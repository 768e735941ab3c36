/**
 * Brings together what the ledger promised and what the queue knows: an unended transfer without a job is given a new
 * one, and one whose time is over is ended. Any number of processes may do this at once.
 */
import type { Config } from '../config.ts';
import { Failure, failureOf } from '../errors.ts';
import type { Trees } from '../ledger/contract.ts';
import { hasEnded, type Transfer } from '../ledger/transfer.ts';
import type { Log } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import { findStore, type TransferDeps } from './deps.ts';
import { releaseParts } from './parts.ts';

/** The part of the queue that this needs. */
interface JobQueue {
  submit(transfer: Transfer): Promise<void>;
  /** Those without a job that will be worked on. */
  lacking(transfers: readonly Transfer[]): Promise<Transfer[]>;
  /** Of one that has ended: its jobs need not wait, or be, any more. `false`: there is none that would clean up after it. */
  hurry(transfer: Transfer): Promise<boolean>;
  /** Of an epoch that is over, where there still is one. */
  drop(transfer: Transfer): Promise<void>;
}

/** What every process has in its `Deps`. */
export interface OutboxDeps extends TransferDeps {
  readonly ledger: TransferDeps['ledger'] & {
    readonly trees: Pick<Trees, 'releaseEnded' | 'claimedOfEnded'>;
  };
  readonly queue: JobQueue;
  readonly log: Log;
  readonly metrics: Pick<Metrics, 'requeues' | 'transfersEnded'>;
  readonly config: Pick<Config, 'lifetimeMs' | 'queueWaitMs' | 'failedBytesMs'>;
}

const EVERY_MS = 5000;
/** A transfer younger than this may still be on its way into the queue. */
const SETTLED_MS = 10_000;
const PAGE = 200;
/** A round looks at this many pages at most, and the next one goes on from there. */
const PAGES = 25;

export class Outbox {
  readonly #deps: OutboxDeps;
  #timer: NodeJS.Timeout | undefined;
  #round: Promise<void> = Promise.resolve();
  #cleaning: Promise<void> | undefined;
  readonly #closing = new AbortController();
  #after: Pick<Transfer, 'queuedMs' | 'id'> | undefined;
  #troubled = false;

  constructor(deps: OutboxDeps) {
    this.#deps = deps;
  }

  get #closed(): boolean {
    return this.#closing.signal.aborted;
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
        this.#deps.log.warn({ why: failureOf(error).message }, 'could not reconcile; trying again');
      this.#troubled = true;
    }
  }

  /** One bounded round. Answers how many were given a job. @throws Failure when the ledger or Redis is away */
  async reconcile(): Promise<number> {
    for (let n = 0; n < PAGES && !this.#closed; n++) if ((await this.#endOverdue()) < PAGE) break;
    this.#cleaning ??= this.#cleanUp().finally(() => (this.#cleaning = undefined));
    const queuedBeforeMs = Date.now() - SETTLED_MS;
    let requeued = 0;
    for (let n = 0; n < PAGES && !this.#closed; n++) {
      const page = await this.#deps.ledger.transfers.unended({
        queuedBeforeMs,
        limit: PAGE,
        after: this.#after,
      });
      if (page.length > 0) requeued += await this.#requeue(await this.#deps.queue.lacking(page));
      this.#after = page.length < PAGE ? undefined : page.at(-1);
      if (!this.#after) break;
    }
    return requeued;
  }

  /**
   * Transfers that ended while their parts, or files, were on their way, or waited for their turn. Beside the rounds:
   * a store that does not answer must not keep the transfers of others from their jobs. Never throws.
   */
  async #cleanUp(): Promise<void> {
    const { ledger, log } = this.#deps;
    try {
      // first, since others wait for these turns
      for (const id of await ledger.trees.claimedOfEnded(PAGE))
        if (await this.#isOver(id)) await ledger.trees.releaseEnded(id);
      const left = (await ledger.uploads.partedOfEnded(PAGE)).filter(
        // a store that is not configured any more may come back, and its uploads with it
        ({ place }) => findStore(this.#deps, place) !== undefined,
      );
      for (const id of new Set(left.map(({ transfer }) => transfer)))
        if (await this.#isOver(id)) await releaseParts(this.#deps, id, this.#closing.signal);
    } catch (error) {
      log.debug({ why: failureOf(error).message }, 'could not clean up after parts; trying again');
    }
  }

  /** Its jobs too, which are told to hurry: its own knows when the last part has stopped. */
  async #isOver(id: string): Promise<boolean> {
    const transfer = this.#closed ? undefined : await this.#deps.ledger.transfers.get(id);
    // accepted again meanwhile, it goes on with what it has; what is not in the ledger any more is gc's
    if (!transfer || !hasEnded(transfer.state)) return false;
    return !(await this.#deps.queue.hurry(transfer));
  }

  /** A page at once: the ledger commits them together. */
  async #requeue(orphans: readonly Transfer[]): Promise<number> {
    const given = await Promise.all(orphans.map((orphan) => this.#giveJob(orphan)));
    return given.filter(Boolean).length;
  }

  async #giveJob(orphan: Transfer): Promise<boolean> {
    const { ledger, queue, log, metrics } = this.#deps;
    const epoch = await ledger.transfers.requeue(orphan.id, orphan.epoch);
    if (epoch === undefined) return false; // ended meanwhile, or another process was quicker
    await queue.submit({ ...orphan, epoch });
    await queue.drop(orphan);
    log.info({ transfer: orphan.id, epoch }, 'had no job and was given a new one');
    metrics.requeues.inc({});
    return true;
  }

  /** A page of them. Answers how many were ended: fewer than `PAGE`, and no more are left that this round could end. */
  async #endOverdue(): Promise<number> {
    const { ledger, metrics } = this.#deps;
    const { lifetimeMs, queueWaitMs, failedBytesMs } = this.#deps.config;
    const nowMs = Date.now();
    const waitMs = Math.min(queueWaitMs === 0 ? lifetimeMs : queueWaitMs, lifetimeMs);
    const overdue = await ledger.transfers.overdue({ nowMs, acceptedBeforeMs: nowMs - waitMs, limit: PAGE });
    let count = 0;
    for (const transfer of overdue) {
      const message = overdueMessage(transfer, nowMs);
      const stagedUntilMs = transfer.digests && !transfer.from ? nowMs + failedBytesMs : undefined;
      const failure = { kind: 'timeout', message } as const;
      const ended = await ledger.transfers.end(transfer.id, transfer.epoch, {
        state: 'failed',
        failure,
        stagedUntilMs,
      });
      const store = (transfer.to ?? transfer.from)?.store ?? '';
      if (!ended) continue;
      count++;
      if (transfer.starts > 0) await this.#deps.queue.hurry(transfer).catch(() => false); // else the clean-up does it
      metrics.transfersEnded.inc({ kind: transfer.kind, store, outcome: 'failed' });
    }
    return count;
  }

  async close(): Promise<void> {
    this.#closing.abort(new Failure('interrupted', 'stopped: this process is shutting down'));
    clearTimeout(this.#timer);
    await this.#round;
    await this.#cleaning;
  }
}

function overdueMessage(transfer: Transfer, nowMs: number): string {
  if (transfer.synchronous)
    return 'the process that carried out this request was not heard of again; look whether it was done, or send it again';
  if (transfer.deadlineMs !== undefined && transfer.deadlineMs <= nowMs)
    return `its deadline (${new Date(transfer.deadlineMs).toISOString()}) passed before it ended`;
  return `no worker took it for ${Math.round((nowMs - transfer.createdMs) / 1000)} s: are workers running?`;
}
