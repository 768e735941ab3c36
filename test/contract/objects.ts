/** Cases: one object, written, looked at, read, removed. */
import { expect } from 'vitest';
import { ROOT } from '../../lib/path.ts';
import { bytesOf, get, kindOf, put, readAll } from './data.ts';
import type { Case } from './store.ts';

const AWKWARD_NAMES = [
  'with space',
  ' leading and trailing ',
  'per%cent',
  'per%20cent',
  'plus+and&amp;',
  'quote\'"',
  'ünïcödé-日本語-🚢',
  'question?mark',
  'semi;colon,comma',
  '..dots..',
  '...',
  '~tilde$dollar!',
  '[brackets]{braces}(parens)',
  'colon:at@equals=',
  'trailing.',
  '-dash',
  '.hidden',
];

export function objectCases(test: Case): void {
  test('what was written can be read back, whole and byte for byte', async (on) => {
    for (const size of [0, 1, 1000, 262_144, 262_145, 1_500_000]) {
      const bytes = bytesOf(size, size);
      const written = await put(on, on.at(`o${size}`), bytes);
      expect(written.size).toBe(size);
      const reading = await on.driver.read(on.at(`o${size}`), undefined, { signal: on.signal });
      expect(reading.range).toEqual({ start: 0, end: size });
      expect(reading.entry).toMatchObject({
        kind: 'file',
        path: on.at(`o${size}`),
        size,
        etag: written.etag,
      });
      if (reading.content) expect(bytes.equals(reading.content)).toBe(true);
      expect((await readAll(Promise.resolve(reading))).equals(bytes)).toBe(true);
    }
  });

  test('head tells size, time and version, and the version stays while the object does', async (on) => {
    const before = Date.now();
    const written = await put(on, on.at('x'), bytesOf(4321));
    const first = await on.driver.head(on.at('x'), { signal: on.signal });
    expect(first).toMatchObject({ kind: 'file', path: on.at('x'), size: 4321, etag: written.etag });
    expect(first.etag).toMatch(/^[^"]+$/);
    expect(Math.abs(first.modifiedMs - before)).toBeLessThan(60_000);
    expect((await on.driver.head(on.at('x'), { signal: on.signal })).etag).toBe(first.etag);
  });

  test('a token that the store remembers is the writer’s, and a CRC32 that it tells is the content’s', async (on) => {
    const { crc32 } = await import('node:zlib');
    await put(on, on.at('x'), bytesOf(5000), { token: 'a-token-7' });
    const entry = await on.driver.head(on.at('x'), { signal: on.signal });
    if (entry.token !== undefined) expect(entry.token).toBe('a-token-7');
    if (entry.crc32 !== undefined) expect(entry.crc32).toBe(crc32(bytesOf(5000)));
  });

  test('what is absent, or a directory, is not found', async (on) => {
    await put(on, on.at('d/x'), bytesOf(3));
    for (const path of [on.at('no'), on.at('no/x'), on.at('d'), on.at('d/x/y'), ROOT]) {
      expect(await kindOf(on.driver, on.driver.head(path, { signal: on.signal }))).toBe('not-found');
      expect(await kindOf(on.driver, readAll(on.driver.read(path, undefined, { signal: on.signal })))).toBe(
        'not-found',
      );
    }
  });

  test('a range gives exactly these bytes, cut to the size of the object', async (on) => {
    const bytes = bytesOf(700_001);
    await put(on, on.at('x'), bytes);
    for (const [start, end] of [
      [0, 1],
      [0, 700_001],
      [5, 5],
      [1, 300_000],
      [299_999, 700_000],
      [700_000, 700_001],
      [699_990, 800_000],
    ] as const) {
      const reading = await on.driver.read(on.at('x'), { start, end }, { signal: on.signal });
      const cut = { start, end: Math.min(end, 700_001) };
      expect(reading.range).toEqual(cut);
      expect(reading.entry.size).toBe(700_001);
      expect((await readAll(Promise.resolve(reading))).equals(bytes.subarray(cut.start, cut.end))).toBe(true);
    }
  });

  test('a reading may be left before its first chunk and in the middle, as often as one likes', async (on) => {
    await put(on, on.at('x'), bytesOf(2_000_000));
    const connections = (): number =>
      process.getActiveResourcesInfo().filter((name) => name === 'TCPSocketWrap').length;
    const before = connections();
    for (let i = 0; i < on.driver.traits.connections * 2 + 10; i++) {
      const { bytes } = await on.store.read(on.at('x'), { signal: on.signal });
      const iterator = bytes[Symbol.asyncIterator]();
      if (i % 2 === 0) expect((await iterator.next()).done).toBe(false);
      await iterator.return?.();
      expect((await iterator.next()).done).toBe(true);
    }
    await expect.poll(connections).toBeLessThan(before + 10);
    expect((await get(on, on.at('x'))).length).toBe(2_000_000);
  });

  test('a reading of another version than the one asked for fails', async (on) => {
    const { etag } = await put(on, on.at('x'), bytesOf(100, 1));
    expect(
      (await readAll(on.driver.read(on.at('x'), undefined, { signal: on.signal, ifMatch: etag }))).length,
    ).toBe(100);
    await put(on, on.at('x'), bytesOf(100, 2));
    const stale = on.driver.read(on.at('x'), undefined, { signal: on.signal, ifMatch: etag });
    expect(await kindOf(on.driver, stale)).toBe('precondition');
  });

  test('writing again replaces, and changes the version', async (on) => {
    const seen = new Set<string>();
    for (const [seed, size] of [
      [1, 1000],
      [2, 1000],
      [3, 10],
      [4, 0],
      [5, 5000],
    ] as const) {
      seen.add((await put(on, on.at('x'), bytesOf(size, seed))).etag);
      expect((await get(on, on.at('x'))).equals(bytesOf(size, seed))).toBe(true);
    }
    expect(seen.size).toBe(5);
  });

  test('create refuses what is there, and leaves it alone', async (on) => {
    await put(on, on.at('x'), bytesOf(100, 1), { mode: 'create' });
    const second = put(on, on.at('x'), bytesOf(100, 2), { mode: 'create' });
    expect(await kindOf(on.driver, second)).toBe('already-exists');
    expect((await get(on, on.at('x'))).equals(bytesOf(100, 1))).toBe(true);
  });

  test('a write over one version replaces that version only', async (on) => {
    const { etag } = await put(on, on.at('x'), bytesOf(100, 1));
    const next = await put(on, on.at('x'), bytesOf(100, 2), { ifMatch: etag });
    expect(await kindOf(on.driver, put(on, on.at('x'), bytesOf(100, 3), { ifMatch: etag }))).toBe(
      'precondition',
    );
    expect((await get(on, on.at('x'))).equals(bytesOf(100, 2))).toBe(true);
    await put(on, on.at('x'), bytesOf(100, 4), { ifMatch: next.etag });
    expect(await kindOf(on.driver, put(on, on.at('absent'), bytesOf(1), { ifMatch: etag }))).toBe(
      'precondition',
    );
    expect(await kindOf(on.driver, on.driver.head(on.at('absent'), { signal: on.signal }))).toBe('not-found');
  });

  test('names with spaces, percent signs, unicode and the like come back as they were given', async (on) => {
    for (const [index, name] of AWKWARD_NAMES.entries()) {
      await put(on, on.at(`${name}/${name}`), bytesOf(20, index));
      expect((await get(on, on.at(`${name}/${name}`))).equals(bytesOf(20, index))).toBe(true);
    }
    const listed: string[] = [];
    for await (const page of on.driver.list(on.dir, { deep: true, signal: on.signal }))
      listed.push(...page.map(({ path }) => path));
    expect(listed.toSorted()).toEqual(AWKWARD_NAMES.map((name) => on.at(`${name}/${name}`)).toSorted());
  });

  test('removing takes what is there and does not mind what is not', async (on) => {
    await put(on, on.at('a'), bytesOf(1));
    await put(on, on.at('d/b'), bytesOf(2));
    await put(on, on.at('keep'), bytesOf(3));
    const paths = [on.at('a'), on.at('d/b'), on.at('absent'), on.at('absent/too'), on.at('keep/below')];
    expect(await on.driver.remove(paths, { signal: on.signal })).toEqual([]);
    expect(await on.driver.remove(paths, { signal: on.signal })).toEqual([]);
    for (const path of paths)
      expect(await kindOf(on.driver, on.driver.head(path, { signal: on.signal }))).toBe('not-found');
    expect((await get(on, on.at('keep'))).length).toBe(3);
    await on.store.remove([on.at('keep'), on.at('absent')], on.signal);
    expect(await kindOf(on.driver, on.driver.head(on.at('keep'), { signal: on.signal }))).toBe('not-found');
  });

  test('a call whose signal is aborted already fails with the reason, and does nothing', async (on) => {
    const { Failure } = await import('../../lib/errors.ts');
    await put(on, on.at('x'), bytesOf(10, 1));
    const signal = AbortSignal.abort(new Failure('interrupted', 'we are leaving'));
    const calls = [
      on.store.head(on.at('x'), signal),
      on.store.read(on.at('x'), { signal }),
      on.store.remove([on.at('x')], signal),
      on.store.removeTree(on.dir, signal),
      on.store.prepare(on.at('x'), (async function* () {})(), { signal, token: 'late' }),
      (async () => {
        for await (const _ of on.store.list(on.dir, { deep: true, signal })) expect.unreachable();
      })(),
    ];
    for (const call of calls) expect(await kindOf(on.driver, call)).toBe('interrupted');
    for (const call of [
      on.driver.head(on.at('x'), { signal }),
      on.driver.write(
        on.at('x'),
        { size: 1, open: () => [bytesOf(1)] },
        { signal, mode: 'replace', token: 'late' },
      ),
      on.driver.remove([on.at('x')], { signal }),
    ])
      await expect(call).rejects.toThrow();
    expect((await get(on, on.at('x'))).equals(bytesOf(10, 1))).toBe(true);
  });
}
