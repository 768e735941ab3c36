/** What tests put around a driver: reads and writes that wait for a gate, or fail as they are told. */
import { pause } from '../../lib/deadline.ts';
import { Failure, type FailureKind } from '../../lib/errors.ts';
import type { StorePath } from '../../lib/path.ts';
import type {
  Body,
  ByteRange,
  Bytes,
  Driver,
  FileEntry,
  ListCall,
  Multipart,
  ReadCall,
  Reading,
  WriteCall,
} from '../../lib/stores/driver.ts';

/** Passes everything on. */
class Around implements Driver {
  protected readonly inner: Driver;
  readonly multipart?: Multipart;
  constructor(inner: Driver) {
    this.inner = inner;
    if (inner.multipart) this.multipart = inner.multipart;
  }
  get traits() {
    return this.inner.traits;
  }
  refuses(path: StorePath): string | undefined {
    return this.inner.refuses(path);
  }
  head(path: StorePath, call: { signal: AbortSignal }): Promise<FileEntry> {
    return this.inner.head(path, call);
  }
  read(path: StorePath, range: ByteRange | undefined, call: ReadCall): Promise<Reading> {
    return this.inner.read(path, range, call);
  }
  write(path: StorePath, body: Body, call: WriteCall): Promise<FileEntry> {
    return this.inner.write(path, body, call);
  }
  list(dir: StorePath, call: ListCall) {
    return this.inner.list(dir, call);
  }
  remove(paths: readonly StorePath[], call: { signal: AbortSignal }) {
    return this.inner.remove(paths, call);
  }
  async prune(dir: StorePath, call: { signal: AbortSignal }): Promise<void> {
    await this.inner.prune?.(dir, call);
  }
  async makeDirectory(dir: StorePath, call: { signal: AbortSignal }): Promise<void> {
    await this.inner.makeDirectory?.(dir, call);
  }
  async *leftovers(call: { signal: AbortSignal }) {
    if (this.inner.leftovers) yield* this.inner.leftovers(call);
  }
  classify(error: unknown) {
    return this.inner.classify(error);
  }
  close(): Promise<void> {
    return this.inner.close();
  }
}

/** Reads of a gated store give half of their bytes and then wait until the gate is open. */
export class Gate {
  #open = false;
  /** Reads that wait. */
  waiting = 0;
  open(): void {
    this.#open = true;
  }
  around(driver: Driver): Driver {
    const gate = this;
    return new (class extends Around {
      override async read(path: StorePath, range: ByteRange | undefined, call: ReadCall): Promise<Reading> {
        const { content: _, ...reading } = await super.read(path, range, call);
        return { ...reading, bytes: gate.#halfway(reading, call.signal) };
      }
    })(driver);
  }
  async *#halfway({ bytes, range }: Reading, signal: AbortSignal): Bytes {
    let left = Math.floor((range.end - range.start) / 2);
    for await (const chunk of bytes) {
      const now = Math.min(left, chunk.length);
      if (now > 0) yield chunk.subarray(0, now);
      left -= now;
      if (now === chunk.length) continue;
      await this.#passed(signal);
      yield chunk.subarray(now);
    }
  }
  async #passed(signal: AbortSignal): Promise<void> {
    if (this.#open) return;
    this.waiting++;
    try {
      while (!this.#open) await pause(5, signal);
    } finally {
      this.waiting--;
    }
  }
}

/** Each write takes the next failure, until none is left. */
export class Trouble {
  readonly failures: { readonly kind: FailureKind; readonly retryAfterMs?: number }[] = [];
  writes = 0;
  around(driver: Driver): Driver {
    const trouble = this;
    return new (class extends Around {
      override async write(path: StorePath, body: Body, call: WriteCall): Promise<FileEntry> {
        trouble.writes++;
        const next = trouble.failures.shift();
        if (next)
          throw new Failure(
            next.kind,
            `no luck today (${next.kind})`,
            next.retryAfterMs === undefined ? {} : { retryAfterMs: next.retryAfterMs },
          );
        return super.write(path, body, call);
      }
    })(driver);
  }
}
