/** One file of a tree, from where it lies to where it goes. It may be done twice: the second time it is looked for first. */
import { crcOfHex } from '../digests.ts';
import { Failure } from '../errors.ts';
import type { Place, Transfer } from '../ledger/transfer.ts';
import type { FileEntry } from '../stores/driver.ts';
import type { Draft, PrepareOptions, Store } from '../stores/store.ts';
import { storeAt, type TransferDeps } from './deps.ts';
import { joinParts } from './join.ts';
import { uploadJournal } from './journal.ts';
import { gatherParts, type PartJobs } from './parts.ts';
import { alreadyExists, headOrNothing } from './plan.ts';
import { equal, type Known, knownAt, knownOf, readKnown, takesOnePass } from './same.ts';
import { callFor } from './send.ts';
import { copierOf, copyOnServer } from './server-copy.ts';
import type { BatchFacts } from './tree-facts.ts';
import type { FileOutcome, PlannedFile } from './tree-pages.ts';

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
    if (run.again && isOurs(row, there) && there.size === file.size) return ours(run, to, there);
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
function ours(run: FileRun, to: Place, entry: FileEntry): Carried {
  record(run, to, entry, {});
  return { state: 'done', outcome: 'published', size: entry.size };
}

const fileCall = ({ row }: FileRun, to: Place) =>
  callFor(row, to, row.onExists === 'fail' || row.onExists === 'skip' ? 'create' : 'replace');

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
  const call = fileCall(run, to);
  const whole = { ...call, owner: by.owner, to, size, from: { ...from, etag } };
  const published = () => publishedOf(run, { ...file, size, etag }, from, to);
  const gathered = await gatherParts(deps, whole, { known: known.crc32, published, jobs: by.jobs, signal });
  if (gathered === undefined || gathered === 'handed-out') return gathered;
  if ('published' in gathered) return ours(run, to, gathered.published);
  const { parts, crc32 } = gathered;
  run.onRest();
  run.onPublish();
  try {
    const { entry } = await joinParts(deps, parts, { ...call, crc32, published, signal });
    record(run, to, { ...entry, crc32: entry.crc32 ?? crc32 }, known);
    return { state: 'done', outcome: 'published', size };
  } catch (error) {
    if (!(error instanceof Failure) || error.kind !== 'already-exists') throw error;
    return existing(run, to);
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
  { size, etag }: PlannedFile,
  from: Place,
  to: Place,
): Promise<Carried | undefined> {
  const { deps, signal } = run;
  const server = copierOf(deps, from, to, size);
  if (!server) return undefined;
  const known = await knownAt(run.facts, from, entryOf(from, { size, etag }));
  const version = { ...from, etag, size, crc32: known.crc32 };
  try {
    run.onRest();
    run.onPublish();
    const { entry } = await copyOnServer(deps, server, version, to, { ...fileCall(run, to), signal });
    record(run, to, entry, known);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    if (error.kind === 'already-exists') return existing(run, to);
    // another version by now, or this server cannot: then it goes through here
    if (error.kind === 'precondition' || error.kind === 'unsupported') return undefined;
    throw error;
  }
  return { state: 'done', outcome: 'published', size };
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
  const call = fileCall(run, to);
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
      return { state: 'done', outcome: 'published', size: there.size };
    }
    return await publish(run, to, draft);
  } catch (error) {
    await draft.discard();
    throw error;
  }
}

/** Where a store remembers no token: what the ledger knows of that version says whether it is what is sent. */
async function isThere(run: FileRun, to: Place, there: FileEntry, sent: Known): Promise<boolean> {
  return there.token === undefined && equal(await knownAt(run.facts, to, there), sent) === true;
}

async function publish(run: FileRun, to: Place, draft: Draft): Promise<Carried> {
  run.onPublish();
  try {
    const { entry } = await draft.publish({ signal: run.signal });
    record(run, to, entry, knownOf(draft.digests));
    return { state: 'done', outcome: 'published', size: draft.digests.size };
  } catch (error) {
    if (!(error instanceof Failure) || error.kind !== 'already-exists') throw error;
    return existing(run, to);
  }
}

/** What is there already may be our own: its reply was lost, or its worker. @throws Failure `already-exists` */
async function existing(run: FileRun, to: Place): Promise<Carried> {
  const entry = await headOrNothing(storeAt(run.deps, to), to, run.signal);
  if (entry && isOurs(run.row, entry)) return ours(run, to, entry);
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
