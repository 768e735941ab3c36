/** Cases: what lies below a directory, and its end. */
import { expect } from 'vitest';
import type { StorePath } from '../../lib/path.ts';
import type { Entry } from '../../lib/stores/driver.ts';
import { scaled } from '../scale.ts';
import { bytesOf, kindOf, list, names, put } from './data.ts';
import { FILE_AND_DIR_LISTED } from './known.ts';
import type { Case, Ground } from './store.ts';

/** One more than a page, and at full scale several pages. */
const MANY = Math.max(1001, scaled(3501));

async function putMany(on: Ground, paths: readonly StorePath[]): Promise<void> {
  const left = [...paths];
  const writer = async (): Promise<void> => {
    for (let path = left.pop(); path !== undefined; path = left.pop()) await put(on, path, bytesOf(1));
  };
  await Promise.all(Array.from({ length: 16 }, writer));
}

export function listingCases(test: Case): void {
  test('a shallow listing tells files with size and version, and directories once', async (on) => {
    for (const name of ['b', 'a', 'd/x', 'd/y', 'd/e/z', 'f/g/h/i']) await put(on, on.at(name), bytesOf(7));
    const entries = await list(on, on.dir, false);
    expect(names(on, entries)).toEqual(['a', 'b', 'd/', 'f/']);
    const { etag, size, modifiedMs } = await on.driver.head(on.at('a'), { signal: on.signal });
    expect(entries[0]).toMatchObject({ kind: 'file', etag, size });
    expect(Math.abs((entries[0] as Entry & { kind: 'file' }).modifiedMs - modifiedMs)).toBeLessThan(1001);
    expect(names(on, await list(on, on.at('d'), false))).toEqual(['d/e/', 'd/x', 'd/y']);
  });

  test('a deep listing tells every file below, and no directories', async (on) => {
    for (const name of ['b', 'd/x', 'd/e/z', 'f/g/h/i']) await put(on, on.at(name), bytesOf(7));
    expect(names(on, await list(on, on.dir, true))).toEqual(['b', 'd/e/z', 'd/x', 'f/g/h/i']);
    expect(names(on, await list(on, on.at('f'), true))).toEqual(['f/g/h/i']);
  });

  test('a directory is matched by whole segments: foo is not foobar', async (on) => {
    for (const name of ['foo/1', 'foobar/2', 'foo.3', 'fo/4']) await put(on, on.at(name), bytesOf(1));
    for (const deep of [false, true])
      expect(names(on, await list(on, on.at('foo'), deep))).toEqual(['foo/1']);
    for (const deep of [false, true]) expect(await list(on, on.at('fo/'), deep)).toHaveLength(1);
    expect(await on.store.removeTree(on.at('foo'), on.signal)).toEqual({ removed: 1 });
    expect(names(on, await list(on, on.dir, true))).toEqual(['fo/4', 'foo.3', 'foobar/2']);
  });

  test('what is absent, and what is a file, has nothing below it', async (on) => {
    await put(on, on.at('file'), bytesOf(1));
    for (const deep of [false, true])
      for (const name of ['no', 'no/no', 'file', 'file/no'])
        expect(await list(on, on.at(name), deep)).toEqual([]);
  });

  test(FILE_AND_DIR_LISTED, async (on) => {
    if (!on.driver.traits.fileAndDir) return;
    await put(on, on.at('a'), bytesOf(1));
    await put(on, on.at('a/b'), bytesOf(2));
    expect(names(on, await list(on, on.dir, true))).toEqual(['a', 'a/b']);
    expect(names(on, await list(on, on.dir, false))).toEqual(['a', 'a/']);
    expect(names(on, await list(on, on.at('a'), false))).toEqual(['a/b']);
  });

  test(`${MANY} entries come in pages, each of them once, and a tree of them goes at once`, async (on) => {
    const paths = Array.from({ length: MANY }, (_, i) =>
      on.at(`many/d${i % 3}/n${String(i).padStart(5, '0')}`),
    );
    const flat = Array.from({ length: 1001 }, (_, i) => on.at(`flat/n${i}`));
    await putMany(on, [...paths, ...flat]);
    let largest = 0;
    for await (const page of on.driver.list(on.dir, { deep: true, signal: on.signal }))
      largest = Math.max(largest, page.length);
    expect(largest).toBeLessThanOrEqual(1000);
    expect((await list(on, on.at('many'), true)).map(({ path }) => path)).toEqual(paths.toSorted());
    expect((await list(on, on.at('flat'), false)).map(({ path }) => path)).toEqual(flat.toSorted());
    expect(await on.store.removeTree(on.at('many'), on.signal)).toEqual({ removed: MANY });
    expect(await list(on, on.at('many'), true)).toEqual([]);
    expect(names(on, await list(on, on.dir, false))).toEqual(['flat/']);
    expect(await on.store.removeTree(on.dir, on.signal)).toEqual({ removed: 1001 });
    expect(await list(on, on.dir, false)).toEqual([]);
  });

  test('removing a tree takes the object itself, counts objects, and does not mind absence', async (on) => {
    await put(on, on.at('one'), bytesOf(1));
    expect(await on.store.removeTree(on.at('one'), on.signal)).toEqual({ removed: 1 });
    expect(await on.store.removeTree(on.at('one'), on.signal)).toEqual({ removed: 0 });
    expect(await kindOf(on.driver, on.driver.head(on.at('one'), { signal: on.signal }))).toBe('not-found');
  });

  test('no directory is left where the last file of it was removed', async (on) => {
    await put(on, on.at('d/e/f/x'), bytesOf(1));
    await put(on, on.at('d/y'), bytesOf(1));
    await on.driver.remove([on.at('d/e/f/x')], { signal: on.signal });
    expect(names(on, await list(on, on.at('d'), false))).toEqual(['d/y']);
    await on.driver.remove([on.at('d/y')], { signal: on.signal });
    expect(await list(on, on.dir, false)).toEqual([]);
  });

  test('what is on its way to being published is not listed', async (on) => {
    const { multipart } = on.driver;
    if (!multipart) return;
    await put(on, on.at('there'), bytesOf(1));
    const upload = await multipart.begin(on.at('coming'), {
      signal: on.signal,
      mode: 'replace',
      token: 'on-its-way',
    });
    for (const deep of [false, true]) expect(names(on, await list(on, on.dir, deep))).toEqual(['there']);
    await multipart.abandon(upload, { signal: on.signal });
  });

  test('a listing can be left in the middle, and stopped by its signal', async (on) => {
    await putMany(
      on,
      Array.from({ length: 30 }, (_, i) => on.at(`d${i}/x`)),
    );
    for (let i = 0; i < on.driver.traits.connections + 10; i++)
      for await (const _ of on.store.list(on.dir, { deep: true, signal: on.signal })) break;
    const stop = new AbortController();
    const listing = async (): Promise<void> => {
      for await (const _ of on.driver.list(on.dir, { deep: false, signal: stop.signal }))
        stop.abort(new Error('enough'));
      stop.signal.throwIfAborted(); // it was all in one page
    };
    await expect(listing()).rejects.toThrow();
  });
}
