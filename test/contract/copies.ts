/** Cases: copies that a store makes on its own side, from a neighbour: another place of the same server. */
import { crc32 } from 'node:zlib';
import { expect } from 'vitest';
import { combineCrc } from '../../lib/digests.ts';
import type { StorePath } from '../../lib/path.ts';
import type { CopySource, Driver, Receipt, ServerCopy } from '../../lib/stores/driver.ts';
import {
  bodyOf,
  bytesOf,
  expectNothing,
  expectNothingLeft,
  get,
  kindOf,
  put,
  sha256,
  writeCall,
} from './data.ts';
import type { Case, Ground } from './store.ts';

interface Copied {
  readonly copier: ServerCopy;
  readonly bytes: Buffer;
  readonly from: CopySource & { readonly size: number };
  readonly path: StorePath;
}

/** An object of the neighbour's, as the driver under test is to name it. */
async function atNeighbour(on: Ground, neighbour: Driver, name: string, bytes: Buffer): Promise<Copied> {
  const path = on.at(name);
  const body = { ...bodyOf(bytes), crc32: crc32(bytes) };
  const { etag } = await neighbour.write(path, body, writeCall(on, { mediaType: 'text/x-source' }));
  const source = neighbour.serverCopy!.source(path);
  return { copier: on.driver.serverCopy!, bytes, path, from: { source, etag, size: bytes.length } };
}

export function copyCases(declare: Case): void {
  const test = (name: string, work: (on: Ground, neighbour: Driver) => Promise<void>): void =>
    declare(name, async (on) => {
      expect(on.neighbour !== undefined).toBe(on.driver.serverCopy !== undefined);
      if (!on.neighbour) return;
      try {
        await work(on, on.neighbour);
      } finally {
        const signal = AbortSignal.timeout(30_000);
        for await (const page of on.neighbour.list(on.dir, { deep: true, signal }))
          await on.neighbour.remove(
            page.map(({ path }) => path),
            { signal },
          );
      }
    });

  test('neighbours are of one realm, which names no secret', async (on, neighbour) => {
    expect(on.driver.serverCopy!.realm).toBe(neighbour.serverCopy!.realm);
    expect(on.store.serverCopy!.realm).toBe(neighbour.serverCopy!.realm);
    expect(on.driver.serverCopy!.realm).toMatch(/^[a-z0-9-]{1,64}$/);
  });

  test('an object is copied whole, under its new name and writer, from any name', async (on, neighbour) => {
    for (const [n, name] of ['x', 'd/é ☃', 'a+b c%20d', '%2F%', `q?&=<>"'`, '~!*();,:@$'].entries()) {
      const { copier, from, bytes } = await atNeighbour(on, neighbour, `from/${name}`, bytesOf(5000, n + 1));
      const call = writeCall(on);
      const entry = await copier.copy(from, on.at(`to/${name}`), call);
      expect(entry).toMatchObject({ kind: 'file', path: on.at(`to/${name}`), size: 5000 });
      if (entry.crc32 !== undefined) expect(entry.crc32).toBe(crc32(bytes));
      const head = await on.driver.head(on.at(`to/${name}`), { signal: on.signal });
      expect(head.etag).toBe(entry.etag);
      if (head.token !== undefined) expect(head.token).toBe(call.token);
      expect(sha256(await get(on, on.at(`to/${name}`)))).toBe(sha256(bytes));
    }
  });

  test('an empty object is copied', async (on, neighbour) => {
    const { copier, from } = await atNeighbour(on, neighbour, 'empty', bytesOf(0));
    expect((await copier.copy(from, on.at('to'), writeCall(on))).size).toBe(0);
    expect((await copier.copy(from, on.at('to2'), writeCall(on, { mode: 'create' }))).size).toBe(0);
    expect(await get(on, on.at('to2'))).toHaveLength(0);
    await expectNothingLeft(on);
  });

  test('only the version that is asked for is copied, whole or a part of it', async (on, neighbour) => {
    const { copier, from, path } = await atNeighbour(on, neighbour, 'x', bytesOf(5000));
    const upload = await copier.begin(on.at('parts'), writeCall(on));
    const range = { start: 0, end: 5000 };
    const copies = [
      () => copier.copy(from, on.at('to'), writeCall(on)),
      () => copier.copy(from, on.at('to'), writeCall(on, { mode: 'create' })),
      () => copier.part(from, range, upload, { number: 1, offset: 0 }, { signal: on.signal }),
    ];
    await neighbour.write(path, bodyOf(bytesOf(5000, 2)), writeCall(on));
    for (const copy of copies) expect(await kindOf(on.driver, copy())).toBe('precondition');
    await neighbour.remove([path], { signal: on.signal });
    for (const copy of copies) expect(await kindOf(on.driver, copy())).toBe('precondition');
    await on.driver.multipart!.abandon(upload, { signal: on.signal });
    await expectNothing(on, on.at('to'));
    await expectNothing(on, on.at('parts'));
  });

  test('a copy obeys what is asked of its target, and leaves nothing where that is refused', async (on, neighbour) => {
    const { copier, from, bytes } = await atNeighbour(on, neighbour, 'x', bytesOf(5000));
    const there = await put(on, on.at('to'), bytesOf(9, 9));
    const copy = (more: Parameters<typeof writeCall>[1]) =>
      kindOf(on.driver, copier.copy(from, on.at('to'), writeCall(on, more)));
    expect(await copy({ mode: 'create' })).toBe('already-exists');
    expect(await copy({ ifMatch: 'another' })).toBe('precondition');
    expect((await get(on, on.at('to'))).equals(bytesOf(9, 9))).toBe(true);
    expect(await copy({ ifMatch: there.etag })).toBe('no failure');
    expect((await get(on, on.at('to'))).equals(bytes)).toBe(true);
    await expectNothingLeft(on);
  });

  test('of eight copies that are to create one object exactly one wins', async (on, neighbour) => {
    const { copier, from } = await atNeighbour(on, neighbour, 'x', bytesOf(5000));
    const ends = await Promise.all(
      Array.from({ length: 8 }, () =>
        kindOf(on.driver, copier.copy(from, on.at('to'), writeCall(on, { mode: 'create' }))),
      ),
    );
    expect(ends.filter((end) => end === 'no failure')).toHaveLength(1);
    for (const end of ends) expect(['no failure', 'already-exists', 'busy']).toContain(end);
    await expectNothingLeft(on);
  });

  test('parts copied in any order make the whole, and what the store tells of them fits', async (on, neighbour) => {
    const partBytes = Math.max(on.driver.multipart!.limits.minBytes, 1000) + 17;
    const whole = bytesOf(partBytes * 2 + 333);
    const { copier, from } = await atNeighbour(on, neighbour, 'x', whole);
    const call = writeCall(on);
    const upload = await copier.begin(on.at('to'), call);
    for (const number of [3, 1, 2]) {
      const start = (number - 1) * partBytes;
      const range = { start, end: Math.min(start + partBytes, whole.length) };
      await copier.part(from, range, upload, { number, offset: start }, { signal: on.signal });
    }
    const receipts: Receipt[] = [];
    for await (const page of on.driver.multipart!.parts(upload, { signal: on.signal }))
      receipts.push(...page);
    receipts.sort((a, b) => a.number - b.number);
    expect(receipts.map(({ size }) => size)).toEqual([partBytes, partBytes, 333]);
    if (receipts.every((receipt) => receipt.crc32 !== undefined)) {
      const together = receipts.reduce((crc, part) => combineCrc(crc, part.crc32!, part.size), 0);
      expect(together).toBe(crc32(whole));
    }
    expect(await kindOf(on.driver, on.driver.head(on.at('to'), { signal: on.signal }))).toBe('not-found');
    const entry = await on.driver.multipart!.finish(
      upload,
      receipts,
      { size: whole.length, crc32: crc32(whole) },
      call,
    );
    expect(entry.size).toBe(whole.length);
    if (entry.crc32 !== undefined) expect(entry.crc32).toBe(crc32(whole));
    expect(sha256(await get(on, on.at('to')))).toBe(sha256(whole));
    await expectNothingLeft(on);
  });

  test('a part cannot be copied into an upload that has ended', async (on, neighbour) => {
    const { copier, from } = await atNeighbour(on, neighbour, 'x', bytesOf(5000));
    const upload = await copier.begin(on.at('to'), writeCall(on));
    await on.driver.multipart!.abandon(upload, { signal: on.signal });
    const late = copier.part(
      from,
      { start: 0, end: 5000 },
      upload,
      { number: 1, offset: 0 },
      { signal: on.signal },
    );
    expect(await kindOf(on.driver, late)).toBe('not-found');
    await expectNothing(on, on.at('to'));
  });
}
