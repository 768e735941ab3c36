/** One file of a tree, from where it lies to where it goes. It may be done twice: the second time it is looked for first. */
import { crcOfHex } from '../digests.ts';
import { Failure } from '../errors.ts';
import type { Place, Transfer } from '../ledger/transfer.ts';
import { ROOT } from '../path.ts';
import { merged } from '../stores/attributes.ts';
import type { FileEntry } from '../stores/driver.ts';
import type { Draft, PrepareOptions, Store } from '../stores/store.ts';
import { type CarriedAttributes, carriedOf, notKeptAt } from './carried.ts';
import { nameOf, storeAt, type TransferDeps } from './deps.ts';
import { joinParts } from './join.ts';
import { uploadJournal } from './journal.ts';
import { gatherParts, type OneServer, type PartJobs } from './parts.ts';
import { alreadyExists, headOrNothing } from './plan.ts';
import { equal, type Known, knownAt, knownOf, readKnown, takesOnePass } from './same.ts';
import { callFor } from './send.ts';
import { copierOf, copyOnServer } from './server-copy.ts';
import { placeBelow } from './tree-entries.ts';
import type { BatchFacts } from './tree-facts.ts';
import type { FileOutcome, PlannedFile } from './tree-pages.ts';
import { placeOf } from './tree-plan.ts';

export interface FileRun {
  readonly deps: TransferDeps;
  readonly row: Transfer;
  readonly facts: BatchFacts;
  /** A worker may have carried some of these files before, and died. */
  readonly again: boolean;
  readonly signal: AbortSignal;
  onBytes(): void;
  /** From here on nothing moves that could be seen. */
  onRest(): void;
  /** @throws Failure `interrupted` where another worker may have the job by now */
  onPublish(): void;
  /** Of a file that is large enough to go in parts, which are jobs of their own. */
  readonly parts?: { readonly jobs: PartJobs; readonly owner: string };
}

/** `size`: of the version that was carried. */
export interface Carried {
  readonly state: 'done' | 'skipped';
  readonly outcome: FileOutcome;
  readonly size: number;
  /** Names of what the source has beside its bytes and the copy does not. */
  readonly notKept?: readonly string[];
}

/**
 * @returns `handed-out`: its parts have jobs now; call it again when they have ended
 * @throws Failure why it is not at `to`
 */
export async function carryFile(
  run: FileRun,
  file: PlannedFile,
  from: Place,
  to: Place,
): Promise<Carried | 'handed-out'> {
  const { row } = run;
  const looks = run.again || row.onExists === 'skip' || row.onExists === 'skip-if-same';
  const there = looks ? await headOrNothing(storeAt(run.deps, to), to, run.signal) : undefined;
  if (there) {
    if (run.again && isOurs(row, there) && there.size === file.size) return ours(run, from, to, there);
    if (row.onExists === 'skip') return { state: 'skipped', outcome: 'skipped', size: there.size };
    if (row.onExists === 'skip-if-same' && (await isSame(run, file, from, to, there)))
      return { state: 'skipped', outcome: 'skipped', size: there.size };
  }
  return (
    (await partsThere(run, file, from, to)) ??
    (await copyThere(run, file, from, to)) ??
    (await sendThere(run, from, to, there))
  );
}

const isOurs = ({ id }: Transfer, entry: FileEntry): boolean => entry.token?.startsWith(`${id}-`) === true;

/** Published by a worker that could not say so any more. */
async function ours(run: FileRun, from: Place, to: Place, entry: FileEntry): Promise<Carried> {
  record(run, to, entry, {});
  const source = await headOrNothing(storeAt(run.deps, from), from, run.signal);
  const notKept = source && notKeptAt(await carried(run, from, source, to), entry);
  return published(entry.size, notKept);
}

const published = (size: number, ...notKept: readonly (readonly string[] | undefined)[]): Carried => {
  const names = merged(...notKept);
  return { state: 'done', outcome: 'published', size, ...(names.length > 0 && { notKept: names }) };
};

const carried = ({ deps, row, signal }: FileRun, from: Place, source: FileEntry, to: Place) =>
  carriedOf(deps, row, from, source, to, signal);

const modeOf = ({ row }: FileRun) =>
  row.onExists === 'fail' || row.onExists === 'skip' ? 'create' : 'replace';

const fileCall = (run: FileRun, beside: CarriedAttributes) => callFor(run.row, beside, modeOf(run));

/** In parts, of the version that is there now: who finds those of another one gives them up. `undefined`: not that way. */
async function partsThere(
  run: FileRun,
  file: PlannedFile,
  from: Place,
  to: Place,
): Promise<Carried | 'handed-out' | undefined> {
  const { deps, signal, parts: by } = run;
  if (!by) return undefined;
  const source = await storeAt(deps, from).head(from.path, signal);
  const { etag, size } = source;
  const known = await knownAt(run.facts, from, source);
  if (takesOnePass(known)) return undefined;
  const beside = await carried(run, from, source, to);
  const call = fileCall(run, beside);
  const whole = { ...call, owner: by.owner, to, size, from: { ...from, etag } };
  const publishedBy = () => publishedOf(run, { ...file, size, etag }, from, to);
  const opts = { known: known.crc32, published: publishedBy, jobs: by.jobs, signal };
  const gathered = await gatherParts(deps, whole, opts);
  if (gathered === undefined || gathered === 'handed-out') return gathered;
  if ('published' in gathered) return ours(run, from, to, gathered.published);
  const { parts, crc32 } = gathered;
  run.onRest();
  run.onPublish();
  try {
    const { entry } = await joinParts(deps, parts, { ...call, crc32, published: publishedBy, signal });
    record(run, to, { ...entry, crc32: entry.crc32 ?? crc32 }, known);
    return published(size, beside.notKept, parts.upload.notKept, entry.notKept);
  } catch (error) {
    if (!(error instanceof Failure) || error.kind !== 'already-exists') throw error;
    return existing(run, from, to);
  }
}

/** By another worker that has this page as well, perhaps since `carryFile` looked. */
async function publishedOf(
  run: FileRun,
  file: PlannedFile,
  from: Place,
  to: Place,
): Promise<FileEntry | undefined> {
  if (!run.again) return undefined;
  const there = await headOrNothing(storeAt(run.deps, to), to, run.signal);
  if (!there || there.size !== file.size) return undefined;
  return isOurs(run.row, there) || (await isSame(run, file, from, to, there)) ? there : undefined;
}

/** On the server's own side, where both places are on one. `undefined`: not that way. */
async function copyThere(
  run: FileRun,
  file: PlannedFile,
  from: Place,
  to: Place,
): Promise<Carried | undefined> {
  const { size, etag } = file;
  const { deps, signal } = run;
  const server = copierOf(deps, from, to, size);
  if (!server) return undefined;
  const known = await knownAt(run.facts, from, entryOf(from, { size, etag }));
  const beside = (await byServer(run, server, file, to)) ?? (await lookedAt(run, file, from, to));
  if (!beside) return undefined;
  const version = { ...from, etag, size, crc32: known.crc32, carries: beside.carries };
  try {
    run.onRest();
    run.onPublish();
    const { entry } = await copyOnServer(deps, server, version, to, { ...fileCall(run, beside), signal });
    record(run, to, entry, known);
    return published(size, beside.notKept, entry.notKept);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    if (error.kind === 'already-exists') return existing(run, from, to);
    // another version by now, or this server cannot: then it goes through here
    if (error.kind === 'precondition' || error.kind === 'unsupported') return undefined;
    throw error;
  }
}

type Beside = CarriedAttributes & { readonly carries: boolean };

/** The server carries it all by itself, and nobody need look at the source: a request less for each file. */
async function byServer(
  run: FileRun,
  { target }: OneServer,
  { storageClass }: PlannedFile,
  to: Place,
): Promise<Beside | undefined> {
  const { keeps } = storeAt(run.deps, to).traits;
  const { preserve } = run.row;
  if (modeOf(run) === 'create' || preserve.some((name) => keeps.includes(name))) return undefined;
  if (!(await target.carries({ signal: run.signal }))) return undefined;
  return {
    carries: true,
    notKept: preserve,
    ...(storageClass !== undefined && { attributes: { storageClass } }),
  };
}

/** `undefined`: it is another version by now. */
async function lookedAt(
  run: FileRun,
  { etag }: PlannedFile,
  from: Place,
  to: Place,
): Promise<Beside | undefined> {
  const source = await headOrNothing(storeAt(run.deps, from), from, run.signal);
  if (source?.etag !== etag) return undefined;
  return { carries: false, ...(await carried(run, from, source, to)) };
}

const entryOf = ({ path }: Place, { size, etag }: Pick<PlannedFile, 'size' | 'etag'>): FileEntry => ({
  kind: 'file',
  path,
  size,
  etag,
  modifiedMs: 0,
});

async function sendThere(
  run: FileRun,
  from: Place,
  to: Place,
  there: FileEntry | undefined,
): Promise<Carried> {
  const { deps, signal } = run;
  const { entry, bytes, content } = await storeAt(deps, from).read(from.path, { signal });
  const { sha256, crc32 } = await knownAt(run.facts, from, entry);
  const beside = await carried(run, from, entry, to).catch(async (error: unknown) => {
    await bytes[Symbol.asyncIterator]().return?.();
    throw error;
  });
  const call = fileCall(run, beside);
  const opts: PrepareOptions = {
    ...call,
    signal,
    size: entry.size,
    expected: sha256 === undefined ? { crc32 } : { sha256 },
    mismatch: () => 'corrupt',
    journal: uploadJournal(deps.ledger.uploads, to.store, call.token),
    onProgress: () => run.onBytes(),
  };
  const draft = await storeAt(deps, to).prepare(to.path, content ?? bytes, opts);
  try {
    if (run.again && there && (await isThere(run, to, there, knownOf(draft.digests)))) {
      await draft.discard();
      return published(there.size, notKeptAt(beside, there));
    }
    return await publish(run, from, to, draft, beside);
  } catch (error) {
    await draft.discard();
    throw error;
  }
}

/** Where a store remembers no token: what the ledger knows of that version says whether it is what is sent. */
async function isThere(run: FileRun, to: Place, there: FileEntry, sent: Known): Promise<boolean> {
  return there.token === undefined && equal(await knownAt(run.facts, to, there), sent) === true;
}

async function publish(
  run: FileRun,
  from: Place,
  to: Place,
  draft: Draft,
  { notKept }: CarriedAttributes,
): Promise<Carried> {
  run.onPublish();
  try {
    const { entry } = await draft.publish({ signal: run.signal });
    record(run, to, entry, knownOf(draft.digests));
    return published(draft.digests.size, notKept, entry.notKept);
  } catch (error) {
    if (!(error instanceof Failure) || error.kind !== 'already-exists') throw error;
    return existing(run, from, to);
  }
}

/** What is there already may be our own: its reply was lost, or its worker. @throws Failure `already-exists` */
async function existing(run: FileRun, from: Place, to: Place): Promise<Carried> {
  const entry = await headOrNothing(storeAt(run.deps, to), to, run.signal);
  if (entry && isOurs(run.row, entry)) return ours(run, from, to, entry);
  if (entry && run.row.onExists === 'skip') return { state: 'skipped', outcome: 'skipped', size: entry.size };
  throw alreadyExists(to);
}

/** By digests that are known of exactly these versions, else by reading. */
async function isSame(
  run: FileRun,
  file: PlannedFile,
  from: Place,
  to: Place,
  there: FileEntry,
): Promise<boolean> {
  if (there.size !== file.size) return false;
  const [source, target] = [storeAt(run.deps, from), storeAt(run.deps, to)];
  const planned = entryOf(from, file);
  const known = await knownAt(run.facts, to, there);
  const wanted = await knownAt(run.facts, from, planned);
  const told = same(known, wanted);
  if (told !== undefined) return told;
  const read = (store: Store, entry: FileEntry) =>
    readKnown(store, entry, run.signal, () => run.onBytes()).catch((error: unknown) => {
      if (error instanceof Failure && error.kind === 'precondition') return undefined; // replaced meanwhile
      throw error;
    });
  const found = wanted.sha256 === undefined ? await read(source, planned) : wanted;
  if (!found) return false;
  const compared = same(known, found);
  if (compared !== undefined) return compared;
  const back = await read(target, there);
  return back !== undefined && equal(back, found) === true;
}

/** As `equal`, but where only the CRC32s are known on both sides they decide: nobody forges what a tree skips. */
const same = (a: Known, b: Known): boolean | undefined =>
  equal(a, b) ?? (a.crc32 !== undefined && a.crc32 === b.crc32 ? true : undefined);

function record(
  { facts }: FileRun,
  to: Place,
  { etag, size, crc32 }: Pick<FileEntry, 'etag' | 'size'> & { readonly crc32?: number | undefined },
  known: Pick<Known, 'sha256' | 'crc32'>,
): void {
  const { sha256 } = known;
  const crc = crc32 ?? crcOfHex(known.crc32);
  if (sha256 !== undefined || crc !== undefined) facts.record(to, { etag, size, sha256, crc32: crc });
}

/** What the target can't hold fails that file, by name; a delete takes names as they were listed. */
export function targetOf(deps: TransferDeps, row: Transfer, { below, dir }: PlannedFile): Place | Failure {
  const to = placeBelow(placeOf(row, row.to), below);
  if (row.kind === 'delete' || (dir && to.path === ROOT)) return to;
  const store = storeAt(deps, to);
  const why = dir ? store.refusesDirectory(to.path) : store.refuses(to.path);
  if (why === undefined) return to;
  return new Failure('invalid', `could not put ${nameOf(to)}: ${why}`, { store: to.store, path: to.path });
}
