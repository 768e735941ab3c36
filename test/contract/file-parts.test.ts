/** Parts in a folder: many processes at one file, what a crash leaves of the record, and who comes late. */
import { execFile } from 'node:child_process';
import {
  appendFile,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { crc32 } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { Failure } from '../../lib/errors.ts';
import { parsePath, type StorePath } from '../../lib/path.ts';
import type { Body, PendingUpload, Receipt, Upload } from '../../lib/stores/driver.ts';
import { type FileDriver, openFileDriver } from '../../lib/stores/drivers/file.ts';
import { WRITERS_MS } from '../../lib/stores/drivers/file-parts.ts';
import { parseTrace } from '../durability/trace.ts';
import { NAMES } from '../hidden.ts';
import { scaled } from '../scale.ts';
import { serverFile } from '../servers/installed.ts';
import { cleanEnvironment } from '../servers/process.ts';
import { requireServer } from '../servers/require.ts';
import { bodyOf, bytesOf, failure, kindOf } from './data.ts';

const run = promisify(execFile);
const CHILD = fileURLToPath(new URL('file-parts-child.ts', import.meta.url));
const PATH = parsePath('d/x');
const { signal } = new AbortController();
const call = { signal, mode: 'replace', token: 'parts' } as const;

let root: string;
let driver: FileDriver;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'longshore-parts-'));
  driver = await openFileDriver(root, NAMES);
});
afterEach(() => rm(root, { recursive: true, force: true }));

const send = (upload: Upload, number: number, bytes: Buffer, by = driver): Promise<Receipt> =>
  by.multipart.part(
    upload,
    { number, offset: (number - 1) * 1000 },
    { ...bodyOf(bytes), crc32: crc32(bytes) },
    call,
  );
async function held(upload: Upload): Promise<Receipt[]> {
  const receipts: Receipt[] = [];
  for await (const page of driver.multipart.parts(upload, call)) receipts.push(...page);
  return receipts;
}
async function pending(): Promise<PendingUpload[]> {
  const found: PendingUpload[] = [];
  for await (const page of driver.multipart.pending(PATH, call)) found.push(...page);
  return found;
}
const childArgs = (upload: Upload, partBytes: number, first: number, last: number) => [
  CHILD,
  root,
  upload.path,
  upload.id,
  ...[partBytes, first, last].map(String),
];

test('three processes that write the parts of one file at once, some of them twice over, make the whole', async () => {
  const [partBytes, parts] = [300_000, scaled(200)];
  const upload = await driver.multipart.begin(PATH, call);
  const third = Math.ceil(parts / 3);
  const shares = [
    [1, 2 * third],
    [third, parts],
    [1, parts],
  ] as const;
  await Promise.all(
    shares.map(([first, last]) =>
      run(process.execPath, childArgs(upload, partBytes, first, last), {
        env: cleanEnvironment(),
        timeout: 60_000,
      }),
    ),
  );
  const receipts = await held(upload);
  expect(receipts.map(({ number }) => number)).toEqual(Array.from({ length: parts }, (_, i) => i + 1));
  const whole = Buffer.concat(Array.from({ length: parts }, (_, i) => Buffer.alloc(partBytes, i + 1)));
  await driver.multipart.finish(upload, receipts, { size: whole.length, crc32: crc32(whole) }, call);
  expect((await readFile(join(root, 'd/x'))).equals(whole)).toBe(true);
  expect(await readdir(join(root, 'd'))).toEqual(['x']);
});

requireServer('strace')('under strace', () => {
  test.each([
    ['durable', true],
    ['other', false],
  ])('the bytes of a %s part are on the disk before its receipt is written: %s', async (kind, synced) => {
    const upload = await driver.multipart.begin(PATH, call);
    const trace = join(root, 'trace');
    const traced = ['-f', '-yy', '-s', '16', '-e', 'trace=pwrite64,write,fdatasync,fsync', '-o', trace];
    await run(serverFile('strace'), [...traced, process.execPath, ...childArgs(upload, 5000, 1, 1), kind], {
      env: cleanEnvironment(),
      timeout: 60_000,
    });
    const calls = parseTrace(await readFile(trace, 'utf8')).filter(({ args }) => args.includes(upload.id));
    const steps = calls.map(({ name, args }) => (args.includes('.parts') ? 'line' : name));
    const once = synced ? ['line', 'pwrite64', 'fdatasync', 'line'] : ['line', 'pwrite64', 'line'];
    expect(steps).toEqual([...once, ...once]);
    for (const [at] of steps.entries())
      if (at > 0) expect(calls[at - 1]!.returned).toBeLessThan(calls[at]!.entered);
  });
});

describe('the record of an upload', () => {
  test('that a crash cut off anywhere in its last line lacks that part, and no part that is sent later', async () => {
    const upload = await driver.multipart.begin(PATH, call);
    const record = join(root, 'd', `${upload.id}.parts`);
    await send(upload, 1, bytesOf(1000));
    const { size: before } = await stat(record);
    await send(upload, 2, bytesOf(1000));
    const written = await readFile(record);
    for (let cut = before + 1; cut < written.length - 1; cut += 7) {
      await writeFile(record, written.subarray(0, cut));
      expect((await held(upload)).map(({ number }) => number)).toEqual([1]);
      await send(upload, 3, bytesOf(10));
      expect((await held(upload)).map(({ number }) => number)).toEqual([1, 3]);
    }
    await truncate(record, 5);
    expect(await held(upload)).toEqual([]);
    expect(await pending()).toEqual([]);
  });

  test('into which two machines wrote at one place has neither part, and no part that nobody sent', async () => {
    const upload = await driver.multipart.begin(PATH, call);
    const record = join(root, 'd', `${upload.id}.parts`);
    await send(upload, 1, bytesOf(1000));
    await send(upload, 2, bytesOf(1000));
    const written = await readFile(record);
    const size = written.lastIndexOf('\n{');
    const lines = written.subarray(size);
    for (let at = 3; at < lines.length - 3; at += 5) {
      await truncate(record, size);
      await appendFile(record, Buffer.concat([lines.subarray(0, at), lines.subarray(at - 2)]));
      expect((await held(upload)).map(({ number }) => number)).toEqual([1]);
    }
  });

  test('that outlived its publication, whose process died before it removed it, is of no upload any more', async () => {
    const upload = await driver.multipart.begin(PATH, call);
    await send(upload, 1, bytesOf(1000));
    await rename(join(root, 'd', upload.id), join(root, PATH));
    expect(await kindOf(driver, held(upload))).toBe('not-found');
    await driver.multipart.abandon(upload, call);
    expect(await readdir(join(root, 'd'))).toEqual(['x']);
  });

  test('is what finishing goes by: parts that were not written, or not so, publish nothing', async () => {
    const upload = await driver.multipart.begin(PATH, call);
    const one = await send(upload, 1, bytesOf(1000));
    const two = await send(upload, 2, bytesOf(500));
    const whole = Buffer.concat([bytesOf(1000), bytesOf(500)]);
    const right = { size: 1500, crc32: crc32(whole) };
    const again = await send(upload, 2, bytesOf(500, 7));
    expect(again.etag).not.toBe(two.etag);
    const finish = (receipts: readonly Receipt[], declared: typeof right) =>
      driver.multipart.finish(upload, receipts, declared, call);
    expect(await kindOf(driver, finish([one, two], right))).toBe('invalid');
    expect(await kindOf(driver, finish([one, { ...again, number: 3 }], right))).toBe('invalid');
    expect(await kindOf(driver, finish([one], { ...right, size: 1000 }))).toBe('corrupt');
    expect(await kindOf(driver, finish([one, again], right))).toBe('corrupt');
    expect(await readdir(join(root, 'd'))).not.toContain('x');
    await send(upload, 2, bytesOf(500));
    await finish(await held(upload), right);
    expect((await readFile(join(root, 'd/x'))).equals(whole)).toBe(true);
  });
});

/** A part's body that stands still after its first half until it is let go. */
function halting(bytes: Buffer): { readonly body: Body; readonly half: Promise<void>; go(): void } {
  const [half, rest] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const middle = bytes.length >> 1;
  async function* open() {
    yield bytes.subarray(0, middle);
    half.resolve();
    await rest.promise;
    yield bytes.subarray(middle);
  }
  const body = { size: bytes.length, crc32: crc32(bytes), open };
  return { body, half: half.promise, go: () => rest.resolve() };
}
/** Two parts, of 1000 bytes and of 9. */
const WHOLE = Buffer.concat([bytesOf(1000), bytesOf(9)]);
const RIGHT = { size: WHOLE.length, crc32: crc32(WHOLE) };
async function sentWhole(): Promise<{ readonly upload: Upload; readonly receipts: readonly Receipt[] }> {
  const upload = await driver.multipart.begin(PATH, call);
  return { upload, receipts: [await send(upload, 1, bytesOf(1000)), await send(upload, 2, bytesOf(9))] };
}
const names = async (): Promise<string[]> => (await readdir(join(root, 'd'))).toSorted();
/** What a process leaves that was killed while it finished: all parts, under the name that no part opens. */
async function retire(upload: Upload): Promise<void> {
  await rename(join(root, 'd', upload.id), join(root, 'd', `${upload.id}.joined`));
}
const isRetired = (upload: Upload) => async () => expect(await names()).not.toContain(upload.id);

describe('an upload that is being published', () => {
  test('waits for a writer that has it open, which writes no more and has done its part', async () => {
    const other = await openFileDriver(root, NAMES);
    const { upload, receipts } = await sentWhole();
    const twin = halting(bytesOf(1000));
    const late = other.multipart.part(upload, { number: 1, offset: 0 }, twin.body, call);
    await twin.half;
    let published = false;
    const finishing = driver.multipart.finish(upload, receipts, RIGHT, call).then((entry) => {
      published = true;
      return entry;
    });
    await vi.waitFor(isRetired(upload), { interval: 1 });
    await sleep(100); // longer than a handle is taken for the sibling's
    expect(published).toBe(false);
    expect(await names()).not.toContain('x');
    twin.go();
    expect(await late).toEqual(receipts[0]);
    const { etag, token } = await finishing;
    expect(await driver.head(PATH, call)).toMatchObject({ etag, token });
    expect((await readFile(join(root, PATH))).equals(WHOLE)).toBe(true);
    expect(await names()).toEqual(['x']);
  });

  test('is published all the same where a writer has died, and not later written to by one that only slept', async () => {
    const { upload, receipts } = await sentWhole();
    const twin = halting(bytesOf(1000));
    const late = driver.multipart.part(upload, { number: 1, offset: 0 }, twin.body, call);
    await twin.half;
    const beganMs = performance.now();
    const { etag } = await driver.multipart.finish(upload, receipts, RIGHT, call);
    expect(performance.now() - beganMs).toBeGreaterThanOrEqual(WRITERS_MS);
    twin.go();
    expect(await kindOf(driver, late)).toBe('not-found');
    expect((await driver.head(PATH, call)).etag).toBe(etag);
    expect(await names()).toEqual(['x']);
  });

  test('takes no part any more, and has those that it is sent once more', async () => {
    const { upload, receipts } = await sentWhole();
    await retire(upload);
    expect(await send(upload, 2, bytesOf(9))).toEqual(receipts[1]);
    expect(await kindOf(driver, send(upload, 3, bytesOf(9)))).toBe('not-found');
    expect(await held(upload)).toEqual(receipts);
  });

  test('is finished by another process where the first one died over it', async () => {
    const { upload, receipts } = await sentWhole();
    await retire(upload);
    const other = await openFileDriver(root, NAMES);
    expect(await pending()).toMatchObject([{ path: PATH, id: upload.id }]);
    expect(await held(upload)).toEqual(receipts);
    await other.multipart.finish(upload, await held(upload), RIGHT, call);
    expect((await readFile(join(root, PATH))).equals(WHOLE)).toBe(true);
    expect(await names()).toEqual(['x']);
    expect(await kindOf(other, other.multipart.finish(upload, receipts, RIGHT, call))).toBe('not-found');
  });

  test('is finished by one of two that try at once, and the other one is told that it is over', async () => {
    const other = await openFileDriver(root, NAMES);
    for (let round = 0; round < scaled(100); round++) {
      const { upload, receipts } = await sentWhole();
      const ends = await Promise.allSettled(
        [driver, other].map((by) => by.multipart.finish(upload, receipts, RIGHT, call)),
      );
      const won = ends.filter(({ status }) => status === 'fulfilled');
      expect(won).toHaveLength(1);
      for (const end of ends)
        if (end.status === 'rejected') expect(driver.classify(end.reason).kind).toBe('not-found');
      expect((await readFile(join(root, PATH))).equals(WHOLE)).toBe(true);
      expect(await names()).toEqual(['x']);
    }
  });

  test('leaves nothing where it is given up instead', async () => {
    const { upload } = await sentWhole();
    await retire(upload);
    await driver.multipart.abandon(upload, call);
    expect(await pending()).toEqual([]);
    expect(await readdir(root)).toEqual([]);
  });

  test('is found by who looks for what a crash left behind', async () => {
    const { upload } = await sentWhole();
    await retire(upload);
    const left: StorePath[] = [];
    for await (const page of driver.leftovers({ signal })) left.push(...page.map(({ path }) => path));
    expect(left.toSorted()).toEqual((await names()).map((name) => `d/${name}`));
    await driver.removeLeftovers(left, call);
    expect(await readdir(root, { recursive: true })).toEqual(['d']);
  });

  test('is not, where something is there that it must not replace, and can still be given up', async () => {
    await writeFile(join(root, 'x'), 'first');
    const path = parsePath('x');
    const upload = await driver.multipart.begin(path, call);
    const receipt = await send(upload, 1, bytesOf(9));
    const create = driver.multipart.finish(upload, [receipt], { size: 9 }, { ...call, mode: 'create' });
    expect(await kindOf(driver, create)).toBe('already-exists');
    await driver.multipart.abandon(upload, call);
    expect(await readdir(root)).toEqual(['x']);
    expect(await readFile(join(root, 'x'), 'utf8')).toBe('first');
  });
});

describe('a part that two processes send, one of them not the right bytes,', () => {
  const wrong = bytesOf(1000, 7);
  /** Ends too soon, or as one whose bytes turn out to be others than they were declared to be. */
  function damaged(): ReturnType<typeof halting> {
    const { body, half, go } = halting(wrong);
    async function* open() {
      yield* body.open();
      throw new Failure('corrupt', 'the CRC32 differs');
    }
    return { body: { ...body, crc32: crc32(bytesOf(1000)), open }, half, go };
  }

  test('is missing again, whoever of them ends first', async () => {
    for (const rightIsLast of [true, false]) {
      const upload = await driver.multipart.begin(PATH, call);
      const [right, bad] = [halting(bytesOf(1000)), damaged()];
      const place = { number: 1, offset: 0 };
      const sending = driver.multipart.part(upload, place, right.body, call);
      const spoiling = kindOf(driver, driver.multipart.part(upload, place, bad.body, call));
      await Promise.all([right.half, bad.half]);
      const [first, last] = rightIsLast ? [bad, right] : [right, bad];
      first.go();
      await (rightIsLast ? spoiling : sending);
      last.go();
      expect(await spoiling).toBe('corrupt');
      await sending;
      expect(await held(upload)).toEqual([]);
      await send(upload, 1, bytesOf(1000));
      expect(await held(upload)).toHaveLength(1);
      await driver.multipart.abandon(upload, call);
    }
  });

  test('keeps what it belongs to from being published, until it was sent again', async () => {
    const { upload, receipts } = await sentWhole();
    const bad = damaged();
    const spoiling = kindOf(driver, driver.multipart.part(upload, { number: 1, offset: 0 }, bad.body, call));
    await bad.half;
    bad.go();
    await spoiling;
    expect(await kindOf(driver, driver.multipart.finish(upload, receipts, RIGHT, call))).toBe('invalid');
    const [, two] = receipts;
    await driver.multipart.finish(upload, [await send(upload, 1, bytesOf(1000)), two!], RIGHT, call);
    expect((await readFile(join(root, PATH))).equals(WHOLE)).toBe(true);
  });

  test('while it is published goes on as an upload that lacks it', async () => {
    const { upload, receipts } = await sentWhole();
    // it has written all that it had when it finds out that this was wrong
    const found = Promise.withResolvers<void>();
    const all = Promise.withResolvers<void>();
    async function* open() {
      yield wrong;
      all.resolve();
      await found.promise;
      throw new Failure('corrupt', 'the CRC32 differs');
    }
    const body = { size: 1000, crc32: crc32(bytesOf(1000)), open };
    const spoiling = kindOf(driver, driver.multipart.part(upload, { number: 1, offset: 0 }, body, call));
    await all.promise;
    const finishing = kindOf(driver, driver.multipart.finish(upload, receipts, RIGHT, call));
    await vi.waitFor(isRetired(upload), { interval: 1 });
    found.resolve();
    expect(await spoiling).toBe('corrupt');
    expect(await finishing).toBe('corrupt');
    expect(await names()).not.toContain('x');
    expect((await held(upload)).map(({ number }) => number)).toEqual([2]);
    await send(upload, 1, bytesOf(1000));
    await driver.multipart.finish(upload, await held(upload), RIGHT, call);
    expect((await readFile(join(root, PATH))).equals(WHOLE)).toBe(true);
  });
});

test('a beginning that is stopped at any moment leaves nothing', async () => {
  for (let n = 0; n < 60; n++) {
    const stop = new AbortController();
    const reason = new Failure('cancelled', 'enough');
    const begun = driver.multipart.begin(PATH, { ...call, signal: stop.signal }).then(
      (upload) => upload,
      (error: unknown) => error,
    );
    for (let turns = 0; turns < n % 20; turns++) await new Promise(setImmediate);
    stop.abort(reason);
    const ended = await begun;
    if (ended === reason) expect(await readdir(root)).toEqual([]);
    else await driver.multipart.abandon(ended as Upload, call);
  }
  const gone = driver.multipart.begin(PATH, { ...call, signal: AbortSignal.abort(new Error('no')) });
  expect((await failure(gone)).kind).toBe('cancelled');
  expect(await readdir(root)).toEqual([]);
});
