/**
 * A tree as one tar archive in staging. Nothing is planned: who is cut off begins anew, with what is there then. A file
 * that goes between the listing and its turn is left out and counted as skipped; any other trouble ends the attempt, for
 * an archive that lacks what was there is of no use.
 */
import { failureOf } from '../errors.ts';
import type { Place, Transfer, TransferResult } from '../ledger/transfer.ts';
import { baseName, type StorePath } from '../path.ts';
import { collected, once } from '../stores/bytes.ts';
import type { Bytes, FileEntry, Reading } from '../stores/driver.ts';
import type { Store } from '../stores/store.ts';
import { storeAt, type TransferDeps } from './deps.ts';
import { TAR_END, tarHeader, tarPadding } from './tar.ts';
import type { TreeAttempt } from './tree.ts';
import { filesOf, nothingAt, relativeTo } from './tree-plan.ts';

/** Files that are read before their turn, and how large they may be: so much memory does an archive take. */
const AHEAD = 16;
const AHEAD_BYTES = 256 * 1024;

interface Counts {
  readonly done: { files: number; bytes: number };
  readonly skipped: { files: number; bytes: number };
}

/** Stages the archive under the transfer's id. @throws Failure `not-found` where there is nothing at or below `from` */
export async function stageArchive(
  deps: TransferDeps,
  row: Transfer,
  from: Place,
  attempt: Pick<TreeAttempt, 'signal' | 'onProgress' | 'onRest'>,
): Promise<TransferResult> {
  const { signal, onProgress, onRest } = attempt;
  const counts: Counts = { done: { files: 0, bytes: 0 }, skipped: { files: 0, bytes: 0 } };
  const { size, sha256 } = await deps.staging.stage(row.id, archive(deps, from, counts, signal), {
    signal,
    tooLarge: 'invalid',
    onProgress: (done) => onProgress(done, undefined),
    onRest,
  });
  const files = { ...counts, failed: { files: 0, bytes: 0 } };
  return { outcome: 'ready', size, sha256, files, verified: [{ check: 'size', by: 'staging' }] };
}

/** Members are called as the tree's last name and what is below it, so that they unpack into one folder. */
async function* archive(deps: TransferDeps, from: Place, counts: Counts, signal: AbortSignal): Bytes {
  const store = storeAt(deps, from);
  const name = baseName(from.path);
  let empty = true;
  for await (const { entry, opened } of readAhead(store, filesOf(deps, from, signal), signal)) {
    empty = false;
    const reading = await opened();
    if (!reading) {
      counts.skipped.files++;
      counts.skipped.bytes += entry.size;
      continue;
    }
    const { size, modifiedMs } = reading.entry;
    const below = relativeTo(from.path, entry.path);
    yield tarHeader({ name: [name, below].filter((part) => part !== '').join('/'), size, modifiedMs });
    yield* reading.bytes;
    yield tarPadding(size);
    counts.done.files++;
    counts.done.bytes += size;
  }
  if (empty) throw nothingAt(from);
  yield TAR_END;
}

interface Member {
  readonly entry: FileEntry;
  /** `undefined`: it is gone. */
  opened(): Promise<Reading | undefined>;
}

/** In order; small ones are in memory when their turn comes. */
async function* readAhead(
  store: Store,
  pages: AsyncIterable<readonly FileEntry[]>,
  signal: AbortSignal,
): AsyncGenerator<Member> {
  const ahead: Member[] = [];
  for await (const page of pages)
    for (const entry of page) {
      ahead.push(entry.size <= AHEAD_BYTES ? fetched(store, entry, signal) : lazy(store, entry, signal));
      if (ahead.length > AHEAD) yield ahead.shift()!;
    }
  for (let next = ahead.shift(); next; next = ahead.shift()) yield next;
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
