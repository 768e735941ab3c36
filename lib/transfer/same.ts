/** Whether two objects hold the same bytes, found out as cheaply as what is known of them allows. */
import { Digester, type Digests, EMPTY_SHA256, hexOfCrc, wholeCrc } from '../digests.ts';
import type { Objects } from '../ledger/contract.ts';
import type { Place } from '../ledger/transfer.ts';
import type { Bytes, FileEntry } from '../stores/driver.ts';
import type { Store } from '../stores/store.ts';

/** What bytes are known to be. */
export interface Known {
  readonly size: number;
  readonly sha256?: string | undefined;
  /** Lower-case hex. */
  readonly crc32?: string | undefined;
}

export const knownOf = (digests: Digests): Known => ({
  size: digests.size,
  sha256: digests.sha256,
  crc32: hexOfCrc(wholeCrc(digests)),
});

/**
 * Parts prove a CRC32 of the whole and no more: where only its SHA-256 is known (it was recorded by a release that kept
 * no CRC32), nothing but one pass over all bytes tells before they are published whether they are the right ones.
 */
export const takesOnePass = ({ sha256, crc32 }: Known): boolean =>
  sha256 !== undefined && crc32 === undefined;

/** What the ledger and the store say of an object, without reading it. */
export async function knownAt(
  objects: Pick<Objects, 'known'>,
  place: Place,
  entry: FileEntry,
): Promise<Known> {
  if (entry.size === 0) return { size: 0, sha256: EMPTY_SHA256, crc32: hexOfCrc(0) };
  const known = await objects.known(place, entry.etag);
  const crc32 = entry.crc32 ?? known?.crc32;
  return {
    size: entry.size,
    sha256: known?.sha256,
    ...(crc32 !== undefined && { crc32: hexOfCrc(crc32) }),
  };
}

/** Reads it all. @throws Failure `precondition`: it was replaced meanwhile */
export async function readKnown(
  store: Store,
  entry: FileEntry,
  signal: AbortSignal,
  onBytes: () => void,
): Promise<Known> {
  const reading = await store.read(entry.path, { ifMatch: entry.etag, signal });
  return knownOf(await digestsOf(reading.bytes, onBytes));
}

async function digestsOf(bytes: Bytes, onBytes: () => void): Promise<Digests> {
  const digester = new Digester();
  for await (const chunk of bytes) {
    digester.update(chunk);
    onBytes();
  }
  return digester.end().digests;
}

/** `undefined`: what is known does not tell. */
export function equal(a: Known, b: Known): boolean | undefined {
  if (a.size !== b.size) return false;
  if (a.sha256 !== undefined && b.sha256 !== undefined) return a.sha256 === b.sha256;
  if (a.crc32 !== undefined && b.crc32 !== undefined && a.crc32 !== b.crc32) return false;
  return undefined;
}
