/**
 * Bytes to where publishing them is one step, in whichever way suits them: on the server's own side, in parts that are
 * jobs of their own, or in one pass through this process.
 */
import { hexOfCrc } from '../digests.ts';
import { Failure } from '../errors.ts';
import type { Place, Transfer, Verification } from '../ledger/transfer.ts';
import { baseName } from '../path.ts';
import type { PrepareOptions, Published } from '../stores/store.ts';
import type { Attempt } from './attempt.ts';
import { nameOf, storeAt, type TransferDeps } from './deps.ts';
import { joinParts } from './join.ts';
import { uploadJournal } from './journal.ts';
import { contentTypeOf } from './media-type.ts';
import { assertParts, openParts, type Parts, partBytesOf, type Whole } from './parts.ts';
import type { Source } from './plan.ts';
import { type Known, knownOf } from './same.ts';
import { copyOnServer, isOnServer } from './server-copy.ts';

/** Nothing of it is visible yet. Ends with `publish` or `discard`. */
export interface Sent {
  /** What is going to be there. */
  readonly known: Known;
  /** What the bytes were compared with. */
  readonly checks: readonly Verification[];
  publish(signal: AbortSignal): Promise<Published>;
  /** Leaves nothing behind that no other attempt could go on with. Never throws. */
  discard(): Promise<void>;
}

export interface Sending {
  readonly deps: TransferDeps;
  readonly row: Transfer;
  readonly to: Place;
  readonly source: Source;
  readonly mode: 'replace' | 'create';
  readonly attempt: Attempt;
}

export async function send(sending: Sending): Promise<Sent | 'handed-out'> {
  const { row, source } = sending;
  assertUncontradicted(row, source);
  if (!needsOnePass(row, source)) {
    const inParts = await sendInParts(sending);
    if (inParts) return inParts;
    if (isOnServer(sending)) return onServer(sending);
  }
  return inOnePass(sending);
}

/** @throws Failure `invalid`: what its caller declared is not what its store vouches for */
export function assertUncontradicted({ from, expected = {} }: Transfer, { known }: Source): void {
  for (const name of ['sha256', 'crc32'] as const)
    if (from && known[name] !== undefined && expected[name] !== undefined && known[name] !== expected[name])
      throw new Failure(
        'invalid',
        `nothing was stored: the ${name} of ${nameOf(from)} is ${known[name]}, not ${expected[name]} as was declared`,
        { op: 'read', store: from.store, path: from.path },
      );
}

/**
 * Parts prove a CRC32 of the whole and no more. Where the ledger knows a SHA-256 of the source and nobody a CRC32 (it
 * was recorded by a release that kept none), or the caller declared a digest that nobody vouches for, only one pass over
 * all bytes tells before they are published whether they are the right ones. Staged bytes were proved as they came in.
 */
export const needsOnePass = ({ from, expected = {} }: Transfer, { known }: Source): boolean =>
  from !== undefined &&
  ((known.sha256 !== undefined && known.crc32 === undefined) ||
    Object.entries(expected).some(
      ([name, digest]) => digest !== undefined && known[name as keyof Known] === undefined,
    ));

export const tokenOf = ({ id, epoch }: Transfer): string => `${id}-${epoch}`;

async function sendInParts(sending: Sending): Promise<Sent | 'handed-out' | undefined> {
  const { deps, row, to, source, mode, attempt } = sending;
  const mediaType = contentTypeOf(baseName(to.path));
  const ready = await partsOf({ ...sending, mediaType }, attempt);
  if (ready === undefined || ready === 'handed-out') return ready;
  const { parts, crc32, checks } = ready;
  return {
    known: { ...source.known, ...(crc32 !== undefined && { crc32: hexOfCrc(crc32) }) },
    checks,
    publish: (signal) => joinParts(deps, parts, { crc32, mode, token: tokenOf(row), mediaType, signal }),
    // the next attempt goes on with them; whoever ends the transfer abandons them
    discard: async () => {},
  };
}

export const wholeOf = (
  { from }: Transfer,
  to: Place,
  { known, entry }: Source,
): Pick<Whole, 'to' | 'size' | 'from'> => ({
  to,
  size: known.size,
  from: from && entry && { ...from, etag: entry.etag },
});

export interface ReadyParts {
  readonly parts: Parts;
  /** Of the whole, where anybody knows it. */
  readonly crc32: number | undefined;
  readonly checks: readonly Verification[];
}

/**
 * All parts, once the store has them; until then those that are missing become jobs.
 * @returns undefined where it is not to go in parts
 * @throws Failure why a part was given up, or `corrupt` where they are not the source's bytes together
 */
export async function partsOf(
  {
    deps,
    row,
    to,
    source,
    mediaType,
  }: Pick<Sending, 'deps' | 'row' | 'to' | 'source'> & { readonly mediaType?: string },
  { signal, onProgress, parts: jobs }: Attempt,
): Promise<ReadyParts | 'handed-out' | undefined> {
  const whole: Whole = {
    ...wholeOf(row, to, source),
    owner: row.id,
    token: tokenOf(row),
    mediaType,
  };
  const partBytes = partBytesOf(deps, whole, jobs.thresholdBytes);
  if (partBytes === undefined) return undefined;
  const digests = row.from ? undefined : row.digests;
  const parts = await openParts(deps, whole, { partBytes, digests, jobs, signal });
  if (parts.missing.length > 0) {
    await jobs.handOut(parts);
    return 'handed-out';
  }
  const { crc32, compared } = await assertParts(deps, parts, source.known.crc32);
  onProgress(whole.size, whole.size);
  return { parts, crc32, checks: [...clientChecks(row), ...(compared ? crcCheck(row, source) : [])] };
}

function onServer(sending: Sending): Sent {
  const { row, source } = sending;
  const publish = async (signal: AbortSignal): Promise<Published> => {
    const published = await copyOnServer(sending, signal);
    if (published) return published;
    const sent = await inOnePass(sending);
    try {
      return await sent.publish(signal);
    } catch (error) {
      await sent.discard();
      throw error;
    }
  };
  return { known: source.known, checks: clientChecks(row), publish, discard: async () => {} };
}

async function inOnePass({ deps, row, to, source, mode, attempt }: Sending): Promise<Sent> {
  const { signal, onProgress } = attempt;
  const token = tokenOf(row);
  const { size } = source.known;
  const opts: PrepareOptions = {
    signal,
    token,
    size,
    ...demands(row, source),
    mode,
    mediaType: contentTypeOf(baseName(to.path)),
    journal: uploadJournal(deps.ledger.uploads, to.store, token),
    onProgress: (done) => onProgress(done, size),
  };
  const draft = await storeAt(deps, to).prepare(to.path, source.bytes(signal), opts);
  return {
    known: knownOf(draft.digests),
    checks: sourceChecks(row, source),
    publish: (signal) => draft.publish({ signal }),
    discard: () => draft.discard(),
  };
}

/**
 * What the bytes must be: what their store vouches for, else they were damaged on the way and another attempt may go
 * well; and what the caller declared, who else named another object, and that no attempt changes.
 */
export function demands(row: Transfer, { known }: Source): Pick<PrepareOptions, 'expected' | 'mismatch'> {
  const vouched = (what: string): boolean =>
    row.from === undefined ||
    what === 'size' ||
    ((what === 'sha256' || what === 'crc32') && known[what] !== undefined);
  // of what others have put there the ledger knows no SHA-256: then the store's own CRC32 says what it has
  const { sha256 } = known;
  return {
    expected: { ...(sha256 === undefined ? { crc32: known.crc32 } : { sha256 }), ...row.expected },
    mismatch: (what) => (vouched(what) ? 'corrupt' : 'invalid'),
  };
}

export const clientChecks = (row: Transfer): Verification[] =>
  Object.entries(row.expected ?? {})
    .filter(([, digest]) => digest !== undefined)
    .map(([check]) => ({ check, by: 'client' }));

/** What one pass compared, beyond what the store says of itself. */
export function sourceChecks(row: Transfer, source: Source): Verification[] {
  const checks = clientChecks(row);
  if (!row.from) return [...checks, { check: 'sha256', by: 'staging' }];
  if (source.known.sha256 !== undefined) return [...checks, { check: 'sha256', by: 'ledger' }];
  return [...checks, ...crcCheck(row, source)];
}

const crcCheck = ({ from }: Transfer, { known, entry }: Source): Verification[] => {
  if (known.crc32 === undefined) return [];
  return [{ check: 'crc32', by: !from ? 'staging' : entry?.crc32 === undefined ? 'ledger' : 'store' }];
};
