/**
 * Bytes on their way into one store: cut from a stream that can be read only once into parts held in pool memory,
 * digested as they pass, sent, and published only when length and digests are right.
 */
import { Deadline, holdWatches } from '../deadline.ts';
import { Digester, type Digests, type ExpectedDigests, wholeCrc } from '../digests.ts';
import { Failure, failureOf } from '../errors.ts';
import type { StorePath } from '../path.ts';
import type { BufferLease } from './buffer-lease.ts';
import type { BufferPool } from './buffers.ts';
import type {
  Body,
  Bytes,
  Driver,
  FileEntry,
  Multipart,
  Receipt,
  Upload,
  UploadJournal,
  WriteCall,
} from './driver.ts';
import { count, demanded, draftOf, mismatched, publishAndVerify, writeCall } from './publish.ts';

export interface PrepareOptions {
  readonly signal: AbortSignal;
  /** Transfer id and epoch, or a request's id: see `WriteCall.token`. */
  readonly token: string;
  readonly mediaType?: string;
  /** As `WriteCall.attributes`. */
  readonly attributes?: WriteCall['attributes'];
  /** Declared length in bytes. */
  readonly size?: number;
  readonly expected?: ExpectedDigests;
  /** Default: whatever differs is the caller's fault. */
  readonly mismatch?: MismatchKind;
  readonly mode?: 'replace' | 'create';
  readonly ifMatch?: string;
  readonly journal?: UploadJournal;
  /** Bytes taken from the source so far. */
  readonly onProgress?: (bytesSoFar: number) => void;
}

/** What a wrong length or digest is: the fault of who declared it (`invalid`) or damage on the way (`corrupt`). */
export type MismatchKind = (what: 'size' | keyof ExpectedDigests) => 'invalid' | 'corrupt';

export interface Published {
  readonly entry: FileEntry;
  readonly verified: readonly { readonly check: string; readonly by: string }[];
}

/** All bytes are in memory or in the store, nothing is visible. Ends with `publish` or `discard`. */
export interface Draft {
  readonly digests: Digests;
  publish(opts: { readonly signal: AbortSignal }): Promise<Published>;
  /** Leaves nothing behind, never throws; after `publish` succeeded it does nothing. */
  discard(): Promise<void>;
}

/** What it takes of the store: the layered driver and how its errors are told. */
export interface DraftTarget {
  readonly driver: Driver;
  readonly buffers: BufferPool;
  readonly path: StorePath;
  /** Runs a driver call, its error wrapped as a `Failure`. */
  attempt<T>(op: string, signal: AbortSignal, work: () => Promise<T>): Promise<T>;
}

/** Parts of one body on their way at once. */
const PARTS_IN_FLIGHT = 4;
/** For cleaning up after the caller's own signal has fired. */
const CLEAN_UP_MS = 30_000;
/** What somebody is told to wait whose body kept memory from others. */
const COME_BACK_MS = 5000;
/** After so many parts of a body of unknown length they grow, so that `maxParts` takes it far. */
const GROW_EVERY = 1000;

/** `bytes` in one piece are short. */
export async function prepareDraft(
  target: DraftTarget,
  bytes: Bytes | Uint8Array,
  opts: PrepareOptions,
): Promise<Draft> {
  if (bytes instanceof Uint8Array) return draftOf(target, bytes, opts);
  const writer = new DraftWriter(target, opts);
  try {
    for await (const chunk of whileHeard(bytes, writer.signal)) await writer.take(chunk);
    return await writer.end();
  } catch (error) {
    // said before the parts on their way are stopped, which makes them fail as well
    const why = writer.failure ?? failureOf(opts.signal.aborted ? opts.signal.reason : error);
    await writer.discard();
    throw why;
  }
}

/** What `bytes` yields, given up as soon as `signal` fires, also when the source is stuck. */
async function* whileHeard(bytes: Bytes, signal: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
  const source = bytes[Symbol.asyncIterator]();
  let giveUp: (reason: unknown) => void = () => {};
  const heard = (): void => giveUp(signal.reason);
  signal.addEventListener('abort', heard);
  try {
    for (;;) {
      signal.throwIfAborted();
      const step = await new Promise<IteratorResult<Uint8Array>>((resolve, reject) => {
        giveUp = reject;
        source.next().then(resolve, reject);
      });
      if (step.done) return;
      yield step.value;
    }
  } finally {
    signal.removeEventListener('abort', heard);
    const left = source.return?.();
    if (signal.aborted)
      left?.catch(() => undefined); // it may never come back
    else await left;
  }
}

class DraftWriter {
  /** The first part that could not be sent: what everything after it fails with. */
  failure: Failure | undefined;
  readonly #target: DraftTarget;
  readonly #opts: PrepareOptions;
  readonly #digester: Digester;
  readonly #multipart: Multipart | undefined;
  /** The caller's reasons to stop, and that of a part that could not be sent. */
  readonly #stop: Deadline;
  readonly #receipts: Receipt[] = [];
  readonly #inFlight = new Set<Promise<void>>();
  #part: BufferLease | undefined;
  #partState: 'free' | 'lent' = 'free';
  /** A part that is sent before it is full, while its source stands still. */
  #early: Promise<void> | undefined;
  #taking = false;
  #partNumber = 0;
  #sentBytes = 0;
  #upload: Upload | undefined;
  #journalId: string | undefined;

  constructor(target: DraftTarget, opts: PrepareOptions) {
    this.#target = target;
    this.#opts = opts;
    this.#digester = new Digester(opts.expected);
    this.#multipart = target.driver.multipart;
    this.#stop = new Deadline([opts.signal]);
  }

  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  async take(chunk: Uint8Array): Promise<void> {
    const { size } = this.#opts;
    if (size !== undefined && this.#digester.size + chunk.length > size)
      throw this.#mismatched(`the body is longer than the ${count(size)} that were declared`);
    this.#taking = true;
    if (this.#early) await this.#early;
    for (let at = 0; at < chunk.length; ) {
      if (this.#part && this.#part.filled === this.#part.bytes) await this.#sendPart();
      this.#part ??= await this.#openPart();
      if (this.#part.room === 0) await this.#waiting(this.#part.grow(this.signal));
      const piece =
        at === 0 && chunk.length <= this.#part.room ? chunk : chunk.subarray(at, at + this.#part.room);
      this.#digester.update(piece);
      this.#part.append(piece);
      at += piece.length;
    }
    this.#taking = false;
    this.#opts.onProgress?.(this.#digester.size);
  }

  async #openPart(): Promise<BufferLease> {
    this.signal.throwIfAborted();
    const { buffers } = this.#target;
    return this.#waiting(buffers.open(this.#nextPartBytes(), this.signal, () => this.#makeRoom()));
  }

  /** Who waits for memory does not stand still. */
  #waiting<T>(turn: Promise<T>): Promise<T> {
    return turn.finally(holdWatches(this.#opts.signal));
  }

  /** The source stands still while others wait for memory: what came is sent, or, where it cannot be, given up. */
  #makeRoom(): void {
    if (this.#taking || this.signal.aborted) return;
    if (this.#mayCut()) {
      this.#early = this.#sendPart().catch((error: unknown) => this.#giveUp(failureOf(error)));
      return;
    }
    const why = 'the body stood still while others waited for memory; send it again, without pauses';
    const facts = { op: 'put', path: this.#target.path, retryAfterMs: COME_BACK_MS };
    this.#giveUp(new Failure('busy', `nothing was stored: ${why}`, facts));
  }

  /** Whether the store takes what there is as a part, and there are enough left for the rest. */
  #mayCut(): boolean {
    const { limits } = this.#multipart ?? {};
    if (!limits || !this.#part || this.#part.filled < limits.minBytes) return false;
    const { size } = this.#opts;
    const left = limits.maxParts - this.#partNumber - 1;
    if (size === undefined) return left > limits.maxParts / 2;
    return (size - this.#digester.size) / this.#part.bytes < left;
  }

  #giveUp(failure: Failure): void {
    this.failure ??= failure;
    this.#stop.stop(this.failure);
  }

  /** Never more than is left, so that a small body takes little memory. */
  #nextPartBytes(): number {
    const { size } = this.#opts;
    const limits = this.#multipart?.limits ?? {
      goodBytes: this.#target.buffers.slabBytes,
      maxParts: 1,
      maxBytes: Infinity,
    };
    const largest = Math.min(limits.maxBytes, this.#target.buffers.largestLeaseBytes);
    const needed =
      size === undefined
        ? limits.goodBytes * (1 + Math.floor(this.#partNumber / GROW_EVERY))
        : size <= limits.goodBytes * limits.maxParts
          ? limits.goodBytes
          : roundUp(Math.ceil(size / limits.maxParts), this.#target.buffers.slabBytes);
    if (size !== undefined && needed > Math.max(largest, limits.goodBytes))
      throw this.#tooLong(largest * limits.maxParts);
    if (this.#partNumber >= limits.maxParts) throw this.#tooLong(this.#sentBytes);
    const partBytes = Math.min(needed, Math.max(largest, limits.goodBytes));
    return size === undefined ? partBytes : Math.min(partBytes, size - this.#digester.size);
  }

  #tooLong(mostBytes: number): Failure {
    const why = this.#multipart
      ? `this store takes at most ${count(mostBytes)} in one stream`
      : `this store takes at most ${count(mostBytes)} at once and has no multipart uploads`;
    return new Failure(this.#multipart ? 'invalid' : 'unsupported', `could not send the body: ${why}`, {
      op: 'put',
    });
  }

  /** Sends the full part in the background, at most `PARTS_IN_FLIGHT` of them. */
  async #sendPart(): Promise<void> {
    const lease = this.#part!;
    lease.seal();
    this.#part = undefined;
    const body = bodyOf(lease, this.#digester.takePartCrc());
    const part = { number: ++this.#partNumber, offset: this.#sentBytes };
    this.#sentBytes += body.size;
    const multipart = this.#multipart;
    if (!multipart) {
      lease.release();
      throw this.#tooLong(body.size);
    }
    try {
      this.#upload ??= await this.#begin(multipart);
      while (this.#inFlight.size >= PARTS_IN_FLIGHT) await Promise.race(this.#inFlight);
      this.signal.throwIfAborted();
    } catch (error) {
      lease.release();
      throw error;
    }
    const upload = this.#upload;
    const sent: Promise<void> = this.#target
      .attempt('send a part of', this.signal, () =>
        multipart.part(upload, part, body, { signal: this.signal }),
      )
      .then((receipt) => {
        this.#receipts.push(receipt);
        lease.release();
      })
      .catch((error: unknown) => {
        lease.release('lent'); // whoever was stopped may not have noticed yet
        this.#giveUp(uploadLost(failureOf(error)));
      })
      .finally(() => this.#inFlight.delete(sent));
    this.#inFlight.add(sent);
  }

  async #begin(multipart: Multipart): Promise<Upload> {
    const { journal } = this.#opts;
    const journalId = await journal?.intend(this.#target.path);
    // where this fails it may have begun all the same: a folder then proves whose it is, S3 does not (unproven)
    const upload = await this.#target.attempt('begin', this.signal, () =>
      multipart.begin(this.#target.path, writeCall(this.#opts, this.signal)),
    );
    this.#journalId = journalId;
    this.#upload = upload; // from here on `discard` abandons it, also where the journal refuses it
    if (journalId !== undefined) await journal?.begun(journalId, upload);
    return upload;
  }

  async end(): Promise<Draft> {
    const { size } = this.#opts;
    this.#part?.seal();
    await this.#early;
    if (size !== undefined && this.#digester.size < size) {
      await Promise.all(this.#inFlight); // so that none of them is cut off
      throw this.#mismatched(`the body ended after ${count(this.#digester.size)} of ${count(size)}`);
    }
    if (this.#upload && this.#part) await this.#sendPart();
    await Promise.all(this.#inFlight);
    if (this.failure) throw this.failure;
    const crc = this.#part && this.#digester.takePartCrc();
    const digests = demanded(this.#target, this.#opts, this.#digester.end());
    const publish = this.#upload
      ? (signal: AbortSignal) => this.#finish(this.#upload!, digests, signal)
      : (signal: AbortSignal) => this.#write(crc ?? 0, signal);
    return {
      digests,
      publish: async ({ signal }) => {
        const published = await publishAndVerify(
          this.#target,
          this.#opts,
          digests,
          () => publish(signal),
          signal,
        ).catch((error: unknown) => {
          throw this.#upload ? uploadLost(failureOf(error)) : error;
        });
        await this.#settled();
        return published;
      },
      discard: () => this.discard(),
    };
  }

  #mismatched(why: string): Failure {
    return mismatched(this.#target, this.#opts, 'size', why);
  }

  async #write(crc: number, signal: AbortSignal): Promise<FileEntry> {
    const body: Body = this.#part ? bodyOf(this.#part, crc) : { size: 0, crc32: 0, open: () => [] };
    this.#partState = 'lent';
    const entry = await this.#target.driver.write(this.#target.path, body, writeCall(this.#opts, signal));
    this.#partState = 'free';
    return entry;
  }

  async #finish(upload: Upload, digests: Digests, signal: AbortSignal): Promise<FileEntry> {
    const receipts = this.#receipts.toSorted((a, b) => a.number - b.number);
    const whole = { size: digests.size, crc32: wholeCrc(digests) };
    const entry = await this.#multipart!.finish(upload, receipts, whole, writeCall(this.#opts, signal));
    const notKept = [...(upload.notKept ?? []), ...(entry.notKept ?? [])];
    return notKept.length === 0 ? entry : { ...entry, notKept };
  }

  async #settled(): Promise<void> {
    this.#stop[Symbol.dispose]();
    this.#part?.release(this.#partState);
    this.#part = undefined;
    this.#upload = undefined;
    const id = this.#journalId;
    this.#journalId = undefined;
    // the upload is over whatever the journal says: gc finds the entry and closes it
    if (id !== undefined) await this.#opts.journal?.ended(id).catch(() => undefined);
  }

  async discard(): Promise<void> {
    const cutOff = this.#inFlight.size > 0;
    this.#stop.stop(new Failure('cancelled', 'the body was given up'));
    await this.#early;
    await Promise.all(this.#inFlight);
    const upload = this.#upload;
    if (upload) {
      const signal = AbortSignal.timeout(CLEAN_UP_MS);
      const abandoned = await this.#target
        .attempt('abandon', signal, () => this.#multipart!.abandon(upload, { signal }))
        .then(
          () => true,
          () => false,
        );
      // the journal keeps it for gc: a part that was cut off may still land, and bring its upload back
      if (!abandoned || cutOff) this.#journalId = undefined;
    }
    await this.#settled();
  }
}

function bodyOf(lease: BufferLease, crc32: number): Body {
  const chunks = lease.chunks();
  return { size: lease.filled, crc32, open: () => chunks };
}

/** An upload that was begun and is not there any more (a lifecycle rule may end one): sent anew it may go well. */
const uploadLost = (failure: Failure): Failure =>
  failure.kind === 'not-found'
    ? new Failure('unavailable', failure.message, failure.facts, { cause: failure })
    : failure;

const roundUp = (value: number, to: number): number => Math.ceil(value / to) * to;
