/** What is sent: bytes made from a seed, so that gigabytes need no memory and any run can be repeated. */
import { createCipheriv, createHash } from 'node:crypto';

/** From 0 up to 1. */
export type Random = () => number;

export function shuffled<T>(items: readonly T[], random: Random): T[] {
  return items
    .map((item) => ({ item, at: random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item);
}

const CHUNK = 1024 * 1024;
const ZEROS = Buffer.alloc(CHUNK);

export class Source {
  readonly path: string;
  readonly size: number;
  readonly sha256: string;
  readonly #key: Buffer;

  constructor(path: string, size: number, seed: number) {
    this.path = path;
    this.size = size;
    this.#key = createHash('sha256').update(`${seed}:${path}:${size}`).digest();
    const hash = createHash('sha256');
    for (const chunk of this.chunks()) hash.update(chunk);
    this.sha256 = hash.digest('hex');
  }

  *chunks(): Generator<Buffer> {
    const stream = createCipheriv('aes-128-ctr', this.#key.subarray(0, 16), this.#key.subarray(16));
    for (let left = this.size; left > 0; left -= CHUNK)
      yield stream.update(ZEROS.subarray(0, Math.min(left, CHUNK)));
  }
}

/** Log-uniform from 0 to `most`, one from each of `count` equal shares of that scale, in random order. */
export function sizes(count: number, most: number, random: Random): number[] {
  const all = Array.from({ length: count }, (_, at) =>
    Math.floor((most + 1) ** ((at + random()) / count) - 1),
  );
  return shuffled(all, random);
}
