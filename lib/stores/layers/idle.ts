/** Readings whose consumers stand still: a client that does not read must not keep others from the store. */
import { Failure } from '../../errors.ts';
import type { Bytes } from '../driver.ts';
import { tapped } from './around.ts';

/** How long a consumer may take over one chunk while others wait. */
const IDLE_MS = 250;

interface Open {
  /** Since when nobody has asked for more; undefined: somebody waits for more. */
  idleSinceMs: number | undefined;
  isLetGo: boolean;
  letGo(): void;
}

export class IdleReadings {
  readonly #open = new Set<Open>();

  /**
   * `bytes`, which may be let go of between two chunks; asked for more then, they fail with `busy`, and whoever wants
   * the rest opens it again at its offset. The last chunk stays as it is.
   * @param over called once, when nothing is held for them any more
   */
  watch(bytes: Bytes, over: () => void): Bytes {
    const source = bytes[Symbol.asyncIterator]();
    const open: Open = {
      idleSinceMs: Date.now(),
      isLetGo: false,
      letGo: () => {
        open.isLetGo = true;
        this.#open.delete(open);
        const closed = source.return?.() ?? Promise.resolve();
        closed.then(over, over);
      },
    };
    this.#open.add(open);
    return tapped(
      { [Symbol.asyncIterator]: () => source },
      async (next) => {
        if (open.isLetGo) throw letGo();
        open.idleSinceMs = undefined;
        try {
          return await next();
        } finally {
          open.idleSinceMs = Date.now();
        }
      },
      () => {
        this.#open.delete(open);
        if (!open.isLetGo) over();
      },
    );
  }

  /** Of the one that stands still for longest, where there is one that has done so for a while. */
  letGoOfOne(): void {
    let longest: Open | undefined;
    for (const open of this.#open)
      if ((open.idleSinceMs ?? Infinity) < (longest?.idleSinceMs ?? Date.now() - IDLE_MS)) longest = open;
    longest?.letGo();
  }
}

const letGo = (): Failure =>
  new Failure('busy', 'the reading stood still while others waited for the store; it is opened again');
