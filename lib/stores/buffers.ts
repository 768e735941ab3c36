import { failureOf } from '../errors.ts';

/**
 * The memory that one process uses for bytes in flight: a counted budget, handed out in slabs that are used again.
 * Who finds it empty waits its turn, which is how a slow store slows its clients instead of filling the memory.
 */
export class BufferPool {
  readonly budgetBytes: number;
  readonly slabBytes: number;
  readonly #spare: Buffer[] = [];
  readonly #waiting: { readonly bytes: number; readonly go: () => void }[] = [];
  #usedBytes = 0;

  constructor(options: { readonly budgetBytes: number; readonly slabBytes?: number }) {
    this.budgetBytes = options.budgetBytes;
    this.slabBytes = options.slabBytes ?? 1024 * 1024;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Most that one lease can be: a quarter of the budget, so that one body never has it all to itself. */
  get largestLeaseBytes(): number {
    return Math.floor(this.budgetBytes / 4 / this.slabBytes) * this.slabBytes;
  }

  /**
   * Memory for `bytes`, all of it at once: whoever holds a part of what it needs never waits for the rest, so nobody
   * can wait for each other. First come, first served.
   * @throws Failure the signal's reason
   */
  async reserve(bytes: number, signal: AbortSignal): Promise<BufferLease> {
    signal.throwIfAborted();
    const slabs = Math.ceil(bytes / this.slabBytes);
    const counted = Math.min(bytes < this.slabBytes ? bytes : slabs * this.slabBytes, this.budgetBytes);
    if (this.#waiting.length > 0 || this.#usedBytes + counted > this.budgetBytes)
      await this.#turn(counted, signal);
    else this.#usedBytes += counted;
    // small bodies do not use spare slabs, so those must make room for them
    if (bytes < this.slabBytes)
      while (this.#usedBytes + this.#spare.length * this.slabBytes > this.budgetBytes && this.#spare.pop());
    return new BufferLease(bytes, this.slabBytes, this.#spare, () => {
      this.#usedBytes -= counted;
      this.#wake();
    });
  }

  #turn(bytes: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const place = {
        bytes,
        go: () => {
          signal.removeEventListener('abort', leave);
          resolve();
        },
      };
      const leave = () => {
        this.#waiting.splice(this.#waiting.indexOf(place), 1);
        this.#wake();
        reject(failureOf(signal.reason));
      };
      signal.addEventListener('abort', leave, { once: true });
      this.#waiting.push(place);
    });
  }

  #wake(): void {
    for (
      let next = this.#waiting[0];
      next && this.#usedBytes + next.bytes <= this.budgetBytes;
      next = this.#waiting[0]
    ) {
      this.#waiting.shift();
      this.#usedBytes += next.bytes;
      next.go();
    }
  }
}

/** Room for a known number of bytes, filled from the front. */
export class BufferLease {
  readonly #bytes: number;
  readonly #slabBytes: number;
  readonly #spare: Buffer[];
  readonly #release: () => void;
  readonly #slabs: Buffer[] = [];
  #filled = 0;
  #released = false;

  constructor(bytes: number, slabBytes: number, spare: Buffer[], release: () => void) {
    this.#bytes = bytes;
    this.#slabBytes = slabBytes;
    this.#spare = spare;
    this.#release = release;
  }

  get filled(): number {
    return this.#filled;
  }
  get room(): number {
    return this.#bytes - this.#filled;
  }

  /** Copies what fits; the caller sees to it that it does (`room`). */
  append(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length; ) {
      const inSlab = this.#filled % this.#slabBytes;
      if (inSlab === 0) this.#slabs.push(this.#nextSlab());
      const slab = this.#slabs[this.#slabs.length - 1]!;
      const take = Math.min(chunk.length - at, slab.length - inSlab);
      slab.set(take === chunk.length ? chunk : chunk.subarray(at, at + take), inSlab);
      this.#filled += take;
      at += take;
    }
  }

  /** A small body gets exactly its size instead of a slab it would hardly use. */
  #nextSlab(): Buffer {
    if (this.#bytes < this.#slabBytes) return Buffer.allocUnsafe(this.#bytes);
    return this.#spare.pop() ?? Buffer.allocUnsafeSlow(this.#slabBytes);
  }

  /** What was appended, as it lies in memory; valid until `release`. */
  chunks(): readonly Uint8Array[] {
    return this.#slabs.map((slab, index) =>
      slab.subarray(0, Math.min(slab.length, this.#filled - index * this.#slabBytes)),
    );
  }

  /**
   * Gives the memory back; again is fine. `lent`: a call that was given up may still read it, so nothing else is
   * written into it; it goes once that call is over.
   */
  release(state: 'free' | 'lent' = 'free'): void {
    if (this.#released) return;
    this.#released = true;
    if (state === 'free')
      for (const slab of this.#slabs) if (slab.length === this.#slabBytes) this.#spare.push(slab);
    this.#slabs.length = 0;
    this.#release();
  }
}
