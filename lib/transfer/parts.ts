/**
 * Something large in parts, each a job of its own: how it is cut, what the store has of it, and how it is joined. The
 * store is the ledger of parts: whoever goes on with an upload asks it which ones are missing, and only those are sent.
 * The row in the ledger says which upload that is, and how it was cut; it outlives epochs and workers.
 */
import { BLOCK_BYTES, combineCrc, crcOfHex, type Digests, hexOfCrc } from '../digests.ts';
import { Failure } from '../errors.ts';
import type { PartedUpload } from '../ledger/contract.ts';
import type { Place } from '../ledger/transfer.ts';
import type { ByteRange, FileEntry, Multipart, Receipt, ServerCopy, WriteCall } from '../stores/driver.ts';
import type { Store } from '../stores/store.ts';
import { findStore, nameOf, storeAt, type TransferDeps } from './deps.ts';

const MIB = 1024 * 1024;
const SMALLEST_PART_BYTES = 16 * MIB;
/** More jobs than this for one object cost more than larger parts do. */
const MOST_PARTS = 10_000;
/** For cleaning up after the caller's own signal has fired. */
const CLEAN_UP_MS = 30_000;

/** What is to be carried in parts, and where to. */
export interface Whole {
  /** Of the row in the ledger: the transfer's id; of a file of a tree with a dot and its page's number. */
  readonly owner: string;
  /** In staging for a download: the path is the transfer's id. */
  readonly to: Place;
  readonly size: number;
  /** The version that every byte is to be of; undefined: the transfer's staged bytes. */
  readonly from?: (Place & { readonly etag: string }) | undefined;
  /** As `WriteCall.token`. */
  readonly token: string;
  readonly mediaType?: string | undefined;
  /** As `WriteCall.attributes`. */
  readonly attributes?: WriteCall['attributes'] | undefined;
}

export type BegunUpload = PartedUpload & { readonly uploadId: string };

/** What the store has of it. */
export interface Parts {
  readonly upload: BegunUpload;
  /** Those of the right size, by number. */
  readonly receipts: readonly Receipt[];
  /** Numbers, from 1. */
  readonly missing: readonly number[];
}

/** How the jobs that carry parts are made and heard of. */
export interface PartJobs {
  /** From this size on an object is carried in parts; bytes. */
  readonly thresholdBytes: number;
  /** Why one of its parts was given up since this was last asked, and which. */
  gaveUp(upload: string): Promise<Failure | undefined>;
  /** A job for each missing part. @throws Failure `unavailable` where they can't be made, or ended without any effect */
  handOut(parts: Parts): Promise<void>;
}

/** The store at a place, which may be staging. */
export const partedStore = (deps: TransferDeps, place: Place): Store =>
  findStore(deps, place) ?? storeAt(deps, place);

export interface OneServer {
  readonly source: ServerCopy;
  readonly target: ServerCopy;
}

/** The powers of both stores where they are on one server. */
export function serverOf(deps: TransferDeps, from: Place, to: Place): OneServer | undefined {
  const source = storeAt(deps, from).serverCopy;
  const target = partedStore(deps, to).serverCopy;
  return source && target && source.realm === target.realm ? { source, target } : undefined;
}

export function multipartAt(deps: TransferDeps, place: Place): Multipart {
  const { multipart } = partedStore(deps, place);
  if (multipart) return multipart;
  throw new Failure('unsupported', `could not go on with ${nameOf(place)}: that store takes no parts`);
}

/** Bytes of each part but the last; `undefined`: it goes in one. */
export function partBytesOf(
  deps: TransferDeps,
  { to, from, size }: Pick<Whole, 'to' | 'from' | 'size'>,
  thresholdBytes: number,
): number | undefined {
  const limits = partedStore(deps, to).multipart?.limits;
  const source = from ? storeAt(deps, from) : deps.staging.store;
  if (size < thresholdBytes || limits?.order !== 'any' || !source.traits.rangedRead) return undefined;
  const needed = Math.max(SMALLEST_PART_BYTES, limits.minBytes, size / Math.min(limits.maxParts, MOST_PARTS));
  // whole blocks of staging's, so that their CRCs combine to the part's
  const partBytes = Math.ceil(needed / BLOCK_BYTES) * BLOCK_BYTES;
  return partBytes < size && partBytes <= limits.maxBytes ? partBytes : undefined;
}

export function partRange({ size, partBytes }: PartedUpload, number: number): ByteRange {
  const start = (number - 1) * partBytes;
  return { start, end: Math.min(start + partBytes, size) };
}

/** CRC32 of a range that begins at a block and ends at one or with the bytes. */
export function crcOfRange({ size, blockCrcs }: Digests, { start, end }: ByteRange): number {
  let crc = 0;
  for (let at = start; at < end; at += BLOCK_BYTES)
    crc = combineCrc(crc, blockCrcs[at / BLOCK_BYTES]!, Math.min(BLOCK_BYTES, size - at));
  return crc;
}

export interface GatherOptions {
  /** Of staged bytes: a part that is not what they say is missing. */
  readonly digests?: Digests | undefined;
  /** CRC32 of the source, as hex. */
  readonly known: string | undefined;
  /** What another worker that has it as well has made of the whole. Asked before anything is begun (anew). */
  readonly published: () => Promise<FileEntry | undefined>;
  readonly jobs: PartJobs;
  readonly signal: AbortSignal;
}

/** All parts, which are the source's bytes together. */
export interface GatheredParts {
  readonly parts: Parts;
  /** Of the whole, where anybody knows it. */
  readonly crc32: number | undefined;
  /** The parts' CRC32 and the source's are the same. */
  readonly compared: boolean;
}

/** There is nothing left to be joined. */
export interface PublishedMeanwhile {
  readonly published: FileEntry;
}

/**
 * All parts, once the store has them; until then those that are missing become jobs.
 * @returns undefined where it is not to go in parts
 * @throws Failure as `openParts` and `assertParts`
 */
export async function gatherParts(
  deps: TransferDeps,
  whole: Whole,
  { known, ...opts }: GatherOptions,
): Promise<GatheredParts | PublishedMeanwhile | 'handed-out' | undefined> {
  const partBytes = partBytesOf(deps, whole, opts.jobs.thresholdBytes);
  if (partBytes === undefined) return undefined;
  const parts = await openParts(deps, whole, { partBytes, ...opts });
  if ('published' in parts) return parts;
  if (parts.missing.length === 0) return { parts, ...(await assertParts(deps, parts, known)) };
  await opts.jobs.handOut(parts);
  return 'handed-out';
}

/**
 * The upload of this owner, begun if nobody has (what it was begun with stays), and what the store has of it. Where the
 * ledger or the store knows of none any more, another worker may just have published it: nothing is sent again before
 * that was looked at.
 * @throws Failure why one of its parts was given up since this was last asked; `unavailable` where the source is another
 *   one than the parts there are of: they are abandoned, and the next attempt starts over
 */
async function openParts(
  deps: TransferDeps,
  whole: Whole,
  {
    partBytes,
    digests,
    published,
    jobs,
    signal,
  }: Omit<GatherOptions, 'known'> & { readonly partBytes: number },
): Promise<Parts | PublishedMeanwhile> {
  const { uploads } = deps.ledger;
  const { to: place, owner, size, from } = whole;
  for (let lost = 0; ; lost++) {
    const row = await uploads.ensureParted({ place, owner, size, partBytes, ...(from && { from }) });
    const gaveUp = await jobs.gaveUp(row.id);
    if (!isOf(row, whole)) {
      await abandonParts(deps, row);
      throw new Failure(
        'unavailable',
        `${from ? nameOf(from) : 'the staged upload'} was replaced while its parts were carried to ${nameOf(place)}: starting over`,
        { op: 'read', store: place.store, path: place.path },
      );
    }
    const there = isBegun(row) || lost > 0 ? undefined : await published();
    if (there) return { published: there };
    const upload = await begun(deps, row, whole, signal);
    try {
      const parts = await lookAt(deps, upload, digests, signal);
      if (gaveUp) throw gaveUp;
      return parts;
    } catch (error) {
      if (!isLost(error, upload) || lost > 0) throw error;
      const found = await published();
      if (found) return { published: found };
      // somebody has given it up, and its parts are gone
      await uploads.ended(upload.id);
      if (gaveUp) throw gaveUp;
    }
  }
}

/** It is of the same version of the same source, for the same place. */
export const isOf = (row: PartedUpload, { to, size, from }: Pick<Whole, 'to' | 'size' | 'from'>): boolean =>
  row.size === size &&
  row.place.store === to.store &&
  row.place.path === to.path &&
  row.from?.store === from?.store &&
  row.from?.path === from?.path &&
  row.from?.etag === from?.etag;

async function begun(
  deps: TransferDeps,
  row: PartedUpload,
  { to, from, token, mediaType, attributes }: Whole,
  signal: AbortSignal,
): Promise<BegunUpload> {
  if (isBegun(row)) return row;
  const { uploads } = deps.ledger;
  const multipart = multipartAt(deps, to);
  const beginner = (from && serverOf(deps, from, to)?.target) ?? multipart;
  // written down on its own: where this is cut off before the row has its id, nothing else would tell gc of it
  const intent = await uploads.intend(to, token);
  const { id, notKept = [] } = await beginner.begin(to.path, {
    signal,
    mode: 'replace',
    token,
    ...(mediaType !== undefined && { mediaType }),
    ...(attributes !== undefined && { attributes }),
  });
  if (await uploads.begun(row.id, id, notKept)) {
    await uploads.ended(intent);
    return { ...row, uploadId: id, notKept };
  }
  await multipart.abandon({ path: to.path, id }, { signal });
  await uploads.ended(intent);
  const winner = await uploads.parted(row.id);
  if (winner && isBegun(winner)) return winner;
  throw new Failure(
    'unavailable',
    `could not begin an upload to ${nameOf(to)}: it was given up before it had begun; try again`,
    { op: 'begin', store: to.store, path: to.path },
  );
}

const isBegun = (row: PartedUpload): row is BegunUpload => row.uploadId !== undefined;

async function lookAt(
  deps: TransferDeps,
  upload: BegunUpload,
  digests: Digests | undefined,
  signal: AbortSignal,
): Promise<Parts> {
  const { place, uploadId } = upload;
  const found = new Map<number, Receipt>();
  const listing = multipartAt(deps, place).parts({ path: place.path, id: uploadId }, { signal });
  for await (const page of listing) for (const receipt of page) found.set(receipt.number, receipt);
  const receipts: Receipt[] = [];
  const missing: number[] = [];
  for (let number = 1; (number - 1) * upload.partBytes < upload.size; number++) {
    const range = partRange(upload, number);
    const receipt = found.get(number);
    const isGood =
      receipt?.size === range.end - range.start &&
      (!digests || receipt.crc32 === undefined || receipt.crc32 === crcOfRange(digests, range));
    if (receipt && isGood) receipts.push(receipt);
    else missing.push(number);
  }
  return { upload, receipts, missing };
}

/** Whether an earlier try has brought it there, and could not say so. */
export async function hasPart(
  deps: TransferDeps,
  upload: BegunUpload,
  number: number,
  digests: Digests | undefined,
  signal: AbortSignal,
): Promise<boolean> {
  return !(await lookAt(deps, upload, digests, signal)).missing.includes(number);
}

/** The store does not know the upload (any more). What the source says of itself is no such word. */
export const isLost = (error: unknown, { place }: PartedUpload): boolean =>
  error instanceof Failure &&
  error.kind === 'not-found' &&
  error.facts.op !== 'read' &&
  error.facts.store === place.store;

/** CRC32 of all parts together; `undefined` where the store did not tell it of every one. */
export function crcOfParts({ receipts }: Parts): number | undefined {
  let crc = 0;
  for (const receipt of receipts) {
    if (receipt.crc32 === undefined) return undefined;
    crc = combineCrc(crc, receipt.crc32, receipt.size);
  }
  return crc;
}

/**
 * All parts are there; are they what the source is known to be? Each is what was sent, but perhaps not what was to be
 * read.
 * @param known CRC32 of the source, as hex
 * @returns that of the whole where anybody knows it, and whether the parts' and the source's were compared
 * @throws Failure `corrupt`: all of them are given up, for none can be told from the others
 */
async function assertParts(
  deps: TransferDeps,
  parts: Parts,
  known: string | undefined,
): Promise<Omit<GatheredParts, 'parts'>> {
  const crc = crcOfParts(parts);
  if (known === undefined) return { crc32: crc, compared: false };
  if (crc === undefined) return { crc32: crcOfHex(known), compared: false };
  if (hexOfCrc(crc) === known) return { crc32: crc, compared: true };
  await abandonParts(deps, parts.upload);
  const { place, from } = parts.upload;
  throw new Failure(
    'corrupt',
    `nothing was stored: the parts for ${nameOf(place)} have the CRC32 ${hexOfCrc(crc)} together, ${from ? nameOf(from) : 'what was staged'} has ${known}`,
    { op: 'put', store: place.store, path: place.path },
  );
}

/** At the store, then in the ledger. What fails is left to gc, which finds the row. Never throws. */
export async function abandonParts(
  deps: TransferDeps,
  upload: PartedUpload,
  signal?: AbortSignal,
): Promise<void> {
  const { id, place, uploadId } = upload;
  try {
    await abandonAtStore(deps, upload, signal);
    await deps.ledger.uploads.ended(id);
  } catch (error) {
    deps.log.warn({ upload: uploadId, at: nameOf(place), err: error }, 'could not abandon parts; gc will');
  }
}

/** The row stays: parts that are still on their way may bring it back. @throws Failure where the store did not do it */
export async function abandonAtStore(
  deps: TransferDeps,
  { place, uploadId }: PartedUpload,
  stopping?: AbortSignal,
): Promise<void> {
  const patience = AbortSignal.timeout(CLEAN_UP_MS);
  const signal = stopping ? AbortSignal.any([patience, stopping]) : patience;
  if (uploadId !== undefined)
    await partedStore(deps, place).abandon({ path: place.path, id: uploadId }, signal);
}

/**
 * Once a transfer has ended, however that came: nothing of it stays in a store unless it was published. Answers the rows
 * there were. @throws Failure where the ledger can't be asked
 */
export async function releaseParts(
  deps: TransferDeps,
  transfer: string,
  signal?: AbortSignal,
): Promise<readonly PartedUpload[]> {
  const uploads = await deps.ledger.uploads.partedOf(transfer);
  for (const upload of uploads) if (!signal?.aborted) await abandonParts(deps, upload, signal);
  return uploads;
}
