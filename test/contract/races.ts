/** Cases: several at once on one target. */

import { expect } from 'vitest';
import { Failure } from '../../lib/errors.ts';
import type { StorePath } from '../../lib/path.ts';
import { scaled } from '../scale.ts';
import { bytesOf, expectNothingLeft, get, kindOf, partSizes, prepare, put, sha256, stream } from './data.ts';
import { WRITERS_AND_REMOVERS } from './known.ts';
import type { Case, Ground } from './store.ts';

/** Reads `path` over and over until `over`; each time it must be one of `versions`, whole. Answers how often. */
async function poll(
  on: Ground,
  path: StorePath,
  versions: ReadonlySet<string>,
  over: AbortSignal,
): Promise<number> {
  let looks = 0;
  while (!over.aborted) {
    const bytes = await get(on, path).catch((error: unknown) => {
      // a version that went while it was being read is told, never given in half
      if (error instanceof Failure && error.kind !== 'not-found') return undefined;
      if (on.driver.traits.replace === 'gap') return undefined;
      throw error;
    });
    if (bytes) expect(versions).toContain(sha256(bytes));
    looks++;
    await new Promise(setImmediate); // a store that answers at once must not keep everybody else waiting
  }
  return looks;
}

export function raceCases(test: Case): void {
  test('a reader that polls throughout slow replaces never sees half an object, or none', async (on) => {
    const { small, big } = partSizes(on.driver);
    const bodies = [bytesOf(small, 1), bytesOf(Math.min(big, 40_000_000), 2), bytesOf(big - 1, 3)];
    await put(on, on.at('x'), bodies[0]!);
    const over = new AbortController();
    const versions = new Set(bodies.map(sha256));
    const readers = [
      poll(on, on.at('x'), versions, over.signal),
      poll(on, on.at('x'), versions, over.signal),
    ];
    try {
      for (let i = 1; i <= Math.max(4, scaled(30)); i++) {
        const draft = await prepare(on, on.at('x'), stream(bodies[i % bodies.length]!));
        await draft.publish({ signal: on.signal });
      }
    } finally {
      over.abort();
    }
    for (const looks of await Promise.all(readers)) expect(looks).toBeGreaterThan(0);
  });

  test('of writers at once on one path one wins, whole', async (on) => {
    const { big } = partSizes(on.driver);
    const sizes = [10, 1000, 100_000, 0, big, 77];
    const bodies = sizes.map((size, seed) => bytesOf(size, seed));
    await Promise.all(
      bodies.map(async (bytes) => {
        const draft = await prepare(on, on.at('d/x'), stream(bytes));
        await draft.publish({ signal: on.signal });
      }),
    );
    expect(bodies.map(sha256)).toContain(sha256(await get(on, on.at('d/x'))));
    await expectNothingLeft(on);
  });

  test('of those that create one path at once exactly one wins', async (on) => {
    if (!on.driver.traits.createOnly) return;
    for (let round = 0; round < Math.max(3, scaled(20)); round++) {
      const path = on.at(`r${round}/x`);
      const bodies = Array.from({ length: 6 }, (_, seed) => bytesOf(500, seed));
      const ends = await Promise.all(
        bodies.map((bytes) => kindOf(on.driver, put(on, path, bytes, { mode: 'create' }))),
      );
      expect(ends.toSorted()).toEqual([...Array(5).fill('already-exists'), 'no failure']);
      expect((await get(on, path)).equals(bodies[ends.indexOf('no failure')]!)).toBe(true);
    }
    await expectNothingLeft(on);
  });

  test('of those that replace one version at once exactly one wins', async (on) => {
    if (!on.driver.traits.conditionalWrite) return;
    for (let round = 0; round < 3; round++) {
      const { etag } = await put(on, on.at(`r${round}`), bytesOf(5));
      const bodies = Array.from({ length: 4 }, (_, seed) => bytesOf(500, seed));
      const ends = await Promise.all(
        bodies.map((bytes) => kindOf(on.driver, put(on, on.at(`r${round}`), bytes, { ifMatch: etag }))),
      );
      expect(ends.toSorted()).toEqual(['no failure', ...Array(3).fill('precondition')]);
    }
  });

  test(WRITERS_AND_REMOVERS, async (on) => {
    const rounds = Math.max(20, scaled(200));
    await Promise.all(
      Array.from({ length: 4 }, async (_, writer) => {
        for (let round = 0; round < rounds; round++) {
          const path = on.at(`shared/d${round % 2}/w${writer}`);
          await put(on, path, bytesOf(10, writer));
          expect((await get(on, path)).equals(bytesOf(10, writer))).toBe(true);
          expect(await on.driver.remove([path], { signal: on.signal })).toEqual([]);
        }
      }),
    );
    await expectNothingLeft(on);
  });
}
