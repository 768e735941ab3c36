/** Cases: bodies that can be read once only, honest ones and those that lie. A lie publishes nothing and leaves nothing. */
import { expect } from 'vitest';
import { Failure } from '../../lib/errors.ts';
import type { StorePath } from '../../lib/path.ts';
import type { Bytes, Upload, UploadJournal } from '../../lib/stores/driver.ts';
import type { PrepareOptions } from '../../lib/stores/store.ts';
import {
  bytesOf,
  expectNothing,
  expectNothingLeft,
  failure,
  get,
  kindOf,
  newToken,
  partSizes,
  prepare,
  put,
  sha256,
  stream,
} from './data.ts';
import type { Case, Ground } from './store.ts';

/** Writes down what it is told, in order. */
class Diary implements UploadJournal {
  readonly lines: string[] = [];
  async intend(path: StorePath): Promise<string> {
    this.lines.push(`intend ${path}`);
    return 'entry-1';
  }
  async begun(journalId: string, upload: Upload): Promise<void> {
    this.lines.push(`begun ${journalId} ${upload.id}`);
  }
  async ended(journalId: string): Promise<void> {
    this.lines.push(`ended ${journalId}`);
  }
}

async function* thenFails(bytes: Uint8Array, error: Error): AsyncGenerator<Uint8Array> {
  yield* stream(bytes);
  throw error;
}
/** Gives `bytes`, says so, and then nothing for ever. */
async function* thenStalls(bytes: Uint8Array, stalled: () => void): AsyncGenerator<Uint8Array> {
  yield* stream(bytes);
  stalled();
  await new Promise<never>(() => {});
}

const flip = (bytes: Buffer, at: number): Buffer => {
  const copy = Buffer.from(bytes);
  copy[at] = copy[at]! ^ 1;
  return copy;
};

export function bodyCases(test: Case): void {
  test('a body of known or unknown length is published as it was sent, with its digests', async (on) => {
    const { small, big } = partSizes(on.driver);
    const part = on.driver.multipart?.limits.goodBytes ?? 4096;
    for (const size of [0, 1, small, part, part + 1, big])
      for (const declared of [true, false]) {
        const bytes = bytesOf(size, size + 1);
        const path = on.at(`${size}-${declared}`);
        let progress = 0;
        const draft = await prepare(on, path, stream(bytes), {
          ...(declared && { size }),
          expected: { sha256: sha256(bytes) },
          onProgress: (soFar) => {
            progress = soFar;
          },
        });
        expect(draft.digests).toMatchObject({ size, sha256: sha256(bytes) });
        expect(progress).toBe(size);
        expect(await kindOf(on.driver, on.driver.head(path, { signal: on.signal }))).toBe('not-found');
        const { entry, verified } = await draft.publish({ signal: on.signal });
        expect(entry).toMatchObject({ kind: 'file', path, size });
        expect(verified).toContainEqual({ check: 'size', by: 'store' });
        if (on.driver.traits.checksWrites && size > 0)
          expect(verified).toContainEqual({ check: 'crc32', by: 'store' });
        expect((await get(on, path)).equals(bytes)).toBe(true);
        await draft.discard();
        expect((await on.store.head(path, on.signal)).etag).toBe(entry.etag);
      }
    await expectNothingLeft(on);
  });

  test('a body in awkward chunks is the same body', async (on) => {
    const { big } = partSizes(on.driver);
    const bytes = bytesOf(Math.min(big, 3_000_000), 3);
    for (const chunkBytes of [1_000_003, 4093]) {
      const draft = await prepare(on, on.at(`c${chunkBytes}`), stream(bytes, chunkBytes));
      await draft.publish({ signal: on.signal });
      expect((await get(on, on.at(`c${chunkBytes}`))).equals(bytes)).toBe(true);
    }
  });

  for (const [when, sizeOf] of [
    ['small', (on: Ground) => partSizes(on.driver).small],
    ['big', (on: Ground) => partSizes(on.driver).big],
  ] as const) {
    /** Sends a lie over an object that is there, and over nothing. */
    const lie = (
      what: string,
      kind: string,
      tell: (bytes: Buffer) => { readonly bytes: Bytes; readonly opts: Partial<PrepareOptions> },
    ): void =>
      test(`a ${when} body ${what}: nothing is published, nothing is left`, async (on) => {
        const bytes = bytesOf(sizeOf(on), 11);
        const old = await put(on, on.at('there'), bytesOf(123, 1));
        for (const path of [on.at('d/absent'), on.at('there')]) {
          const { bytes: sent, opts } = tell(bytes);
          expect((await failure(prepare(on, path, sent, opts))).kind).toBe(kind);
        }
        expect((await on.store.head(on.at('there'), on.signal)).etag).toBe(old.etag);
        await expectNothing(on, on.at('d/absent'));
      });

    lie('that ends early', 'invalid', (bytes) => ({
      bytes: stream(bytes.subarray(1)),
      opts: { size: bytes.length },
    }));
    lie('that is longer than it said', 'invalid', (bytes) => ({
      bytes: stream(bytes),
      opts: { size: bytes.length - 1 },
    }));
    lie('with one bit flipped', 'corrupt', (bytes) => ({
      bytes: stream(flip(bytes, bytes.length - 5)),
      opts: { expected: { sha256: sha256(bytes) }, mismatch: () => 'corrupt' },
    }));
    lie('whose MD5 is another', 'invalid', (bytes) => ({
      bytes: stream(bytes),
      opts: { expected: { md5: '0'.repeat(32) } },
    }));
    lie('whose source breaks off', 'cancelled', (bytes) => ({
      bytes: thenFails(
        bytes.subarray(0, bytes.length - 10),
        new Failure('cancelled', 'the client went away'),
      ),
      opts: { size: bytes.length },
    }));
    lie('that is aborted while its source stalls', 'timeout', (bytes) => {
      const stop = new AbortController();
      const stalled = (): void => stop.abort(new Failure('timeout', 'no byte came'));
      return {
        bytes: thenStalls(bytes.subarray(0, bytes.length - 10), stalled),
        opts: { signal: stop.signal },
      };
    });

    test(`a ${when} draft that is given up leaves nothing, however often`, async (on) => {
      const draft = await prepare(on, on.at('d/x'), stream(bytesOf(sizeOf(on), 2)));
      await draft.discard();
      await draft.discard();
      await expectNothing(on, on.at('d/x'));
    });

    test(`a ${when} draft over another version than asked for, or over anything with create, publishes nothing`, async (on) => {
      const bytes = bytesOf(sizeOf(on), 4);
      const { etag } = await put(on, on.at('x'), bytesOf(10, 1));
      const stale = await prepare(on, on.at('x'), stream(bytes), { ifMatch: etag });
      const create = await prepare(on, on.at('x'), stream(bytes), { mode: 'create' });
      const newer = await put(on, on.at('x'), bytesOf(10, 2));
      expect((await failure(stale.publish({ signal: on.signal }))).kind).toBe('precondition');
      expect((await failure(create.publish({ signal: on.signal }))).kind).toBe('already-exists');
      await Promise.all([stale.discard(), create.discard()]);
      expect((await on.store.head(on.at('x'), on.signal)).etag).toBe(newer.etag);
      const fresh = await prepare(on, on.at('x'), stream(bytes), { ifMatch: newer.etag });
      await fresh.publish({ signal: on.signal });
      expect((await get(on, on.at('x'))).equals(bytes)).toBe(true);
      await expectNothingLeft(on);
    });
  }

  test('uploads in parts are written down before they begin and struck out when they ended', async (on) => {
    if (!on.driver.multipart) return;
    const bytes = bytesOf(partSizes(on.driver).big);
    for (const end of ['publish', 'discard', 'lie'] as const) {
      const journal = new Diary();
      const lying = end === 'lie' ? { size: bytes.length + 1 } : {};
      const prepared = prepare(on, on.at('x'), stream(bytes), { journal, ...lying });
      if (end === 'lie') await failure(prepared);
      else if (end === 'publish') await (await prepared).publish({ signal: on.signal });
      else await (await prepared).discard();
      expect(journal.lines).toEqual([
        `intend ${on.at('x')}`,
        expect.stringMatching(/^begun entry-1 ./),
        'ended entry-1',
      ]);
    }
  });

  test('an upload that the journal refuses is abandoned', async (on) => {
    if (!on.driver.multipart) return;
    const journal = new Diary();
    journal.begun = async () => {
      throw new Failure('unavailable', 'collected meanwhile');
    };
    const bytes = stream(bytesOf(partSizes(on.driver).big));
    expect((await failure(prepare(on, on.at('x'), bytes, { journal }))).kind).toBe('unavailable');
    await expectNothing(on, on.at('x'));
  });

  test('a store’s failure says what was tried, on what, and never the URI', async (on) => {
    const error = await failure(on.store.head(on.at('no such thing'), on.signal));
    expect(error).toBeInstanceOf(Failure);
    expect(error.facts).toMatchObject({ op: 'head', store: on.store.name, path: on.at('no such thing') });
    expect(error.message).toContain(`${on.store.name}:${on.at('no such thing')}`);
    const long = await failure(
      on.store.prepare(on.at('x'.repeat(on.store.traits.maxNameBytes + 1)), stream(bytesOf(1)), {
        signal: on.signal,
        token: newToken(),
      }),
    );
    expect(long.kind).toBe('invalid');
  });
}
