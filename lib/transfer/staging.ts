/**
 * Where bytes wait: one file for each transfer, named by its id and by what proves that this installation staged it, in a
 * store of its own, which others may use as well. A file is there whole or not at all, and durable once `stage` resolves.
 * Which files are still wanted is the ledger's business.
 */
import type { Digests, ExpectedDigests } from '../digests.ts';
import { Failure } from '../errors.ts';
import type { Transfers } from '../ledger/contract.ts';
import type { Log } from '../log.ts';
import { ROOT, type StorePath } from '../path.ts';
import { once } from '../stores/bytes.ts';
import type { ByteRange, Bytes, Reading } from '../stores/driver.ts';
import type { HiddenNames } from '../stores/hidden.ts';
import type { MismatchKind, Store } from '../stores/store.ts';

/** Of bodies whose length nobody tells: what is reserved at a time. */
const STEP_BYTES = 8 * 1024 * 1024;
/** A body that moves less than `MOVES_BYTES` in this time keeps no room for bytes that have not come from others. */
const SLOW_MS = 10_000;
const MOVES_BYTES = 1024 * 1024;
/** How long the ledger's sum is believed. */
const SUM_FRESH_MS = 1000;
/** From when on staged bytes count as the ledger's: by then its sum has them, or they were given up. */
const ACCEPTED_AFTER_MS = 5000;
/** What a refused caller is told to wait. */
const COME_BACK_MS = 10_000;
/** Bytes that nobody needs any more go together: after so long, or when there are so many of them. */
const FREE_SOON_MS = 100;
const FREE_AT_ONCE = 100;
/** Freeing is one request to the staging store. */
const FREE_MS = 10_000;

export interface StageOptions {
  readonly signal: AbortSignal;
  /** Declared length. */
  readonly size?: number | undefined;
  /** Kind of the failure when it is more than staging may ever hold; a job, which would come back for nothing, is `invalid`. */
  readonly tooLarge?: TooLarge;
  readonly expected?: ExpectedDigests | undefined;
  /** Kind of the failure when size or digest differ; default: the sender's fault. */
  readonly mismatch?: MismatchKind;
  readonly onProgress?: (bytesSoFar: number) => void;
  /** All bytes were taken: from here on they are joined and synced, and nothing moves. */
  readonly onRest?: () => void;
}

type TooLarge = 'no-space' | 'invalid';

export interface StagedFile {
  readonly id: string;
  readonly size: number;
  readonly modifiedMs: number;
}

/** Room taken by bytes that the ledger does not account for yet. */
interface Held {
  bytes: number;
  /** Those that came, and how many had come when it last got on. */
  takenBytes: number;
  movedBytes: number;
  movedMs: number;
  readonly tooLarge: TooLarge;
}

/** Bytes that count here until the ledger's sum has them: once `untilMs` has passed, at the latest. */
interface JustStaged {
  readonly bytes: number;
  readonly untilMs: number;
  /** When the ledger had committed what says how many they are. */
  accountedMs?: number;
}

export class Staging {
  readonly store: Store;
  readonly limitBytes: number;
  readonly #transfers: Pick<Transfers, 'stagedBytes' | 'stagedGone'>;
  readonly #hidden: HiddenNames;
  readonly #log: Log;
  readonly #held = new Set<Held>();
  /** Staged just now, by id, the oldest first. */
  readonly #staged = new Map<string, JustStaged>();
  #stagedBytes = 0;
  readonly #slowMs: number;
  #unneeded: string[] = [];
  #freeing: NodeJS.Timeout | undefined;
  #freed: Promise<void> = Promise.resolve();
  #sum: { readonly bytes: Promise<number>; readonly atMs: number } | undefined;

  constructor(opts: {
    readonly store: Store;
    readonly limitBytes: number;
    readonly transfers: Pick<Transfers, 'stagedBytes' | 'stagedGone'>;
    readonly hidden: HiddenNames;
    readonly log: Log;
    readonly slowMs?: number;
  }) {
    this.store = opts.store;
    this.limitBytes = opts.limitBytes;
    this.#transfers = opts.transfers;
    this.#hidden = opts.hidden;
    this.#log = opts.log;
    this.#slowMs = opts.slowMs ?? SLOW_MS;
  }

  /**
   * Takes room, then the bytes; nothing is read before there is room for `size`. Bytes that hardly move lose the room
   * that they do not fill as soon as others need it, and take more as they come.
   * @throws Failure `busy` (with `retryAfterMs`) or `no-space` where there is no room, `mismatch`'s kind where size or
   *   digest differ; nothing is left behind
   */
  async stage(id: string, bytes: Bytes, opts: StageOptions): Promise<Digests> {
    const held = this.#hold(opts.tooLarge);
    try {
      if (opts.size !== undefined) await this.#grow(held, opts.size);
      const draft = await this.store.prepare(this.pathOf(id), this.#reserving(held, bytes, opts.size), {
        signal: opts.signal,
        token: id,
        ...(opts.size !== undefined && { size: opts.size }),
        ...(opts.expected && { expected: opts.expected }),
        ...(opts.mismatch && { mismatch: opts.mismatch }),
        ...(opts.onProgress && { onProgress: opts.onProgress }),
      });
      try {
        opts.onRest?.();
        await draft.publish({ signal: opts.signal });
      } catch (error) {
        await draft.discard();
        throw error;
      }
      this.#keep(id, draft.digests.size);
      return draft.digests;
    } finally {
      this.#held.delete(held);
    }
  }

  /**
   * Takes room for bytes that are going to come in parts, by whoever is free: from when their upload is written down the
   * ledger accounts for them (`accounted`).
   * @throws Failure `busy` (with `retryAfterMs`), or `invalid` where there is never going to be as much
   */
  async makeRoom(id: string, bytes: number): Promise<void> {
    const held = this.#hold('invalid');
    try {
      await this.#grow(held, bytes);
      this.#keep(id, bytes);
    } finally {
      this.#held.delete(held);
    }
  }

  #hold(tooLarge: TooLarge = 'no-space'): Held {
    const held: Held = { bytes: 0, takenBytes: 0, movedBytes: 0, movedMs: Date.now(), tooLarge };
    this.#held.add(held);
    return held;
  }

  /** Until the ledger accounts for them. */
  #keep(id: string, bytes: number): void {
    this.#drop(id);
    this.#staged.set(id, { bytes, untilMs: Date.now() + ACCEPTED_AFTER_MS });
    this.#stagedBytes += bytes;
  }

  #drop(id: string): void {
    this.#stagedBytes -= this.#staged.get(id)?.bytes ?? 0;
    this.#staged.delete(id);
  }

  /** What the ledger has committed by now says how many bytes these are: they need not be counted here as well. */
  accounted(id: string): void {
    const staged = this.#staged.get(id);
    if (staged) staged.accountedMs = Date.now();
  }

  /** @throws Failure `not-found`: it was freed */
  open(id: string, range: ByteRange | undefined, signal: AbortSignal): Promise<Reading> {
    return this.store.read(this.pathOf(id), { signal, ...(range && { range }) });
  }

  /** Writes and removes a file of a few bytes. @throws Failure why nothing can be staged here */
  async probe(id: string, signal: AbortSignal): Promise<void> {
    const draft = await this.store.prepare(this.pathOf(id), once(Buffer.from('ready?')), {
      signal,
      token: id,
    });
    try {
      await draft.publish({ signal });
    } catch (error) {
      await draft.discard();
      throw error;
    }
    await this.free(id, signal);
  }

  /** Gone already is fine. */
  async free(id: string, signal: AbortSignal): Promise<void> {
    await this.store.remove([this.pathOf(id)], signal);
    this.#drop(id);
  }

  /**
   * Of a transfer whose ending is recorded and cannot be tried again. Soon, with those of others: one sync of the folder,
   * and one write to the ledger, serve all of them. What is left when the process dies is gc's.
   */
  freeSoon(id: string): void {
    this.#unneeded.push(id);
    if (this.#unneeded.length >= FREE_AT_ONCE) this.#freeUnneeded();
    else this.#freeing ??= setTimeout(() => this.#freeUnneeded(), FREE_SOON_MS);
  }

  #freeUnneeded(): void {
    clearTimeout(this.#freeing);
    this.#freeing = undefined;
    const ids = this.#unneeded;
    this.#unneeded = [];
    if (ids.length > 0) this.#freed = Promise.all([this.#freed, this.#free(ids)]).then(() => undefined);
  }

  /** Never throws. */
  async #free(ids: readonly string[]): Promise<void> {
    try {
      await this.store.remove(
        ids.map((id) => this.pathOf(id)),
        AbortSignal.timeout(FREE_MS),
      );
      await this.#transfers.stagedGone(ids);
    } catch (error) {
      this.#log.warn({ transfers: ids.length, err: error }, 'could not free staged bytes; gc will');
    }
  }

  /** What is to be freed soon is freed now. */
  async close(): Promise<void> {
    this.#freeUnneeded();
    await this.#freed;
  }

  /** Where a file of this id lies. Flat: one folder to sync, and ids never clash. */
  pathOf(id: string): StorePath {
    return this.#hidden.stagedName(id) as StorePath;
  }

  /** Pages of all that this installation has staged, in no order. Whatever else lies there is somebody else's. */
  async *names(signal: AbortSignal): AsyncGenerator<readonly StagedFile[]> {
    for await (const page of this.store.list(ROOT, { deep: false, signal }))
      yield page.flatMap((entry) => {
        const id = entry.kind === 'file' ? this.#hidden.stagedId(entry.path) : undefined;
        if (entry.kind !== 'file' || id === undefined) return [];
        return [{ id, size: entry.size, modifiedMs: entry.modifiedMs }];
      });
  }

  /** Bytes that wait here or have room reserved by this process. Other processes' bodies in flight are not seen. */
  async usedBytes(): Promise<number> {
    return (await this.#acceptedBytes()) + this.#heldBytes();
  }

  #acceptedBytes(): Promise<number> {
    const now = Date.now();
    if (!this.#sum || now - this.#sum.atMs > SUM_FRESH_MS) {
      const bytes = this.#transfers.stagedBytes().then((sum) => {
        for (const [id, { accountedMs = now }] of this.#staged) if (accountedMs < now) this.#drop(id);
        return sum;
      });
      const sum = { bytes, atMs: now };
      this.#sum = sum;
      bytes.catch(() => this.#sum === sum && (this.#sum = undefined));
    }
    return this.#sum.bytes;
  }

  #heldBytes(): number {
    const now = Date.now();
    for (const [id, { untilMs }] of this.#staged) {
      if (untilMs >= now) break;
      this.#drop(id);
    }
    let bytes = this.#stagedBytes;
    for (const held of this.#held) bytes += held.bytes;
    return bytes;
  }

  async #grow(held: Held, bytes: number): Promise<void> {
    const needed = held.bytes + bytes;
    if (needed > this.limitBytes)
      throw new Failure(
        held.tooLarge,
        `could not stage ${count(needed)}: staging may hold ${count(this.limitBytes)} in all; raise the staging limit, or send them synchronously`,
        { op: 'stage' },
      );
    const accepted = await this.#acceptedBytes();
    // from here to the end nothing is awaited: two at once see each other
    const isFull = (): boolean => accepted + this.#heldBytes() + bytes > this.limitBytes;
    if (isFull()) this.#takeFromTheSlow();
    if (isFull())
      throw new Failure(
        'busy',
        `could not stage ${count(needed)}: staging is full until transfers end; try again later`,
        { op: 'stage', retryAfterMs: COME_BACK_MS },
      );
    held.bytes = needed;
  }

  #takeFromTheSlow(): void {
    const sinceMs = Date.now() - this.#slowMs;
    for (const held of this.#held) if (held.movedMs <= sinceMs) held.bytes = held.takenBytes;
  }

  async *#reserving(held: Held, bytes: Bytes, size = this.limitBytes): AsyncGenerator<Uint8Array> {
    for await (const chunk of bytes) {
      held.takenBytes += chunk.length;
      if (held.takenBytes - held.movedBytes >= MOVES_BYTES) {
        held.movedBytes = held.takenBytes;
        held.movedMs = Date.now();
      }
      // what is longer than it said is refused by who takes it
      if (held.takenBytes > held.bytes && held.bytes < size) {
        const goal = Math.max(held.takenBytes, Math.min(held.bytes + STEP_BYTES, size));
        await this.#grow(held, goal - held.bytes);
      }
      yield chunk;
    }
  }
}

const count = (bytes: number): string => `${bytes.toLocaleString('en-US')} bytes`;
