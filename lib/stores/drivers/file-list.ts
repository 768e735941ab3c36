/** Walking folders: one level with sizes, or everything below. Nothing that is there is passed over in silence. */
import type { Dirent } from 'node:fs';
import { lstat, opendir, realpath, stat } from 'node:fs/promises';
import { baseName, joinPath, parentOf, ROOT, type StorePath } from '../../path.ts';
import { textOfBytes } from '../../path-bytes.ts';
import type { Entry, Leftover, ListCall, OtherEntry } from '../driver.ts';
import { type Hidden, type HiddenNames, WHY_RESERVED } from '../hidden.ts';
import { codeOf, type Folder, type Folders, isClosed } from './file-folder.ts';
import { entryOf } from './file-publish.ts';

const PAGE = 1000;
const STATS_AT_ONCE = 32;
/** What the files of an upload in parts have behind its id. */
const OF_UPLOAD = /\.(?:parts|joined)$/;

/** It went between two looks, or was never there. */
const isGone = (error: unknown) => codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR';
/** It is there, and this process cannot get at it. */
const cannotGetAt = (error: unknown) => isClosed(error) || codeOf(error) === 'ENAMETOOLONG';

/** A directory to be listed. */
interface Waiting {
  readonly dir: StorePath;
  /** Where the links are that led to it, as real paths. */
  readonly through: readonly string[];
}

/** Absent, or a file: nothing. */
export async function* listFolder(
  folders: Folders,
  hidden: HiddenNames,
  dir: StorePath,
  call: ListCall,
): AsyncGenerator<readonly Entry[]> {
  const itself = call.deep && dir !== ROOT ? await noDirectoryAt(folders, dir, call) : undefined;
  if (itself) yield [itself];
  const waiting: Waiting[] = itself ? [] : [{ dir, through: [] }];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const at = next;
    let empty = true;
    try {
      for await (const names of namesIn(folders, hidden, at.dir, call.signal)) {
        const others = names.filter(({ is }) => is !== 'ours');
        if (others.length === 0) continue;
        empty = false;
        const found = await entriesOf(folders, at, others, call);
        if (call.deep) for (const { below } of found) if (below) waiting.push(below);
        const page = found.flatMap(({ entry }) =>
          entry && !(call.deep && entry.kind === 'dir') ? [entry] : [],
        );
        if (page.length > 0) yield page;
      }
    } catch (error) {
      if (isGone(error)) continue;
      if (at.dir === dir || !cannotGetAt(error)) throw error;
      yield [closed(at.dir, error)];
      continue;
    }
    if (call.deep && empty && at.dir !== ROOT) yield [{ kind: 'dir', path: at.dir }];
  }
}

/**
 * What is to be listed is no directory, and no file either: then it is the only entry. A link that is listed as one is
 * never walked through: who removes what is below it would remove it elsewhere.
 */
async function noDirectoryAt(folders: Folders, dir: StorePath, call: ListCall): Promise<Entry | undefined> {
  const at: Waiting = { dir: parentOf(dir), through: [] };
  const name = baseName(dir) as StorePath;
  try {
    return await folders.use(at.dir, false, async (folder) => {
      const entry = await lstat(folder.at(name));
      if (entry.isDirectory() || entry.isFile()) return undefined;
      // walking through it says whether it leads outside
      if (entry.isSymbolicLink() && call.links !== 'name') return undefined;
      const found = await foundAt(folders, folder, at, { name, entry, is: undefined }, call.links === 'name');
      return found.entry?.kind === 'other' ? found.entry : undefined;
    });
  } catch (error) {
    if (isGone(error) || isClosed(error)) return undefined; // listing it says the same
    throw error;
  }
}

/** Hidden siblings that are proved to be ours, wherever they are, or in `only` alone. */
export async function* leftoversIn(
  folders: Folders,
  hidden: HiddenNames,
  signal: AbortSignal,
  only?: StorePath,
): AsyncGenerator<readonly Leftover[]> {
  const waiting: StorePath[] = [only ?? ROOT];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const dir = next;
    try {
      for await (const names of namesIn(folders, hidden, dir, signal)) {
        for (const { name, entry } of names)
          if (only === undefined && entry.isDirectory()) waiting.push(joinPath(dir, name));
        const ours = names.filter(({ is }) => is === 'ours');
        if (ours.length === 0) continue;
        yield await folders.use(dir, false, async (folder) => {
          const found: Leftover[] = [];
          for (const { name } of ours) {
            const facts = await lstat(folder.at(name)).catch(() => undefined);
            if (facts)
              found.push({
                path: joinPath(dir, name),
                modifiedMs: facts.mtimeMs,
                uploadId: name.replace(OF_UPLOAD, ''),
              });
          }
          return found;
        });
      }
    } catch (error) {
      // what lies in a closed folder nobody has put there who is like us
      if (!isGone(error) && (dir === ROOT || !cannotGetAt(error))) throw error;
    }
  }
}

interface Name {
  readonly name: StorePath;
  readonly entry: Kind;
  /** Whose hidden file it is. */
  readonly is: Hidden | undefined;
}
/** As a directory, or a look at the file itself, tells it. */
type Kind = Pick<
  Dirent<Buffer>,
  'isDirectory' | 'isFile' | 'isSymbolicLink' | 'isFIFO' | 'isSocket' | 'isBlockDevice' | 'isCharacterDevice'
>;

/** Pages of directory entries, hidden ones included. */
async function* namesIn(
  folders: Folders,
  hidden: HiddenNames,
  dir: StorePath,
  signal: AbortSignal,
): AsyncGenerator<readonly Name[]> {
  let page: Name[] = [];
  const { opened, real } = await folders.use(dir, false, async (folder) => ({
    // its types know no such encoding, it does
    opened: await opendir(folder.self, { bufferSize: 256, encoding: 'buffer' as BufferEncoding }),
    real: folders.dirOf(folder),
  }));
  for await (const entry of opened as AsyncIterable<unknown> as AsyncIterable<Dirent<Buffer>>) {
    signal.throwIfAborted();
    const name = textOfBytes(entry.name) as StorePath;
    page.push({ name, entry, is: kindOf(hidden, joinPath(real, name), entry) });
    if (page.length < PAGE) continue;
    yield page;
    page = [];
  }
  if (page.length > 0) yield page;
}

/** What we have on its way are files; a directory of such a name holds what others have put there. */
function kindOf(hidden: HiddenNames, path: StorePath, entry: Kind): Hidden | undefined {
  const is = entry.isDirectory() ? undefined : hidden.kindOf(path);
  return is === 'ours' && !entry.isFile() ? 'foreign' : is;
}

interface Found {
  /** Undefined: gone meanwhile. */
  readonly entry: Entry | undefined;
  /** To be listed as well, in a deep listing. */
  readonly below?: Waiting;
}

async function entriesOf(
  folders: Folders,
  at: Waiting,
  names: readonly Name[],
  call: ListCall,
): Promise<readonly Found[]> {
  return folders.use(at.dir, false, async (folder) => {
    const found: Found[] = [];
    for (let from = 0; from < names.length; from += STATS_AT_ONCE) {
      const some = names
        .slice(from, from + STATS_AT_ONCE)
        .map((name) => foundAt(folders, folder, at, name, call.links === 'name'));
      found.push(...(await Promise.all(some)));
    }
    return found;
  });
}

async function foundAt(
  folders: Folders,
  folder: Folder,
  at: Waiting,
  { name, entry, is }: Name,
  asLink: boolean,
): Promise<Found> {
  const path = joinPath(at.dir, name);
  if (entry.isDirectory()) return { entry: { kind: 'dir', path }, below: { dir: path, through: at.through } };
  if (is !== undefined) return { entry: reserved(path, is) };
  try {
    if (entry.isSymbolicLink()) {
      if (asLink) return { entry: other(path, 'link', 'it is a symbolic link') };
      return await linkAt(folders, folder, at, path, name);
    }
    if (!entry.isFile()) return { entry: other(path, 'special', specialKind(entry)) };
    return { entry: entryOf(path, await stat(folder.at(name), { bigint: true })) };
  } catch (error) {
    if (isGone(error)) return { entry: undefined };
    if (cannotGetAt(error)) return { entry: closed(path, error) };
    throw error;
  }
}

async function linkAt(
  folders: Folders,
  folder: Folder,
  at: Waiting,
  path: StorePath,
  name: StorePath,
): Promise<Found> {
  let real: string;
  try {
    real = textOfBytes(await realpath(folder.at(name), 'buffer'));
  } catch (error) {
    const why = LINKS_NOWHERE[codeOf(error) ?? ''];
    if (why === undefined) throw error;
    return { entry: other(path, 'link', why) };
  }
  if (!folders.isInside(real))
    return { entry: other(path, 'link', 'it is a symbolic link that leads outside of the store') };
  const facts = await stat(folder.at(name), { bigint: true });
  if (facts.isFile()) return { entry: entryOf(path, facts) };
  if (!facts.isDirectory())
    return { entry: other(path, 'special', 'it leads to a pipe, a socket or a device') };
  const through = [...at.through, folder.realPath];
  if (through.some((link) => link === real || link.startsWith(`${real}/`)))
    return { entry: other(path, 'link', 'it is a symbolic link to a directory that it lies in') };
  return { entry: { kind: 'dir', path }, below: { dir: path, through } };
}

const LINKS_NOWHERE: Readonly<Record<string, string>> = {
  ENOENT: 'it is a symbolic link that leads nowhere',
  ENOTDIR: 'it is a symbolic link that leads nowhere',
  ELOOP: 'it is a symbolic link that leads in a circle',
};

const specialKind = (entry: Kind): string =>
  entry.isFIFO()
    ? 'it is a pipe'
    : entry.isSocket()
      ? 'it is a socket'
      : entry.isBlockDevice() || entry.isCharacterDevice()
        ? 'it is a device'
        : 'it is no file, and the file system does not say what else';

const other = (path: StorePath, is: OtherEntry['is'], why: string): OtherEntry => ({
  kind: 'other',
  path,
  size: 0,
  is,
  why,
});

const reserved = (path: StorePath, is: Hidden): OtherEntry =>
  other(path, 'reserved', WHY_RESERVED[is === 'mlflow' ? is : 'foreign']);

const closed = (path: StorePath, error: unknown): OtherEntry =>
  isClosed(error)
    ? other(path, 'closed', 'the service may not read it: check its owner and mode')
    : other(path, 'name', 'its path is too long to be opened');
