/** Cases: parts that are streamed, of any size, through whatever happens to their source. */
import { crc32 } from 'node:zlib';
import { expect } from 'vitest';
import { Failure } from '../../lib/errors.ts';
import type { StorePath } from '../../lib/path.ts';
import type { Body, Bytes, Receipt, Upload } from '../../lib/stores/driver.ts';
import { retry } from '../../lib/stores/layers/retry.ts';
import { stall } from '../../lib/stores/layers/stall.ts';
import { bytesOf, collect, expectNothingLeft, get, kindOf, sha256, stream, writeCall } from './data.ts';
import type { Case, Ground } from './store.ts';

const MIB = 1024 * 1024;
const PIECE_BYTES = 8 * MIB;
const STALL_MS = 300;
/** For a source that nobody else watches. */
const SOURCE_STALL_MS = 6 * STALL_MS;
const HELD = new Promise<never>(() => {});

const streamed = (bytes: Uint8Array, open: () => Bytes = () => stream(bytes, PIECE_BYTES)): Body => ({
  size: bytes.length,
  crc32: crc32(bytes),
  open,
});

async function begin(on: Ground, path: StorePath) {
  const multipart = on.driver.multipart!;
  const call = writeCall(on);
  const upload = await multipart.begin(path, call);
  return {
    upload,
    send: (body: Body, signal = on.signal, number = 1, offset = 0) =>
      multipart.part(upload, { number, offset }, body, { signal }),
    finish: (receipts: readonly Receipt[], size: number) =>
      multipart.finish(upload, receipts, { size }, call),
    abandon: () => multipart.abandon(upload, { signal: on.signal }),
  };
}

async function held(on: Ground, upload: Upload): Promise<number> {
  let count = 0;
  for await (const page of on.driver.multipart!.parts(upload, { signal: on.signal })) count += page.length;
  return count;
}

export function streamCases(declare: Case): void {
  const test: Case = (name, work) =>
    declare(name, async (on) => {
      if (on.driver.multipart) await work(on);
    });

  test('a long part is streamed in pieces, and so is the one after it, in one go with it', async (on) => {
    const long = on.driver.multipart!.limits.goodBytes < MIB ? 3 * MIB : 64 * MIB;
    const bytes = bytesOf(long + 100_000);
    const { send, finish } = await begin(on, on.at('x'));
    const receipts = await Promise.all([
      send(streamed(bytes.subarray(0, long))),
      send(streamed(bytes.subarray(long)), on.signal, 2, long),
    ]);
    expect(receipts.map(({ size }) => size)).toEqual([long, 100_000]);
    await finish(receipts, bytes.length);
    const read = await on.driver.read(on.at('x'), undefined, { signal: on.signal });
    expect(sha256(await collect(read.bytes))).toBe(sha256(bytes));
  });

  test('a part whose stream ends early, runs long, or breaks is not held, and can be sent again', async (on) => {
    const bytes = bytesOf(9 * MIB + 5);
    const more = Buffer.concat([bytes, bytes.subarray(0, 7)]);
    const broken = async function* (): Bytes {
      yield bytes.subarray(0, MIB);
      throw new Failure('precondition', 'the source was replaced');
    };
    const { upload, send, finish } = await begin(on, on.at('x'));
    for (const open of [() => stream(bytes.subarray(0, -1)), () => stream(more, PIECE_BYTES)])
      expect(await kindOf(on.driver, send(streamed(bytes, open)))).toMatch(/^(corrupt|invalid|busy)$/);
    expect(await kindOf(on.driver, send(streamed(bytes, broken)))).toBe('precondition');
    expect(await held(on, upload)).toBe(0);
    await finish([await send(streamed(bytes))], bytes.length);
    expect((await get(on, on.at('x'))).equals(bytes)).toBe(true);
    await expectNothingLeft(on);
  });

  test('a bit that flips on its way is noticed by the stores that check writes', async (on) => {
    if (!on.driver.traits.checksWrites) return;
    const bytes = bytesOf(2 * MIB);
    const damaged = Buffer.from(bytes);
    damaged[MIB + 3]! ^= 4;
    const { upload, send, abandon } = await begin(on, on.at('x'));
    const end = () => kindOf(on.driver, send(streamed(bytes, () => stream(damaged))));
    // a layer under test may be one that fails every third call, and a stream is not sent twice
    const ends = [await end(), await end()];
    for (const kind of ends) expect(['corrupt', 'invalid', 'busy']).toContain(kind);
    expect(ends).not.toEqual(['busy', 'busy']);
    expect(await held(on, upload)).toBe(0);
    await abandon();
  });

  test('a part that is stopped ends at once, lets go of its source, and is not held', async (on) => {
    const bytes = bytesOf(9 * MIB);
    const { upload, send, abandon } = await begin(on, on.at('x'));
    const stop = new AbortController();
    const reason = new Failure('cancelled', 'enough');
    let left = false;
    const sending = send(
      streamed(bytes, async function* () {
        try {
          yield bytes.subarray(0, MIB);
          stop.abort(reason);
          yield bytes.subarray(MIB);
        } finally {
          left = true;
        }
      }),
      stop.signal,
    );
    await expect(sending).rejects.toBe(reason);
    await expect.poll(() => left).toBe(true);
    expect(await held(on, upload)).toBe(0);
    await abandon();
    await expectNothingLeft(on);
  });

  test('a source that stalls is opened again, one that is slow is not', async (on) => {
    const bytes = bytesOf(2 * MIB);
    const driver = retry(stall(on.driver, { stallMs: STALL_MS }), { tries: 2, firstMs: 1, capMs: 10 });
    const { upload, finish } = await begin(on, on.at('x'));
    const opened: string[] = [];
    const send = (number: number, source: () => Bytes): Promise<Receipt> =>
      driver.multipart!.part(
        upload,
        { number, offset: (number - 1) * bytes.length },
        streamed(bytes, source),
        { signal: on.signal },
      );
    const stuckOnce = await send(1, async function* () {
      opened.push('stuck');
      yield bytes.subarray(0, 1000);
      if (opened.length === 1) await HELD;
      yield bytes.subarray(1000);
    });
    const slow = send(2, async function* () {
      opened.push('slow');
      for (let at = 0; at < bytes.length; at += bytes.length / 8) {
        await new Promise((resolve) => setTimeout(resolve, SOURCE_STALL_MS / 12));
        yield bytes.subarray(at, at + bytes.length / 8);
      }
    });
    if (on.driver.multipart!.limits.minBytes > bytes.length) {
      await slow;
      await on.driver.multipart!.abandon(upload, { signal: on.signal });
    } else await finish([stuckOnce, await slow], 2 * bytes.length);
    expect(opened).toEqual(['stuck', 'stuck', 'slow']);
    await expectNothingLeft(on);
  });

  test('a part that is still being sent when the upload is published changes nothing of it', async (on) => {
    const bytes = bytesOf(3 * MIB);
    const { send, finish } = await begin(on, on.at('x'));
    let go: (() => void) | undefined;
    const waiting = new Promise<void>((resolve) => {
      go = resolve;
    });
    let begun: (() => void) | undefined;
    const sending = new Promise<void>((resolve) => {
      begun = resolve;
    });
    const other = bytesOf(3 * MIB, 2);
    const late = kindOf(
      on.driver,
      send(
        streamed(other, async function* () {
          begun!();
          await waiting;
          yield other;
        }),
      ),
    );
    await sending;
    const { etag } = await finish([await send(streamed(bytes))], bytes.length);
    go!();
    expect(await late).toBe('not-found');
    expect((await on.driver.head(on.at('x'), { signal: on.signal })).etag).toBe(etag);
    expect((await get(on, on.at('x'))).equals(bytes)).toBe(true);
    await expectNothingLeft(on);
  });
}
