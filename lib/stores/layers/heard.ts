/** A body whose bytes are signs of life, told as the store takes them; its source may be slow, stuck or given up. */
import { stopReason } from '../../deadline.ts';
import type { Body, Bytes } from '../driver.ts';

/** Bytes between two signs of life: what even a slow line takes before it is taken for dead. */
const PIECE_BYTES = 1024 * 1024;

export interface Ear {
  readonly signal: AbortSignal;
  /** The store took a piece. */
  progress(): void;
  /** From now until the next piece it is the source that is waited for. */
  atSource(): void;
}

/** `body` in pieces of 1 MiB at most; ends with the signal's reason as soon as that fires, also where the source is stuck. */
export function heard(body: Body, ear: Ear): Body {
  return {
    ...body,
    open: () => {
      const chunks = body.open();
      if (!(Symbol.iterator in chunks)) return fromSource(chunks, ear);
      if (body.size > PIECE_BYTES) return inMemory(chunks, ear);
      ear.progress();
      return chunks;
    },
  };
}

function* inMemory(chunks: Iterable<Uint8Array>, ear: Ear): Generator<Uint8Array> {
  for (const chunk of chunks)
    for (let at = 0; at < chunk.length; at += PIECE_BYTES) {
      ear.progress();
      yield chunk.length <= PIECE_BYTES ? chunk : chunk.subarray(at, at + PIECE_BYTES);
    }
}

async function* fromSource(chunks: Bytes, ear: Ear): AsyncGenerator<Uint8Array> {
  const source = chunks[Symbol.asyncIterator]();
  try {
    for (;;) {
      ear.atSource();
      const step = await unlessStopped(source.next(), ear.signal);
      ear.progress();
      if (step.done) return;
      yield* inMemory([step.value], ear);
    }
  } finally {
    const left = source.return?.();
    if (ear.signal.aborted)
      left?.catch(() => undefined); // it may never come back
    else await left;
  }
}

function unlessStopped<T>(step: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const stop = (): void => reject(stopReason(signal));
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop, { once: true });
    step.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop));
  });
}
