/** Randomness that can be had again: LONGSHORE_TEST_SEED is the seed that a run before has printed. */

const seed = Number(process.env.LONGSHORE_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));

/** The seed of this run, printed. */
export function seedOf(what: string): number {
  console.log(`${what}: seed ${seed} (again with LONGSHORE_TEST_SEED=${seed})`);
  return seed;
}

/** Numbers from 0 up to 1, always the same ones for a seed (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function bytesOf(size: number, random: () => number): Buffer<ArrayBuffer> {
  const bytes = Buffer.alloc(size);
  let at = 0;
  for (; at + 4 <= size; at += 4) bytes.writeUInt32LE(Math.floor(random() * 2 ** 32), at);
  for (; at < size; at++) bytes[at] = Math.floor(random() * 256);
  return bytes;
}
