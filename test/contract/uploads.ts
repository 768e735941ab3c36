/** Cases: uploads in parts, addressed by path and id. */
import { expect } from 'vitest';
import type { StorePath } from '../../lib/path.ts';
import type { Multipart, PendingUpload, Receipt, Upload } from '../../lib/stores/driver.ts';
import { bodyOf, bytesOf, expectNothing, expectNothingLeft, get, kindOf, put, writeCall } from './data.ts';
import type { Case, Ground } from './store.ts';

interface Parted {
  readonly multipart: Multipart;
  readonly upload: Upload;
  readonly whole: Buffer;
  /** Cut as the store's smallest parts allow; the last is shorter. */
  readonly pieces: readonly { readonly number: number; readonly offset: number; readonly bytes: Buffer }[];
  send(number: number): Promise<Receipt>;
  finish(receipts: readonly Receipt[]): ReturnType<Multipart['finish']>;
}

async function begin(on: Ground, path: StorePath, parts = 3, seed = 1): Promise<Parted> {
  const multipart = on.driver.multipart!;
  const partBytes = Math.max(multipart.limits.minBytes, 1000);
  const whole = bytesOf(partBytes * (parts - 1) + 333, seed);
  const pieces = Array.from({ length: parts }, (_, i) => ({
    number: i + 1,
    offset: i * partBytes,
    bytes: whole.subarray(i * partBytes, (i + 1) * partBytes),
  }));
  const call = writeCall(on);
  const upload = await multipart.begin(path, call);
  return {
    multipart,
    upload,
    whole,
    pieces,
    send: (number) => {
      const { offset, bytes } = pieces[number - 1]!;
      return multipart.part(upload, { number, offset }, bodyOf(bytes), { signal: on.signal });
    },
    finish: (receipts) => multipart.finish(upload, receipts, { size: whole.length }, call),
  };
}

async function held(on: Ground, upload: Upload): Promise<Receipt[]> {
  const receipts: Receipt[] = [];
  for await (const page of on.driver.multipart!.parts(upload, { signal: on.signal })) receipts.push(...page);
  return receipts.toSorted((a, b) => a.number - b.number);
}

async function pending(on: Ground, path: StorePath): Promise<PendingUpload[]> {
  const found: PendingUpload[] = [];
  for await (const page of on.driver.multipart!.pending(path, { signal: on.signal })) found.push(...page);
  return found;
}

export function uploadCases(declare: Case): void {
  const test: Case = (name, work) =>
    declare(name, async (on) => {
      if (on.driver.multipart) await work(on);
    });

  test('parts sent in any order make the whole, visible only when it is finished', async (on) => {
    const upload = await begin(on, on.at('d/x'), 4);
    const order = upload.multipart.limits.order === 'any' ? [4, 2, 1, 3] : [1, 2, 3, 4];
    const receipts: Receipt[] = [];
    for (const number of order) receipts.push(await upload.send(number));
    expect(await kindOf(on.driver, on.driver.head(on.at('d/x'), { signal: on.signal }))).toBe('not-found');
    const entry = await upload.finish(receipts.toSorted((a, b) => a.number - b.number));
    expect(entry).toMatchObject({ kind: 'file', path: on.at('d/x'), size: upload.whole.length });
    expect((await on.driver.head(on.at('d/x'), { signal: on.signal })).etag).toBe(entry.etag);
    expect((await get(on, on.at('d/x'))).equals(upload.whole)).toBe(true);
    await expectNothingLeft(on);
  });

  test('parts may be sent all at once', async (on) => {
    const upload = await begin(on, on.at('x'), 6);
    if (upload.multipart.limits.order !== 'any')
      return upload.multipart.abandon(upload.upload, { signal: on.signal });
    const receipts = await Promise.all(upload.pieces.map(({ number }) => upload.send(number)));
    await upload.finish(receipts);
    expect((await get(on, on.at('x'))).equals(upload.whole)).toBe(true);
  });

  test('a part sent twice counts once', async (on) => {
    const upload = await begin(on, on.at('x'));
    const first = await upload.send(1);
    const again = await upload.send(1);
    expect(again).toEqual(first);
    const receipts = [again, await upload.send(2), await upload.send(3)];
    expect((await held(on, upload.upload)).map(({ number }) => number)).toEqual([1, 2, 3]);
    await upload.finish(receipts);
    expect((await get(on, on.at('x'))).equals(upload.whole)).toBe(true);
  });

  test('the store tells which parts it holds, and another process can finish with that', async (on) => {
    const upload = await begin(on, on.at('x'));
    expect(await held(on, upload.upload)).toEqual([]);
    const sent = [await upload.send(1), await upload.send(3)];
    const told = await held(on, upload.upload);
    expect(told.map(({ number, size, etag }) => ({ number, size, etag }))).toEqual(
      sent.map(({ number, size, etag }) => ({ number, size, etag })),
    );
    await upload.send(2);
    await upload.finish(await held(on, upload.upload));
    expect((await get(on, on.at('x'))).equals(upload.whole)).toBe(true);
  });

  test('an abandoned upload is forgotten with its parts, and nothing can be sent to it', async (on) => {
    const upload = await begin(on, on.at('d/x'));
    const receipt = await upload.send(1);
    await upload.multipart.abandon(upload.upload, { signal: on.signal });
    await upload.multipart.abandon(upload.upload, { signal: on.signal });
    expect(await kindOf(on.driver, upload.send(2))).toBe('not-found');
    expect(await kindOf(on.driver, held(on, upload.upload))).toBe('not-found');
    expect(await kindOf(on.driver, upload.finish([receipt]))).not.toBe('no failure');
    await expectNothing(on, on.at('d/x'));
  });

  test('uploads that were begun and not ended are told, by their path or all of them', async (on) => {
    const before = Date.now();
    const [x, x2, y] = [
      await begin(on, on.at('x')),
      await begin(on, on.at('x')),
      await begin(on, on.at('d/y')),
    ];
    await x.send(1);
    expect((await pending(on, on.at('x'))).map(({ id }) => id).toSorted()).toEqual(
      [x.upload.id, x2.upload.id].toSorted(),
    );
    const all = await pending(on, '' as StorePath);
    for (const { upload } of [x, x2, y]) {
      const found = all.find(({ id }) => id === upload.id);
      expect(found).toMatchObject(upload);
      expect(Math.abs(found!.begunMs - before)).toBeLessThan(60_000);
    }
    expect(await pending(on, on.at('d'))).toEqual([]);
    for (const { multipart, upload } of [x, x2, y]) await multipart.abandon(upload, { signal: on.signal });
    expect(await pending(on, on.at('x'))).toEqual([]);
    await expectNothingLeft(on);
  });

  test('finishing with a part that was not sent, or not so, publishes nothing', async (on) => {
    await put(on, on.at('x'), bytesOf(9, 9));
    const upload = await begin(on, on.at('x'));
    const [one, two] = [await upload.send(1), await upload.send(2)];
    const wrong: (readonly Receipt[])[] = [
      [one, two],
      [one, two, { number: 3, size: 333, etag: one.etag }],
      [one, { ...two, etag: '0123456789abcdef0123456789abcdef' }, await upload.send(3)],
    ];
    for (const receipts of wrong)
      expect(await kindOf(on.driver, upload.finish(receipts))).toMatch(
        /^(invalid|corrupt|not-found|precondition)$/,
      );
    expect((await get(on, on.at('x'))).equals(bytesOf(9, 9))).toBe(true);
    await upload.multipart.abandon(upload.upload, { signal: on.signal });
    await expectNothingLeft(on);
  });

  test('a part below the least size that is not the last is refused by the end at the latest', async (on) => {
    const { limits } = on.driver.multipart!;
    if (limits.minBytes <= 1) return;
    const multipart = on.driver.multipart!;
    const call = writeCall(on);
    const upload = await multipart.begin(on.at('x'), call);
    const tooSmall = async (): Promise<void> => {
      const first = await multipart.part(upload, { number: 1, offset: 0 }, bodyOf(bytesOf(10)), {
        signal: on.signal,
      });
      const last = await multipart.part(upload, { number: 2, offset: 10 }, bodyOf(bytesOf(10)), {
        signal: on.signal,
      });
      await multipart.finish(upload, [first, last], { size: 20 }, call);
    };
    expect(await kindOf(on.driver, tooSmall())).toBe('invalid');
    await multipart.abandon(upload, { signal: on.signal });
    await expectNothing(on, on.at('x'));
  });

  test('finishing replaces what is there, or refuses to where it was asked to create', async (on) => {
    await put(on, on.at('x'), bytesOf(50, 5));
    const one = await begin(on, on.at('x'));
    const receipts = [await one.send(1), await one.send(2), await one.send(3)];
    const create = one.multipart.finish(
      one.upload,
      receipts,
      { size: one.whole.length },
      writeCall(on, { mode: 'create' }),
    );
    expect(await kindOf(on.driver, create)).toBe('already-exists');
    expect((await get(on, on.at('x'))).equals(bytesOf(50, 5))).toBe(true);
    await one.multipart.abandon(one.upload, { signal: on.signal });
    const two = await begin(on, on.at('x'), 3, 2);
    await two.finish([await two.send(1), await two.send(2), await two.send(3)]);
    expect((await get(on, on.at('x'))).equals(two.whole)).toBe(true);
    await expectNothingLeft(on);
  });

  test('a finished upload is over: a late part changes nothing, and a second finish publishes nothing else', async (on) => {
    const upload = await begin(on, on.at('x'));
    const receipts = [await upload.send(1), await upload.send(2), await upload.send(3)];
    const { etag } = await upload.finish(receipts);
    expect(await kindOf(on.driver, upload.send(1))).toBe('not-found');
    const again = await kindOf(on.driver, upload.finish(receipts));
    expect(['not-found', 'no failure']).toContain(again);
    await put(on, on.at('y'), bytesOf(4));
    expect((await on.driver.head(on.at('x'), { signal: on.signal })).etag).toBe(etag);
    const newer = await put(on, on.at('x'), bytesOf(77, 7));
    expect(await kindOf(on.driver, upload.finish(receipts))).toBe('not-found');
    expect((await on.driver.head(on.at('x'), { signal: on.signal })).etag).toBe(newer.etag);
    await expectNothingLeft(on);
  });

  test('a part whose body is not what it says is not held', async (on) => {
    const upload = await begin(on, on.at('x'));
    const { bytes } = upload.pieces[0]!;
    for (const lie of [{ size: bytes.length + 42 }, { size: bytes.length - 42 }]) {
      const lying = upload.multipart.part(upload.upload, { number: 1, offset: 0 }, bodyOf(bytes, lie), {
        signal: on.signal,
      });
      expect(await kindOf(on.driver, lying)).not.toBe('no failure');
    }
    expect(await held(on, upload.upload)).toEqual([]);
    await upload.multipart.abandon(upload.upload, { signal: on.signal });
    await expectNothing(on, on.at('x'));
  });
}
