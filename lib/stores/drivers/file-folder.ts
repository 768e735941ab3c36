/**
 * Folders held open, so that what is checked is what is used: a path is opened once, the kernel says where that really
 * is, and everything after goes through the open folder. A symlink swapped in between leads nowhere new.
 */
import { constants, readlinkSync } from 'node:fs';
import { type FileHandle, mkdir, open, realpath, rmdir } from 'node:fs/promises';
import { Coalesced } from '../../coalesced.ts';
import { Failure } from '../../errors.ts';
import { baseName, parentOf, type StorePath } from '../../path.ts';
import { bytesOfText, textOfBytes } from '../../path-bytes.ts';

/** Linux names an open folder's entries by `/proc/self/fd/<n>/<name>`; elsewhere the checked real path must do. */
const HAS_PROC = process.platform === 'linux';
const FOLDER_FLAGS = constants.O_RDONLY | constants.O_DIRECTORY;
/** So long an open folder is taken for what its path leads to, without a look: others may move folders about. */
const SHARED_MS = 20;
/** Folders may be pruned while they are being made: so often is that tried anew. */
const TRIES = 8;

export class Folder {
  readonly #handle: FileHandle;
  readonly #realPath: string;
  readonly #released: () => void;
  readonly #openedMs = performance.now();
  #users = 1;
  readonly #syncs: Coalesced;

  constructor(handle: FileHandle, realPath: string, released: () => void) {
    this.#handle = handle;
    this.#realPath = realPath;
    this.#released = released;
    this.#syncs = new Coalesced(() => handle.sync());
  }

  /** What to call the entry `name` of this very folder, whatever its path leads to by now. */
  at(name: string): string | Buffer {
    return nativePath(this.self, name);
  }
  /** Where it really is. */
  get realPath(): string {
    return this.#realPath;
  }
  /** What to call the folder itself. */
  get self(): string {
    return HAS_PROC ? `/proc/self/fd/${this.#handle.fd}` : this.#realPath;
  }

  /** Makes the names in it durable. */
  sync(): Promise<void> {
    return this.#syncs.run();
  }

  get isFresh(): boolean {
    return performance.now() - this.#openedMs < SHARED_MS;
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
  /** Folders being made here whose names are on their way to the disk: nothing in them is durable before. */
  readonly #naming = new Map<string, Promise<void>>();

  /** `root` is a real path. */
  constructor(root: string) {
    this.root = root;
  }

  /**
   * The folder of `dir`. With `make` it is made where it is missing, and those above it, each new name durable; an array
   * is told which ones were made here, the outermost first.
   * @throws ENOENT, ENOTDIR; Failure `invalid` where it lies outside the root
   */
  async use<T>(
    dir: StorePath,
    make: boolean | StorePath[],
    work: (folder: Folder) => Promise<T>,
  ): Promise<T> {
    const folder = await (make === false ? this.#shared(dir) : this.#made(dir, make === true ? [] : make));
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
      if (this.#open.get(dir) !== there) continue;
      if (folder.isFresh) return folder.share();
      this.#forget(dir, there);
    }
    const opening = this.#openFolder(dir);
    this.#open.set(dir, opening);
    opening.catch(() => this.#forget(dir, opening));
    return opening;
  }

  async #openFolder(dir: StorePath): Promise<Folder> {
    const path = this.nativePathOf(dir);
    const handle = await open(path, FOLDER_FLAGS);
    try {
      const real = await this.realPathOf(handle, path);
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

  /** It turned out to be gone: who asks next gets the one that is there now, whoever still holds this one. */
  drop(dir: StorePath): void {
    this.#open.delete(dir);
  }

  async #made(dir: StorePath, made: StorePath[]): Promise<Folder> {
    for (let tries = 1; ; tries++) {
      try {
        const folder = await this.#shared(dir);
        await this.#named(dir).catch(async (error: unknown) => {
          await folder.release();
          throw error;
        });
        return folder;
      } catch (error) {
        if (codeOf(error) !== 'ENOENT' || dir === '' || tries >= TRIES) throw error;
        await this.#make(dir, made);
      }
    }
  }

  async #make(dir: StorePath, made: StorePath[]): Promise<void> {
    const naming = this.use(parentOf(dir), made, async (parent) => {
      try {
        await mkdir(parent.at(baseName(dir)));
        made.push(dir);
      } catch (error) {
        if (codeOf(error) === 'ENOENT') this.drop(parentOf(dir));
        else if (codeOf(error) !== 'EEXIST') throw error;
      }
      await parent.sync();
    });
    this.#naming.set(dir, naming);
    try {
      await naming;
    } finally {
      if (this.#naming.get(dir) === naming) this.#naming.delete(dir);
    }
  }

  /** Waits where `dir`, or one above it, was made so lately that its name is not durable yet. */
  async #named(dir: StorePath): Promise<void> {
    for (let at = dir; at !== '' && this.#naming.size > 0; at = parentOf(at)) await this.#naming.get(at);
  }

  /** Removes `dir` and its parents as long as they are empty; never the root. */
  async prune(dir: StorePath): Promise<void> {
    for (let empty = dir; empty !== ''; ) {
      const slash = empty.lastIndexOf('/');
      const parent = empty.slice(0, Math.max(0, slash)) as StorePath;
      try {
        await this.use(parent, false, (folder) => rmdir(folder.at(empty.slice(slash + 1))));
        this.drop(empty);
      } catch {
        return; // not empty, or in use: it stays
      }
      empty = parent;
    }
  }

  /** Removes those of `made` that are empty; the outermost come first. What others have made stays. */
  async unmake(made: readonly StorePath[]): Promise<void> {
    for (const dir of made.toReversed()) {
      try {
        await this.use(parentOf(dir), false, (folder) => rmdir(folder.at(baseName(dir))));
        this.drop(dir);
      } catch {
        return; // not empty, or in use: it stays
      }
    }
  }

  /** Where an open folder really is, from the root. */
  dirOf({ realPath }: Folder): StorePath {
    return realPath.slice(this.root === '/' ? 1 : this.root.length + 1) as StorePath;
  }

  nativePathOf(path: StorePath): string | Buffer {
    return path === '' ? this.root : nativePath(this.root, path);
  }

  /** Where an open file or folder really is. */
  async realPathOf(handle: FileHandle, path: string | Buffer): Promise<string> {
    // the kernel knows it without asking a disk or a server, so this never blocks
    const real = HAS_PROC
      ? readlinkSync(`/proc/self/fd/${handle.fd}`, 'buffer')
      : await realpath(path, 'buffer');
    return textOfBytes(real);
  }

  isInside(real: string): boolean {
    return real === this.root || real.startsWith(this.root === '/' ? '/' : `${this.root}/`);
  }

  /** @throws Failure `invalid` */
  assertInside(real: string, path: StorePath): void {
    if (this.isInside(real)) return;
    throw new Failure('invalid', 'Invalid path: resolved path is outside the artifact directory', { path });
  }
}

/** `name` in `folder`, as bytes where it is no text. */
function nativePath(folder: string, name: string): string | Buffer {
  const bytes = bytesOfText(name);
  const start = folder === '/' ? '/' : `${folder}/`;
  return typeof bytes === 'string' ? start + bytes : Buffer.concat([Buffer.from(start), bytes]);
}

export const codeOf = (error: unknown): string | undefined =>
  (error as NodeJS.ErrnoException | undefined)?.code;

/** This user may not look into it, or change what is in it. */
export const isClosed = (error: unknown): boolean => ['EACCES', 'EPERM'].includes(codeOf(error) ?? '');
