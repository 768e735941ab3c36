/**
 * Files below one folder of this machine: a local disk, or a mount of NFS (the same path on every machine that runs a
 * process of ours).
 *
 * Needs read, write and execute rights on the folder and all below it. A file on its way is a hidden sibling
 * `.longshore-<installation>-<token>-<random>-<MAC>` in its target's directory (a file in parts has a `.parts` beside it,
 * and is `….joined` in the end); it is synced, renamed over the target, and the directory is synced, so a reader finds the
 * old file or the new one. A crash leaves hidden siblings, which gc removes where the MAC proves that they are ours, and
 * empty directories. Symbolic links are followed inside the root only.
 * Tested on ext4, tmpfs and overlayfs (Linux).
 */
import { constants } from 'node:fs';
import { type FileHandle, open, readdir, realpath, rmdir, unlink } from 'node:fs/promises';
import { Failure } from '../../errors.ts';
import { baseName, joinPath, parentOf, type StorePath } from '../../path.ts';
import { textOfBytes } from '../../path-bytes.ts';
import { makeFolder } from '../../path-folder.ts';
import { once } from '../bytes.ts';
import type {
  Body,
  ByteRange,
  Call,
  Driver,
  Entry,
  FileEntry,
  Leftover,
  ListCall,
  ReadCall,
  Reading,
  RemoveFailure,
  Traits,
  WriteCall,
} from '../driver.ts';
import { type HiddenNames, refusedAsHidden } from '../hidden.ts';
import { classifyFileError } from './file-errors.ts';
import { codeOf, type Folder, Folders, isClosed } from './file-folder.ts';
import { leftoversIn, listFolder } from './file-list.ts';
import { FileMultipart, unlinkAll } from './file-multipart.ts';
import { changed, entryOf, Publishers, publishSibling, withSibling, writeAll } from './file-publish.ts';
import { fileBytes, fileContent, SHORT_BYTES } from './file-read.ts';

/** Not blocking: opening a pipe that nobody writes to would wait for ever. */
const READ_FLAGS = constants.O_RDONLY | constants.O_NONBLOCK;
/** Linux's PATH_MAX without the terminating zero. */
const LONGEST_PATH_BYTES = 4095;

/** The folder is made where it is missing. @throws the file system's errors */
export async function openFileDriver(folder: string, hidden: HiddenNames): Promise<FileDriver> {
  await makeFolder(folder);
  return new FileDriver(await realpath(folder), hidden);
}

export class FileDriver implements Driver {
  readonly traits: Traits;
  readonly multipart: FileMultipart;
  readonly #folders: Folders;
  readonly #hidden: HiddenNames;
  readonly #publishers = new Publishers();

  /** `root` is a real path. */
  constructor(root: string, hidden: HiddenNames) {
    this.#folders = new Folders(root);
    this.#hidden = hidden;
    this.multipart = new FileMultipart(this.#folders, hidden, this.#publishers);
    this.traits = {
      replace: 'atomic',
      createOnly: true,
      conditionalWrite: false,
      rangedRead: true,
      namespace: 'hierarchical',
      fileAndDir: false,
      lateParts: 'may-land',
      checksWrites: false,
      keeps: ['mode', 'modified'],
      maxPathBytes: LONGEST_PATH_BYTES - Buffer.byteLength(root) - 1,
      maxNameBytes: 255,
      connections: 64,
    };
  }

  refuses(path: StorePath): string | undefined {
    const names = path === '' ? [] : path.split('/');
    const wrong = names.find((name) => name === '' || name === '.' || name === '..');
    if (wrong !== undefined)
      return wrong === '' ? 'it has an empty segment' : `it contains the segment '${wrong}'`;
    if (path.includes('\0')) return 'a file name cannot contain a NUL';
    return refusedAsHidden(path);
  }

  async head(path: StorePath, call: Call): Promise<FileEntry> {
    call.signal.throwIfAborted();
    const { handle, entry } = await this.#open(path);
    await handle.close();
    return this.#publishers.named(entry);
  }

  async read(path: StorePath, range: ByteRange | undefined, call: ReadCall): Promise<Reading> {
    call.signal.throwIfAborted();
    const { handle, entry } = await this.#open(path);
    if (call.ifMatch !== undefined && call.ifMatch !== entry.etag) {
      await handle.close();
      throw changed(path);
    }
    const start = Math.min(range?.start ?? 0, entry.size);
    const cut = { start, end: Math.max(start, Math.min(range?.end ?? entry.size, entry.size)) };
    if (cut.end - cut.start > SHORT_BYTES)
      return { entry, range: cut, bytes: fileBytes(handle, entry, cut, call.signal) };
    const content = await fileContent(handle, entry, cut);
    return { entry, range: cut, content, bytes: once(content) };
  }

  async write(path: StorePath, body: Body, call: WriteCall): Promise<FileEntry> {
    call.signal.throwIfAborted();
    return withSibling(this.#folders, this.#hidden, path, call.token, async (sibling) => {
      const { folder, handle } = sibling;
      try {
        let size = 0;
        for await (const chunk of body.open()) size += await writeAll(handle, [chunk], size);
        if (size !== body.size) throw new Failure('corrupt', `the body had ${size} bytes of ${body.size}`);
        const target = { path, name: baseName(path) };
        return await publishSibling(folder, sibling.name, handle, target, call, this.#publishers);
      } catch (error) {
        await handle.close().catch(() => undefined); // closed already where the rename failed
        await unlinkAll(folder, [sibling.name]);
        await this.#folders.unmake(sibling.made);
        throw error;
      }
    });
  }

  list(dir: StorePath, call: ListCall): AsyncIterable<readonly Entry[]> {
    return listFolder(this.#folders, this.#hidden, dir, call);
  }

  async remove(paths: readonly StorePath[], call: Call): Promise<readonly RemoveFailure[]> {
    const failures: RemoveFailure[] = [];
    const byFolder = Map.groupBy(paths, (path) => parentOf(withoutSlash(path)));
    for (const [dir, entries] of byFolder) {
      call.signal.throwIfAborted();
      try {
        await this.#folders.use(dir, false, async (folder) => {
          for (const path of entries)
            await removeFrom(folder, path).catch((error: unknown) => {
              if (!isAbsent(error)) failures.push({ path, error });
            });
          await folder.sync();
        });
        await this.#folders.prune(dir);
      } catch (error) {
        if (!isAbsent(error)) failures.push(...entries.map((path) => ({ path, error })));
      }
    }
    return failures;
  }

  async removeLeftovers(paths: readonly StorePath[], call: Call): Promise<readonly RemoveFailure[]> {
    const failures: RemoveFailure[] = [];
    for (const path of paths) {
      call.signal.throwIfAborted();
      try {
        await this.#folders.use(parentOf(path), false, async (folder) => {
          const really = joinPath(this.#folders.dirOf(folder), baseName(path) as StorePath);
          if (this.#hidden.kindOf(really) === 'ours') await unlink(folder.at(baseName(path)));
        });
      } catch (error) {
        if (!isAbsent(error)) failures.push({ path, error });
      }
    }
    return failures;
  }

  async makeDirectory(dir: StorePath, call: Call): Promise<void> {
    call.signal.throwIfAborted();
    await this.#folders.use(dir, true, (folder) => folder.sync());
  }

  async prune(dir: StorePath, call: Call): Promise<void> {
    call.signal.throwIfAborted();
    const below = await this.#folders
      .use(dir, false, (folder) => readdir(folder.self, { withFileTypes: true, encoding: 'buffer' }))
      .catch((error: unknown) => {
        // a directory that is closed is not empty, as far as anybody can say
        if (isAbsent(error) || isClosed(error)) return undefined;
        throw error;
      });
    if (!below) return;
    for (const entry of below)
      if (entry.isDirectory()) await this.prune(joinPath(dir, textOfBytes(entry.name) as StorePath), call);
    await this.#folders.prune(dir);
  }

  leftovers(call: Call): AsyncIterable<readonly Leftover[]> {
    return leftoversIn(this.#folders, this.#hidden, call.signal);
  }

  /** Nothing stays open between calls. */
  async close(): Promise<void> {}

  readonly classify = classifyFileError;

  /** A regular file inside the root, by what was opened and not by what its path said. */
  async #open(path: StorePath): Promise<{ readonly handle: FileHandle; readonly entry: FileEntry }> {
    const file = this.#folders.nativePathOf(path);
    const handle = await open(file, READ_FLAGS).catch((error: unknown) => {
      if (codeOf(error) !== 'ENOTDIR') throw error;
      throw new Failure('not-found', `no such file: a directory above ${path} is a file`, { path });
    });
    try {
      this.#folders.assertInside(await this.#folders.realPathOf(handle, file), path);
      const facts = await handle.stat({ bigint: true });
      if (!facts.isFile())
        throw new Failure(
          'not-found',
          facts.isDirectory() ? `${path} is a directory` : `${path} is not a regular file`,
          { path },
        );
      const attributes = { mode: Number(facts.mode) & 0o7777 };
      return { handle, entry: { ...entryOf(path, facts), attributes } };
    } catch (error) {
      await handle.close();
      throw error;
    }
  }
}

/** A directory is no file, and one that is not empty is not there to be removed either. */
const isAbsent = (error: unknown): boolean =>
  ['ENOENT', 'ENOTDIR', 'EISDIR', 'ENOTEMPTY', 'EEXIST'].includes(codeOf(error) ?? '');

const withoutSlash = (path: StorePath): StorePath => path.replace(/\/$/, '') as StorePath;

const removeFrom = (folder: Folder, path: StorePath): Promise<void> =>
  path.endsWith('/') ? rmdir(folder.at(baseName(withoutSlash(path)))) : unlink(folder.at(baseName(path)));
