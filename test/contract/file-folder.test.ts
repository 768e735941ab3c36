/** What a folder needs beyond the contract: links, other programs at work in it, and a disk that is full. */
import { execFileSync } from 'node:child_process';
import {
  appendFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Failure } from '../../lib/errors.ts';
import { parsePath, ROOT, type StorePath } from '../../lib/path.ts';
import { BufferPool } from '../../lib/stores/buffers.ts';
import { type FileDriver, openFileDriver } from '../../lib/stores/drivers/file.ts';
import { Store } from '../../lib/stores/store.ts';
import { NAMES, OTHERS } from '../hidden.ts';
import { scaled } from '../scale.ts';
import { bodyOf, bytesOf, collect, failure, kindOf, newToken, stream } from './data.ts';
import { hiddenNames } from './hidden.ts';

const { signal } = new AbortController();
const BUFFERS = new BufferPool({ budgetBytes: 64 * 1024 * 1024 });
const PART_BYTES = 4 * 1024 * 1024;

let base: string;
/** Below `base`, with a folder beside it that must stay as it is. */
let root: string;
let outside: string;
let driver: FileDriver;
let store: Store;

beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), 'longshore-folder-'));
  [root, outside] = [join(base, 'root'), join(base, 'outside')];
  await mkdir(outside);
  await writeFile(join(outside, 'secret'), 'not yours');
  driver = await openFileDriver(root, NAMES);
  store = new Store({ name: 'folder', uri: root, driver, buffers: BUFFERS });
});
afterEach(async () => {
  await store.close();
  await rm(base, { recursive: true, force: true });
});

const write = (name: string, bytes: Uint8Array, token = newToken()) =>
  driver.write(parsePath(name), bodyOf(bytes), { signal, mode: 'replace', token });
const read = async (name: string): Promise<Buffer> =>
  collect((await driver.read(parsePath(name), undefined, { signal })).bytes);
async function publish(name: string, bytes: Uint8Array, on = store): Promise<void> {
  const draft = await on.prepare(parsePath(name), stream(bytes), { signal, token: newToken() });
  try {
    await draft.publish({ signal });
  } finally {
    await draft.discard();
  }
}
async function listed(dir: string, deep: boolean): Promise<string[]> {
  const paths: string[] = [];
  for await (const page of driver.list(parsePath(dir), { deep, signal }))
    paths.push(...page.map((entry) => (entry.kind === 'other' ? `${entry.path} (${entry.is})` : entry.path)));
  return paths.toSorted();
}
async function leftovers(): Promise<StorePath[]> {
  const paths: StorePath[] = [];
  for await (const page of driver.leftovers({ signal })) paths.push(...page.map((file) => file.path));
  return paths;
}
const everything = async (folder: string): Promise<string[]> =>
  (await readdir(folder, { recursive: true })).toSorted();

describe('symbolic links', () => {
  test('that lead outside are refused, whatever is asked of them', async () => {
    await symlink(outside, join(root, 'dir'));
    await symlink(join(outside, 'secret'), join(root, 'file'));
    await symlink('../outside', join(root, 'relative'));
    const path = parsePath('dir/secret');
    const upload = { path: parsePath('dir/new'), id: '.longshore-x-1' };
    const part = { number: 1, offset: 0 };
    const attempts: Readonly<Record<string, () => Promise<unknown>>> = {
      head: () => driver.head(path, { signal }),
      'head of a linked file': () => driver.head(parsePath('file'), { signal }),
      read: () => read('dir/secret'),
      'read of a linked file': () => read('file'),
      write: () => write('dir/secret', bytesOf(5)),
      'write in parts': () => publish('relative/deep/new', bytesOf(PART_BYTES + 5)),
      part: () => driver.multipart.part(upload, part, bodyOf(bytesOf(5)), { signal }),
      list: () => listed('dir', true),
      'shallow list': () => listed('relative', false),
      prune: () => driver.prune(parsePath('dir'), { signal }),
      remove: async () => {
        const [failed] = await driver.remove([path], { signal });
        throw failed!.error;
      },
    };
    for (const [what, attempt] of Object.entries(attempts))
      expect({ what, kind: await kindOf(driver, attempt()) }).toEqual({ what, kind: 'invalid' });
    const links = ['dir (link)', 'file (link)', 'relative (link)'];
    expect(await listed('', true)).toEqual(links);
    expect(await listed('', false)).toEqual(links);
    expect(await everything(outside)).toEqual(['secret']);
    expect(await readFile(join(outside, 'secret'), 'utf8')).toBe('not yours');
  });

  test('that lead outside go with the tree they are in, and what they lead to stays', async () => {
    await write('d/x', bytesOf(3));
    await symlink(outside, join(root, 'd/out'));
    await symlink(join(outside, 'secret'), join(root, 'd/file'));
    await store.removeTree(parsePath('d'), signal);
    expect(await everything(root)).toEqual([]);
    expect(await everything(outside)).toEqual(['secret']);
  });

  test('that stay inside are followed, and a loop of them is no endless tree', async () => {
    await write('real/x', bytesOf(9));
    await symlink('real', join(root, 'alias'));
    await symlink('.', join(root, 'real/loop'));
    expect((await read('alias/x')).equals(bytesOf(9))).toBe(true);
    await write('alias/y', bytesOf(2));
    expect((await read('real/y')).equals(bytesOf(2))).toBe(true);
    const loop = (dir: string) => `${dir}/loop (link)`;
    const real = [loop('real'), 'real/x', 'real/y'];
    expect(await listed('', true)).toEqual([loop('alias'), 'alias/x', 'alias/y', ...real]);
    const named: string[] = [];
    for await (const page of driver.list(ROOT, { deep: true, links: 'name', signal }))
      named.push(...page.map(({ path }) => path));
    expect(named.toSorted()).toEqual(['alias', 'real/loop', 'real/x', 'real/y']);
  });

  test('put in the place of a directory while it is written to never lead a write outside', async () => {
    const [dir, kept] = [join(root, 'd'), join(root, 'kept')];
    await mkdir(dir);
    let over = false;
    let flips = 0;
    const flipping = (async () => {
      // a write may make `d` anew while it is away: that one goes
      const away = () => rm(dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 1 });
      while (!over) {
        await rename(dir, kept);
        await symlink(outside, dir).catch(away);
        await new Promise(setImmediate);
        await away();
        for (let back = false; !back; )
          back = await rename(kept, dir).then(
            () => true,
            () => away().then(() => false),
          );
        await new Promise(setImmediate);
        flips++;
      }
    })();
    const kinds = new Set<string>();
    try {
      for (let race = 0; race < scaled(2000); race++)
        kinds.add(
          await kindOf(driver, race % 2 ? write(`d/f${race % 7}`, bytesOf(64)) : read(`d/f${race % 7}`)),
        );
      for (let race = 0; race < Math.max(5, scaled(50)); race++)
        kinds.add(await kindOf(driver, publish(`d/big${race % 3}`, bytesOf(PART_BYTES + 1))));
    } finally {
      over = true;
      await flipping;
    }
    expect(flips).toBeGreaterThan(10);
    expect(await everything(outside)).toEqual(['secret']);
    expect(await readFile(join(outside, 'secret'), 'utf8')).toBe('not yours');
    expect(kinds).toContain('no failure');
    expect(['no failure', 'invalid', 'not-found', 'unavailable']).toEqual(expect.arrayContaining([...kinds]));
  });
});

describe('what is no regular file', () => {
  test('a pipe is not found and holds nobody up', async () => {
    execFileSync('mkfifo', [join(root, 'pipe')]);
    expect(await kindOf(driver, driver.head(parsePath('pipe'), { signal }))).toBe('not-found');
    expect(await kindOf(driver, read('pipe'))).toBe('not-found');
    expect(await listed('', false)).toEqual(['pipe (special)']);
    expect(await listed('pipe', true)).toEqual(['pipe (special)']);
    expect(await store.removeTree(parsePath('pipe'), signal)).toEqual({ removed: 1 });
    expect(await everything(root)).toEqual([]);
  });

  test('a tree that is removed by a link to it loses the link, and what it leads to stays', async () => {
    await write('real/x', bytesOf(9));
    await symlink('real', join(root, 'alias'));
    await store.removeTree(parsePath('alias'), signal);
    expect(await everything(root)).toEqual(['real', 'real/x']);
  });

  test('a directory cannot be replaced by a file', async () => {
    await write('d/x', bytesOf(3));
    for (const size of [5, PART_BYTES + 5])
      expect((await failure(publish('d', bytesOf(size)))).kind).toBe('invalid');
    expect(await everything(root)).toEqual(['d', 'd/x']);
  });

  test('nothing goes below a file', async () => {
    await write('a', bytesOf(3));
    for (const size of [5, PART_BYTES + 5])
      expect((await failure(publish('a/b/c', bytesOf(size)))).kind).toBe('invalid');
    expect(await everything(root)).toEqual(['a']);
    expect(await driver.remove([parsePath('a/b')], { signal })).toEqual([]);
  });
});

describe('hidden siblings', () => {
  hiddenNames(async () => ({
    driver,
    async put(path) {
      await mkdir(dirname(join(root, path)), { recursive: true });
      await writeFile(join(root, path), 'not yours');
    },
    paths: async () => (await everything(root)).filter((path) => path !== 'd'),
  }));

  test('of a directory that is reached through a link are ours all the same', async () => {
    await mkdir(join(root, 'real'));
    await symlink('real', join(root, 'alias'));
    const call = { signal, mode: 'replace', token: 'linked' } as const;
    const upload = await driver.multipart.begin(parsePath('alias/x'), call);
    expect(await listed('', false)).toEqual(['alias', 'real']);
    expect((await listed('alias', false)).concat(await listed('real', false))).toEqual([]);
    expect((await leftovers()).toSorted()).toEqual([`real/${upload.id}`, `real/${upload.id}.parts`]);
    await driver.multipart.abandon(upload, { signal });
    expect(await everything(root)).toEqual(['alias', 'real']);
  });

  test('of others do not go with an upload that is given up by their name', async () => {
    await mkdir(join(root, 'd'));
    for (const id of [OTHERS.nameIn('d', 't-1'), '.longshore-t-1', 'notes', NAMES.nameIn('', 't-1')]) {
      for (const name of [id, `${id}.parts`, `${id}.joined`]) await writeFile(join(root, 'd', name), 'mine');
      await driver.multipart.abandon({ path: parsePath('d/x'), id }, { signal });
      expect(await readdir(join(root, 'd'))).toEqual(
        expect.arrayContaining([id, `${id}.parts`, `${id}.joined`]),
      );
    }
  });

  test('that come to nothing take the directories along that were made for them, and no other', async () => {
    await mkdir(join(root, 'empty/one'), { recursive: true });
    const call = { signal, mode: 'replace', token: 'none' } as const;
    const lie = { ...bodyOf(bytesOf(5)), size: 6 };
    for (const path of ['empty/one/x', 'empty/one/new/deep/x'].map((name) => parsePath(name))) {
      await failure(driver.write(path, lie, call));
      expect(await everything(root)).toEqual(['empty', 'empty/one']);
      const upload = await driver.multipart.begin(path, call);
      await (await openFileDriver(root, NAMES)).multipart.abandon(upload, call);
      expect(await everything(root)).toEqual(['empty', 'empty/one']);
    }
  });

  test('are in no listing and found as leftovers, which removing takes', async () => {
    await write('d/x', bytesOf(3));
    const [one, two] = [NAMES.nameIn('d', 'dead-1'), NAMES.nameIn('d', 'dead-2')];
    const names = [one, two, `${two}.parts`];
    for (const name of names) await writeFile(join(root, 'd', name), 'half');
    expect(await listed('', true)).toEqual(['d/x']);
    expect(await listed('d', false)).toEqual(['d/x']);
    const found = await leftovers();
    expect(found.toSorted()).toEqual(names.map((name) => `d/${name}`).toSorted());
    expect(await driver.removeLeftovers(found, { signal })).toEqual([]);
    expect(await everything(root)).toEqual(['d', 'd/x']);
  });

  test('of one token in two hands are two', async () => {
    const token = 'transfer-7-1';
    const bodies = [bytesOf(PART_BYTES * 2 + 1, 1), bytesOf(PART_BYTES * 2 + 1, 2)];
    const drafts = await Promise.all(
      bodies.map((bytes) => store.prepare(parsePath('x'), stream(bytes), { signal, token })),
    );
    await drafts[1]!.publish({ signal });
    await drafts[0]!.discard();
    expect((await read('x')).equals(bodies[1]!)).toBe(true);
    expect(await everything(root)).toEqual(['x']);
  });

  test('of an upload are found by a process that did not begin it, and finished by it', async () => {
    const other = await openFileDriver(root, NAMES);
    const call = { signal, mode: 'replace', token: 'both' } as const;
    const upload = await driver.multipart.begin(parsePath('d/x'), call);
    await driver.multipart.part(upload, { number: 2, offset: 1000 }, bodyOf(bytesOf(10, 2)), call);
    await other.multipart.part(upload, { number: 1, offset: 0 }, bodyOf(bytesOf(1000, 1)), call);
    const receipts = [];
    for await (const page of other.multipart.parts(upload, call)) receipts.push(...page);
    const { etag } = await other.multipart.finish(upload, receipts, { size: 1010 }, call);
    expect((await driver.head(upload.path, call)).etag).toBe(etag);
    expect(await read('d/x')).toHaveLength(1010);
    const late = driver.multipart.part(upload, { number: 3, offset: 1010 }, bodyOf(bytesOf(9)), call);
    expect(await kindOf(driver, late)).toBe('not-found');
    expect(await read('d/x')).toHaveLength(1010);
    await other.close();
  });
});

describe('directories', () => {
  test('go with the last file in them, and the root stays', async () => {
    await write('a/b/c/x', bytesOf(1));
    await write('a/y', bytesOf(1));
    await driver.remove([parsePath('a/b/c/x')], { signal });
    expect(await everything(root)).toEqual(['a', 'a/y']);
    await driver.remove([parsePath('a/y')], { signal });
    expect(await everything(root)).toEqual([]);
    await store.removeTree(ROOT, signal);
    expect(await everything(base)).toContain('root');
  });

  test('that processes make and remove at once are never in the way of a write', async () => {
    const drivers = [driver, await openFileDriver(root, NAMES), await openFileDriver(root, NAMES)];
    const writer = async (on: FileDriver, name: string): Promise<void> => {
      const path = parsePath(`a/b/${name}`);
      for (let round = 0; round < scaled(1500); round++) {
        await on.write(path, bodyOf(bytesOf(10)), { signal, mode: 'replace', token: newToken() });
        expect(await on.remove([path], { signal })).toEqual([]);
      }
    };
    await Promise.all(drivers.flatMap((on, i) => ['x', 'y', 'z'].map((name) => writer(on, `${name}${i}`))));
    expect(await everything(root)).toEqual([]);
  });

  test('made for a body that came to nothing go with it', async () => {
    for (const size of [10, PART_BYTES * 2])
      await failure(
        store.prepare(parsePath('new/dir/x'), stream(bytesOf(size)), { signal, token: 't', size: size + 1 }),
      );
    const stop = new AbortController();
    const body = {
      size: 10,
      async *open() {
        yield bytesOf(5);
        stop.abort(new Failure('cancelled', 'never mind'));
        yield bytesOf(5);
      },
    };
    const call = { signal: stop.signal, mode: 'replace', token: 't' } as const;
    expect(await kindOf(driver, driver.write(parsePath('new/dir/y'), body, call))).toBe('cancelled');
    expect(await everything(root)).toEqual([]);
  });
});

describe('another program', () => {
  test('that writes into a file while it is read makes the reading fail', async () => {
    await write('x', bytesOf(3_000_000));
    for (const when of [0, 1, 2]) {
      const { bytes } = await driver.read(parsePath('x'), undefined, { signal });
      const reading = async (): Promise<void> => {
        let chunks = 0;
        for await (const _ of bytes) if (chunks++ === when) await appendFile(join(root, 'x'), 'more');
      };
      expect(await kindOf(driver, reading())).toBe('unavailable');
    }
  });

  test('that replaces a file while it is read does not disturb the reading', async () => {
    await write('x', bytesOf(3_000_000, 1));
    const { bytes } = await driver.read(parsePath('x'), undefined, { signal });
    const iterator = bytes[Symbol.asyncIterator]();
    const chunks = [Buffer.from((await iterator.next()).value!)];
    await writeFile(join(base, 'new'), bytesOf(3_000_000, 2));
    await rename(join(base, 'new'), join(root, 'x'));
    for (let step = await iterator.next(); !step.done; step = await iterator.next())
      chunks.push(Buffer.from(step.value));
    expect(Buffer.concat(chunks).equals(bytesOf(3_000_000, 1))).toBe(true);
  });

  test('that shortens a file while it is read makes the reading fail', async () => {
    await write('x', bytesOf(3_000_000));
    const { bytes } = await driver.read(parsePath('x'), undefined, { signal });
    await writeFile(join(root, 'x'), 'short');
    expect(await kindOf(driver, collect(bytes))).toBe('unavailable');
  });
});

test('no file stays open: not of readings that were left, bodies that failed, or uploads of others', async () => {
  const open = async (): Promise<number> => (await readdir('/proc/self/fd')).length;
  const other = await openFileDriver(root, NAMES);
  await write('x', bytesOf(2_000_000));
  const before = await open();
  for (let i = 0; i < 30; i++) {
    const { bytes } = await store.read(parsePath('x'), { signal });
    const iterator = bytes[Symbol.asyncIterator]();
    if (i % 3 > 0) await iterator.next();
    await iterator.return?.();
    await kindOf(driver, driver.read(parsePath('x'), undefined, { signal, ifMatch: 'other' }));
    await failure(
      store.prepare(parsePath('y'), stream(bytesOf(PART_BYTES * 2)), { signal, token: 't', size: 5_000_000 }),
    );
    await kindOf(
      driver,
      driver.write(parsePath('y'), bodyOf(bytesOf(5), { size: 6 }), { signal, mode: 'replace', token: 't' }),
    );
    for await (const _ of store.list(ROOT, { deep: true, signal })) break;
    const call = { signal, mode: 'create', token: 't' } as const;
    const upload = await driver.multipart.begin(parsePath('x'), call);
    const receipt = await other.multipart.part(upload, { number: 1, offset: 0 }, bodyOf(bytesOf(5)), call);
    expect(await kindOf(driver, other.multipart.finish(upload, [receipt], { size: 5 }, call))).toBe(
      'already-exists',
    );
    expect(await kindOf(driver, driver.multipart.finish(upload, [receipt], { size: 5 }, call))).toBe(
      'already-exists',
    );
    await driver.multipart.abandon(upload, call);
  }
  expect((await open()) - before).toBeLessThan(5);
  expect(await everything(root)).toEqual(['x']);
  await other.close();
});

const canMount = process.getuid?.() === 0 && mounts();
function mounts(): boolean {
  const at = execFileSync('mktemp', ['-d'], { encoding: 'utf8' }).trim();
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', at], { stdio: 'ignore' });
    execFileSync('umount', [at]);
    return true;
  } catch {
    return false;
  } finally {
    execFileSync('rmdir', [at]);
  }
}

describe.skipIf(!canMount)(
  `a full disk${canMount ? '' : ' [skipped: needs the right to mount a tmpfs]'}`,
  () => {
    test('is told as no space, and nothing of the body stays', async () => {
      const at = join(base, 'small');
      await mkdir(at);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=6m', 'tmpfs', at]);
      try {
        const small = await openFileDriver(at, NAMES);
        const full = new Store({ name: 'small', uri: at, driver: small, buffers: BUFFERS });
        await publish('old', bytesOf(100_000), full);
        for (const size of [PART_BYTES * 3, 7_000_000])
          expect((await failure(publish('d/big', bytesOf(size), full))).kind).toBe('no-space');
        expect(await everything(at)).toEqual(['old']);
        await publish('d/fits', bytesOf(5_000_000), full);
        expect((await failure(publish('old', bytesOf(3_000_000), full))).kind).toBe('no-space');
        expect(await everything(at)).toEqual(['d', 'd/fits', 'old']);
        await full.close();
      } finally {
        execFileSync('umount', [at]);
      }
    });
  },
);
