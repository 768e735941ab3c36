/** Parts in a folder: many processes at one file, what a crash leaves of the record, and who comes late. */
import { execFile } from 'node:child_process';
import {
  appendFile,
  mkdtemp,
  open,
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
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { crc32 } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { Failure } from '../../lib/errors.ts';
import { parsePath } from '../../lib/path.ts';
import type { Receipt, Upload } from '../../lib/stores/driver.ts';
import { type FileDriver, openFileDriver } from '../../lib/stores/drivers/file.ts';
import { SETTLED_MS } from '../../lib/stores/drivers/file-parts.ts';
import { parseTrace } from '../durability/trace.ts';
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
  driver = await openFileDriver(root);
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
    const steps = calls.map(({ name, args }) => (args.includes('.parts') ? 'receipt' : name));
    expect(steps).toEqual(
      synced
        ? ['pwrite64', 'fdatasync', 'receipt', 'pwrite64', 'fdatasync', 'receipt']
        : ['pwrite64', 'receipt', 'pwrite64', 'receipt'],
    );
    for (const [at, step] of steps.entries())
      if (step === 'receipt') expect(calls[at - 1]!.returned).toBeLessThan(calls[at]!.entered);
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
    const pending = [];
    for await (const page of driver.multipart.pending(PATH, call)) pending.push(...page);
    expect(pending).toEqual([]);
  });

  test('into which two machines wrote at one place has neither part, and no part that nobody sent', async () => {
    const upload = await driver.multipart.begin(PATH, call);
    const record = join(root, 'd', `${upload.id}.parts`);
    await send(upload, 1, bytesOf(1000));
    const { size } = await stat(record);
    await send(upload, 2, bytesOf(1000));
    const lines = (await readFile(record)).subarray(size);
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

test('a write of another process that lands just after the publication is in the version that is told', async () => {
  const other = await openFileDriver(root);
  let inTime = false;
  for (let tries = 0; tries < 50 && !inTime; tries++) {
    const upload = await driver.multipart.begin(PATH, call);
    const receipts = [await send(upload, 1, bytesOf(1000)), await send(upload, 2, bytesOf(9), other)];
    const twin = await open(join(root, 'd', upload.id), 'r+');
    const began = performance.now();
    const finishing = driver.multipart.finish(upload, receipts, { size: 1009 }, call);
    const renamed = async () => expect(await readdir(join(root, 'd'))).not.toContain(upload.id);
    await vi.waitFor(renamed, { interval: 1 });
    await twin.write(bytesOf(1000), 0, 1000, 0);
    await twin.close();
    inTime = performance.now() - began < SETTLED_MS;
    const { etag } = await finishing;
    if (inTime) expect((await driver.head(PATH, call)).etag).toBe(etag);
    if (inTime) expect((await driver.head(PATH, call)).token).toBe(call.token);
    expect(await readFile(join(root, 'd/x'))).toHaveLength(1009);
  }
  expect(inTime).toBe(true);
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
