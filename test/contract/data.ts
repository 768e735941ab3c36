/** Bytes to store, ways to send them, and looks at what became of them. */
import { createHash } from 'node:crypto';
import { expect } from 'vitest';
import { Failure, type FailureKind, failureOf } from '../../lib/errors.ts';
import { isWithin, type StorePath } from '../../lib/path.ts';
import type { Body, Bytes, Driver, Entry, FileEntry, Reading, WriteCall } from '../../lib/stores/driver.ts';
import type { Draft, PrepareOptions } from '../../lib/stores/store.ts';
import type { Ground } from './store.ts';

/** The same bytes for the same numbers; no two stretches of them are alike. */
export function bytesOf(size: number, seed = 1): Buffer {
  const words = new Uint32Array(Math.ceil(size / 4));
  let state = (seed * 2654435761) >>> 0 || 1;
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  return Buffer.from(words.buffer, 0, size);
}

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** A body that tells the truth, unless `lie` says otherwise. */
export const bodyOf = (
  bytes: Uint8Array,
  lie: { readonly size?: number; readonly crc32?: number } = {},
): Body => ({
  size: bytes.length,
  ...lie,
  open: () => [bytes],
});

/** Once only, in chunks that are lent: each is overwritten as soon as the next is asked for. */
export async function* stream(bytes: Uint8Array, chunkBytes = 64 * 1024): AsyncGenerator<Uint8Array> {
  const lent = new Uint8Array(chunkBytes);
  for (let at = 0; at < bytes.length; at += chunkBytes) {
    const length = Math.min(chunkBytes, bytes.length - at);
    lent.set(bytes.subarray(at, at + length));
    yield lent.subarray(0, length);
    lent.fill(0xee);
    if (at % (chunkBytes * 16) === 0) await new Promise(setImmediate);
  }
}

export async function collect(bytes: Bytes): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of bytes) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks);
}

let tokens = 0;
export const newToken = (): string => `test-${process.pid}-${++tokens}`;

export const writeCall = (on: Ground, more: Partial<WriteCall> = {}): WriteCall => ({
  signal: on.signal,
  mode: 'replace',
  token: newToken(),
  ...more,
});

/** Straight through the driver. */
export const put = (
  on: Ground,
  path: StorePath,
  bytes: Uint8Array,
  more: Partial<WriteCall> = {},
): Promise<FileEntry> => on.driver.write(path, bodyOf(bytes), writeCall(on, more));

export const prepare = (
  on: Ground,
  path: StorePath,
  bytes: Bytes,
  more: Partial<PrepareOptions> = {},
): Promise<Draft> => on.store.prepare(path, bytes, { signal: on.signal, token: newToken(), ...more });

export const readAll = async (reading: Promise<Reading>): Promise<Buffer> => collect((await reading).bytes);
export const get = (on: Ground, path: StorePath): Promise<Buffer> =>
  readAll(on.store.read(path, { signal: on.signal }));

export async function list(on: Ground, dir: StorePath, deep: boolean): Promise<Entry[]> {
  const entries: Entry[] = [];
  for await (const page of on.driver.list(dir, { deep, signal: on.signal })) entries.push(...page);
  return entries.toSorted((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
}
/** `name` of a file, `name/` of a directory, from the case's directory. */
export const names = (on: Ground, entries: readonly Entry[]): string[] =>
  entries.map(({ path, kind }) => path.slice(on.dir.length + 1) + (kind === 'dir' ? '/' : ''));

/** The kind of what `work` fails with, as the driver tells it. */
export async function kindOf(driver: Driver, work: Promise<unknown>): Promise<FailureKind | 'no failure'> {
  try {
    await work;
  } catch (error) {
    return error instanceof Failure ? error.kind : driver.classify(error).kind;
  }
  return 'no failure';
}

export async function failure(work: Promise<unknown>): Promise<Failure> {
  try {
    await work;
  } catch (error) {
    return failureOf(error);
  }
  throw new Error('it did not fail');
}

/** No upload, no hidden sibling anywhere in the case's directory, and nothing to see at `path`. */
export async function expectNothing(on: Ground, path: StorePath): Promise<void> {
  expect(await kindOf(on.driver, on.driver.head(path, { signal: on.signal }))).toBe('not-found');
  await expectNothingLeft(on);
}

export async function expectNothingLeft(on: Ground): Promise<void> {
  const signal = AbortSignal.timeout(30_000);
  const left: string[] = [];
  for (const pages of [on.store.pending('' as StorePath, signal), on.store.leftovers(signal)])
    for await (const page of pages)
      left.push(...page.map(({ path }) => path).filter((path) => isWithin(path, on.dir)));
  expect(left).toEqual([]);
}

/** A length of one part and then some, and the smallest length that needs parts. */
export const partSizes = (driver: Driver): { readonly small: number; readonly big: number } => {
  const limits = driver.multipart?.limits;
  return { small: 1000, big: limits ? limits.goodBytes * 2 + 12_345 : 300_000 };
};
