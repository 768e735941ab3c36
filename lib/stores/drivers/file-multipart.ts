/**
 * Parts of a file at their offsets in one hidden sibling, from any process that sees the folder.
 *
 * A published file is the sibling that its parts were written into, so a part that comes late must not get at it. Each
 * says in the record when it begins and ends, opens the sibling by its name, and looks for that name again as it goes.
 * Finishing takes the name away first (from then on the sibling is `<sibling>.joined`), and publishes once all have
 * ended. What remains (`traits.lateParts`) is a writer that was suspended between looking and writing, by the machine or
 * by a mount that hung, for longer than that is waited for: that one write lands, and the file's version changes.
 */
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { chmod, type FileHandle, open, rename, stat, unlink } from 'node:fs/promises';
import { throwIfAborted } from '../../deadline.ts';
import { Failure } from '../../errors.ts';
import { baseName, joinPath, parentOf, ROOT, type StorePath } from '../../path.ts';
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
import type { HiddenNames } from '../hidden.ts';
import { codeOf, type Folder, type Folders } from './file-folder.ts';
import { leftoversIn } from './file-list.ts';
import {
  appendLine,
  assertParts,
  RECORD_SUFFIX,
  readRecord,
  recordAtRest,
  recordLine,
  SiblingWriter,
} from './file-parts.ts';
import { createSibling, type Publishers, publishSibling, withSibling } from './file-publish.ts';

const MIB = 1024 * 1024;
const NO_CREATE = constants.O_WRONLY | constants.O_NOFOLLOW;
/** Of a sibling that has all its parts and takes no more. */
const JOINED_SUFFIX = '.joined';
const namesOf = (id: string): readonly string[] => [id, id + JOINED_SUFFIX, id + RECORD_SUFFIX];

export class FileMultipart implements Multipart {
  readonly provesOwner = true;
  readonly limits = {
    minBytes: 1,
    maxBytes: 2 ** 40,
    maxParts: 1_000_000,
    goodBytes: 4 * MIB,
    order: 'any',
  } as const;
  readonly #folders: Folders;
  readonly #hidden: HiddenNames;
  readonly #publishers: Publishers;

  constructor(folders: Folders, hidden: HiddenNames, publishers: Publishers) {
    this.#folders = folders;
    this.#hidden = hidden;
    this.#publishers = publishers;
  }

  /** Aborted midway, or by somebody who has long gone while a mount hung, it leaves nothing. */
  async begin(path: StorePath, call: WriteCall): Promise<Upload> {
    throwIfAborted(call.signal);
    return withSibling(this.#folders, this.#hidden, path, call.token, async (sibling) => {
      const { name: id, folder, made } = sibling;
      await sibling.handle.close(); // each part opens it: held open it would let a late part into the published file
      try {
        const record = await createSibling(folder, id + RECORD_SUFFIX);
        const line = recordLine({ name: baseName(path), made: made.length });
        await record.writeFile(line).finally(() => record.close());
        throwIfAborted(call.signal);
        return { path, id };
      } catch (error) {
        await unlinkAll(folder, [id, id + RECORD_SUFFIX]);
        await this.#folders.unmake(made);
        throw error;
      }
    });
  }

  async part(upload: Upload, place: PartPlace, body: Body, call: Call): Promise<Receipt> {
    const { number, offset } = place;
    const by = randomBytes(6).toString('hex');
    const record = (line: Parameters<typeof appendLine>[2]): Promise<void> =>
      this.#in(upload, (folder) => appendLine(folder, upload.id, line));
    throwIfAborted(call.signal);
    await record({ number, by, is: 'begun' });
    try {
      const size = await this.#written(upload, place, body, call.signal);
      throwIfAborted(call.signal);
      if (size !== body.size)
        throw new Failure('corrupt', `part ${number} had ${size} bytes of ${body.size}`);
      const crc = body.crc32 === undefined ? {} : { crc32: body.crc32 };
      const receipt: Receipt = { number, size, etag: `${offset}-${size}-${body.crc32 ?? ''}`, ...crc };
      await record({ ...receipt, by });
      return receipt;
    } catch (error) {
      const is = error instanceof Failure && error.kind === 'corrupt' ? 'spoilt' : 'left';
      await record({ number, by, is }).catch(() => undefined); // then a publication waits for it in vain
      const held = codeOf(error) === 'ENOENT' ? await this.#heldAtLast(upload, number) : undefined;
      if (held) return held;
      throw error;
    }
  }

  /** Nobody writes to an upload that is being published: what it has is what a part sent twice is, too. */
  #heldAtLast(upload: Upload, number: number): Promise<Receipt | undefined> {
    return this.#in(upload, async (folder) => (await readRecord(folder, upload.id)).parts.get(number)).catch(
      () => undefined,
    );
  }

  async *parts(upload: Upload, call: Call): AsyncGenerator<readonly Receipt[]> {
    throwIfAborted(call.signal);
    const { parts } = await this.#in(upload, async (folder) => {
      // published: whoever did it may have died before the record went
      await stat(folder.at(upload.id)).catch((error: unknown) => {
        if (codeOf(error) !== 'ENOENT') throw error;
        return stat(folder.at(upload.id + JOINED_SUFFIX));
      });
      return readRecord(folder, upload.id);
    });
    yield [...parts.values()].toSorted((a, b) => a.number - b.number);
  }

  async finish(
    upload: Upload,
    receipts: readonly Receipt[],
    whole: { readonly size: number; readonly crc32?: number },
    call: WriteCall,
  ): Promise<FileEntry> {
    throwIfAborted(call.signal);
    return this.#in(upload, async (folder) => {
      assertParts(receipts, await readRecord(folder, upload.id), whole);
      const joined = await this.#joined(folder, upload, receipts, whole, call);
      const target = { path: upload.path, name: baseName(upload.path) };
      const handle = await openJoined(folder.at(joined));
      let entry: FileEntry;
      try {
        const { size } = await handle.stat();
        if (size !== whole.size)
          throw new Failure('corrupt', `the parts are ${size} bytes together, not ${whole.size}`);
        entry = await publishSibling(folder, joined, handle, target, call, this.#publishers);
      } finally {
        await handle.close().catch(() => undefined); // closed already where it was published
      }
      await unlinkAll(folder, [upload.id + RECORD_SUFFIX]);
      return entry;
    });
  }

  /**
   * The sibling's name once no part is written to it any more; it has that already where a finish was cut off, or another
   * one is at it. @throws Failure `corrupt`: a part that was there was spoilt meanwhile, and is to be sent again
   */
  async #joined(
    folder: Folder,
    { id }: Upload,
    receipts: readonly Receipt[],
    whole: { readonly size: number; readonly crc32?: number },
    { signal }: Call,
  ): Promise<string> {
    const joined = id + JOINED_SUFFIX;
    await rename(folder.at(id), folder.at(joined)).catch((error: unknown) => {
      if (codeOf(error) !== 'ENOENT') throw error;
    });
    const record = await recordAtRest(folder, id, signal);
    try {
      assertParts(receipts, record, whole);
      return joined;
    } catch (error) {
      await rename(folder.at(joined), folder.at(id));
      throw new Failure(
        'corrupt',
        'a part was damaged by another worker that sent it, too',
        {},
        { cause: error },
      );
    }
  }

  async abandon(upload: Upload, call: Call): Promise<void> {
    call.signal.throwIfAborted();
    try {
      const made = await this.#in(upload, async (folder) => {
        const sibling = joinPath(this.#folders.dirOf(folder), upload.id as StorePath);
        if (this.#hidden.kindOf(sibling) !== 'ours') return 0;
        // a record that is gone, or was never whole, says of no directory that it was made here
        const { made } = await readRecord(folder, upload.id).catch(() => ({ made: 0 }));
        await unlinkAll(folder, namesOf(upload.id));
        return made;
      });
      await this.#folders.unmake(innermost(parentOf(upload.path), made));
    } catch (error) {
      if (codeOf(error) !== 'ENOENT' && codeOf(error) !== 'ENOTDIR') throw error;
    }
  }

  async *pending(path: StorePath, call: Call): AsyncGenerator<readonly PendingUpload[]> {
    const wanted = path === ROOT ? undefined : parentOf(path);
    for await (const page of leftoversIn(this.#folders, this.#hidden, call.signal, wanted)) {
      const records = page.filter((file) => file.path.endsWith(RECORD_SUFFIX));
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
        const path = joinPath(dir, name as StorePath);
        return { path, id, begunMs: birthtimeMs || mtimeMs };
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

/** The `count` innermost directories of `dir`, the outermost first. */
function innermost(dir: StorePath, count: number): StorePath[] {
  const found: StorePath[] = [];
  for (let at = dir; at !== ROOT && found.length < count; at = parentOf(at)) found.unshift(at);
  return found;
}

/** It is ours, also where a finish that was cut off has given it a mode by which not even we may write to it. */
async function openJoined(file: string | Buffer): Promise<FileHandle> {
  try {
    return await open(file, NO_CREATE);
  } catch (error) {
    if (codeOf(error) !== 'EACCES') throw error;
    await chmod(file, 0o600);
    return open(file, NO_CREATE);
  }
}

export async function unlinkAll(folder: Folder, names: readonly string[]): Promise<void> {
  for (const name of names)
    await unlink(folder.at(name)).catch((error: unknown) => {
      if (codeOf(error) !== 'ENOENT') throw error;
    });
}
