/** Walking folders: one level with sizes, or all files below. */
import type { Dirent } from 'node:fs';
import { opendir, realpath, stat } from 'node:fs/promises';
import { Failure } from '../../errors.ts';
import { isHiddenName, joinPath, ROOT, type StorePath } from '../../path.ts';
import type { Entry, ListCall } from '../driver.ts';
import { codeOf, type Folder, type Folders } from './file-folder.ts';
import { entryOf } from './file-publish.ts';

const PAGE = 1000;
const STATS_AT_ONCE = 32;

const isGone = (error: unknown) => codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR';

/** Absent, or a file: nothing. */
export async function* listFolder(
  folders: Folders,
  dir: StorePath,
  call: ListCall,
): AsyncGenerator<readonly Entry[]> {
  const waiting: StorePath[] = [dir];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    for await (const names of namesIn(folders, next, call.signal)) {
      const entries = await entriesOf(folders, next, names);
      if (call.deep)
        for (const { entry, linked } of entries)
          if (entry.kind === 'dir' && !linked) waiting.push(entry.path);
      const page = entries.map(({ entry }) => entry).filter((entry) => !call.deep || entry.kind === 'file');
      if (page.length > 0) yield page;
    }
  }
}

/** Hidden siblings, wherever they are, or in `only` alone. */
export async function* leftoversIn(
  folders: Folders,
  signal: AbortSignal,
  only?: StorePath,
): AsyncGenerator<readonly { readonly path: StorePath; readonly modifiedMs: number }[]> {
  const waiting: StorePath[] = [only ?? ROOT];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const dir = next;
    for await (const names of namesIn(folders, dir, signal, true)) {
      for (const name of names)
        if (only === undefined && name.isDirectory()) waiting.push(joinPath(dir, name.name as StorePath));
      const hidden = names.filter((name) => name.isFile() && isHiddenName(name.name));
      if (hidden.length === 0) continue;
      const looked = folders.use(dir, false, async (folder) => {
        const found = [];
        for (const { name } of hidden) {
          const facts = await stat(folder.at(name)).catch(() => undefined);
          if (facts) found.push({ path: joinPath(dir, name as StorePath), modifiedMs: facts.mtimeMs });
        }
        return found;
      });
      yield await looked.catch((error: unknown) => {
        if (isGone(error)) return [];
        throw error;
      });
    }
  }
}

/** Pages of directory entries, without the hidden ones unless asked for. */
async function* namesIn(
  folders: Folders,
  dir: StorePath,
  signal: AbortSignal,
  hidden = false,
): AsyncGenerator<readonly Dirent[]> {
  let page: Dirent[] = [];
  try {
    const opened = await folders.use(dir, false, (folder) => opendir(folder.self, { bufferSize: 256 }));
    for await (const name of opened) {
      signal.throwIfAborted();
      if (!hidden && isHiddenName(name.name)) continue;
      page.push(name);
      if (page.length < PAGE) continue;
      yield page;
      page = [];
    }
  } catch (error) {
    if (!isGone(error)) throw error;
  }
  if (page.length > 0) yield page;
}

interface Found {
  readonly entry: Entry;
  /** Reached by a symbolic link: shown, but not walked, or a tree could be walked for ever. */
  readonly linked: boolean;
}

async function entriesOf(
  folders: Folders,
  dir: StorePath,
  names: readonly Dirent[],
): Promise<readonly Found[]> {
  return folders
    .use(dir, false, async (folder) => {
      const found: Found[] = [];
      for (let at = 0; at < names.length; at += STATS_AT_ONCE) {
        const some = names.slice(at, at + STATS_AT_ONCE).map((name) => entryAt(folders, folder, dir, name));
        for (const entry of await Promise.all(some)) if (entry) found.push(entry);
      }
      return found;
    })
    .catch((error: unknown) => {
      if (isGone(error)) return [];
      throw error;
    });
}

/** Undefined: gone meanwhile, not a file or directory, or a link that leads outside. */
async function entryAt(
  folders: Folders,
  folder: Folder,
  dir: StorePath,
  name: Dirent,
): Promise<Found | undefined> {
  const path = joinPath(dir, name.name as StorePath);
  if (name.isDirectory()) return { entry: { kind: 'dir', path }, linked: false };
  const linked = name.isSymbolicLink();
  if (!linked && !name.isFile()) return undefined;
  try {
    if (linked) folders.assertInside(await realpath(folder.at(name.name)), path);
    const facts = await stat(folder.at(name.name), { bigint: true });
    if (facts.isFile()) return { entry: entryOf(path, facts), linked };
    return facts.isDirectory() ? { entry: { kind: 'dir', path }, linked } : undefined;
  } catch (error) {
    if (error instanceof Failure || isGone(error) || codeOf(error) === 'ELOOP') return undefined;
    throw error;
  }
}
