/**
 * What an upload in parts keeps beside its hidden sibling, `<sibling>.parts`: what it is for, then a line where a part
 * is begun and one where it was written, or not. Each line carries its own CRC32 and begins on a new one: a line that a
 * crash cut off, or that two machines wrote over each other (NFS knows no atomic append), says nothing, and spoils no
 * other.
 */
import { constants } from 'node:fs';
import { appendFile, type FileHandle, open, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { combineCrc, hexOfCrc } from '../../digests.ts';
import { Failure } from '../../errors.ts';
import type { Receipt } from '../driver.ts';
import type { Folder } from './file-folder.ts';
import { LARGEST_WRITE_BYTES, writeAll } from './file-publish.ts';

export const RECORD_SUFFIX = '.parts';
const NO_CREATE = constants.O_WRONLY | constants.O_NOFOLLOW;
/** So long an opened sibling is taken for still having its name. */
const FRESH_MS = 20;
/** So long a publication waits for those who write: longer than a write takes that the disk keeps waiting. */
export const WRITERS_MS = 2000;
const LOOK_AGAIN_MS = 20;

interface Recorded extends Receipt {
  /** Each writing of a part has a name of its own. */
  readonly by: string;
}
interface Writing {
  readonly number: number;
  readonly by: string;
  /** `spoilt`: what it wrote are not the bytes of the part. */
  readonly is: 'begun' | 'left' | 'spoilt';
}
/** The first line. */
interface Begun {
  /** The target's. */
  readonly name: string;
  /** How many directories were made for it: the innermost ones. */
  readonly made: number;
}
type Line = Begun | Recorded | Writing;

export interface PartsRecord {
  /** The target's name; undefined: the record was never written whole. */
  readonly name: string | undefined;
  /** How many directories were made for the upload: the innermost ones of its target. */
  readonly made: number;
  /** The last of each number. */
  readonly parts: ReadonlyMap<number, Receipt>;
  /** Numbers of the parts that are being written, by their writers; also of those who died over it. */
  readonly writing: ReadonlyMap<string, number>;
}

export const recordLine = (value: Line): string => {
  const json = JSON.stringify(value);
  return `\n${json} ${hexOfCrc(crc32(json))}\n`;
};

export async function readRecord(folder: Folder, sibling: string): Promise<PartsRecord> {
  const text = await readFile(folder.at(sibling + RECORD_SUFFIX), 'utf8');
  const parts = new Map<number, Receipt>();
  const writing = new Map<string, number>();
  /** Who wrote a part while another one spoilt it: nobody knows whose bytes are there. */
  const spoilt = new Set<string>();
  let begun: Begun | undefined;
  for (const line of text.split('\n')) {
    const value = unsealed(line);
    if (value === undefined) continue;
    if ('made' in value) {
      begun ??= value;
      continue;
    }
    const { by, ...said } = value;
    if ('is' in said && said.is === 'begun') {
      writing.set(by, said.number);
      continue;
    }
    writing.delete(by);
    if ('etag' in said) {
      if (!spoilt.has(by)) parts.set(said.number, said);
    } else if (said.is === 'spoilt') {
      parts.delete(said.number);
      for (const [other, number] of writing) if (number === said.number) spoilt.add(other);
    }
  }
  return { name: begun?.name, made: begun?.made ?? 0, parts, writing };
}

function unsealed(line: string): Line | undefined {
  const json = line.slice(0, -9);
  if (json === '' || line.slice(-8) !== hexOfCrc(crc32(json))) return undefined;
  return JSON.parse(json) as Line;
}

/** One write, so that lines of several writers do not mix. @throws ENOENT: the upload has ended */
export const appendLine = (folder: Folder, sibling: string, line: Recorded | Writing): Promise<void> =>
  appendFile(folder.at(sibling + RECORD_SUFFIX), recordLine(line), {
    flag: constants.O_WRONLY | constants.O_APPEND,
  });

/**
 * The record once nobody is at a part any more, or for too long. Ask for it when the sibling's name is gone: who begins
 * a part then finds that out before the first byte, and who has begun before the next write.
 */
export async function recordAtRest(
  folder: Folder,
  sibling: string,
  signal: AbortSignal,
): Promise<PartsRecord> {
  const untilMs = performance.now() + WRITERS_MS;
  for (;;) {
    const record = await readRecord(folder, sibling);
    if (record.writing.size === 0 || performance.now() > untilMs) return record;
    await delay(LOOK_AGAIN_MS, undefined, { signal });
  }
}

/**
 * Writes into a sibling that must still be one: a moment after it was last seen under its name that is looked for anew
 * before the next write, by opening it (a mount of NFS may answer a `stat` from what it remembers).
 */
export class SiblingWriter implements AsyncDisposable {
  readonly #in: <T>(work: (folder: Folder) => Promise<T>) => Promise<T>;
  readonly #sibling: string;
  /** Kept to the end: the kernel tells of a write that failed later only who had the file open then. */
  #handle: FileHandle | undefined;
  #seenMs = 0;

  /** `inFolder` runs with the folder that the sibling is in. */
  constructor(inFolder: <T>(work: (folder: Folder) => Promise<T>) => Promise<T>, sibling: string) {
    this.#in = inFolder;
    this.#sibling = sibling;
  }

  /** @throws ENOENT: the upload has ended, or is about to be published */
  async write(chunk: Uint8Array, offset: number): Promise<void> {
    for (let at = 0; at < chunk.length; at += LARGEST_WRITE_BYTES) {
      const piece = chunk.subarray(at, at + LARGEST_WRITE_BYTES);
      await writeAll(await this.#open(), [piece], offset + at);
    }
  }

  /** All that was written is on the disk. */
  async sync(): Promise<void> {
    await (await this.#open()).datasync();
  }

  async #open(): Promise<FileHandle> {
    if (this.#handle && performance.now() - this.#seenMs < FRESH_MS) return this.#handle;
    const seenMs = performance.now();
    const handle = await this.#in((folder) => open(folder.at(this.#sibling), NO_CREATE));
    if (this.#handle) await handle.close();
    this.#handle ??= handle;
    this.#seenMs = seenMs;
    return this.#handle;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle?.close();
  }
}

/** @throws Failure `invalid`: not the parts that were written, or with gaps; `corrupt`: their CRC32s make another whole */
export function assertParts(
  receipts: readonly Receipt[],
  { parts }: Pick<PartsRecord, 'parts'>,
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
