/** Reading a file that is open already, in chunks with one read ahead, into memory that is used again. */
import type { FileHandle } from 'node:fs/promises';
import { Failure } from '../../errors.ts';
import type { StorePath } from '../../path.ts';
import type { ByteRange, Bytes, FileEntry } from '../driver.ts';
import { entryOf } from './file-publish.ts';

/** Chunks of a long read, and the size up to which a read is short. */
const LONG_BYTES = 512 * 1024;
export const SHORT_BYTES = 64 * 1024;
/** Buffers of each size that are kept for the next read. */
const SPARE_MOST = 16;
const spare = new Map<number, Buffer[]>([
  [LONG_BYTES, []],
  [SHORT_BYTES, []],
]);

const take = (bytes: number): Buffer => spare.get(bytes)?.pop() ?? Buffer.allocUnsafeSlow(bytes);
function giveBack(buffer: Buffer): void {
  const kept = spare.get(buffer.length);
  if (kept && kept.length < SPARE_MOST) kept.push(buffer);
}

/** All of a short range at once. Closes `handle`. */
export async function fileContent(
  handle: FileHandle,
  entry: FileEntry,
  range: ByteRange,
): Promise<Uint8Array> {
  try {
    const into = Buffer.allocUnsafeSlow(range.end - range.start);
    const content = await readFully(handle, entry.path, into, range.start);
    await assertUnaltered(handle, entry);
    return content;
  } finally {
    await handle.close();
  }
}

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
  const chunkBytes = range.end - range.start <= SHORT_BYTES ? SHORT_BYTES : LONG_BYTES;
  const read = (buffer: Buffer, at: number) =>
    readFully(handle, entry.path, buffer.subarray(0, Math.min(chunkBytes, range.end - at)), at);
  let current = take(chunkBytes);
  let other: Buffer | undefined;
  let reading: Promise<Uint8Array> | undefined;
  let isLent = false;
  try {
    for (let at = range.start; at < range.end; ) {
      const chunk = await (reading ?? read(current, at));
      at += chunk.length;
      reading = undefined;
      // the other buffer was lent until now, and is free since this chunk was asked for
      if (at < range.end) {
        reading = read((other ??= take(chunkBytes)), at);
        reading.catch(() => undefined); // told when it is its turn
      } else await assertUnaltered(handle, entry);
      signal.throwIfAborted();
      isLent = true;
      yield chunk;
      isLent = false;
      if (other) [current, other] = [other, current];
    }
  } finally {
    await reading?.catch(() => undefined); // the kernel may still be filling it
    // who stops here may still be sending what it was given last
    for (const buffer of isLent ? [other] : [current, other]) if (buffer) giveBack(buffer);
    await handle.close();
  }
}

async function readFully(handle: FileHandle, path: StorePath, into: Buffer, at: number): Promise<Uint8Array> {
  for (let filled = 0; filled < into.length; ) {
    const { bytesRead } = await handle.read(into, filled, into.length - filled, at + filled);
    if (bytesRead === 0) throw alteredInPlace(path);
    filled += bytesRead;
  }
  return into;
}

/** Before the last chunk goes out: bytes that another program wrote into the file itself are of no one version. */
async function assertUnaltered(handle: FileHandle, entry: FileEntry): Promise<void> {
  const now = entryOf(entry.path, await handle.stat({ bigint: true }));
  if (now.etag !== entry.etag) throw alteredInPlace(entry.path);
}

const alteredInPlace = (path: StorePath) =>
  new Failure(
    'unavailable',
    `could not read ${path}: another program wrote into it meanwhile; read it again`,
    { op: 'read', path },
  );
