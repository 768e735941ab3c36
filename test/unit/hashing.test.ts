import { createHash, randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { type Hasher, HashThread, InlineHasher } from '../../lib/stores/hashing.ts';

const MIB = 1024 * 1024;
const shared = (bytes: Buffer): Buffer => {
  const copy = Buffer.from(new SharedArrayBuffer(bytes.length));
  copy.set(bytes);
  return copy;
};
const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

const thread = new HashThread();
const ways: [string, (sha?: string) => Hasher][] = [
  ['where they are', (sha) => new InlineHasher(sha === undefined ? {} : { sha256: sha })],
  ['in the thread', (sha) => thread.open(sha === undefined ? {} : { sha256: sha })],
];

describe.each(ways)('digests taken %s', (_, open) => {
  test('are those of the whole, and the CRC32 is that of each part', async () => {
    const bytes = randomBytes(9 * MIB + 7);
    const cut = 5 * MIB + 3;
    const hasher = open();
    hasher.update(shared(bytes.subarray(0, MIB)));
    hasher.update(shared(bytes.subarray(MIB, cut)));
    const first = hasher.partCrc();
    hasher.update(shared(bytes.subarray(cut)));
    const second = hasher.partCrc();
    const taken = await hasher.end();
    expect(await first).toBe(crc32(bytes.subarray(0, cut)));
    expect(await second).toBe(crc32(bytes.subarray(cut)));
    expect(taken.digests).toMatchObject({ size: bytes.length, sha256: sha256(bytes) });
    expect([...taken.digests.blockCrcs]).toEqual([
      crc32(bytes.subarray(0, 8 * MIB)),
      crc32(bytes.subarray(8 * MIB)),
    ]);
    expect(taken.mismatch).toBeUndefined();
  });

  test('say which demanded one the bytes do not have', async () => {
    const hasher = open('0'.repeat(64));
    hasher.update(shared(Buffer.from('some')));
    expect((await hasher.end()).mismatch).toMatchObject({
      name: 'sha256',
      actual: sha256(Buffer.from('some')),
    });
  });

  test('of memory that is not shared are right, also when it is a window into something larger', async () => {
    const hasher = open();
    hasher.update(Buffer.from('--window--').subarray(2, 8));
    expect((await hasher.end()).digests.sha256).toBe(sha256(Buffer.from('window')));
  });
});

test('many bodies at once do not mix in the thread, and one given up disturbs none', async () => {
  const bodies = Array.from({ length: 20 }, () => randomBytes(100_000));
  const hashers = bodies.map(() => thread.open({}));
  for (let at = 0; at < 100_000; at += 10_000)
    hashers.forEach((hasher, index) => {
      if (index === 3 && at === 50_000) hasher.drop();
      else hasher.update(shared(bodies[index]!.subarray(at, at + 10_000)));
    });
  const ends = await Promise.all(hashers.map((hasher, index) => (index === 3 ? undefined : hasher.end())));
  ends.forEach((taken, index) => {
    if (index !== 3) expect(taken?.digests.sha256).toBe(sha256(bodies[index]!));
  });
});
