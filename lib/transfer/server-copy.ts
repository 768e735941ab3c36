/** Copies whose bytes never leave the server: both places are on it, and it knows us by one name at both. */
import { crcOfHex } from '../digests.ts';
import type { Place } from '../ledger/transfer.ts';
import type { WriteCall } from '../stores/driver.ts';
import type { Published } from '../stores/store.ts';
import type { TransferDeps } from './deps.ts';
import { settled } from './join.ts';
import { uploadJournal } from './journal.ts';
import { type OneServer, serverOf } from './parts.ts';

/** The powers of both stores, where one request can copy so many bytes. */
export function copierOf(
  deps: TransferDeps,
  from: Place | undefined,
  to: Place,
  size: number,
): OneServer | undefined {
  const server = from && serverOf(deps, from, to);
  return server && size <= server.target.maxBytes ? server : undefined;
}

/** The version of an object that is to be copied. */
export interface CopySource extends Place {
  readonly etag: string;
  readonly size: number;
  /** Lower-case hex. */
  readonly crc32: string | undefined;
  /** As `WholeSource.carries`. */
  readonly carries?: boolean;
}

/** @throws Failure `precondition` where the source was replaced meanwhile, `unsupported` where the server cannot copy it after all */
export function copyOnServer(
  deps: TransferDeps,
  { source, target }: OneServer,
  from: CopySource,
  to: Place,
  call: WriteCall,
): Promise<Published> {
  const { path, etag, size, carries = false } = from;
  const what = { ...call, to, size, crc32: crcOfHex(from.crc32), passedHere: false };
  const journal = uploadJournal(deps.ledger.uploads, to.store, call.token);
  return settled(deps, what, () =>
    target.copy({ source: source.source(path), etag, size, carries }, to.path, { ...call, journal }),
  );
}
