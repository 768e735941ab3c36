/** All parts of an upload, published as one. */
import { Failure, failureOf } from '../errors.ts';
import type { Place, Verification } from '../ledger/transfer.ts';
import { type AttributeName, without } from '../stores/attributes.ts';
import type { FileEntry, WriteCall } from '../stores/driver.ts';
import type { Published } from '../stores/store.ts';
import { notKeptAt } from './carried.ts';
import { nameOf, type TransferDeps } from './deps.ts';
import { crcOfParts, isLost, multipartAt, type Parts, partedStore, serverOf } from './parts.ts';
import { headOrNothing } from './plan.ts';

export interface JoinOptions {
  /** Of the whole, where anybody knows it. */
  readonly crc32: number | undefined;
  readonly mode: 'replace' | 'create';
  /** Of this attempt; what was published by another one of the same transfer carries a like one. */
  readonly token: string;
  readonly mediaType?: string | undefined;
  readonly attributes?: WriteCall['attributes'] | undefined;
  /** What another worker has published of it; asked where the store knows the upload no more. */
  readonly published: () => Promise<FileEntry | undefined>;
  readonly signal: AbortSignal;
}

/**
 * Published and verified when it resolves. In staging the row in the ledger stays until the transfer's ending is
 * recorded: nothing else tells a worker that takes over that the bytes there are of the right version.
 * @throws Failure `already-exists` where `create` found something, `unavailable` where the store has lost the upload
 *   (the next attempt begins anew), `corrupt`
 */
export async function joinParts(deps: TransferDeps, parts: Parts, opts: JoinOptions): Promise<Published> {
  const { upload, receipts } = parts;
  const { place, uploadId, size } = upload;
  const { crc32, mode, token, mediaType, attributes, published, signal } = opts;
  const call: WriteCall = {
    signal,
    mode,
    token,
    ...(mediaType !== undefined && { mediaType }),
    ...(attributes !== undefined && { attributes: without(attributes, upload.notKept) }),
  };
  // a server that was not asked for checksums, or knows none, tells none of its parts
  const isChecked = crcOfParts(parts) !== undefined;
  const passedHere = isChecked && (upload.from === undefined || !serverOf(deps, upload.from, place));
  const joined = await settled(deps, { to: place, size, passedHere, ...opts }, () =>
    multipartAt(deps, place).finish(
      { path: place.path, id: uploadId },
      receipts,
      { size, ...(crc32 !== undefined && { crc32 }) },
      call,
    ),
  ).catch(async (error: unknown): Promise<Published> => {
    if (!isLost(error, upload)) throw error;
    const entry = await published();
    if (entry) return { entry: foundThere(opts, entry), verified: [{ check: 'size', by: 'store' }] };
    throw new Failure(
      'unavailable',
      `the store has lost the parts for ${nameOf(place)}: ${failureOf(error).message}`,
      { op: 'publish', store: place.store, path: place.path },
    );
  });
  if (place.store !== deps.staging.store.name)
    await deps.ledger.uploads.ended(upload.id).catch((error: unknown) => {
      deps.log.warn(
        { upload: upload.id, err: error },
        'the ledger was not told that an upload is over; gc will be',
      );
    });
  return joined;
}

export interface Publishing extends Omit<JoinOptions, 'published'> {
  readonly to: Place;
  readonly size: number;
  /** The bytes were sent to the store: one that checks writes has checked them. */
  readonly passedHere: boolean;
}

/** A lost reply is settled by looking: what carries a token of this transfer, or exactly its size and CRC32, is its own. */
export async function settled(
  deps: TransferDeps,
  what: Publishing,
  publish: () => Promise<FileEntry>,
): Promise<Published> {
  let entry: FileEntry;
  try {
    entry = await publish();
  } catch (error) {
    const found = what.signal.aborted ? undefined : await ours(deps, what).catch(() => undefined);
    if (!found) throw error;
    entry = foundThere(what, found);
  }
  const { to, size, crc32, passedHere } = what;
  if (entry.size !== size || (entry.crc32 !== undefined && crc32 !== undefined && entry.crc32 !== crc32))
    throw new Failure(
      'corrupt',
      `${nameOf(to)} was published with ${entry.size.toLocaleString('en-US')} bytes, but it should have ${size.toLocaleString('en-US')}, or its CRC32 differs; send it again`,
      { op: 'publish', store: to.store, path: to.path },
    );
  const verified: Verification[] = [{ check: 'size', by: 'store' }];
  const checked = passedHere && partedStore(deps, to).traits.checksWrites;
  if (crc32 !== undefined && (entry.crc32 !== undefined || checked))
    verified.push({ check: 'crc32', by: 'store' });
  return { entry, verified };
}

/** Who published it could not say what of its attributes it has. */
const foundThere = ({ attributes = {} }: Pick<JoinOptions, 'attributes'>, there: FileEntry): FileEntry => {
  const notKept = notKeptAt({ attributes, notKept: [] }, there) as readonly AttributeName[];
  return notKept.length === 0 ? there : { ...there, notKept };
};

async function ours(
  deps: TransferDeps,
  { to, size, crc32, mode, token, signal }: Publishing,
): Promise<FileEntry | undefined> {
  const entry = await headOrNothing(partedStore(deps, to), to, signal);
  if (!entry || entry.size !== size) return undefined;
  const transfer = token.slice(0, token.lastIndexOf('-') + 1);
  if (entry.token !== undefined) return entry.token.startsWith(transfer) ? entry : undefined;
  return mode === 'replace' && crc32 !== undefined && entry.crc32 === crc32 ? entry : undefined;
}
