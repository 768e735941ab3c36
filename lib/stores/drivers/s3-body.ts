/** The bytes of an answer: all of them, or an error. */
import { Failure } from '../../errors.ts';
import type { Bytes } from '../driver.ts';
import { letGo } from './s3-client.ts';
import { scrub } from './s3-errors.ts';

export async function* nothing(): AsyncGenerator<Uint8Array> {}

/** The bytes of an answer, all of them or an error. Left before the first, the connection is freed all the same. */
export function wholeBody(body: Bytes, length: number, signal: AbortSignal): Bytes {
  const chunks = chunksOf(body, length, signal);
  let begun = false;
  const next = () => {
    begun = true;
    return chunks.next();
  };
  const stop = async () => {
    // a generator that was never asked for anything ends no body
    if (!begun) letGo(body);
    return chunks.return();
  };
  return { [Symbol.asyncIterator]: () => ({ next, return: stop }) };
}

async function* chunksOf(
  body: Bytes,
  length: number,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void, undefined> {
  let size = 0;
  try {
    for await (const chunk of body) {
      size += chunk.length;
      yield chunk;
    }
  } catch (error) {
    signal.throwIfAborted();
    throw scrub(error);
  }
  if (size !== length) throw endedEarly(size, length);
}

export const endedEarly = (size: number, length: number): Failure =>
  new Failure('unavailable', `the answer ended after ${size} of ${length} bytes`);
