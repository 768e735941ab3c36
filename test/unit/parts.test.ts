import { randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { Digester } from '../../lib/digests.ts';
import { parsePath } from '../../lib/path.ts';
import type { TransferDeps } from '../../lib/transfer/deps.ts';
import { joinParts } from '../../lib/transfer/join.ts';
import { crcOfRange, type Parts, partBytesOf } from '../../lib/transfer/parts.ts';

const MIB = 1024 ** 2;
const GIB = 1024 ** 3;

describe('an object is cut into parts', () => {
  const s3 = { minBytes: 5 * MIB, maxBytes: 5 * GIB, maxParts: 10_000, goodBytes: 16 * MIB };
  const cut = (size: number, limits: object = s3, ranged = true): number | undefined => {
    const store = { name: 'staging', traits: { rangedRead: ranged } };
    const target = { multipart: { limits: { order: 'any', ...limits } } };
    const deps = { stores: new Map([['artifacts', target]]), staging: { store } };
    const to = { store: 'artifacts', path: parsePath('w') };
    return partBytesOf(deps as unknown as TransferDeps, { to, size }, 64 * MIB);
  };

  test('of 16 MiB, and larger ones where there would be more than the store takes', () => {
    expect(cut(64 * MIB)).toBe(16 * MIB);
    expect(cut(10_000 * 16 * MIB)).toBe(16 * MIB);
    expect(cut(10_000 * 16 * MIB + 1)).toBe(24 * MIB);
    expect(cut(200 * GIB)).toBe(24 * MIB);
    expect(cut(5 * 1024 * GIB)).toBe(528 * MIB);
    expect(cut(1000 * MIB, { ...s3, maxParts: 10 })).toBe(104 * MIB);
    expect(cut(GIB, { ...s3, minBytes: 50 * MIB })).toBe(56 * MIB);
  });

  test('and in no more than ten thousand, however many the store takes', () => {
    expect(Math.ceil((900 * GIB) / cut(900 * GIB, { ...s3, maxParts: 1_000_000 })!)).toBeLessThanOrEqual(
      10_000,
    );
  });

  test('but not where it is small, the store takes them in order only, or the source can only be read from its start', () => {
    expect(cut(64 * MIB - 1)).toBeUndefined();
    expect(cut(GIB, { ...s3, order: 'ascending' })).toBeUndefined();
    expect(cut(GIB, s3, false)).toBeUndefined();
    expect(cut(60_000 * GIB)).toBeUndefined();
  });
});

test('the CRC32 of a part is combined from those of the blocks that were staged', () => {
  const bytes = randomBytes(41 * MIB + 5);
  const digester = new Digester();
  digester.update(bytes);
  const { digests } = digester.end();
  for (const [start, end] of [
    [0, 16 * MIB],
    [16 * MIB, 32 * MIB],
    [32 * MIB, bytes.length],
    [0, bytes.length],
  ] as const)
    expect(crcOfRange(digests, { start, end })).toBe(crc32(bytes.subarray(start, end)));
});

test('a whole counts as checked by its store only where that told a CRC32 of every part', async () => {
  const place = { store: 'artifacts', path: parsePath('w') };
  const entry = { kind: 'file', path: place.path, size: 2, etag: 'e', modifiedMs: 0 };
  const store = {
    name: 'artifacts',
    traits: { checksWrites: true },
    multipart: { finish: async () => entry },
  };
  const deps = {
    stores: new Map([['artifacts', store]]),
    staging: { store: { name: 'staging' } },
    ledger: { uploads: { ended: async () => undefined } },
  } as unknown as TransferDeps;
  const upload = { id: 'u', place, uploadId: 'u1', size: 2 };
  const verified = async (...crcs: (number | undefined)[]) => {
    const receipts = crcs.map((crc, n) => ({
      number: n + 1,
      size: 1,
      etag: `${n}`,
      ...(crc !== undefined && { crc32: crc }),
    }));
    const parts = { upload, receipts, missing: [] } as unknown as Parts;
    const { signal } = new AbortController();
    const opts = {
      crc32: 7,
      mode: 'replace',
      token: 't-1',
      published: async () => undefined,
      signal,
    } as const;
    return (await joinParts(deps, parts, opts)).verified;
  };
  const size = { check: 'size', by: 'store' };
  expect(await verified(1, 2)).toEqual([size, { check: 'crc32', by: 'store' }]);
  expect(await verified(1, undefined)).toEqual([size]);
});
