/** One part: its bytes from where they lie to the store, proved on the way. Doing it twice has the effect of once. */
import { crc32 as updateCrc } from 'node:zlib';
import { holdWatches } from '../deadline.ts';
import type { Digests } from '../digests.ts';
import { Failure } from '../errors.ts';
import type { BufferLease } from '../stores/buffer-lease.ts';
import type { Body, ByteRange, Bytes, Receipt } from '../stores/driver.ts';
import { nameOf, storeAt, type TransferDeps } from './deps.ts';
import { type BegunUpload, crcOfRange, multipartAt, partedStore, partRange, serverOf } from './parts.ts';

export interface PartOptions {
  readonly signal: AbortSignal;
  /** Of the staged bytes, where the part is one of those. */
  readonly digests?: Digests | undefined;
  /** Bytes of the part that were moved so far; again for every chunk that moves, also where that adds nothing. */
  onProgress(bytes: number): void;
  /** From here on nothing moves that could be seen: the server copies by itself. */
  onRest(): void;
}

/**
 * @throws Failure why the store does not have it. `precondition` (the source is another version by now) and one that
 *   `isLost` speak of the whole: no part will go well any more
 */
export async function sendPart(
  deps: TransferDeps,
  upload: BegunUpload,
  number: number,
  opts: PartOptions,
): Promise<void> {
  const range = partRange(upload, number);
  if (upload.from && (await copiedThere(deps, upload, number, range, opts))) return;
  if (!upload.from) return sendStaged(deps, upload, number, range, opts);
  if (range.end - range.start <= deps.buffers.largestLeaseBytes)
    return sendHeld(deps, upload, number, range, opts);
  return sendTwiceRead(deps, upload, number, range, opts);
}

/**
 * On the server's own side, where both places are on one. `false`: not that way, also where the server turns out not to
 * know such copies: the upload was begun for them, and what is then sent it does not check.
 */
async function copiedThere(
  deps: TransferDeps,
  { from, place, uploadId }: BegunUpload,
  number: number,
  range: ByteRange,
  { signal, onRest }: PartOptions,
): Promise<boolean> {
  const server = from && serverOf(deps, from, place);
  if (!server) return false;
  onRest();
  const version = { source: server.source.source(from.path), etag: from.etag };
  const part = { number, offset: range.start };
  try {
    const receipt = await server.target.part(version, range, { path: place.path, id: uploadId }, part, {
      signal,
    });
    assertReceipt(receipt, range.end - range.start, undefined);
    return true;
  } catch (error) {
    if (error instanceof Failure && error.kind === 'unsupported') return false;
    throw error;
  }
}

/** Staging's block CRCs are declared before the first byte, so that nothing of the part need be held. */
function sendStaged(
  deps: TransferDeps,
  upload: BegunUpload,
  number: number,
  range: ByteRange,
  opts: PartOptions,
): Promise<void> {
  if (!opts.digests) throw new Failure('bug', `the staged bytes of ${upload.transfer} have no digests`);
  const open = () => deps.staging.open(upload.transfer, range, opts.signal);
  return sendStreamed(deps, upload, number, range, crcOfRange(opts.digests, range), open, opts);
}

/** Read once, into memory: what leaves it has the CRC that it was given there. */
async function sendHeld(
  deps: TransferDeps,
  upload: BegunUpload,
  number: number,
  range: ByteRange,
  { signal, onProgress }: PartOptions,
): Promise<void> {
  const size = range.end - range.start;
  // waiting for memory is no stall
  const release = holdWatches(signal);
  const lease = await deps.buffers.reserve(size, signal).finally(release);
  let lent = true;
  try {
    const { bytes } = await openSource(deps, upload, range, signal);
    let crc = 0;
    for await (const chunk of bytes) {
      crc = updateCrc(chunk, crc);
      lease.append(chunk);
      onProgress(lease.filled);
    }
    lease.seal();
    const body: Body = { size, crc32: crc, open: () => told(lease, () => onProgress(size)) };
    await send(deps, upload, number, range, body, signal);
    lent = false;
  } finally {
    // whoever was stopped may not have noticed yet, and still read from it
    lease.release(lent ? 'lent' : 'free');
  }
}

function* told(lease: BufferLease, onChunk: () => void): Generator<Uint8Array> {
  for (const chunk of lease.chunks()) {
    onChunk();
    yield chunk;
  }
}

/** Too large for memory: read for its CRC first, then again to be sent, and compared as it passes. */
async function sendTwiceRead(
  deps: TransferDeps,
  upload: BegunUpload,
  number: number,
  range: ByteRange,
  opts: PartOptions,
): Promise<void> {
  const open = () => openSource(deps, upload, range, opts.signal);
  let crc = 0;
  for await (const chunk of (await open()).bytes) {
    crc = updateCrc(chunk, crc);
    opts.onProgress(0);
  }
  return sendStreamed(deps, upload, number, range, crc, open, opts);
}

async function sendStreamed(
  deps: TransferDeps,
  upload: BegunUpload,
  number: number,
  range: ByteRange,
  crc32: number,
  open: () => Promise<{ readonly bytes: Bytes }>,
  { signal, onProgress }: PartOptions,
): Promise<void> {
  const { traits } = partedStore(deps, upload.place);
  async function* bytes(): Bytes {
    let sent = 0;
    let crc = 0;
    for await (const chunk of (await open()).bytes) {
      if (!traits.checksWrites) crc = updateCrc(chunk, crc);
      sent += chunk.length;
      onProgress(sent);
      yield chunk;
    }
    // who checks what is written has seen the same: the store, or its driver where a server does not
    if (!traits.checksWrites && crc !== crc32) throw damaged(upload, number);
  }
  await send(deps, upload, number, range, { size: range.end - range.start, crc32, open: bytes }, signal);
}

async function send(
  deps: TransferDeps,
  { place, uploadId }: BegunUpload,
  number: number,
  { start }: ByteRange,
  body: Body,
  signal: AbortSignal,
): Promise<void> {
  // its receipt is believed after a crash of the machine, too
  const part = { number, offset: start, durable: true };
  const receipt = await multipartAt(deps, place).part({ path: place.path, id: uploadId }, part, body, {
    signal,
  });
  assertReceipt(receipt, body.size, body.crc32);
}

function assertReceipt({ number, size, crc32 }: Receipt, sent: number, crc: number | undefined): void {
  if (size === sent && (crc === undefined || crc32 === undefined || crc32 === crc)) return;
  throw new Failure(
    'corrupt',
    `the store has ${size} bytes of part ${number}, ${sent} were sent, or its CRC32 differs`,
    {
      op: 'put',
    },
  );
}

/** Of exactly the version that the whole upload is of. */
function openSource(
  deps: TransferDeps,
  { from }: BegunUpload,
  range: ByteRange,
  signal: AbortSignal,
): Promise<{ readonly bytes: Bytes }> {
  if (!from) throw new Failure('bug', 'a part that is read from a store has no source');
  return storeAt(deps, from).read(from.path, { range, ifMatch: from.etag, signal });
}

const damaged = ({ place, from, transfer }: BegunUpload, number: number): Failure =>
  new Failure(
    'corrupt',
    `part ${number} for ${nameOf(place)} is not what ${from ? nameOf(from) : `was staged for ${transfer}`} held before: its CRC32 differs`,
    { op: 'read', ...(from ? { store: from.store, path: from.path } : {}) },
  );
