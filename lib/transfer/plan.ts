/** What an attempt is going to do, decided by looking at source and target before a byte moves. */
import { Failure } from '../errors.ts';
import { type Place, type Transfer, tookTurnAtOnce } from '../ledger/transfer.ts';
import type { Bytes, FileEntry, Reading } from '../stores/driver.ts';
import type { Store } from '../stores/store.ts';
import { nameOf, storeAt, type TransferDeps } from './deps.ts';
import { equal, type Known, knownAt, knownOf, readKnown } from './same.ts';

/** Where the bytes come from, found but not opened. */
export interface Source {
  readonly known: Known;
  /** Of an object in a store; staged bytes have none that matters. */
  readonly entry?: FileEntry;
  open(signal: AbortSignal): Promise<Reading>;
  /** Nothing is opened before the first chunk is asked for. */
  bytes(signal: AbortSignal): Bytes;
  /** `known`, its SHA-256 included, for which the source is read where nobody has it. */
  digest(signal: AbortSignal, onBytes: () => void): Promise<Known>;
}

/** @throws Failure `not-found`: the object, or the staged bytes, are gone */
export async function findSource(deps: TransferDeps, row: Transfer, signal: AbortSignal): Promise<Source> {
  return row.from ? storedSource(deps, row.from, signal) : stagedSource(deps, row);
}

async function storedSource(deps: TransferDeps, from: Place, signal: AbortSignal): Promise<Source> {
  const store = storeAt(deps, from);
  const entry = await headOrNothing(store, from, signal);
  if (!entry)
    throw new Failure('not-found', `there is no object at ${nameOf(from)}`, {
      op: 'read',
      store: from.store,
      path: from.path,
    });
  const known = await knownAt(deps.ledger.objects, from, entry);
  return {
    known,
    entry,
    ...opened((signal) => store.read(from.path, { ifMatch: entry.etag, signal })),
    digest: async (signal, onBytes) =>
      known.sha256 === undefined ? readKnown(store, entry, signal, onBytes) : known,
  };
}

function stagedSource(deps: TransferDeps, row: Transfer): Source {
  if (!row.digests)
    throw new Failure('bug', `transfer ${row.id} has neither a source nor staged bytes: submit it again`);
  const known = knownOf(row.digests);
  return {
    known,
    ...opened((signal) => deps.staging.open(row.id, undefined, signal)),
    digest: async () => known,
  };
}

const opened = (open: Source['open']): Pick<Source, 'open' | 'bytes'> => ({
  open,
  bytes: (signal) => lazily(() => open(signal)),
});

async function* lazily(open: () => Promise<Reading>): Bytes {
  yield* (await open()).bytes;
}

export type Plan =
  /** `mode` holds at the moment of publishing, whoever comes in between. */
  | { readonly do: 'send'; readonly mode: 'replace' | 'create' }
  /** The target has all that is wanted: published by an earlier attempt of this transfer, or wanted skipped. */
  | { readonly do: 'nothing'; readonly outcome: 'published' | 'skipped'; readonly entry: FileEntry };

/** @throws Failure `already-exists` */
export async function planFor(
  deps: TransferDeps,
  row: Transfer,
  to: Place,
  source: Source,
  look: Look,
): Promise<Plan> {
  const looks = row.onExists !== 'replace' || (row.state === 'publishing' && !tookTurnAtOnce(row));
  const target = looks ? await headOrNothing(storeAt(deps, to), to, look.signal) : undefined;
  if (!target)
    return { do: 'send', mode: row.onExists === 'fail' || row.onExists === 'skip' ? 'create' : 'replace' };
  const ours = await isOurs(deps, row, to, target, source.known, look);
  if (ours) return { do: 'nothing', outcome: 'published', entry: target };
  // a worker died while it published what nobody knows a digest of: reading it is less than sending all of it again
  const mayBe = ours === undefined && row.onExists === 'replace';
  if (mayBe && (await isSame(deps, to, target, source, look)))
    return { do: 'nothing', outcome: 'published', entry: target };
  if (row.onExists === 'skip') return { do: 'nothing', outcome: 'skipped', entry: target };
  if (row.onExists === 'skip-if-same' && (await isSame(deps, to, target, source, look)))
    return { do: 'nothing', outcome: 'skipped', entry: target };
  if (row.onExists === 'fail' && ours === false) throw alreadyExists(to);
  // where nobody knows yet, the two are compared once the source was read
  return { do: 'send', mode: row.onExists === 'fail' ? 'create' : 'replace' };
}

/** For looking at objects, which may take reading them. */
export interface Look {
  readonly signal: AbortSignal;
  /** Called for every chunk that is read. */
  readonly onBytes: () => void;
}

export const alreadyExists = (to: Place): Failure =>
  new Failure('already-exists', `${nameOf(to)} exists already and the request said not to replace it`, {
    op: 'publish',
    store: to.store,
    path: to.path,
  });

export async function headOrNothing(
  store: Store,
  { path }: Place,
  signal: AbortSignal,
): Promise<FileEntry | undefined> {
  try {
    return await store.head(path, signal);
  } catch (error) {
    if (error instanceof Failure && error.kind === 'not-found') return undefined;
    throw error;
  }
}

/**
 * Whether what is at the target was published by this transfer, in whichever epoch and by whichever worker: it carries
 * our token, or, where the store remembers none, exactly our size and digest. `undefined`: no digest of what is sent is
 * known yet.
 */
export async function isOurs(
  deps: TransferDeps,
  row: Transfer,
  to: Place,
  target: FileEntry,
  sent: Known,
  { signal, onBytes }: Look,
): Promise<boolean | undefined> {
  if (!(await wasTakenUpTwice(deps, row))) return false;
  if (target.token !== undefined) return target.token.startsWith(`${row.id}-`);
  if (target.size !== sent.size) return false;
  if (sent.sha256 === undefined && sent.crc32 === undefined) return undefined;
  const told = equal(await knownAt(deps.ledger.objects, to, target), sent);
  if (told !== undefined) return told;
  const found = await readKnown(storeAt(deps, to), target, signal, onBytes);
  // of what went in parts a CRC32 may be all that is known
  return equal(found, sent) ?? found.crc32 === sent.crc32;
}

/**
 * What another worker that has this transfer as well has published of it, perhaps since `planFor` looked. Where no
 * digest is known the source is read: that is less than to send it again.
 */
export async function publishedOf(
  deps: TransferDeps,
  row: Transfer,
  to: Place,
  source: Source,
  look: Look,
): Promise<FileEntry | undefined> {
  if (!(await wasTakenUpTwice(deps, row))) return undefined;
  const target = await headOrNothing(storeAt(deps, to), to, look.signal);
  if (!target) return undefined;
  const ours = await isOurs(deps, row, to, target, source.known, look);
  return (ours ?? (await isSame(deps, to, target, source, look))) ? target : undefined;
}

/** Before this attempt, or since it began: a job may be with two workers at once. */
async function wasTakenUpTwice(deps: TransferDeps, row: Transfer): Promise<boolean> {
  if (row.starts > 1 || row.epoch > 1) return true;
  const now = await deps.ledger.transfers.get(row.id);
  return now !== undefined && now.starts > row.starts;
}

async function isSame(
  deps: TransferDeps,
  to: Place,
  target: FileEntry,
  source: Source,
  { signal, onBytes }: Look,
): Promise<boolean> {
  const known = await knownAt(deps.ledger.objects, to, target);
  const told = equal(known, source.known);
  if (told !== undefined) return told;
  const wanted = await source.digest(signal, onBytes);
  return (
    equal(known, wanted) ??
    equal(await readKnown(storeAt(deps, to), target, signal, onBytes), wanted) === true
  );
}
