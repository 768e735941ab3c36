/** Reading a file that is open already: small ones in one go, others in chunks with one read ahead. */
import type { FileHandle } from 'node:fs/promises';
import { Failure } from '../../errors.ts';
import type { StorePath } from '../../path.ts';
import type { ByteRange, Bytes, FileEntry } from '../driver.ts';
import { entryOf } from './file-publish.ts';

const CHUNK_BYTES = 512 * 1024;

/** Closes `handle` at the end, however that comes. */
export function fileBytes(
  handle: FileHandle,
  entry: FileEntry,
  range: ByteRange,
  signal: AbortSignal,
): Bytes {
  const chunks = chunksOf(handle, entry, range, signal);
  let begun = false;
  const next = () => {
    begun = true;
    return chunks.next();
  };
  const stop = async () => {
    // a generator that was never asked for anything runs no `finally`
    if (!begun) await handle.close();
    return chunks.return(undefined);
  };
  return { [Symbol.asyncIterator]: () => ({ next, return: stop }) };
}

async function* chunksOf(
  handle: FileHandle,
  entry: FileEntry,
  range: ByteRange,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, undefined> {
  let ahead: Promise<Buffer> | undefined;
  try {
    for (let at = range.start; at < range.end; ) {
      const chunk = await (ahead ?? readChunk(handle, entry.path, at, range.end));
      at += chunk.length;
      ahead = at < range.end ? readChunk(handle, entry.path, at, range.end) : undefined;
      ahead?.catch(() => undefined); // told when it is its turn
      signal.throwIfAborted();
      yield chunk;
    }
    // another program may have written into the file itself: such bytes are of no one version
    const after = entryOf(entry.path, await handle.stat({ bigint: true }));
    if (after.etag !== entry.etag) throw alteredInPlace(entry.path);
  } finally {
    await ahead?.catch(() => undefined); // the kernel may still be filling it
    await handle.close();
  }
}

/** Exactly the bytes from `at` up to a chunk's length or the end; a fresh buffer, since consumers queue chunks. */
async function readChunk(handle: FileHandle, path: StorePath, at: number, end: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafeSlow(Math.min(CHUNK_BYTES, end - at));
  for (let filled = 0; filled < buffer.length; ) {
    const { bytesRead } = await handle.read(buffer, filled, buffer.length - filled, at + filled);
    if (bytesRead === 0) throw alteredInPlace(path);
    filled += bytesRead;
  }
  return buffer;
}

const alteredInPlace = (path: StorePath) =>
  new Failure(
    'unavailable',
    `could not read ${path}: another program wrote into it meanwhile; read it again`,
    { op: 'read', path },
  );
