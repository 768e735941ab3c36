/**
 * Parts of a file at their offsets in one hidden sibling, from any process that sees the folder. Beside it lies
 * `<sibling>.parts`: the target's name, then a line for each part that was written.
 */
import { constants } from 'node:fs';
import { appendFile, open, readFile, stat, unlink } from 'node:fs/promises';
import { Failure } from '../../errors.ts';
import { baseName, HIDDEN_PREFIX, joinPath, parentOf, ROOT, type StorePath } from '../../path.ts';
import type {
  Body,
  Call,
  FileEntry,
  Multipart,
  PendingUpload,
  Receipt,
  Upload,
  WriteCall,
} from '../driver.ts';
import { codeOf, type Folder, type Folders } from './file-folder.ts';
import { leftoversIn } from './file-list.ts';
import {
  createSibling,
  type Publishers,
  publishSibling,
  siblingName,
  withSibling,
  writeAll,
} from './file-publish.ts';

const RECORD_SUFFIX = '.parts';
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

  constructor(folders: Folders, publishers: Publishers) {
    this.#folders = folders;
    this.#publishers = publishers;
  }

  async begin(path: StorePath, call: WriteCall): Promise<Upload> {
    call.signal.throwIfAborted();
    const id = siblingName(call.token);
    return withSibling(this.#folders, path, id, async (folder, handle) => {
      await handle.close(); // each part opens it: held open it would let a late part into the published file
      try {
        const record = await createSibling(folder, id + RECORD_SUFFIX);
        await record.writeFile(`${JSON.stringify(baseName(path))}\n`).finally(() => record.close());
        return { path, id };
      } catch (error) {
        await unlinkAll(folder, [id, id + RECORD_SUFFIX]);
        await this.#folders.prune(parentOf(path));
        throw error;
      }
    });
  }

  async part(
    upload: Upload,
    { number, offset }: { readonly number: number; readonly offset: number },
    body: Body,
    call: Call,
  ): Promise<Receipt> {
    call.signal.throwIfAborted();
    const size = await this.#written(upload, offset, body, call.signal);
    call.signal.throwIfAborted();
    if (size !== body.size) throw new Failure('corrupt', `part ${number} had ${size} bytes of ${body.size}`);
    const receipt: Receipt = {
      number,
      size,
      etag: `${offset}-${size}`,
      ...(body.crc32 === undefined ? {} : { crc32: body.crc32 }),
    };
    await this.#in(upload, (folder) =>
      appendFile(folder.at(upload.id + RECORD_SUFFIX), `${JSON.stringify(receipt)}\n`, {
        flag: constants.O_WRONLY | constants.O_APPEND,
      }),
    );
    return receipt;
  }

  async *parts(upload: Upload, call: Call): AsyncGenerator<readonly Receipt[]> {
    call.signal.throwIfAborted();
    const [, ...lines] = (
      await this.#in(upload, (folder) => readFile(folder.at(upload.id + RECORD_SUFFIX), 'utf8'))
    ).split('\n');
    const last = new Map<number, Receipt>();
    for (const line of lines) {
      const receipt = parsed<Receipt>(line);
      if (receipt) last.set(receipt.number, receipt);
    }
    yield [...last.values()].toSorted((a, b) => a.number - b.number);
  }

  async finish(
    upload: Upload,
    receipts: readonly Receipt[],
    whole: { readonly size: number },
    call: WriteCall,
  ): Promise<FileEntry> {
    call.signal.throwIfAborted();
    assertGapless(receipts, whole.size);
    return this.#in(upload, async (folder) => {
      const target = { path: upload.path, name: baseName(upload.path) };
      const handle = await open(folder.at(upload.id), NO_CREATE);
      try {
        const { size } = await handle.stat();
        if (size !== whole.size)
          throw new Failure('corrupt', `the parts are ${size} bytes together, not ${whole.size}`);
        const entry = await publishSibling(folder, upload.id, handle, target, call, this.#publishers);
        await unlinkAll(folder, [upload.id + RECORD_SUFFIX]);
        return entry;
      } finally {
        await handle.close().catch(() => undefined); // closed already where it was published
      }
    });
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
        const file = folder.at(baseName(record));
        const name = parsed<string>((await readFile(file, 'utf8')).split('\n')[0] ?? '');
        if (name === undefined) return undefined;
        const { birthtimeMs, mtimeMs } = await stat(file);
        const id = baseName(record).slice(0, -RECORD_SUFFIX.length);
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
  async #written(upload: Upload, offset: number, body: Body, signal: AbortSignal): Promise<number> {
    const handle = await this.#in(upload, (folder) => open(folder.at(upload.id), NO_CREATE));
    try {
      const opened = body.open();
      if (Array.isArray(opened)) return await writeAll(handle, opened as readonly Uint8Array[], offset);
      let size = 0;
      for await (const chunk of opened) {
        signal.throwIfAborted();
        size += await writeAll(handle, [chunk], offset + size);
      }
      return size;
    } finally {
      await handle.close();
    }
  }
}

/** A line that a crash cut off counts as not written. */
function parsed<T>(line: string): T | undefined {
  try {
    return JSON.parse(line) as T;
  } catch {
    return undefined;
  }
}

function assertGapless(receipts: readonly Receipt[], size: number): void {
  let at = 0;
  for (const receipt of receipts) {
    if (!receipt.etag.startsWith(`${at}-`))
      throw new Failure(
        'invalid',
        `part ${receipt.number} does not begin where the one before it ends, at byte ${at}`,
      );
    at += receipt.size;
  }
  if (at !== size) throw new Failure('invalid', `the parts are ${at} bytes together, not ${size}`);
}

export async function unlinkAll(folder: Folder, names: readonly string[]): Promise<void> {
  for (const name of names)
    await unlink(folder.at(name)).catch((error: unknown) => {
      if (codeOf(error) !== 'ENOENT') throw error;
    });
}
