/**
 * Bytes to where publishing them is one step, in whichever way suits them: on the server's own side, in parts that are
 * jobs of their own, or in one pass through this process.
 */
import { hexOfCrc } from '../digests.ts';
import { Failure } from '../errors.ts';
import type { Place, Transfer, Verification } from '../ledger/transfer.ts';
import type { Bytes, FileEntry } from '../stores/driver.ts';
import type { PrepareOptions, Published } from '../stores/store.ts';
import type { Attempt } from './attempt.ts';
import type { CarriedAttributes } from './carried.ts';
import { nameOf, storeAt, type TransferDeps } from './deps.ts';
import { joinParts } from './join.ts';
import { uploadJournal } from './journal.ts';
import { type GatheredParts, gatherParts, type PublishedMeanwhile, type Whole } from './parts.ts';
import type { Source } from './plan.ts';
import { type Known, knownOf, takesOnePass } from './same.ts';
import { copierOf, copyOnServer } from './server-copy.ts';

/** Nothing of it is visible yet. Ends with `publish` or `discard`. */
export interface Sent {
  /** What is going to be there. */
  readonly known: Known;
  /** What the bytes were compared with. */
  readonly checks: readonly Verification[];
  /** What the store did not take before it is published; the entry then says the rest. */
  readonly notKept?: readonly string[];
  publish(signal: AbortSignal): Promise<Published>;
  /** Leaves nothing behind that no other attempt could go on with. Never throws. */
  discard(): Promise<void>;
}

export interface Sending {
  readonly deps: TransferDeps;
  readonly row: Transfer;
  readonly to: Place;
  readonly source: Source;
  readonly carried: CarriedAttributes;
  readonly mode: 'replace' | 'create';
  readonly attempt: Attempt;
  /** As `GatherOptions.published`. */
  readonly published: () => Promise<FileEntry | undefined>;
}

export async function send(sending: Sending): Promise<Sent | PublishedMeanwhile | 'handed-out'> {
  const { row, source } = sending;
  assertUncontradicted(row, source);
  if (!needsOnePass(row, source)) {
    const inParts = await sendInParts(sending);
    if (inParts) return inParts;
    const onOne = onServer(sending);
    if (onOne) return onOne;
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

/** Also where the caller declared a digest that nobody vouches for. Staged bytes were proved as they came in. */
export const needsOnePass = ({ from, expected = {} }: Transfer, { known }: Source): boolean =>
  from !== undefined &&
  (takesOnePass(known) ||
    Object.entries(expected).some(
      ([name, digest]) => digest !== undefined && known[name as keyof Known] === undefined,
    ));

/** What is held in memory besides the pool's, by as many jobs as run. */
const SHORT_BYTES = 64 * 1024;

export const tokenOf = ({ id, epoch }: Transfer): string => `${id}-${epoch}`;

/** As whom, how and as what it is written. */
export const callFor = (
  row: Transfer,
  { mediaType, attributes }: CarriedAttributes,
  mode: 'replace' | 'create',
) => ({
  token: tokenOf(row),
  mode,
  ...(mediaType !== undefined && { mediaType }),
  ...(attributes !== undefined && { attributes }),
});

async function sendInParts(sending: Sending): Promise<Sent | PublishedMeanwhile | 'handed-out' | undefined> {
  const { deps, row, source, carried, mode, attempt, published } = sending;
  const call = callFor(row, carried, mode);
  const ready = await partsOf(sending, attempt);
  if (ready === undefined || ready === 'handed-out' || 'published' in ready) return ready;
  const { parts, crc32, checks } = ready;
  return {
    known: { ...source.known, ...(crc32 !== undefined && { crc32: hexOfCrc(crc32) }) },
    checks,
    notKept: parts.upload.notKept,
    publish: (signal) => joinParts(deps, parts, { ...call, crc32, published, signal }),
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

export interface ReadyParts extends Pick<GatheredParts, 'parts' | 'crc32'> {
  readonly checks: readonly Verification[];
}

/** `gatherParts` of a transfer's one object, and what was compared then. */
export async function partsOf(
  {
    deps,
    row,
    to,
    source,
    published,
    carried,
  }: Pick<Sending, 'deps' | 'row' | 'to' | 'source' | 'published'> & Partial<Pick<Sending, 'carried'>>,
  { signal, onProgress, parts: jobs }: Attempt,
): Promise<ReadyParts | PublishedMeanwhile | 'handed-out' | undefined> {
  const whole: Whole = {
    ...wholeOf(row, to, source),
    owner: row.id,
    token: tokenOf(row),
    mediaType: carried?.mediaType,
    attributes: carried?.attributes,
  };
  const digests = row.from ? undefined : row.digests;
  const known = source.known.crc32;
  const gathered = await gatherParts(deps, whole, { digests, known, published, jobs, signal });
  if (gathered === undefined || gathered === 'handed-out' || 'published' in gathered) return gathered;
  const { parts, crc32, compared } = gathered;
  onProgress(whole.size, whole.size);
  return { parts, crc32, checks: [...clientChecks(row), ...(compared ? crcCheck(row, source) : [])] };
}

/** `undefined`: not that way. */
function onServer(sending: Sending): Sent | undefined {
  const { deps, row, to, source, carried, mode } = sending;
  const { size, crc32 } = source.known;
  const server = copierOf(deps, row.from, to, size);
  if (!server || !row.from || !source.entry) return undefined;
  const from = { ...row.from, etag: source.entry.etag, size, crc32 };
  const publish = async (signal: AbortSignal): Promise<Published> => {
    try {
      return await copyOnServer(deps, server, from, to, { ...callFor(row, carried, mode), signal });
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      // the next attempt takes the new version
      if (error.kind === 'precondition')
        throw new Failure('unavailable', error.message, error.facts, { cause: error });
      if (error.kind !== 'unsupported') throw error;
    }
    // it cannot copy it after all: then it goes through here
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

async function inOnePass({ deps, row, to, source, carried, mode, attempt }: Sending): Promise<Sent> {
  const { signal, onProgress } = attempt;
  const call = callFor(row, carried, mode);
  const { size } = source.known;
  const opts: PrepareOptions = {
    ...call,
    signal,
    size,
    ...demands(row, source),
    journal: uploadJournal(deps.ledger.uploads, to.store, call.token),
    onProgress: (done) => onProgress(done, size),
  };
  const bytes = size <= SHORT_BYTES ? await inOnePiece(source, signal) : source.bytes(signal);
  const draft = await storeAt(deps, to).prepare(to.path, bytes, opts);
  return {
    known: knownOf(draft.digests),
    checks: sourceChecks(row, source),
    publish: (signal) => draft.publish({ signal }),
    discard: () => draft.discard(),
  };
}

/** Where its store gives it so: then nothing need be cut, and no memory is reserved. */
async function inOnePiece(source: Source, signal: AbortSignal): Promise<Bytes | Uint8Array> {
  const { content, bytes } = await source.open(signal);
  if (content) return content;
  await bytes[Symbol.asyncIterator]().return?.(); // opened anew once there is memory for it
  return source.bytes(signal);
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
