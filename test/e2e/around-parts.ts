/** What tests put around a driver to see parts pass: held, failed, damaged or counted as they are told. */
import { pause } from '../../lib/deadline.ts';
import { Failure } from '../../lib/errors.ts';
import type { Bytes, Driver, Multipart, Reading } from '../../lib/stores/driver.ts';

export class PartsTap {
  /** Numbers of the parts that were tried to send, in order. */
  readonly tried: number[] = [];
  /** And of those that the store took. */
  readonly taken: number[] = [];
  begun = 0;
  abandoned = 0;
  /** Parts that wait. */
  waiting = 0;
  /** Whether a part has to wait before it is sent. */
  holds: (number: number) => boolean = () => false;
  /** Why a part fails that is tried for the nth time. */
  failure: (number: number, nth: number) => Failure | undefined = () => undefined;
  /** Goes before an upload is finished. */
  beforeFinish: () => Promise<void> = async () => {};
  /** How many of the next uploads that are finished say that they were not. */
  lostReplies = 0;
  /** Whether the byte at this offset of the object comes out of the store with a bit flipped. */
  damages: (offset: number) => boolean = () => false;

  around(driver: Driver): Driver {
    const { multipart } = driver;
    return {
      traits: driver.traits,
      refuses: (path) => driver.refuses(path),
      head: (path, call) => driver.head(path, call),
      read: async (path, range, call) => this.#damaged(await driver.read(path, range, call)),
      write: (path, body, call) => driver.write(path, body, call),
      list: (dir, call) => driver.list(dir, call),
      remove: (paths, call) => driver.remove(paths, call),
      prune: async (dir, call) => driver.prune?.(dir, call),
      leftovers: (call) => driver.leftovers!(call),
      close: () => driver.close(),
      classify: (error) => driver.classify(error),
      ...(multipart && { multipart: this.#aroundParts(multipart) }),
    };
  }

  #aroundParts(multipart: Multipart): Multipart {
    return {
      provesOwner: multipart.provesOwner,
      limits: multipart.limits,
      begin: (path, call) => {
        this.begun++;
        return multipart.begin(path, call);
      },
      part: async (upload, part, body, call) => {
        const { number } = part;
        this.tried.push(number);
        await this.#held(number, call.signal);
        const failure = this.failure(number, this.tried.filter((tried) => tried === number).length);
        if (failure) throw failure;
        const receipt = await multipart.part(upload, part, body, call);
        this.taken.push(number);
        return receipt;
      },
      parts: (upload, call) => multipart.parts(upload, call),
      finish: async (upload, receipts, whole, call) => {
        await this.beforeFinish();
        const entry = await multipart.finish(upload, receipts, whole, call);
        if (this.lostReplies-- > 0) throw new Failure('unavailable', 'the line was cut');
        return entry;
      },
      abandon: (upload, call) => {
        this.abandoned++;
        return multipart.abandon(upload, call);
      },
      pending: (path, call) => multipart.pending(path, call),
    };
  }

  async #held(number: number, signal: AbortSignal): Promise<void> {
    if (!this.holds(number)) return;
    this.waiting++;
    try {
      while (this.holds(number)) await pause(5, signal);
    } finally {
      this.waiting--;
    }
  }

  #damaged(reading: Reading): Reading {
    const { bytes, range } = reading;
    const damages = (offset: number): boolean => this.damages(offset);
    async function* some(): Bytes {
      let at = range.start;
      for await (const chunk of bytes) {
        const bad = [...Array(Math.ceil(chunk.length / STEP)).keys()]
          .map((n) => n * STEP)
          .find((n) => damages(at + n));
        if (bad === undefined) yield chunk;
        else {
          const copy = Uint8Array.from(chunk);
          copy[bad] = copy[bad]! ^ 1;
          yield copy;
        }
        at += chunk.length;
      }
    }
    return { ...reading, bytes: some() };
  }
}

/** Every so manieth byte is asked for. */
const STEP = 4096;
