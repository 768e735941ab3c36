/** How many files of trees a process carries at once, whatever the number of pages that it has at hand. */
import type { BufferPool } from '../stores/buffers.ts';

/** More of them wait in memory and are carried no sooner. */
const FILES_AT_ONCE = 24;

export class FileSlots {
  #free = FILES_AT_ONCE;
  readonly #waiting: (() => void)[] = [];

  /** First come, first served. It is short: whoever has one gives it back when its signal fires. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free++;
    }
  }
}

const ofProcess = new WeakMap<BufferPool, FileSlots>();

/** Those of the process whose memory this is. */
export function fileSlotsOf(buffers: BufferPool): FileSlots {
  const known = ofProcess.get(buffers);
  if (known) return known;
  const slots = new FileSlots();
  ofProcess.set(buffers, slots);
  return slots;
}
