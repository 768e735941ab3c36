/**
 * A tree as one tar archive in staging. Nothing is planned: who is cut off begins anew, with what is there then. A file
 * that goes between the listing and its turn is skipped; what cannot be in an archive is left out. Both are named beside
 * the archive. Any other trouble ends the attempt, for an archive that lacks what was there is of no use.
 */
import { Failure, failureOf } from '../errors.ts';
import { noCounts, type Place, type Transfer, type TransferResult } from '../ledger/transfer.ts';
import { baseName, type StorePath } from '../path.ts';
import { collected, once } from '../stores/bytes.ts';
import type { Bytes, Entry, FileEntry, Reading } from '../stores/driver.ts';
import type { Store } from '../stores/store.ts';
import { nameOf, storeAt, type TransferDeps } from './deps.ts';
import { TAR_END, tarHeader, tarPadding, whyNotInTar } from './tar.ts';
import type { TreeAttempt } from './tree.ts';
import { tellLeftOut, unsupportedFailure } from './tree-endings.ts';
import { entriesOf, nothingAt, placeBelow, plannedOf } from './tree-entries.ts';
import {
  ARCHIVE_PAGE,
  COUNTED,
  type EndedFile,
  type FileEnd,
  type PlannedFile,
  writeResult,
} from './tree-pages.ts';

/** Files that are read before their turn, and how large they may be: so much memory does an archive take. */
const AHEAD = 16;
const AHEAD_BYTES = 256 * 1024;

/**
 * Stages the archive under the transfer's id.
 * @throws Failure `not-found` where there is nothing at or below `from`; that of the first file which could not be read,
 *   or was left out and nobody said that it may be
 */
export async function stageArchive(
  deps: TransferDeps,
  row: Transfer,
  from: Place,
  attempt: Pick<TreeAttempt, 'signal' | 'onProgress' | 'onRest'>,
): Promise<TransferResult> {
  const { signal, onProgress, onRest } = attempt;
  const archive = new Archive(deps, row, from, signal);
  const staged = deps.staging.stage(row.id, archive.bytes(), {
    signal,
    tooLarge: 'invalid',
    onProgress: (done) => onProgress(done, undefined),
    onRest,
  });
  const { size, sha256 } = await staged.catch(async (error: unknown) => {
    if (archive.failure) await archive.writeDown();
    throw archive.failure ?? error;
  });
  await archive.writeDown();
  return {
    outcome: 'ready',
    size,
    sha256,
    files: archive.counts,
    verified: [{ check: 'size', by: 'staging' }],
  };
}

class Archive {
  readonly counts = noCounts();
  /** Why there is none. */
  failure: Failure | undefined;
  readonly #deps: TransferDeps;
  readonly #row: Transfer;
  readonly #from: Place;
  readonly #signal: AbortSignal;
  /** What is not in it. */
  readonly #missing: EndedFile[] = [];
  /** Files that what comes may lie below: a store of keys holds an `a` and an `a/b`, and lists them in order. */
  readonly #above: string[] = [];

  constructor(deps: TransferDeps, row: Transfer, from: Place, signal: AbortSignal) {
    this.#deps = deps;
    this.#row = row;
    this.#from = from;
    this.#signal = signal;
  }

  /** Members are called as the tree's last name and what is below it, so that they unpack into one folder. */
  async *bytes(): Bytes {
    const store = storeAt(this.#deps, this.#from);
    let empty = true;
    const entries = entriesOf(this.#deps, this.#from, this.#row, this.#signal);
    for await (const { entry, opened } of readAhead(store, entries, this.#signal)) {
      empty = false;
      const planned = plannedOf(this.#deps, this.#from, entry, this.#row);
      const name = baseName(this.#from.path) + planned.below;
      const member = name.startsWith('/') ? name.slice(1) : name;
      const end = planned.end ?? this.#notInTar(planned, member) ?? this.#belowFile(planned, member);
      if (end) this.#leaveOut(planned, end);
      // what is missing is all named, and for nothing else is it worth reading on
      else if (!this.failure) yield* this.#member(member, planned, opened);
    }
    if (empty) throw nothingAt(this.#from);
    if (this.failure) throw this.failure;
    yield TAR_END;
  }

  async *#member(name: string, planned: PlannedFile, opened: Member['opened']): Bytes {
    if (planned.dir) {
      const modifiedMs = this.#row.createdMs;
      if (name !== '') yield tarHeader({ name: `${name}/`, size: 0, modifiedMs, directory: true });
      this.counts.done.directories++;
      return;
    }
    const reading = await opened();
    if (!reading) {
      const failure = { kind: 'not-found', message: 'it was removed before its turn came' } as const;
      this.#leaveOut(planned, { state: 'skipped', outcome: 'skipped', failure });
      return;
    }
    const { size, modifiedMs } = reading.entry;
    yield tarHeader({ name, size, modifiedMs });
    yield* reading.bytes;
    yield tarPadding(size);
    this.counts.done.files++;
    this.counts.done.bytes += size;
  }

  #notInTar({ below, dir }: PlannedFile, member: string): FileEnd | undefined {
    const why = dir && member === '' ? undefined : whyNotInTar(member);
    if (why === undefined) return undefined;
    const message = `${nameOf(placeBelow(this.#from, below))}: ${why}`;
    return { state: 'left-out', failure: { kind: 'unsupported', message } };
  }

  /** Who unpacks an archive with both gets one of them. */
  #belowFile({ below, dir }: PlannedFile, member: string): FileEnd | undefined {
    const above = this.#above;
    while (above.length > 0 && !member.startsWith(above.at(-1)!)) above.pop();
    const file = above.find((one) => member.startsWith(`${one}/`) || (dir && member === one));
    if (!dir && file === undefined) above.push(member);
    if (file === undefined) return undefined;
    const message = `${nameOf(placeBelow(this.#from, below))}: an archive cannot hold both '${file}' as a file and something below it`;
    return { state: 'left-out', failure: { kind: 'unsupported', message } };
  }

  #leaveOut({ below, size, dir }: PlannedFile, end: FileEnd): void {
    this.counts[COUNTED[end.state]].files++;
    this.counts[COUNTED[end.state]].bytes += size;
    this.#missing.push({ below, size, ...(dir && { dir }), ...end });
    if (end.state === 'failed') this.failure ??= new Failure(end.failure.kind, end.failure.message);
    else if (end.state === 'left-out' && this.#row.onUnsupported === 'fail')
      this.failure ??= unsupportedFailure(this.counts, end.failure);
  }

  /** So that people can see it: `listFiles` reads it. */
  async writeDown(): Promise<void> {
    if (this.#missing.length === 0) return;
    const { id, epoch } = this.#row;
    const result = { epoch, spent: 0, files: this.#missing };
    await writeResult(this.#deps.staging, id, ARCHIVE_PAGE, result, this.#signal);
    tellLeftOut(this.#deps, this.#row, this.counts, this.#missing);
  }
}

interface Member {
  readonly entry: Entry;
  /** `undefined`: it is gone. */
  opened(): Promise<Reading | undefined>;
}

/** In order; small ones are in memory when their turn comes. */
async function* readAhead(
  store: Store,
  pages: AsyncIterable<readonly Entry[]>,
  signal: AbortSignal,
): AsyncGenerator<Member> {
  const ahead: Member[] = [];
  for await (const page of pages)
    for (const entry of page) {
      ahead.push(memberOf(store, entry, signal));
      if (ahead.length > AHEAD) yield ahead.shift()!;
    }
  for (let next = ahead.shift(); next; next = ahead.shift()) yield next;
}

function memberOf(store: Store, entry: Entry, signal: AbortSignal): Member {
  if (entry.kind !== 'file') return { entry, opened: async () => undefined };
  return entry.size <= AHEAD_BYTES ? fetched(store, entry, signal) : lazy(store, entry, signal);
}

const lazy = (store: Store, entry: FileEntry, signal: AbortSignal): Member => ({
  entry,
  opened: () => openOrNothing(store, entry.path, signal),
});

function fetched(store: Store, entry: FileEntry, signal: AbortSignal): Member {
  const reading = openOrNothing(store, entry.path, signal).then(async (found) => {
    if (!found || found.entry.size > AHEAD_BYTES) return found; // it has grown since
    return { ...found, bytes: once(await collected(found.bytes)) };
  });
  reading.catch(() => undefined); // told when its turn comes
  return { entry, opened: () => reading };
}

async function openOrNothing(
  store: Store,
  path: StorePath,
  signal: AbortSignal,
): Promise<Reading | undefined> {
  try {
    return await store.read(path, { signal });
  } catch (error) {
    if (failureOf(error).kind === 'not-found') return undefined;
    throw error;
  }
}
