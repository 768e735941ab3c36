/**
 * What an upload in parts keeps beside its hidden sibling, `<sibling>.parts`: the target's name, then a line for each
 * part that was written. Each line carries its own CRC32 and begins on a new one: a line that a crash cut off, or that
 * two machines wrote over each other (NFS knows no atomic append), is no receipt, and spoils no other.
 */
import { constants } from 'node:fs';
import { appendFile, type FileHandle, open, readFile } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import { combineCrc, hexOfCrc } from '../../digests.ts';
import { Failure } from '../../errors.ts';
import type { Receipt } from '../driver.ts';
import type { Folder } from './file-folder.ts';
import { writeAll } from './file-publish.ts';

export const RECORD_SUFFIX = '.parts';
const NO_CREATE = constants.O_WRONLY | constants.O_NOFOLLOW;
/** So long an opened sibling is taken for still being one: once it is published its name is gone, and opening it fails. */
const FRESH_MS = 20;
/** From a publication on: then no handle is left that may still be written to, but that of a writer that was suspended. */
export const SETTLED_MS = 2 * FRESH_MS;

export interface RecordedPart extends Receipt {
  /** The driver that wrote it. */
  readonly by: string;
}
export interface PartsRecord {
  /** The target's name; undefined: the record was never written whole. */
  readonly name: string | undefined;
  /** The last of each number. */
  readonly parts: ReadonlyMap<number, RecordedPart>;
}

export const recordLine = (value: string | RecordedPart): string => {
  const json = JSON.stringify(value);
  return `\n${json} ${hexOfCrc(crc32(json))}\n`;
};

export async function readRecord(folder: Folder, sibling: string): Promise<PartsRecord> {
  const text = await readFile(folder.at(sibling + RECORD_SUFFIX), 'utf8');
  const parts = new Map<number, RecordedPart>();
  let name: string | undefined;
  for (const line of text.split('\n')) {
    const value = unsealed(line);
    if (typeof value === 'string') name ??= value;
    else if (value) parts.set(value.number, value);
  }
  return { name, parts };
}

function unsealed(line: string): string | RecordedPart | undefined {
  const json = line.slice(0, -9);
  if (json === '' || line.slice(-8) !== hexOfCrc(crc32(json))) return undefined;
  return JSON.parse(json) as string | RecordedPart;
}

/** One write, so that lines of several writers do not mix. @throws ENOENT: the upload has ended */
export const appendPart = (folder: Folder, sibling: string, part: RecordedPart): Promise<void> =>
  appendFile(folder.at(sibling + RECORD_SUFFIX), recordLine(part), {
    flag: constants.O_WRONLY | constants.O_APPEND,
  });

/**
 * Writes into a sibling that must still be one: it is opened by its name anew before any write that comes later than
 * a moment after, since what was published meanwhile must not be written to.
 */
export class SiblingWriter implements AsyncDisposable {
  readonly #in: <T>(work: (folder: Folder) => Promise<T>) => Promise<T>;
  readonly #sibling: string;
  #handle: FileHandle | undefined;
  #openedMs = 0;

  /** `inFolder` runs with the folder that the sibling is in. */
  constructor(inFolder: <T>(work: (folder: Folder) => Promise<T>) => Promise<T>, sibling: string) {
    this.#in = inFolder;
    this.#sibling = sibling;
  }

  /** @throws ENOENT: the upload has ended */
  async write(chunk: Uint8Array, offset: number): Promise<void> {
    await writeAll(await this.#open(), [chunk], offset);
  }

  /** All that was written is on the disk. */
  async sync(): Promise<void> {
    await (await this.#open()).datasync();
  }

  async #open(): Promise<FileHandle> {
    if (this.#handle && performance.now() - this.#openedMs < FRESH_MS) return this.#handle;
    await this[Symbol.asyncDispose]();
    this.#handle = await this.#in((folder) => open(folder.at(this.#sibling), NO_CREATE));
    this.#openedMs = performance.now();
    return this.#handle;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const handle = this.#handle;
    this.#handle = undefined;
    await handle?.close();
  }
}

/** @throws Failure `invalid`: not the parts that were written, or with gaps; `corrupt`: their CRC32s make another whole */
export function assertParts(
  receipts: readonly Receipt[],
  { parts }: PartsRecord,
  whole: { readonly size: number; readonly crc32?: number },
): void {
  let at = 0;
  let crc: number | undefined = 0;
  for (const { number, etag } of receipts) {
    const part = parts.get(number);
    if (part?.etag !== etag) throw new Failure('invalid', `part ${number} was not sent, or differs`);
    if (!etag.startsWith(`${at}-`))
      throw new Failure(
        'invalid',
        `part ${number} does not begin where the one before it ends, at byte ${at}`,
      );
    at += part.size;
    crc = crc === undefined || part.crc32 === undefined ? undefined : combineCrc(crc, part.crc32, part.size);
  }
  if (at !== whole.size)
    throw new Failure('invalid', `the parts are ${at} bytes together, not ${whole.size}`);
  if (crc !== undefined && whole.crc32 !== undefined && crc !== whole.crc32)
    throw new Failure('corrupt', 'the CRC32s of the parts together are not that of the whole');
}
