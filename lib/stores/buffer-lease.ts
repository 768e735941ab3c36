/** What a lease asks of its pool. */
export interface LeaseMemory {
  /** Resolves when one slab more is granted. @throws Failure the signal's reason */
  grow(signal: AbortSignal): Promise<void>;
  first(size: number): Buffer;
  slab(size: number): Buffer;
  moved(): void;
  seal(): void;
  giveBack(first: Buffer | undefined, slabs: readonly Buffer[]): void;
}

/** Room for up to a known number of bytes, filled from the front. */
export class BufferLease {
  /** Most that it takes. */
  readonly bytes: number;
  readonly #firstBytes: number;
  readonly #slabBytes: number;
  readonly #memory: LeaseMemory;
  #first: Buffer | undefined;
  readonly #slabs: Buffer[] = [];
  #grantedBytes: number;
  #filled = 0;
  /** Of the last piece. */
  #pieceRoom = 0;
  #released = false;

  constructor(opts: {
    readonly bytes: number;
    /** In a piece of their own, before the slabs. */
    readonly firstBytes: number;
    /** That it may take before it grows. */
    readonly grantedBytes: number;
    readonly slabBytes: number;
    readonly memory: LeaseMemory;
  }) {
    this.bytes = opts.bytes;
    this.#firstBytes = opts.firstBytes;
    this.#grantedBytes = opts.grantedBytes;
    this.#slabBytes = opts.slabBytes;
    this.#memory = opts.memory;
  }

  get filled(): number {
    return this.#filled;
  }

  /** What can be appended now. */
  get room(): number {
    return this.#grantedBytes - this.#filled;
  }

  /** Waits for room for more, up to `bytes`. @throws Failure the signal's reason */
  async grow(signal: AbortSignal): Promise<void> {
    await this.#memory.grow(signal);
    this.#grantedBytes = Math.min(this.bytes, this.#grantedBytes + this.#slabBytes);
  }

  /** Copies what fits; the caller sees to it that it does (`room`). */
  append(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length; ) {
      const piece = this.#piece();
      const take = Math.min(chunk.length - at, this.#pieceRoom);
      const part = take === chunk.length ? chunk : chunk.subarray(at, at + take);
      piece.set(part, piece.length - this.#pieceRoom);
      this.#pieceRoom -= take;
      this.#filled += take;
      at += take;
    }
    this.#memory.moved();
  }

  /** The one that is being filled. A small body gets exactly its size instead of a slab it would hardly use. */
  #piece(): Buffer {
    if (this.#pieceRoom > 0) return this.#slabs.at(-1) ?? this.#first!;
    const isFirst = this.#filled === 0 && this.#firstBytes > 0;
    const piece = isFirst
      ? this.#memory.first(this.#firstBytes)
      : this.#memory.slab(this.bytes < this.#slabBytes ? this.bytes - this.#filled : this.#slabBytes);
    if (isFirst) this.#first = piece;
    else this.#slabs.push(piece);
    this.#pieceRoom = piece.length;
    return piece;
  }

  /** What was appended, as it lies in memory; valid until `release`. */
  chunks(): readonly Uint8Array[] {
    const pieces = this.#first ? [this.#first, ...this.#slabs] : this.#slabs;
    return pieces.map((piece, index) =>
      index === pieces.length - 1 ? piece.subarray(0, piece.length - this.#pieceRoom) : piece,
    );
  }

  /** Nothing is appended any more: from here on it comes back by itself. */
  seal(): void {
    this.#memory.seal();
  }

  /**
   * Gives the memory back; again is fine. `lent`: a call that was given up may still read it, so nothing else is
   * written into it; it goes once that call is over.
   */
  release(state: 'free' | 'lent' = 'free'): void {
    if (this.#released) return;
    this.#released = true;
    const slabs = this.#slabs.splice(0);
    if (state === 'free') this.#memory.giveBack(this.#first, slabs);
    else this.#memory.giveBack(undefined, []);
    this.#first = undefined;
  }
}
