/**
 * Folders held open, so that what is checked is what is used: a path is opened once, the kernel says where that really
 * is, and everything after goes through the open folder. A symlink swapped in between leads nowhere new.
 */
import { constants } from 'node:fs';
import { type FileHandle, mkdir, open, readlink, realpath, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Failure } from '../../errors.ts';
import type { StorePath } from '../../path.ts';

/** Linux names an open folder's entries by `/proc/self/fd/<n>/<name>`; elsewhere the checked real path must do. */
const HAS_PROC = process.platform === 'linux';
const FOLDER_FLAGS = constants.O_RDONLY | constants.O_DIRECTORY;
/** Folders may be pruned while they are being made: so often is that tried anew. */
const TRIES = 8;

export class Folder {
  readonly #handle: FileHandle;
  readonly #realPath: string;
  readonly #released: () => void;
  #users = 1;
  #syncing: Promise<void> | undefined;
  #nextSync: Promise<void> | undefined;

  constructor(handle: FileHandle, realPath: string, released: () => void) {
    this.#handle = handle;
    this.#realPath = realPath;
    this.#released = released;
  }

  /** What to call the entry `name` of this very folder, whatever its path leads to by now. */
  at(name: string): string {
    return HAS_PROC ? `/proc/self/fd/${this.#handle.fd}/${name}` : join(this.#realPath, name);
  }
  /** What to call the folder itself. */
  get self(): string {
    return HAS_PROC ? `/proc/self/fd/${this.#handle.fd}` : this.#realPath;
  }

  /**
   * Makes the names in it durable. Those who ask while a sync runs share the next one: a sync may serve only what
   * happened before it started.
   */
  sync(): Promise<void> {
    this.#nextSync ??= (this.#syncing ?? Promise.resolve())
      .catch(() => undefined)
      .then(() => {
        this.#syncing = this.#nextSync;
        this.#nextSync = undefined;
        return this.#handle.sync();
      });
    return this.#nextSync;
  }

  share(): this {
    this.#users++;
    return this;
  }
  async release(): Promise<void> {
    if (--this.#users > 0) return;
    this.#released();
    await this.#handle.close();
  }
}

/** The folders of one root. */
export class Folders {
  readonly root: string;
  /** Those in use now; concurrent writers of one folder share its handle and its syncs. */
  readonly #open = new Map<string, Promise<Folder>>();

  /** `root` is a real path. */
  constructor(root: string) {
    this.root = root;
  }

  /**
   * The folder of `dir`, or with `make` that folder made, each new name durable. Release it.
   * @throws ENOENT, ENOTDIR; Failure `invalid` where it lies outside the root
   */
  async use<T>(dir: StorePath, make: boolean, work: (folder: Folder) => Promise<T>): Promise<T> {
    const folder = await (make ? this.#made(dir) : this.#shared(dir));
    try {
      return await work(folder);
    } finally {
      await folder.release();
    }
  }

  async #shared(dir: StorePath): Promise<Folder> {
    for (;;) {
      const there = this.#open.get(dir);
      if (!there) break;
      const folder = await there;
      if (this.#open.get(dir) === there) return folder.share();
    }
    const opening = this.#openFolder(dir);
    this.#open.set(dir, opening);
    opening.catch(() => this.#forget(dir, opening));
    return opening;
  }

  async #openFolder(dir: StorePath): Promise<Folder> {
    const handle = await open(join(this.root, dir), FOLDER_FLAGS);
    try {
      const real = await this.realPathOf(handle, join(this.root, dir));
      this.assertInside(real, dir);
      const opened = this.#open.get(dir);
      return new Folder(handle, real, () => opened && this.#forget(dir, opened));
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  #forget(dir: StorePath, opening: Promise<Folder>): void {
    if (this.#open.get(dir) === opening) this.#open.delete(dir);
  }

  async #made(dir: StorePath): Promise<Folder> {
    for (let tries = 1; ; tries++) {
      try {
        return await this.#shared(dir);
      } catch (error) {
        if (codeOf(error) !== 'ENOENT' || dir === '' || tries >= TRIES) throw error;
        const slash = dir.lastIndexOf('/');
        await this.use(dir.slice(0, Math.max(0, slash)) as StorePath, true, async (parent) => {
          try {
            await mkdir(parent.at(dir.slice(slash + 1)));
          } catch (failed) {
            if (codeOf(failed) !== 'EEXIST' && codeOf(failed) !== 'ENOENT') throw failed;
          }
          await parent.sync();
        });
      }
    }
  }

  /** Removes `dir` and its parents as long as they are empty; never the root. */
  async prune(dir: StorePath): Promise<void> {
    for (let empty = dir; empty !== ''; ) {
      const slash = empty.lastIndexOf('/');
      const parent = empty.slice(0, Math.max(0, slash)) as StorePath;
      try {
        await this.use(parent, false, (folder) => rmdir(folder.at(empty.slice(slash + 1))));
        this.#open.delete(empty);
      } catch {
        return; // not empty, or in use: it stays
      }
      empty = parent;
    }
  }

  /** Where an open file or folder really is. */
  realPathOf(handle: FileHandle, path: string): Promise<string> {
    return HAS_PROC ? readlink(`/proc/self/fd/${handle.fd}`) : realpath(path);
  }

  /** @throws Failure `invalid` */
  assertInside(real: string, path: StorePath): void {
    if (real === this.root || real.startsWith(this.root === '/' ? '/' : `${this.root}/`)) return;
    throw new Failure('invalid', 'Invalid path: resolved path is outside the artifact directory', { path });
  }
}

export const codeOf = (error: unknown): string | undefined =>
  (error as NodeJS.ErrnoException | undefined)?.code;
