/** Digests of bytes that pass by once: SHA-256 of the whole, CRC32 of each block, and what a caller demanded. */
import { createHash, type Hash, hash as hashOf } from 'node:crypto';
import { crc32 } from 'node:zlib';

/** Length of a block of `Digests.blockCrcs`: 8 MiB. */
export const BLOCK_BYTES = 8 * 1024 * 1024;

/** What is known of bytes that were read once in full. */
/** Of no bytes at all; its CRC-32 is 0. */
export const EMPTY_SHA256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';

export interface Digests {
  /** Bytes. */
  readonly size: number;
  /** Lower-case hex. */
  readonly sha256: string;
  /** CRC32 (IEEE) of each block of `BLOCK_BYTES` (the last may be shorter), in order; none for no bytes. */
  readonly blockCrcs: Uint32Array;
}

/** Digests that a caller demands of the bytes it sends; lower-case hex. */
export interface ExpectedDigests {
  readonly sha256?: string | undefined;
  readonly sha512?: string | undefined;
  readonly md5?: string | undefined;
  readonly crc32?: string | undefined;
}

/** The digests, and the first demanded one that the bytes do not have. */
export interface DigestsTaken {
  readonly digests: Digests;
  readonly mismatch?: {
    readonly name: keyof ExpectedDigests;
    readonly expected: string;
    readonly actual: string;
  };
}

/** Takes bytes in any pieces; `end()` ends it. */
export class Digester {
  readonly #sha256 = createHash('sha256');
  readonly #extra: { readonly name: 'md5' | 'sha512'; readonly hash: Hash }[] = [];
  readonly #expected: ExpectedDigests;
  readonly #crcs: number[] = [];
  /** CRC of the bytes since the last cut: at a block's end or where a part was taken. */
  #crc = 0;
  #sinceCut = 0;
  #blockCrc = 0;
  #inBlock = 0;
  #partCrc = 0;
  #size = 0;

  constructor(expected: ExpectedDigests = {}) {
    this.#expected = expected;
    for (const name of ['md5', 'sha512'] as const)
      if (expected[name] !== undefined) this.#extra.push({ name, hash: createHash(name) });
  }

  get size(): number {
    return this.#size;
  }

  update(chunk: Uint8Array): void {
    this.#sha256.update(chunk);
    for (const { hash } of this.#extra) hash.update(chunk);
    this.#size += chunk.length;
    for (let at = 0; at < chunk.length; ) {
      const take = Math.min(chunk.length - at, BLOCK_BYTES - this.#inBlock);
      this.#crc = crc32(at === 0 && take === chunk.length ? chunk : chunk.subarray(at, at + take), this.#crc);
      this.#sinceCut += take;
      this.#inBlock += take;
      at += take;
      if (this.#inBlock === BLOCK_BYTES) this.#endBlock();
    }
  }

  /** CRC32 of the bytes since this was last called, at no further cost: each byte is looked at once. */
  takePartCrc(): number {
    this.#cut();
    const crc = this.#partCrc;
    this.#partCrc = 0;
    return crc;
  }

  #cut(): void {
    this.#blockCrc = combineCrc(this.#blockCrc, this.#crc, this.#sinceCut);
    this.#partCrc = combineCrc(this.#partCrc, this.#crc, this.#sinceCut);
    this.#crc = 0;
    this.#sinceCut = 0;
  }

  #endBlock(): void {
    this.#cut();
    this.#crcs.push(this.#blockCrc);
    this.#blockCrc = 0;
    this.#inBlock = 0;
  }

  end(): DigestsTaken {
    if (this.#inBlock > 0) this.#endBlock();
    const digests: Digests = {
      size: this.#size,
      sha256: this.#sha256.digest('hex'),
      blockCrcs: Uint32Array.from(this.#crcs),
    };
    const extra = new Map(this.#extra.map(({ name, hash }) => [name, hash.digest('hex')]));
    return compared(digests, this.#expected, (name) => extra.get(name) ?? 'unknown');
  }
}

/** As a `Digester` takes them, of a block or less that is all there: several times cheaper where it is short. */
export function digestsOf(content: Uint8Array, expected: ExpectedDigests = {}): DigestsTaken {
  const digests: Digests = {
    size: content.length,
    sha256: hashOf('sha256', content),
    blockCrcs: content.length === 0 ? new Uint32Array() : Uint32Array.of(crc32(content)),
  };
  return compared(digests, expected, (name) => hashOf(name, content));
}

function compared(
  digests: Digests,
  expected: ExpectedDigests,
  other: (name: 'md5' | 'sha512') => string,
): DigestsTaken {
  for (const [name, wanted] of Object.entries(expected) as [keyof ExpectedDigests, string?][]) {
    if (wanted === undefined) continue;
    const actual =
      name === 'sha256' ? digests.sha256 : name === 'crc32' ? hexOfCrc(wholeCrc(digests)) : other(name);
    if (actual !== wanted) return { digests, mismatch: { name, expected: wanted, actual } };
  }
  return { digests };
}

export const hexOfCrc = (crc: number): string => crc.toString(16).padStart(8, '0');
export const crcOfHex = (hex: string | undefined): number | undefined =>
  hex === undefined ? undefined : Number.parseInt(hex, 16);

/** CRC32 of the whole, from its blocks'. */
export function wholeCrc({ size, blockCrcs }: Pick<Digests, 'size' | 'blockCrcs'>): number {
  let crc = 0;
  let left = size;
  for (const block of blockCrcs) {
    const length = Math.min(left, BLOCK_BYTES);
    crc = combineCrc(crc, block, length);
    left -= length;
  }
  return crc;
}

/** x^(2^k) modulo the CRC32 polynomial (reflected), for k = 0, 1, …: made once, on first use. */
let powers: Uint32Array | undefined;

/** CRC32 of A followed by B, from CRC32(A), CRC32(B) and B's length in bytes. */
export function combineCrc(crcA: number, crcB: number, lengthB: number): number {
  if (crcA === 0) return crcB; // of nothing before it, as for every small body
  if (!powers) {
    powers = new Uint32Array(64);
    powers[0] = 0x40000000; // x^1
    for (let k = 1; k < 64; k++) powers[k] = multiply(powers[k - 1]!, powers[k - 1]!);
  }
  // multiply CRC(A) by x^(8·lengthB): walk the bits of the bit length
  let factor = 0x80000000; // x^0
  for (let n = lengthB, k = 3; n > 0; n = Math.floor(n / 2), k++)
    if (n % 2 === 1) factor = multiply(factor, powers[k]!);
  return (multiply(factor, crcA) ^ crcB) >>> 0;
}

/** Product of two polynomials modulo the CRC32 polynomial, all bit-reflected. */
function multiply(a: number, b: number): number {
  let product = 0;
  for (let bit = 0x80000000; bit !== 0; bit >>>= 1) {
    if ((a & bit) !== 0) product ^= b;
    b = (b & 1) !== 0 ? (b >>> 1) ^ 0xedb88320 : b >>> 1;
  }
  return product >>> 0;
}
