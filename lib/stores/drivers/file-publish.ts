/** Hidden siblings: how a file is written out of sight and then appears whole, in one step. */
import { constants } from 'node:fs';
import { type FileHandle, link, open, rename, stat, unlink } from 'node:fs/promises';
import { Failure } from '../../errors.ts';
import { parentOf, type StorePath } from '../../path.ts';
import type { AttributeName, Attributes } from '../attributes.ts';
import type { FileEntry, WriteCall } from '../driver.ts';
import type { HiddenNames } from '../hidden.ts';
import { codeOf, type Folder, type Folders } from './file-folder.ts';

const CREATE = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
const MODE = 0o666;
const PUBLISHERS = 1000;
/** Two times closer than this are one. */
const CLOSE_MS = 1000;

/** Only this makes a sibling: what opens one later finds it, or finds that it is gone. */
export const createSibling = (folder: Folder, name: string): Promise<FileHandle> =>
  open(folder.at(name), CREATE, MODE);

/** So often a folder may be pruned between being made and getting its first file. */
const TRIES = 8;

/** A sibling that was made just now. */
export interface Sibling {
  /** Unique, so that two workers with one job never touch each other's. */
  readonly name: string;
  readonly folder: Folder;
  readonly handle: FileHandle;
  /** Directories that were made for it, the outermost first. */
  readonly made: readonly StorePath[];
}

/** Makes the sibling, and its folder where that is missing, and goes on with both. */
export async function withSibling<T>(
  folders: Folders,
  hidden: HiddenNames,
  path: StorePath,
  token: string,
  work: (sibling: Sibling) => Promise<T>,
): Promise<T> {
  const made: StorePath[] = [];
  for (let tries = 1; ; tries++) {
    const done = await folders.use(parentOf(path), made, async (folder) => {
      const name = hidden.nameIn(folders.dirOf(folder), token);
      let handle: FileHandle;
      try {
        handle = await createSibling(folder, name);
      } catch (error) {
        if (codeOf(error) !== 'ENOENT' || tries >= TRIES) throw error;
        folders.drop(parentOf(path));
        return undefined;
      }
      return { value: await work({ name, folder, handle, made }) };
    });
    if (done) return done.value;
  }
}

/**
 * Bytes; Linux takes memory for one write in one piece where it can, and a large piece is seldom one that was in use just
 * before: writes of 512 KiB and more were seen to cost up to ten times the CPU of those of 256 KiB.
 */
export const LARGEST_WRITE_BYTES = 256 * 1024;

/** All of `chunks` from `offset` on; a short write goes on. */
export async function writeAll(
  handle: FileHandle,
  chunks: Iterable<Uint8Array>,
  offset: number,
): Promise<number> {
  let at = offset;
  for (const chunk of chunks)
    for (let done = 0; done < chunk.length; ) {
      const { bytesWritten } = await handle.write(
        chunk,
        done,
        Math.min(chunk.length - done, LARGEST_WRITE_BYTES),
        at,
      );
      done += bytesWritten;
      at += bytesWritten;
    }
  return at - offset;
}

/**
 * Who published the versions that this process published last: a file cannot carry a token, and a lost reply is settled
 * by asking for it.
 */
export class Publishers {
  readonly #tokens = new Map<string, string>();

  note(entry: FileEntry, token: string): void {
    this.#tokens.set(keyOf(entry), token);
    if (this.#tokens.size <= PUBLISHERS) return;
    const [oldest] = this.#tokens.keys();
    this.#tokens.delete(oldest!);
  }

  /** With its token, where that is known. */
  named(entry: FileEntry): FileEntry {
    const token = this.#tokens.get(keyOf(entry));
    return token === undefined ? entry : { ...entry, token };
  }
}

const keyOf = (entry: FileEntry): string => `${entry.path}\n${entry.etag}`;

/**
 * Makes the sibling's bytes durable, gives it its name, makes the name durable. Everything that can fail for want of
 * space or rights has failed before the rename.
 */
export async function publishSibling(
  folder: Folder,
  sibling: string,
  handle: FileHandle,
  target: { readonly path: StorePath; readonly name: string },
  call: WriteCall,
  publishers: Publishers,
): Promise<FileEntry> {
  const notKept = await given(handle, call.attributes);
  await handle.sync();
  const facts = await handle.stat({ bigint: true });
  await handle.close();
  call.signal.throwIfAborted();
  const entry = entryOf(target.path, facts);
  if (call.ifMatch !== undefined) await assertVersion(folder, target, call.ifMatch);
  if (call.mode === 'create') {
    await link(folder.at(sibling), folder.at(target.name));
    await unlink(folder.at(sibling));
  } else {
    await rename(folder.at(sibling), folder.at(target.name));
  }
  await folder.sync();
  publishers.note(entry, call.token); // not before: what is not durable must not be taken for published
  const named = publishers.named(entry);
  return notKept.length === 0 ? named : { ...named, notKept };
}

/**
 * A version is known by size, inode and time, and an inode is used again: below the millisecond that is carried the time
 * is random, so that two files of one size that are given the same time are two versions all the same.
 */
const distinct = (modified: number): number => Math.floor(modified) + 0.1 + 0.8 * Math.random();

/** Some file systems keep no bits, or no time so far back: what came of it is looked at. */
async function given(
  handle: FileHandle,
  { mode, modified }: Pick<Attributes, 'mode' | 'modified'> = {},
): Promise<readonly AttributeName[]> {
  if (mode === undefined && modified === undefined) return [];
  const notKept: AttributeName[] = [];
  if (mode !== undefined) {
    await handle.chmod(mode).catch(() => undefined); // looked at below
    if (((await handle.stat()).mode & 0o7777) !== mode) notKept.push('mode');
  }
  if (modified !== undefined) {
    await handle.utimes(new Date(), distinct(modified) / 1000).catch(() => undefined);
    if (Math.abs((await handle.stat()).mtimeMs - modified) >= CLOSE_MS) notKept.push('modified');
  }
  return notKept;
}

async function assertVersion(
  folder: Folder,
  target: { readonly path: StorePath; readonly name: string },
  etag: string,
): Promise<void> {
  const there = await stat(folder.at(target.name), { bigint: true }).catch((error: unknown) => {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  });
  if (!there || entryOf(target.path, there).etag !== etag) throw changed(target.path);
}

export const changed = (path: StorePath): Failure =>
  new Failure('precondition', `${path} is not the version that was asked for`, { path });

export interface FileFacts {
  readonly size: bigint;
  readonly mtimeNs: bigint;
  readonly ino: bigint;
}

export const entryOf = (path: StorePath, { size, mtimeNs, ino }: FileFacts): FileEntry => ({
  kind: 'file',
  path,
  size: Number(size),
  etag: `${mtimeNs.toString(36)}-${size.toString(36)}-${ino.toString(36)}`,
  modifiedMs: Number(mtimeNs / 1_000_000n),
});
