/** A file of 200 GiB on its way into S3: planned in parts that fit, streamed, with memory that stays flat. */
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { BLOCK_BYTES } from '../../lib/digests.ts';
import { parsePath, ROOT } from '../../lib/path.ts';
import { BufferPool } from '../../lib/stores/buffers.ts';
import type { ByteRange, Receipt } from '../../lib/stores/driver.ts';
import { openFileDriver } from '../../lib/stores/drivers/file.ts';
import { Store } from '../../lib/stores/store.ts';
import type { TransferDeps } from '../../lib/transfer/deps.ts';
import { partBytesOf } from '../../lib/transfer/parts.ts';
import { NAMES } from '../hidden.ts';
import { scaled } from '../scale.ts';
import { startMinio } from '../servers/minio.ts';
import { requireServer } from '../servers/require.ts';
import type { S3Server } from '../servers/s3.ts';
import { all, BUCKET, MiB, signal } from './s3.ts';
import { storeOn } from './s3-stores.ts';

const SIZE = 200 * 1024 * MiB + 12_345;
/** At each end. */
const PARTS = scaled(20);
/** Parts on their way at once. */
const AT_ONCE = 4;
/** What the process may hold for them besides: pieces being read and written, not parts. */
const FLAT_BYTES = 64 * MiB;
const NAME = parsePath('sparse.bin');

requireServer('minio')('a file of 200 GiB in a folder', () => {
  let minio: S3Server;
  let root: string;
  let folder: Store;
  let target: Store;

  beforeAll(async () => {
    minio = await startMinio();
    await minio.makeBucket(BUCKET);
    target = await storeOn(minio);
    root = await mkdtemp(join(tmpdir(), 'longshore-sparse-'));
    const driver = await openFileDriver(root, NAMES);
    folder = new Store({
      name: 'folder',
      uri: root,
      driver,
      buffers: new BufferPool({ budgetBytes: 16 * MiB }),
    });
    const file = await open(join(root, NAME), 'w');
    await file.truncate(SIZE);
    // so that no two of its parts are alike
    for (let at = 0; at < SIZE; at += 1024 * MiB) await file.write(`here is ${at}`, at);
    for (let at = 0; at < 2 * PARTS * 32 * MiB; at += 5 * MiB + 7) await file.write(`at ${at}`, at);
    for (let at = 1; at < 2 * PARTS * 32 * MiB; at += 5 * MiB + 7)
      await file.write(`before the end ${at}`, SIZE - at - 40);
    await file.close();
  });
  afterAll(async () => {
    await Promise.all([folder?.close(), target?.close()]);
    await minio?.stop();
    if (root) await rm(root, { recursive: true, force: true });
  });

  /** CRC32 of a range, read by this test itself. */
  async function crcOf({ start, end }: ByteRange): Promise<number> {
    const file = await open(join(root, NAME), 'r');
    const piece = Buffer.alloc(MiB);
    let crc = 0;
    for (let at = start; at < end; ) {
      const { bytesRead } = await file.read(piece, 0, Math.min(MiB, end - at), at);
      crc = crc32(piece.subarray(0, bytesRead), crc);
      at += bytesRead;
    }
    await file.close();
    return crc;
  }

  test('is cut into at most 10,000 parts of whole blocks, and the first and last of them are streamed in flat memory', async () => {
    const deps = {
      stores: new Map([
        ['folder', folder],
        ['s3', target],
      ]),
      staging: { store: { name: 'staging' } },
    } as unknown as TransferDeps;
    const place = { store: 's3', path: parsePath('7/w.bin') };
    const { etag } = await folder.head(NAME, signal);
    const from = { store: 'folder', path: NAME, etag };
    const partBytes = partBytesOf(deps, { to: place, from, size: SIZE }, 64 * MiB)!;
    const count = Math.ceil(SIZE / partBytes);
    expect(count).toBeLessThanOrEqual(target.multipart!.limits.maxParts);
    expect(partBytes % BLOCK_BYTES).toBe(0);

    const upload = await target.multipart!.begin(place.path, { signal, mode: 'replace', token: 'sparse' });
    const numbers = Array.from({ length: PARTS }, (_, i) => [i + 1, count - i]).flat();
    const rangeOf = (number: number): ByteRange => ({
      start: (number - 1) * partBytes,
      end: Math.min(number * partBytes, SIZE),
    });
    const crcs = new Map<number, number>();
    for (const number of numbers) crcs.set(number, await crcOf(rangeOf(number)));

    let mostBytes = 0;
    const held = (): number => process.memoryUsage().arrayBuffers;
    const before = held();
    const send = async (number: number): Promise<Receipt> => {
      const range = rangeOf(number);
      const body = {
        size: range.end - range.start,
        crc32: crcs.get(number)!,
        async *open() {
          for await (const chunk of (await folder.read(NAME, { range, ifMatch: etag, signal })).bytes) {
            mostBytes = Math.max(mostBytes, held() - before);
            yield chunk;
          }
        },
      };
      return target.multipart!.part(upload, { number, offset: range.start }, body, { signal });
    };
    const waiting = [...numbers];
    const sent: Receipt[] = [];
    await Promise.all(
      Array.from({ length: AT_ONCE }, async () => {
        for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) sent.push(await send(next));
      }),
    );
    expect(mostBytes).toBeLessThan(FLAT_BYTES);

    const told = await all(target.multipart!.parts(upload, { signal }));
    const facts = ({ number, size, etag: tag, crc32: crc }: Receipt) => ({ number, size, tag, crc });
    const inOrder = (receipts: readonly Receipt[]) =>
      receipts.toSorted((a, b) => a.number - b.number).map(facts);
    expect(inOrder(told)).toEqual(inOrder(sent));
    for (const { number, size, crc32: crc } of told) {
      const { start, end } = rangeOf(number);
      expect({ number, size, crc }).toEqual({ number, size: end - start, crc: crcs.get(number) });
    }
    await target.abandon(upload, signal);
    expect(await all(target.pending(ROOT, signal))).toEqual([]);
  }, 300_000);
});
