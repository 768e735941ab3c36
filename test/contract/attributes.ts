/** Cases: what an object carries beside its bytes. `traits.keeps` is proved both ways. */
import { expect } from 'vitest';
import { joinPath, parsePath } from '../../lib/path.ts';
import {
  ATTRIBUTE_NAMES,
  type AttributeName,
  type Attributes,
  without,
} from '../../lib/stores/attributes.ts';
import type { FileEntry, WholeSource, WriteCall } from '../../lib/stores/driver.ts';
import { bodyOf, bytesOf, newToken, prepare, put, stream, writeCall } from './data.ts';
import type { Case, Ground } from './store.ts';

const MODIFIED = Date.UTC(2020, 1, 29, 12, 30, 15);
const ALL: Required<Omit<Attributes, 'mediaType'>> = {
  contentEncoding: 'gzip',
  cacheControl: 'max-age=60, private',
  contentDisposition: 'attachment; filename="a b.txt"',
  contentLanguage: 'nb, de-CH',
  expires: 'Wed, 21 Oct 2065 07:28:00 GMT',
  metadata: { team: 'vision', 'run-id': 'a=b;c  d' },
  tags: { stage: 'prod/eu', 'cost centre': 'a+b @ 1' },
  storageClass: 'REDUCED_REDUNDANCY',
  mode: 0o640,
  modified: MODIFIED,
};
const MEDIA_TYPE = 'application/x-model';
/** A server may know one class only; whatever else a store says it keeps, it keeps. */
const MAY_LACK: readonly AttributeName[] = ['storageClass'];

/** As an object turned out to carry them. */
async function foundAt(on: Ground, path: FileEntry['path']): Promise<Attributes> {
  const head = await on.driver.head(path, { signal: on.signal });
  const { entry } = await on.driver.read(path, { start: 0, end: 1 }, { signal: on.signal });
  expect(entry.attributes).toEqual(head.attributes);
  expect(entry.tagCount).toBe(head.tagCount);
  const tags = head.tagCount ? await on.driver.tags!(path, { signal: on.signal }) : undefined;
  expect(Object.keys(tags ?? {})).toHaveLength(head.tagCount ?? 0);
  return { ...head.attributes, ...(tags && { tags }), modified: head.modifiedMs };
}

/** All that the store says it keeps is there, or was named as not kept; of the rest there is nothing. */
async function expectKept(on: Ground, entry: FileEntry, wanted: Attributes = ALL): Promise<void> {
  const { keeps } = on.driver.traits;
  const found = await foundAt(on, entry.path);
  for (const name of ATTRIBUTE_NAMES) {
    const isKept = keeps.includes(name) && !entry.notKept?.includes(name);
    if (isKept && name !== 'mediaType') expect(found[name]).toEqual(wanted[name]);
    if (isKept && name === 'mediaType') expect(found[name]).toBe(MEDIA_TYPE);
    // every file has a mode and a time
    if (!isKept && name !== 'mode' && name !== 'modified') expect(found[name]).toBeUndefined();
  }
  const lacks = keeps.filter((name) => entry.notKept?.includes(name));
  expect(MAY_LACK).toEqual(expect.arrayContaining(lacks));
}

const carrying = (on: Ground, more: Partial<WriteCall> = {}) =>
  writeCall(on, { attributes: forStore(on, ALL), mediaType: MEDIA_TYPE, ...more });
const forStore = (on: Ground, attributes: Attributes): Attributes =>
  without(
    attributes,
    ATTRIBUTE_NAMES.filter((name) => !on.driver.traits.keeps.includes(name)),
  );

export function attributeCases(test: Case): void {
  test('versions differ whose bytes are as many and whose time is said to be the same', async (on) => {
    const etags = new Set<string>();
    for (let n = 0; n < 20; n++) {
      const attributes = forStore(on, { modified: MODIFIED });
      etags.add((await put(on, on.at('x'), bytesOf(10, n), writeCall(on, { attributes }))).etag);
    }
    expect(etags.size).toBe(20);
  });

  test('what is too much for a server is left out and named, and the object is there all the same', async (on) => {
    const tags = Object.fromEntries(Array.from({ length: 60 }, (_, n) => [`k${n}`, 'v']));
    for (const more of [{ tags }, { metadata: { long: 'x'.repeat(5000) } }]) {
      const attributes = forStore(on, { cacheControl: 'no-store', ...more });
      const entry = await put(on, on.at('x'), bytesOf(10), writeCall(on, { attributes }));
      const found = await foundAt(on, on.at('x'));
      expect(found.cacheControl).toBe(attributes.cacheControl);
      for (const name of ['tags', 'metadata'] as const)
        if (!entry.notKept?.includes(name)) expect(found[name]).toEqual(attributes[name]);
    }
  });

  test('what a store keeps is kept by a write, and by the next one not', async (on) => {
    for (const mode of ['create', 'replace'] as const)
      await expectKept(on, await put(on, on.at('x'), bytesOf(100), carrying(on, { mode })));
    await put(on, on.at('x'), bytesOf(100));
    const found = await foundAt(on, on.at('x'));
    for (const name of ATTRIBUTE_NAMES)
      if (!['mode', 'modified', 'mediaType'].includes(name)) expect(found[name]).toBeUndefined();
    expect(found.modified).not.toBe(MODIFIED);
  });

  test('writes with attributes and writes without any do not take from each other', async (on) => {
    for (let n = 0; n < 3; n++) {
      await expectKept(on, await put(on, on.at(`with-${n}`), bytesOf(100), carrying(on)));
      await put(on, on.at(`bare-${n}`), bytesOf(100));
      const { cacheControl, metadata, tags } = await foundAt(on, on.at(`bare-${n}`));
      expect({ cacheControl, metadata, tags }).toEqual({});
    }
  });

  test('what a store keeps is kept by an upload in parts', async (on) => {
    const { multipart } = on.driver;
    if (!multipart) return;
    const bytes = bytesOf(5000);
    const call = carrying(on);
    const upload = await multipart.begin(on.at('x'), call);
    const part = { number: 1, offset: 0 };
    const receipt = await multipart.part(upload, part, bodyOf(bytes), { signal: on.signal });
    const kept = { ...call, attributes: without(call.attributes!, upload.notKept ?? []) };
    const entry = await multipart.finish(upload, [receipt], { size: bytes.length }, kept);
    await expectKept(on, { ...entry, notKept: [...(upload.notKept ?? []), ...(entry.notKept ?? [])] });
  });

  test('what a store keeps is kept by drafts of one piece and of many', async (on) => {
    const large = (on.driver.multipart?.limits.goodBytes ?? 1000) + 12345;
    for (const size of [0, 1000, large]) {
      const bytes = bytesOf(size);
      const opts = { attributes: forStore(on, ALL), mediaType: MEDIA_TYPE, token: newToken() };
      const draft = await prepare(on, on.at(`x${size}`), stream(bytes), opts);
      const { entry } = await draft.publish({ signal: on.signal });
      if (size > 0) await expectKept(on, entry);
    }
  });

  test('odd values are kept, or named as not kept', async (on) => {
    if (!on.driver.traits.keeps.includes('metadata')) return;
    const odd: readonly Attributes[] = [
      { metadata: { name: 'blåbær ☃ 🚢' } },
      { metadata: { name: '=?UTF-8?Q?bl=C3=A5?=' } },
      { metadata: { a: 'x'.repeat(1900) } },
      { metadata: { a: 'x'.repeat(2500) } },
      { expires: '0' },
      { contentDisposition: `attachment; filename*=UTF-8''%e2%98%83.txt` },
      { storageClass: 'NO_SUCH_CLASS' },
      { tags: { ключ: 'вэлью' } },
      { tags: Object.fromEntries(Array.from({ length: 10 }, (_, n) => [`k${n}`, `v${n}`])) },
    ];
    for (const [n, attributes] of odd.entries()) {
      const entry = await put(on, on.at(`x${n}`), bytesOf(10), { attributes });
      const found = await foundAt(on, on.at(`x${n}`));
      for (const name of Object.keys(attributes) as AttributeName[])
        if (!entry.notKept?.includes(name)) expect(found[name]).toEqual(attributes[name]);
    }
  });

  test('a copy on the server carries what its source has where it is told to, and else what the call says', async (on) => {
    const { neighbour, driver } = on;
    const copier = driver.serverCopy;
    if (!neighbour || !copier) return;
    const path = joinPath(on.dir, parsePath('source'));
    const source = await neighbour.write(path, bodyOf(bytesOf(5000)), carrying(on));
    const from: WholeSource = { source: neighbour.serverCopy!.source(path), etag: source.etag, size: 5000 };
    try {
      const storageClass = source.notKept?.includes('storageClass') ? {} : { storageClass: ALL.storageClass };
      const call = writeCall(on, { attributes: storageClass });
      const by = await copier.copy({ ...from, carries: true }, on.at('carried'), call);
      // where not all of it goes along the store says so, and then nobody tells it to
      if (await copier.carries({ signal: on.signal }))
        await expectKept(on, by, without(ALL, source.notKept ?? []));
      else expect((await foundAt(on, on.at('carried'))).expires).toBeUndefined();
      const carried = await driver.head(on.at('carried'), { signal: on.signal });
      if (carried.token !== undefined) expect(carried.token).toBe(call.token);
      const other = { cacheControl: 'no-store', metadata: { other: '1' }, tags: { other: '2' } };
      for (const mode of ['replace', 'create'] as const) {
        const told = writeCall(on, { mode, attributes: other, mediaType: MEDIA_TYPE });
        const entry = await copier.copy(from, on.at(`told-${mode}`), told);
        expect(entry.notKept ?? []).toEqual([]);
        const { modified: _, ...found } = await foundAt(on, on.at(`told-${mode}`));
        expect(found).toEqual({ ...other, mediaType: MEDIA_TYPE });
      }
    } finally {
      await neighbour.remove([path], { signal: on.signal });
    }
  });
}
