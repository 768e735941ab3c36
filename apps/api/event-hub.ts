/**
 * One reader of the ledger's events and of Redis' progress for all event streams of a process. It looks into the ledger
 * only while somebody listens; without Redis there is no progress and everything else goes on.
 */
import type { Progress } from '../../lib/jobs/progress.ts';
import type { Events, Transfers } from '../../lib/ledger/contract.ts';
import type { Transfer, TransferEvent } from '../../lib/ledger/transfer.ts';
import type { Log } from '../../lib/log.ts';

const POLL_MS = 200;
const PAGE = 500;
/** Transfers remembered for the progress and events of those that run. */
const REMEMBERED = 2000;

/** What never changes of a transfer: decides who may see it, and tells listeners what it is. */
export type Known = Pick<Transfer, 'id' | 'kind' | 'owner' | 'from' | 'to'>;

export interface HubListener {
  /** In order of `seq`, each once. `transfer` is absent when history was forgotten meanwhile. */
  onState(event: TransferEvent, transfer: Known | undefined): void;
  /** May be dropped. */
  onProgress(progress: Progress, transfer: Known): void;
  /** The process shuts down. */
  onClose(): void;
}

export class EventHub {
  readonly #ledger: { readonly events: Events; readonly transfers: Transfers };
  readonly #hear: (heard: (progress: Progress) => void) => { close(): void };
  readonly #log: Log;
  readonly #listeners = new Set<HubListener>();
  readonly #known = new Map<string, Known>();
  #progress: { close(): void } | undefined;
  /** Set while the loop runs; resolved once it has begun. */
  #polling: Promise<void> | undefined;
  #closed = false;

  /** @param hear begins to listen to progress; called while somebody listens to the hub */
  constructor(
    ledger: { readonly events: Events; readonly transfers: Transfers },
    hear: (heard: (progress: Progress) => void) => { close(): void },
    log: Log,
  ) {
    this.#ledger = ledger;
    this.#hear = hear;
    this.#log = log;
  }

  get listeners(): number {
    return this.#listeners.size;
  }

  /**
   * Hears of all that happens from when this resolves on, maybe also of a little before: whoever then reads the ledger
   * misses nothing. Answers how to stop. @throws Failure when the ledger cannot be read
   */
  async listen(listener: HubListener): Promise<() => void> {
    if (this.#closed) {
      listener.onClose();
      return () => {};
    }
    this.#listeners.add(listener);
    this.#progress ??= this.#hear((progress) => void this.#onProgress(progress));
    try {
      await (this.#polling ??= this.#start());
    } catch (error) {
      this.#polling = undefined;
      this.#leave(listener);
      throw error;
    }
    return () => this.#leave(listener);
  }

  #leave(listener: HubListener): void {
    this.#listeners.delete(listener);
    if (this.#listeners.size > 0) return;
    this.#progress?.close();
    this.#progress = undefined;
  }

  /** Facts of a transfer, remembered: they never change. */
  async known(id: string): Promise<Known | undefined> {
    const remembered = this.#known.get(id);
    if (remembered) return remembered;
    const transfer = await this.#ledger.transfers.get(id);
    if (!transfer) return undefined;
    const { kind, owner, from, to } = transfer;
    const known = { id, kind, owner, from, to };
    this.#known.set(id, known);
    for (const oldest of this.#known.keys()) {
      if (this.#known.size <= REMEMBERED) break;
      this.#known.delete(oldest);
    }
    return known;
  }

  /** Resolves when the loop knows where it begins. */
  async #start(): Promise<void> {
    void this.#poll(await this.#ledger.events.last());
  }

  async #poll(from: number): Promise<void> {
    let last = from;
    while (this.#listeners.size > 0 && !this.#closed) {
      try {
        last = await this.#pass(last);
      } catch (error) {
        this.#log.warn({ err: error }, 'could not read events from the ledger; trying again');
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS).unref());
    }
    this.#polling = undefined;
  }

  async #pass(after: number): Promise<number> {
    const events = await this.#ledger.events.after(after, PAGE);
    for (const event of events) {
      const transfer = await this.known(event.transferId);
      for (const listener of this.#listeners) listener.onState(event, transfer);
    }
    return events.at(-1)?.seq ?? after;
  }

  async #onProgress(progress: Progress): Promise<void> {
    const transfer = await this.known(progress.transfer).catch(() => undefined);
    if (!transfer) return;
    for (const listener of this.#listeners) listener.onProgress(progress, transfer);
  }

  close(): void {
    this.#closed = true;
    for (const listener of [...this.#listeners]) listener.onClose();
    this.#listeners.clear();
    this.#progress?.close();
    this.#progress = undefined;
  }
}
