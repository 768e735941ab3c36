/** Cases: each declared fact, proved where it is declared and where it is not. */
import { expect } from 'vitest';
import type { StorePath } from '../../lib/path.ts';
import { bodyOf, bytesOf, get, kindOf, list, names, newToken, put, stream, writeCall } from './data.ts';
import { FILE_AND_DIR_KEPT } from './known.ts';
import type { Case } from './store.ts';

export function traitCases(test: Case): void {
  test(FILE_AND_DIR_KEPT, async (on) => {
    await put(on, on.at('a'), bytesOf(1, 1));
    await put(on, on.at('c/d'), bytesOf(1, 1));
    const below = kindOf(on.driver, put(on, on.at('a/b'), bytesOf(2, 2)));
    const above = kindOf(on.driver, put(on, on.at('c'), bytesOf(2, 2)));
    if (on.driver.traits.fileAndDir) {
      expect([await below, await above]).toEqual(['no failure', 'no failure']);
      for (const name of ['a/b', 'c']) expect((await get(on, on.at(name))).equals(bytesOf(2, 2))).toBe(true);
    } else {
      expect([await below, await above]).toEqual(['invalid', 'invalid']);
      expect(names(on, await list(on, on.dir, true))).toEqual(['a', 'c/d']);
    }
    for (const name of ['a', 'c/d']) expect((await get(on, on.at(name))).equals(bytesOf(1, 1))).toBe(true);
  });

  test('a wrong CRC32 is noticed by the stores that say so, and by no other', async (on) => {
    const lying = { ...bodyOf(bytesOf(1000)), crc32: 12345 };
    const end = await kindOf(on.driver, on.driver.write(on.at('x'), lying, writeCall(on)));
    if (on.driver.traits.checksWrites) {
      expect(['corrupt', 'invalid']).toContain(end);
      expect(await kindOf(on.driver, on.driver.head(on.at('x'), { signal: on.signal }))).toBe('not-found');
    } else expect(end).toBe('no failure');
  });

  test('a write whose body is not as long as it says publishes nothing', async (on) => {
    for (const lie of [{ size: 1042 }, { size: 958 }]) {
      const end = await kindOf(
        on.driver,
        on.driver.write(on.at('x'), bodyOf(bytesOf(1000), lie), writeCall(on)),
      );
      expect(end).not.toBe('no failure');
      expect(await kindOf(on.driver, on.driver.head(on.at('x'), { signal: on.signal }))).toBe('not-found');
    }
  });

  test('directories exist on their own where they can be made, are listed so, and go by their names', async (on) => {
    expect(on.store.makeDirectory !== undefined).toBe(on.driver.makeDirectory !== undefined);
    expect(on.makeDir !== undefined).toBe(on.driver.makeDirectory !== undefined);
    if (!on.makeDir || !on.store.makeDirectory) return;
    await put(on, on.at('d/full/x'), bytesOf(1));
    await on.makeDir(on.at('d/empty/below'));
    await on.store.makeDirectory(on.at('d/made'), on.signal);
    await on.store.makeDirectory(on.at('d/made'), on.signal);
    expect(names(on, await list(on, on.at('d'), false))).toEqual(['d/empty/', 'd/full/', 'd/made/']);
    expect(names(on, await list(on, on.at('d'), true))).toEqual(['d/empty/below/', 'd/full/x', 'd/made/']);
    expect(names(on, await list(on, on.at('d/made'), true))).toEqual(['d/made/']);
    expect(await list(on, on.at('d/made'), false)).toEqual([]);
    const named = ['d/made/', 'd/full/', 'd/absent/'].map((name) => `${on.dir}/${name}` as StorePath);
    expect(await on.driver.remove(named, { signal: on.signal })).toEqual([]);
    expect(names(on, await list(on, on.at('d'), true))).toEqual(['d/empty/below/', 'd/full/x']);
    await on.makeDir(on.at('e/empty'));
    expect(await on.store.removeTree(on.at('e'), on.signal)).toEqual({ removed: 1 });
    expect(names(on, await list(on, on.dir, false))).toEqual(['d/']);
  });

  test('pruning takes directories that are empty, where they stay by themselves', async (on) => {
    const { prune } = on.driver;
    expect(prune !== undefined).toBe(on.driver.traits.namespace === 'hierarchical');
    if (!on.makeDir || !prune) return;
    await put(on, on.at('d/full/x'), bytesOf(1));
    await on.makeDir(on.at('d/empty/below'));
    await prune.call(on.driver, on.at('d'), { signal: on.signal });
    expect(names(on, await list(on, on.at('d'), false))).toEqual(['d/full/']);
  });

  test('a hierarchical store refuses names that lead another way, a flat one takes a segment that is empty', async (on) => {
    const { namespace } = on.driver.traits;
    const refused = (name: string): boolean =>
      on.store.refuses(`${on.dir}/${name}` as StorePath) !== undefined;
    for (const name of ['a//b', '/a', 'a/']) expect(refused(name), name).toBe(namespace === 'hierarchical');
    for (const name of ['a#b', 'a?b', '%2e%2e', '...', 'a\\b', 'tab\there', ' ', 'x.', '*"<>|:'])
      expect(refused(name), name).toBe(false);
    for (const name of ['a//b', '..', 'x/../y', 'x/.']) {
      if (!refused(name)) continue;
      const path = `${on.dir}/${name}` as StorePath;
      expect(await kindOf(on.driver, on.store.head(path, on.signal))).toBe('invalid');
      expect(await kindOf(on.driver, on.store.read(path, { signal: on.signal }))).toBe('invalid');
      const draft = on.store.prepare(path, bytesOf(1), { signal: on.signal, token: newToken() });
      expect(await kindOf(on.driver, draft)).toBe('invalid');
    }
  });

  test('the longest name and path work, and longer ones are refused before anything is sent', async (on) => {
    const { maxNameBytes, maxPathBytes } = on.driver.traits;
    const publish = async (name: string): Promise<void> => {
      const opts = { signal: on.signal, token: newToken() };
      const draft = await on.store.prepare(on.at(name), stream(bytesOf(9)), opts);
      await draft.publish({ signal: on.signal });
    };
    const room = maxPathBytes - Buffer.byteLength(on.dir) - 1;
    const longest = Math.min(maxNameBytes, 255, room);
    await publish(`${'é'.repeat(Math.floor(longest / 2))}${'x'.repeat(longest % 2)}`);
    let path = '';
    for (let left = room; left > 0; left -= 201) path += `${path && '/'}${'p'.repeat(Math.min(200, left))}`;
    path = path.slice(0, room).replace(/\/$/, 'p');
    await publish(path);
    expect(await get(on, on.at(path))).toHaveLength(9);
    if (maxNameBytes + Buffer.byteLength(on.dir) + 2 < maxPathBytes)
      expect(await kindOf(on.driver, publish('n'.repeat(maxNameBytes + 1)))).toBe('invalid');
    expect(await kindOf(on.driver, publish(`${path}x`))).toBe('invalid');
  });

  test('what a store declares are sensible numbers', async (on) => {
    const { traits, multipart } = on.driver;
    expect(traits.connections).toBeGreaterThanOrEqual(1);
    expect(on.store.traits).toEqual(traits);
    if (!multipart) return;
    const { minBytes, goodBytes, maxBytes, maxParts } = multipart.limits;
    expect(minBytes).toBeLessThanOrEqual(goodBytes);
    expect(goodBytes).toBeLessThanOrEqual(maxBytes);
    expect(maxParts).toBeGreaterThanOrEqual(1000);
  });
}
