/** One open event stream: replays what the ledger knows, then goes on live. */
import type { ServerResponse } from 'node:http';
import type { Progress } from '../../lib/jobs/progress.ts';
import type { Events } from '../../lib/ledger/contract.ts';
import { hasEnded, type TransferEvent } from '../../lib/ledger/transfer.ts';
import type { EventHub, HubListener, Known } from './event-hub.ts';

const PAGE = 500;
export const HEARTBEAT_MS = 15_000;
/** How long a client waits before it connects again. */
const RECONNECT_MS = 1000;
/** Unsent bytes from which progress is dropped, and from which the client is cut off: it can resume where it was. */
const LAGGING_BYTES = 64 * 1024;
const LOST_BYTES = 1024 * 1024;

export interface StreamOptions {
  readonly hub: EventHub;
  readonly events: Events;
  readonly mayHear: (transfer: Known) => boolean;
  /** Only this transfer; the stream ends with it. */
  readonly transfer?: string;
  readonly heartbeatMs: number;
}

export class EventStream implements HubListener {
  readonly #res: ServerResponse;
  readonly #options: StreamOptions;
  #live = false;
  /** Seq of the last event sent or passed over. */
  #cursor = 0;
  /** Seq of the last event that the hub told while replaying. */
  #heard = 0;

  /** @param res its head is written */
  constructor(res: ServerResponse, options: StreamOptions) {
    this.#res = res;
    this.#options = options;
  }

  /** Resolves when the stream has ended. `after`: seq after which to replay; `undefined`: from now on. */
  async run(after: number | undefined): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#res.once('close', resolve));
    this.#res.on('error', () => {}); // the client went away: 'close' follows
    this.#res.write(`retry: ${RECONNECT_MS}\n\n`);
    const heartbeat = setInterval(() => this.#send(': still here\n\n'), this.#options.heartbeatMs);
    const leave = await this.#options.hub.listen(this);
    try {
      const last = await this.#options.events.last();
      await this.#replay(Math.min(after ?? last, last));
      await closed;
    } finally {
      leave();
      clearInterval(heartbeat);
    }
  }

  async #replay(after: number): Promise<void> {
    this.#cursor = after;
    let ending = false;
    for (;;) {
      const heardBefore = this.#heard;
      const page = await this.#options.events.after(this.#cursor, PAGE, this.#options.transfer);
      // what the hub told meanwhile is in the ledger: look again rather than keep it
      if (page.length === 0 && this.#heard === heardBefore) break;
      for (const event of page) {
        this.#cursor = event.seq;
        ending = hasEnded(event.state);
        this.#state(event, await this.#options.hub.known(event.transferId));
      }
      if (!(await this.#drained())) return;
    }
    this.#live = true;
    if (ending && this.#options.transfer !== undefined) this.#res.end();
  }

  /** False: the client is gone. */
  async #drained(): Promise<boolean> {
    if (this.#res.writableNeedDrain && !this.#res.destroyed)
      await new Promise<void>((resolve) => {
        const done = (): void => {
          this.#res.off('drain', done).off('close', done);
          resolve();
        };
        this.#res.on('drain', done).on('close', done);
      });
    return !this.#res.destroyed;
  }

  onState(event: TransferEvent, transfer: Known | undefined): void {
    const only = this.#options.transfer;
    if (only !== undefined && event.transferId !== only) return;
    if (!this.#live) this.#heard = Math.max(this.#heard, event.seq);
    if (!this.#live || event.seq <= this.#cursor) return;
    this.#cursor = event.seq;
    this.#state(event, transfer);
    if (only !== undefined && hasEnded(event.state)) this.#res.end();
  }

  #state(event: TransferEvent, transfer: Known | undefined): void {
    if (!transfer || !this.#options.mayHear(transfer)) return;
    const { kind, from, to } = transfer;
    const at = new Date(event.atMs).toISOString();
    const data = { transfer: event.transferId, state: event.state, at, kind, from, to };
    this.#send(`id: ${event.seq}\nevent: state\ndata: ${JSON.stringify(data)}\n\n`);
  }

  onProgress({ transfer, done, total, bytesPerSecond, atMs }: Progress, known: Known): void {
    const only = this.#options.transfer;
    if (!this.#live || (only !== undefined && only !== transfer) || !this.#options.mayHear(known)) return;
    if (this.#res.writableLength > LAGGING_BYTES) return;
    const data = {
      transfer,
      bytesDone: done,
      bytesTotal: total,
      bytesPerSecond,
      etaSeconds: total !== undefined && bytesPerSecond > 0 ? (total - done) / bytesPerSecond : undefined,
      at: new Date(atMs).toISOString(),
    };
    this.#send(`event: progress\ndata: ${JSON.stringify(data)}\n\n`);
  }

  onClose(): void {
    this.#res.end();
  }

  #send(text: string): void {
    if (this.#res.writableEnded || this.#res.destroyed) return;
    this.#res.write(text);
    // while replaying the ledger is read no faster than the client takes it
    if (this.#live && this.#res.writableLength > LOST_BYTES) this.#res.destroy();
  }
}
