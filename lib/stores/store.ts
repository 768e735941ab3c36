/** What the rest of Longshore holds of a store: one vendor's layered driver, with all that is the same for all of them. */
import { crc32 } from 'node:zlib';
import { Failure, failureOf } from '../errors.ts';
import { baseName, isWithin, ROOT, type StorePath } from '../path.ts';
import { byteLength } from '../path-bytes.ts';
import type { BufferPool } from './buffers.ts';
import { collected } from './bytes.ts';
import { type Draft, type PrepareOptions, prepareDraft } from './draft.ts';
import type {
  ByteRange,
  Bytes,
  Driver,
  Entry,
  FileEntry,
  Leftover,
  ListCall,
  Multipart,
  OtherEntry,
  PendingUpload,
  Reading,
  ServerCopy,
  Traits,
  Upload,
} from './driver.ts';
import { tapped } from './layers/around.ts';
import { type Telling, toldMultipart, toldServerCopy } from './told.ts';

export type { Draft, MismatchKind, PrepareOptions, Published } from './draft.ts';

const REMOVE_PAGE = 1000;
/** So often what is removed may turn out to have more below it. */
const MOST_ROUNDS = 16;

export interface HiddenObject {
  /** Where nothing is. @throws Failure `already-exists` */
  write(bytes: Uint8Array, token: string): Promise<FileEntry>;
  read(): Promise<Buffer>;
  /** Whether a listing of hidden objects has it. */
  isTold(): Promise<boolean>;
  remove(): Promise<void>;
}

export interface Removed {
  readonly removed: number;
  /** Why nothing below the object was looked at: what lies there stays. */
  readonly unseen?: Failure;
}

export interface NotRemoved {
  readonly path: StorePath;
  readonly failure: Failure;
}

/** Whether what is no file can be removed by its name. */
export const isRemovable = ({ is }: OtherEntry): boolean =>
  is !== 'closed' && is !== 'reserved' && is !== 'unnamed';

/** What to call an entry of a listing to have it removed; `undefined`: it stays. */
export function removablePath(entry: Entry): StorePath | undefined {
  if (entry.path === ROOT) return undefined;
  if (entry.kind === 'dir') return `${entry.path}/` as StorePath;
  return entry.kind === 'other' && !isRemovable(entry) ? undefined : entry.path;
}

/** What can be in a directory says how it may be called. */
const inDirectory = (dir: StorePath): StorePath => `${dir.replace(/\/$/, '')}/x` as StorePath;

export class Store {
  /** As it is configured; in messages, notes, metrics and the ledger. */
  readonly name: string;
  /** Without user, password or query. */
  readonly uri: string;
  readonly traits: Traits;
  /** Uploads in parts, where the store has them; its errors are `Failure`s. */
  readonly multipart: Multipart | undefined;
  /** Copies on the store's own side, where it has them; its errors are `Failure`s. */
  readonly serverCopy: ServerCopy | undefined;
  /** Makes a directory that is there on its own, where the store has such. @throws Failure `invalid`: its name */
  readonly makeDirectory: ((dir: StorePath, signal: AbortSignal) => Promise<void>) | undefined;
  readonly #driver: Driver;
  readonly #buffers: BufferPool;

  constructor(args: {
    readonly name: string;
    readonly uri: string;
    readonly driver: Driver;
    readonly buffers: BufferPool;
  }) {
    this.name = args.name;
    this.uri = args.uri;
    this.traits = args.driver.traits;
    this.#driver = args.driver;
    this.#buffers = args.buffers;
    const telling: Telling = {
      attempt: async (op, path, signal, work) => {
        this.#fits(op, path);
        return this.#attempt(op, path, signal, work);
      },
      asked: (op, signal, work) => this.#attempt(op, ROOT, signal, work),
      told: (op, path, signal, items) => this.#told(op, path, signal, items),
    };
    const { multipart, serverCopy } = args.driver;
    this.multipart = multipart && toldMultipart(multipart, telling);
    this.serverCopy = serverCopy && toldServerCopy(serverCopy, telling);
    const { makeDirectory } = args.driver;
    this.makeDirectory =
      makeDirectory &&
      (async (dir, signal) => {
        if (dir !== ROOT) this.#fits('put', inDirectory(dir));
        return this.#attempt('make', dir, signal, () => makeDirectory.call(args.driver, dir, { signal }));
      });
  }

  /** @throws Failure `not-found`: absent, or a directory; `invalid`: it can hold nothing of this name */
  async head(path: StorePath, signal: AbortSignal): Promise<FileEntry> {
    this.#mayName('read', path);
    return this.#attempt('head', path, signal, () => this.#driver.head(path, { signal }));
  }

  /** Of an object that has some; none where the store has no such things. */
  async tags(path: StorePath, signal: AbortSignal): Promise<Readonly<Record<string, string>>> {
    const { tags } = this.#driver;
    if (!tags) return {};
    return this.#attempt('read the tags of', path, signal, () => tags.call(this.#driver, path, { signal }));
  }

  /**
   * A range is cut to the object's size. Read `bytes` to the end, or call its iterator's `return()`.
   * @throws Failure `not-found`, `precondition` (another version than `ifMatch`)
   */
  async read(
    path: StorePath,
    opts: { readonly range?: ByteRange; readonly ifMatch?: string; readonly signal: AbortSignal },
  ): Promise<Reading> {
    const { range, ifMatch, signal } = opts;
    this.#mayName('read', path);
    const reading = await this.#attempt('read', path, signal, () =>
      this.#driver.read(path, range, ifMatch === undefined ? { signal } : { signal, ifMatch }),
    );
    return reading.content ? reading : { ...reading, bytes: this.#told('read', path, signal, reading.bytes) };
  }

  /**
   * Takes bytes that can be read only once to where publishing them is one step. Nothing is visible yet. Short ones that
   * are in memory (`Reading.content`) are taken as they are; nobody changes them then.
   */
  async prepare(path: StorePath, bytes: Bytes | Uint8Array, opts: PrepareOptions): Promise<Draft> {
    this.#fits('put', path);
    const attempt = <T>(op: string, signal: AbortSignal, work: () => Promise<T>) =>
      this.#attempt(op, path, signal, work);
    return prepareDraft({ driver: this.#driver, buffers: this.#buffers, path, attempt }, bytes, opts);
  }

  /** Pages of what lies below `dir`; nothing there, or a file: no pages. */
  list(dir: StorePath, opts: ListCall): AsyncIterable<readonly Entry[]> {
    if (dir !== ROOT) this.#mayName('list', dir);
    return this.#told('list', dir, opts.signal, this.#driver.list(dir, opts));
  }

  /** Absent is fine. @throws Failure of the first path that could not be removed; the others are */
  async remove(paths: readonly StorePath[], signal: AbortSignal): Promise<void> {
    const [first] = await this.removeEach(paths, signal);
    if (first) throw first.failure;
  }

  /**
   * As `remove`, and answers what could not be removed. A name that ends in a slash is the empty directory, or the
   * marker, of that name.
   * @throws Failure where nothing of a page could be removed
   */
  async removeEach(paths: readonly StorePath[], signal: AbortSignal): Promise<readonly NotRemoved[]> {
    const left: NotRemoved[] = [];
    // a flat store takes any key, and may hold some that it never lets us read
    if (this.traits.namespace === 'hierarchical')
      for (const path of paths) this.#fits('remove', path.endsWith('/') ? inDirectory(path) : path);
    for (let at = 0; at < paths.length; at += REMOVE_PAGE) {
      const page = paths.slice(at, at + REMOVE_PAGE);
      const failures = await this.#attempt('remove', page[0]!, signal, () =>
        this.#driver.remove(page, { signal }),
      );
      for (const { path, error } of failures)
        left.push({ path, failure: this.#failure('remove', path, error) });
    }
    return left;
  }

  /**
   * The object at `path` and everything below it, every page of it. Counts what it saw and removed; absent is fine.
   * Rights may not reach: an object is removed by who may not list, and `unseen` then says why nothing below it was
   * looked at; what may be listed is removed by who may not read.
   * @throws Failure which names what stays, and why; all else is removed then. `denied`, with nothing removed, where
   *   neither the object nor a listing could be looked at
   */
  async removeTree(path: StorePath, signal: AbortSignal): Promise<Removed> {
    const found = path === ROOT ? false : await this.#isThere(path, signal);
    const below = await this.#removeBelow(path, found === true, signal);
    if (below.unseen && found !== true) throw this.#unknown(path, found || undefined, below.unseen);
    const { unseen } = below;
    let { removed, stays } = below;
    if (path !== ROOT) await this.remove([path], signal);
    if (below.there) removed++;
    if (!unseen) await this.prune(path, signal);
    // a server may hide keys behind others: MinIO lists no `a/b` while there is an `a`
    for (let round = 1, last = removed; !unseen && this.traits.namespace === 'flat' && last > 0; round++) {
      if (round === MOST_ROUNDS)
        throw new Failure(
          'conflict',
          `removed ${removed} at ${this.name}:${path}, and after ${round} times there was something still, or again`,
          { op: 'remove', store: this.name, path },
        );
      ({ removed: last, stays } = await this.#removeBelow(path, false, signal));
      removed += last;
    }
    const [first] = stays;
    if (first)
      throw new Failure(
        first.failure.kind,
        `removed ${removed} and left ${stays.length} at ${this.name}:${path}, the first: ${first.failure.message}`,
        { op: 'remove', store: this.name, path },
      );
    return { removed, ...(unseen && { unseen }) };
  }

  /** @param there whether there is an object at `path` itself, which goes last */
  async #removeBelow(path: StorePath, there: boolean, signal: AbortSignal) {
    let removed = 0;
    const stays: NotRemoved[] = [];
    try {
      for await (const page of this.list(path, { deep: true, links: 'name', signal })) {
        const paths: StorePath[] = [];
        for (const entry of page) {
          const removable = removablePath(entry);
          if (!isWithin(entry.path, path)) continue;
          if (entry.path === path && entry.kind !== 'dir') {
            there = true; // it goes last
            continue;
          }
          if (removable === undefined) stays.push({ path: entry.path, failure: this.notReadable(entry) });
          else paths.push(removable);
        }
        const left = await this.removeEach(paths, signal);
        stays.push(...left);
        removed += paths.length - left.length;
      }
    } catch (error) {
      const failure = failureOf(error);
      const nothingSeen = failure.facts.op === 'list' && removed === 0 && stays.length === 0;
      if (failure.kind !== 'denied' || !nothingSeen) throw failure;
      return { there, removed, stays, unseen: failure };
    }
    return { there, removed, stays };
  }

  #unknown(path: StorePath, notRead: Failure | undefined, notListed: Failure): Failure {
    const of = notRead ? 'what is there' : 'what lies below it';
    const why = notRead ? `${notRead.message}; ${notListed.message}` : notListed.message;
    return new Failure(
      'denied',
      `could not remove ${this.name}:${path}: it is missing, or there is no right to know ${of}, and nothing was removed: ${why}`,
      { op: 'remove', store: this.name, path },
    );
  }

  /** Why an entry of a listing cannot be carried, or removed. */
  notReadable(entry: Entry): Failure {
    const { is, why } = entry.kind === 'other' ? entry : { is: 'name', why: 'it is a directory' };
    const kind = is === 'closed' ? 'denied' : is === 'reserved' ? 'conflict' : 'unsupported';
    const facts = { op: 'read', store: this.name, path: entry.path };
    return new Failure(kind, `${this.name}:${entry.path}: ${why}`, facts);
  }

  /** Removes empty directories at and below `path`, where the store has such. */
  async prune(path: StorePath, signal: AbortSignal): Promise<void> {
    const { prune } = this.#driver;
    if (prune) await this.#attempt('prune', path, signal, () => prune.call(this.#driver, path, { signal }));
  }

  /** A failure: there is no right to know. */
  async #isThere(path: StorePath, signal: AbortSignal): Promise<boolean | Failure> {
    try {
      await this.head(path, signal);
      return true;
    } catch (error) {
      const failure = failureOf(error);
      if (failure.kind === 'not-found') return false;
      if (failure.kind === 'denied') return failure;
      throw failure;
    }
  }

  async abandon(upload: Upload, signal: AbortSignal): Promise<void> {
    await this.multipart?.abandon(upload, { signal });
  }

  /** Multipart uploads begun and not ended on exactly `path`, or anywhere for the root. */
  async *pending(path: StorePath, signal: AbortSignal): AsyncGenerator<readonly PendingUpload[]> {
    if (this.multipart) yield* this.multipart.pending(path, { signal });
  }

  /** Multipart uploads that nothing at the store proves to be ours: anybody may have begun them. */
  async *pendingOfAnybody(signal: AbortSignal): AsyncGenerator<readonly PendingUpload[]> {
    const { multipart } = this;
    if (multipart && !multipart.provesOwner) yield* multipart.pending(ROOT, { signal });
  }

  /** Hidden objects that are proved to be this installation's: on their way, or left behind by a crash. */
  async *leftovers(signal: AbortSignal): AsyncGenerator<readonly Leftover[]> {
    const found = this.#driver.leftovers?.({ signal });
    if (found) yield* this.#told('look for leftovers in', ROOT, signal, found);
  }

  /** One that `leftovers` told; gone already is fine. */
  async removeLeftover(path: StorePath, signal: AbortSignal): Promise<void> {
    const { removeLeftovers } = this.#driver;
    const failures = await this.#attempt('remove', path, signal, async () =>
      removeLeftovers?.call(this.#driver, [path], { signal }),
    );
    for (const { error } of failures ?? []) throw this.#failure('remove', path, error);
  }

  /**
   * An object under a hidden name of this installation's own, to try the store with: nobody else may name it, no
   * listing shows it, and what a crash leaves of it is told by `leftovers`.
   */
  hiddenObject(path: StorePath, signal: AbortSignal): HiddenObject {
    const attempt = <T>(op: string, work: () => Promise<T>) => this.#attempt(op, path, signal, work);
    return {
      write: (bytes, token) => {
        const body = { size: bytes.length, crc32: crc32(bytes), open: () => [bytes] };
        return attempt('put', () => this.#driver.write(path, body, { signal, mode: 'create', token }));
      },
      read: () =>
        attempt('read', async () => collected((await this.#driver.read(path, undefined, { signal })).bytes)),
      isTold: async () => {
        for await (const page of this.leftovers(signal))
          if (page.some((one) => one.path === path)) return true;
        return false;
      },
      remove: () => this.removeLeftover(path, signal),
    };
  }

  close(): Promise<void> {
    return this.#driver.close();
  }

  /** @throws Failure `invalid`: no object of this name can be here */
  #fits(op: string, path: StorePath): void {
    const why = this.refuses(path);
    if (why) throw new Failure('invalid', `Invalid path: ${why}`, { op, store: this.name, path });
  }

  /** As `#fits`, for what is only looked at: names that are too long for it are simply not there. */
  #mayName(op: string, path: StorePath): void {
    const why = path === ROOT ? undefined : this.#driver.refuses(path);
    if (why) throw new Failure('invalid', `Invalid path: ${why}`, { op, store: this.name, path });
  }

  /** Why no directory of this name can be here; a sentence. */
  refusesDirectory(dir: StorePath): string | undefined {
    return this.refuses(inDirectory(dir));
  }

  /** Why no object of this name can be here; a sentence. */
  refuses(path: StorePath): string | undefined {
    const { maxPathBytes, maxNameBytes } = this.traits;
    if (path === ROOT) return 'an object needs a name';
    const longest = path.split('/').reduce((most, name) => Math.max(most, byteLength(name)), 0);
    if (byteLength(path) > maxPathBytes)
      return `the path is longer than the ${maxPathBytes} bytes that ${this.name} takes`;
    if (longest > maxNameBytes)
      return `'${baseName(path).slice(0, 40)}…' or a directory above it is longer than the ${maxNameBytes} bytes that ${this.name} takes for a name`;
    return this.#driver.refuses(path);
  }

  async #attempt<T>(op: string, path: StorePath, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    try {
      signal.throwIfAborted();
      return await work();
    } catch (error) {
      throw signal.aborted ? failureOf(signal.reason) : this.#failure(op, path, error);
    }
  }

  #told<T>(op: string, path: StorePath, signal: AbortSignal, items: AsyncIterable<T>): AsyncIterable<T> {
    return tapped(items, (next) => this.#attempt(op, path, signal, next));
  }

  /** Wraps a vendor's error once. Failures of layers and of the contract pass, with the store's name added to their facts. */
  #failure(op: string, path: StorePath, error: unknown): Failure {
    const facts = { op, store: this.name, path };
    if (error instanceof Failure) {
      if (error.facts.store !== undefined) return error;
      return new Failure(
        error.kind,
        error.message,
        { ...facts, ...error.facts, store: this.name },
        { cause: error.cause },
      );
    }
    const { kind, message, retryAfterMs } = this.#driver.classify(error);
    const why = message ?? (error instanceof Error ? error.message : String(error));
    return new Failure(
      kind,
      `could not ${op} ${this.name}:${path}: ${why}`,
      retryAfterMs === undefined ? facts : { ...facts, retryAfterMs },
      { cause: error },
    );
  }
}
