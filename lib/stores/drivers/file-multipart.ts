/**
 * Parts of a file at their offsets in one hidden sibling, from any process that sees the folder.
 *
 * A published file is the sibling that its parts were written into, so a part that comes late must not get at it. Each
 * opens the sibling by its name, which is gone by then, and opens it anew before every write that comes later than a
 * moment after. What remains (`traits.lateParts`) is a writer that was suspended between opening and writing, by the
 * machine or by a mount that hung, and then goes on: that one write lands, and the file's version changes.
 */
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open, stat, unlink } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { throwIfAborted } from '../../deadline.ts';
import { Failure } from '../../errors.ts';
import { baseName, HIDDEN_PREFIX, joinPath, parentOf, ROOT, type StorePath } from '../../path.ts';
import type {
  Body,
  Call,
  FileEntry,
  Multipart,
  PartPlace,
  PendingUpload,
  Receipt,
  Upload,
  WriteCall,
} from '../driver.ts';
import { codeOf, type Folder, type Folders } from './file-folder.ts';
import { leftoversIn } from './file-list.ts';
import {
  appendPart,
  assertParts,
  RECORD_SUFFIX,
  readRecord,
  recordLine,
  SETTLED_MS,
  SiblingWriter,
} from './file-parts.ts';
import {
  createSibling,
  entryOf,
  type Publishers,
  publishSibling,
  siblingName,
  withSibling,
} from './file-publish.ts';

const MIB = 1024 * 1024;
const NO_CREATE = constants.O_WRONLY | constants.O_NOFOLLOW;

export class FileMultipart implements Multipart {
  readonly limits = {
    minBytes: 1,
    maxBytes: 2 ** 40,
    maxParts: 1_000_000,
    goodBytes: 4 * MIB,
    order: 'any',
  } as const;
  readonly #folders: Folders;
  readonly #publishers: Publishers;
  /** Which parts were written here, and which elsewhere. */
  readonly #self = randomBytes(6).toString('hex');

  constructor(folders: Folders, publishers: Publishers) {
    this.#folders = folders;
    this.#publishers = publishers;
  }

  /** Aborted midway, or by somebody who has long gone while a mount hung, it leaves nothing. */
  async begin(path: StorePath, call: WriteCall): Promise<Upload> {
    throwIfAborted(call.signal);
    const id = siblingName(call.token);
    return withSibling(this.#folders, path, id, async (folder, handle) => {
      await handle.close(); // each part opens it: held open it would let a late part into the published file
      try {
        const record = await createSibling(folder, id + RECORD_SUFFIX);
        await record.writeFile(recordLine(baseName(path))).finally(() => record.close());
        throwIfAborted(call.signal);
        return { path, id };
      } catch (error) {
        await unlinkAll(folder, [id, id + RECORD_SUFFIX]);
        await this.#folders.prune(parentOf(path));
        throw error;
      }
    });
  }

  async part(upload: Upload, place: PartPlace, body: Body, call: Call): Promise<Receipt> {
    const { number, offset } = place;
    throwIfAborted(call.signal);
    const size = await this.#written(upload, place, body, call.signal);
    throwIfAborted(call.signal);
    if (size !== body.size) throw new Failure('corrupt', `part ${number} had ${size} bytes of ${body.size}`);
    const crc = body.crc32 === undefined ? {} : { crc32: body.crc32 };
    const receipt: Receipt = { number, size, etag: `${offset}-${size}-${body.crc32 ?? ''}`, ...crc };
    await this.#in(upload, (folder) => appendPart(folder, upload.id, { ...receipt, by: this.#self }));
    return receipt;
  }

  async *parts(upload: Upload, call: Call): AsyncGenerator<readonly Receipt[]> {
    throwIfAborted(call.signal);
    const { parts } = await this.#in(upload, async (folder) => {
      await stat(folder.at(upload.id)); // published: whoever did it may have died before the record went
      return readRecord(folder, upload.id);
    });
    yield [...parts.values()].map(({ by: _, ...receipt }) => receipt).toSorted((a, b) => a.number - b.number);
  }

  async finish(
    upload: Upload,
    receipts: readonly Receipt[],
    whole: { readonly size: number; readonly crc32?: number },
    call: WriteCall,
  ): Promise<FileEntry> {
    throwIfAborted(call.signal);
    return this.#in(upload, async (folder) => {
      const record = await readRecord(folder, upload.id);
      assertParts(receipts, record, whole);
      const target = { path: upload.path, name: baseName(upload.path) };
      const handle = await open(folder.at(upload.id), NO_CREATE);
      let entry: FileEntry;
      try {
        const { size } = await handle.stat();
        if (size !== whole.size)
          throw new Failure('corrupt', `the parts are ${size} bytes together, not ${whole.size}`);
        entry = await publishSibling(folder, upload.id, handle, target, call, this.#publishers);
      } finally {
        await handle.close().catch(() => undefined); // closed already where it was published
      }
      if ([...record.parts.values()].some(({ by }) => by !== this.#self))
        entry = await this.#settled(folder, target.name, entry, call.token);
      await unlinkAll(folder, [upload.id + RECORD_SUFFIX]);
      return entry;
    });
  }

  /** The version as it is once no other process can still be writing a part that it sent twice. */
  async #settled(folder: Folder, name: string, entry: FileEntry, token: string): Promise<FileEntry> {
    await delay(SETTLED_MS);
    let handle: FileHandle | undefined;
    try {
      handle = await open(folder.at(name), NO_CREATE);
      const now = entryOf(entry.path, await handle.stat({ bigint: true }));
      if (now.etag === entry.etag || inodeOf(now) !== inodeOf(entry)) return entry; // as it was, or replaced meanwhile
      await handle.sync();
      this.#publishers.note(now, token);
      return this.#publishers.named(now);
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return entry; // removed meanwhile
      throw error;
    } finally {
      await handle?.close();
    }
  }

  async abandon(upload: Upload, call: Call): Promise<void> {
    call.signal.throwIfAborted();
    try {
      await this.#in(upload, (folder) => unlinkAll(folder, [upload.id, upload.id + RECORD_SUFFIX]));
      await this.#folders.prune(parentOf(upload.path));
    } catch (error) {
      if (codeOf(error) !== 'ENOENT' && codeOf(error) !== 'ENOTDIR') throw error;
    }
  }

  async *pending(path: StorePath, call: Call): AsyncGenerator<readonly PendingUpload[]> {
    const wanted = path === ROOT ? undefined : parentOf(path);
    for await (const page of leftoversIn(this.#folders, call.signal, wanted)) {
      const records = page.filter(
        (file) => baseName(file.path).startsWith(HIDDEN_PREFIX) && file.path.endsWith(RECORD_SUFFIX),
      );
      const found = await Promise.all(records.map((record) => this.#pendingOf(record.path)));
      const uploads = found.filter(
        (upload) => upload !== undefined && (path === ROOT || upload.path === path),
      );
      if (uploads.length > 0) yield uploads as readonly PendingUpload[];
    }
  }

  /** Undefined: ended meanwhile, or its record was never written whole. */
  #pendingOf(record: StorePath): Promise<PendingUpload | undefined> {
    const dir = parentOf(record);
    return this.#folders
      .use(dir, false, async (folder) => {
        const id = baseName(record).slice(0, -RECORD_SUFFIX.length);
        const { name } = await readRecord(folder, id);
        if (name === undefined) return undefined;
        const { birthtimeMs, mtimeMs } = await stat(folder.at(baseName(record)));
        return { path: joinPath(dir, name as StorePath), id, begunMs: birthtimeMs || mtimeMs };
      })
      .catch((error: unknown) => {
        if (codeOf(error) === 'ENOENT') return undefined;
        throw error;
      });
  }

  #in<T>(upload: Upload, work: (folder: Folder) => Promise<T>): Promise<T> {
    return this.#folders.use(parentOf(upload.path), false, work);
  }

  /** How many bytes `body` had, all of them written from `offset` on. */
  async #written(
    upload: Upload,
    { offset, durable }: PartPlace,
    body: Body,
    signal: AbortSignal,
  ): Promise<number> {
    await using sibling = new SiblingWriter((work) => this.#in(upload, work), upload.id);
    let size = 0;
    for await (const chunk of body.open()) {
      throwIfAborted(signal);
      const end = size + chunk.length;
      // what is written beyond its end would be another part's, or make the whole too long
      if (end > body.size) throw new Failure('corrupt', `the body has more than ${body.size} bytes`);
      await sibling.write(chunk, offset + size);
      size = end;
    }
    if (durable) await sibling.sync();
    return size;
  }
}

const inodeOf = ({ etag }: FileEntry): string => etag.slice(etag.lastIndexOf('-'));

export async function unlinkAll(folder: Folder, names: readonly string[]): Promise<void> {
  for (const name of names)
    await unlink(folder.at(name)).catch((error: unknown) => {
      if (codeOf(error) !== 'ENOENT') throw error;
    });
}
