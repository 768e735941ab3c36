/** Copies whose bytes never leave the server: both places are on it, and it knows us by one name at both. */
import { Failure } from '../errors.ts';
import { baseName } from '../path.ts';
import type { WriteCall } from '../stores/driver.ts';
import type { Published } from '../stores/store.ts';
import { settled } from './join.ts';
import { contentTypeOf } from './media-type.ts';
import { serverOf } from './parts.ts';
import type { Sending } from './send.ts';

/** Whether one request can copy it. */
export function isOnServer({ deps, row, to, source }: Sending): boolean {
  const server = row.from && serverOf(deps, row.from, to);
  return server !== undefined && source.entry !== undefined && source.known.size <= server.target.maxBytes;
}

/**
 * @returns undefined where the server cannot copy it after all: then it goes through here
 * @throws Failure `unavailable` where the source was replaced meanwhile: the next attempt takes the new one
 */
export async function copyOnServer(
  { deps, row, to, source, mode }: Sending,
  signal: AbortSignal,
): Promise<Published | undefined> {
  const { from } = row;
  const server = from && serverOf(deps, from, to);
  if (!server || !source.entry) return undefined;
  const { size, crc32: hex } = source.known;
  const version = { source: server.source.source(from.path), etag: source.entry.etag, size };
  const token = `${row.id}-${row.epoch}`;
  const call: WriteCall = { signal, mode, token, mediaType: contentTypeOf(baseName(to.path)) };
  const crc32 = hex === undefined ? undefined : Number.parseInt(hex, 16);
  try {
    const what = { to, size, crc32, mode, token, signal, passedHere: false };
    return await settled(deps, what, () => server.target.copy(version, to.path, call));
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    if (error.kind === 'unsupported') return undefined;
    if (error.kind === 'precondition')
      throw new Failure('unavailable', error.message, error.facts, { cause: error });
    throw error;
  }
}
