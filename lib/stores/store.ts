/** What the rest of Longshore holds of a store: one vendor's layered driver, with all that is the same for all of them. */
import { Failure, failureOf } from '../errors.ts';
import { baseName, isWithin, ROOT, type StorePath } from '../path.ts';
import type { BufferPool } from './buffers.ts';
import { type Draft, type PrepareOptions, prepareDraft } from './draft.ts';
import type {
  ByteRange,
  Bytes,
  Driver,
  Entry,
  FileEntry,
  Multipart,
  PendingUpload,
  Reading,
  ServerCopy,
  Traits,
  Upload,
} from './driver.ts';
import { tapped } from './layers/around.ts';
import { type Telling, toldMultipart, toldServerCopy } from './told.ts';

export type { Draft, MismatchKind, PrepareOptions, Published, UploadJournal } from './draft.ts';

const REMOVE_PAGE = 1000;

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
      attempt: (op, path, signal, work) => this.#attempt(op, path, signal, work),
      told: (op, path, signal, items) => this.#told(op, path, signal, items),
    };
    const { multipart, serverCopy } = args.driver;
    this.multipart = multipart && toldMultipart(multipart, telling);
    this.serverCopy = serverCopy && toldServerCopy(serverCopy, telling);
  }

  /** @throws Failure `not-found`: absent, or a directory */
  head(path: StorePath, signal: AbortSignal): Promise<FileEntry> {
    return this.#attempt('head', path, signal, () => this.#driver.head(path, { signal }));
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
    this.#fits(path);
    const attempt = <T>(op: string, signal: AbortSignal, work: () => Promise<T>) =>
      this.#attempt(op, path, signal, work);
    return prepareDraft({ driver: this.#driver, buffers: this.#buffers, path, attempt }, bytes, opts);
  }

  /** Pages of what lies below `dir`; nothing there, or a file: no pages. */
  list(
    dir: StorePath,
    opts: { readonly deep: boolean; readonly signal: AbortSignal },
  ): AsyncIterable<readonly Entry[]> {
    return this.#told('list', dir, opts.signal, this.#driver.list(dir, opts));
  }

  /** Absent is fine. @throws Failure of the first path that could not be removed; the others are */
  async remove(paths: readonly StorePath[], signal: AbortSignal): Promise<void> {
    let first: Failure | undefined;
    for (let at = 0; at < paths.length; at += REMOVE_PAGE) {
      const page = paths.slice(at, at + REMOVE_PAGE);
      const failures = await this.#attempt('remove', page[0]!, signal, () =>
        this.#driver.remove(page, { signal }),
      );
      for (const { path, error } of failures) first ??= this.#failure('remove', path, error);
    }
    if (first) throw first;
  }

  /** The object at `path` and everything below it, every page of it. Counts objects; absent is fine. */
  async removeTree(path: StorePath, signal: AbortSignal): Promise<{ readonly removed: number }> {
    let removed = path !== ROOT && (await this.#isThere(path, signal)) ? 1 : 0;
    for await (const page of this.list(path, { deep: true, signal })) {
      const paths = page.map((entry) => entry.path).filter((below) => isWithin(below, path));
      await this.remove(paths, signal);
      removed += paths.length;
    }
    if (path !== ROOT) await this.remove([path], signal);
    await this.prune(path, signal);
    return { removed };
  }

  /** Removes empty directories at and below `path`, where the store has such. */
  async prune(path: StorePath, signal: AbortSignal): Promise<void> {
    const { prune } = this.#driver;
    if (prune) await this.#attempt('prune', path, signal, () => prune.call(this.#driver, path, { signal }));
  }

  async #isThere(path: StorePath, signal: AbortSignal): Promise<boolean> {
    try {
      await this.head(path, signal);
      return true;
    } catch (error) {
      if (failureOf(error).kind === 'not-found') return false;
      throw error;
    }
  }

  async abandon(upload: Upload, signal: AbortSignal): Promise<void> {
    await this.multipart?.abandon(upload, { signal });
  }

  /** Multipart uploads begun and not ended on exactly `path`, or anywhere for the root. */
  async *pending(path: StorePath, signal: AbortSignal): AsyncGenerator<readonly PendingUpload[]> {
    if (this.multipart) yield* this.multipart.pending(path, { signal });
  }

  /** Hidden files that a crash left behind; their paths are for `remove`. */
  async *leftovers(
    signal: AbortSignal,
  ): AsyncGenerator<readonly { readonly path: StorePath; readonly modifiedMs: number }[]> {
    const found = this.#driver.leftovers?.({ signal });
    if (found) yield* this.#told('look for leftovers in', ROOT, signal, found);
  }

  close(): Promise<void> {
    return this.#driver.close();
  }

  #fits(path: StorePath): void {
    const { maxPathBytes, maxNameBytes } = this.traits;
    const longest = path.split('/').reduce((most, name) => Math.max(most, Buffer.byteLength(name)), 0);
    const why =
      path === ROOT
        ? 'an object needs a name'
        : Buffer.byteLength(path) > maxPathBytes
          ? `the path is longer than the ${maxPathBytes} bytes that ${this.name} takes`
          : longest > maxNameBytes
            ? `'${baseName(path).slice(0, 40)}…' or a directory above it is longer than the ${maxNameBytes} bytes that ${this.name} takes for a name`
            : undefined;
    if (why) throw new Failure('invalid', `Invalid path: ${why}`, { op: 'put', store: this.name, path });
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
