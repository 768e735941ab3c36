/** What S3 must do beyond the contract of every store, whatever the server: objects, conditions, uploads. */
import { randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { PutObjectCommand } from '@aws-sdk/client-s3';
import { describe, expect, it } from 'vitest';
import { Failure } from '../../lib/errors.ts';
import { parsePath, type StorePath } from '../../lib/path.ts';
import { S3Driver } from '../../lib/stores/drivers/s3.ts';
import { NAMES } from '../hidden.ts';
import type { S3Server } from '../servers/s3.ts';
import {
  all,
  BUCKET,
  bodyOf,
  bytesOf,
  clientOf,
  driverOn,
  MiB,
  pathsOf,
  settingsFor,
  signal,
  uploadInParts,
  writeCall,
} from './s3.ts';

export function s3Objects(server: () => S3Server): void {
  describe('objects', () => {
    it('more than a thousand in a directory are listed on all pages and removed in all pages', async () => {
      const { driver } = driverOn(server());
      const paths = Array.from({ length: 1203 }, (_, n) => parsePath(`many/${n % 3}/f ${n}+é.bin`));
      const rest = [...paths];
      const write = async (): Promise<void> => {
        for (let path = rest.pop(); path; path = rest.pop())
          await driver.write(path, bodyOf(Buffer.from('x')), writeCall());
      };
      await Promise.all(Array.from({ length: 16 }, write));
      expect(pathsOf(await all(driver.list(parsePath('many'), { signal, deep: true })))).toEqual(
        [...paths].sort(),
      );
      expect(pathsOf(await all(driver.list(parsePath('many'), { signal, deep: false })))).toEqual([
        'many/0',
        'many/1',
        'many/2',
      ]);
      expect(await driver.remove([...paths, parsePath('many/none')], { signal })).toEqual([]);
      expect(await all(driver.list(parsePath('many'), { signal, deep: true }))).toEqual([]);
      await driver.close();
    });

    it('have names that need quoting in URLs and in XML', async () => {
      const { driver } = driverOn(server());
      const names = [
        'a+b',
        'a b',
        'a%20b',
        'é☃😀',
        `q?&=<>"'`,
        ' lead',
        'trail ',
        '~!*()',
        'x'.repeat(255),
        ';,:@$',
      ];
      for (const name of names)
        await driver.write(parsePath(`odd/${name}`), bodyOf(Buffer.from(name)), writeCall());
      const listed = await all(driver.list(parsePath('odd'), { signal, deep: true }));
      expect(pathsOf(listed)).toEqual(names.map((name) => `odd/${name}`).sort());
      for (const { path } of listed) {
        const read = await driver.read(path, undefined, { signal });
        expect(`odd/${(await bytesOf(read.bytes)).toString()}`).toBe(path);
      }
      expect(
        await driver.remove(
          listed.map((entry) => entry.path),
          { signal },
        ),
      ).toEqual([]);
      expect(await all(driver.list(parsePath('odd'), { signal, deep: true }))).toEqual([]);
      await driver.close();
    });

    it('that mark directories are listed as directories', async () => {
      const { driver, prefix } = driverOn(server());
      const client = clientOf(server());
      const marker = { Bucket: BUCKET, Key: `${prefix}/d/inner/`, Body: Buffer.alloc(0), ContentLength: 0 };
      await client.send(new PutObjectCommand(marker));
      await driver.write(parsePath('d/inner/f'), bodyOf(Buffer.from('x')), writeCall());
      expect(
        (await all(driver.list(parsePath('d'), { signal, deep: true }))).map(({ kind, path }) => [
          kind,
          path,
        ]),
      ).toEqual([
        ['dir', 'd/inner'],
        ['file', 'd/inner/f'],
      ]);
      expect(pathsOf(await all(driver.list(parsePath('d/inner'), { signal, deep: false })))).toEqual([
        'd/inner/f',
      ]);
      await driver.remove([parsePath('d/inner/f'), 'd/inner/' as StorePath], { signal });
      expect(await all(driver.list(parsePath(''), { signal, deep: false }))).toEqual([]);
      client.destroy();
      await driver.close();
    });

    it('are not found where only something below them exists', async () => {
      const { driver } = driverOn(server());
      await driver.write(parsePath('d/x'), bodyOf(Buffer.from('x')), writeCall());
      const error = await driver.head(parsePath('d'), { signal }).catch((thrown: unknown) => thrown);
      expect(driver.classify(error).kind).toBe('not-found');
      expect(await driver.remove([parsePath('d')], { signal })).toEqual([]);
      expect((await driver.head(parsePath('d/x'), { signal })).size).toBe(1);
      await driver.close();
    });

    it('carry who wrote them and the CRC32 that the server took of the whole, in one write or in parts', async () => {
      const { driver } = driverOn(server());
      const parts = [randomBytes(5 * MiB), randomBytes(1234)];
      const call = writeCall({ token: 'transfer-7' });
      const whole = await uploadInParts(
        driver,
        await driver.multipart.begin(parsePath('big'), call),
        parts,
        call,
      );
      expect(await driver.head(parsePath('big'), { signal })).toMatchObject({
        token: 'transfer-7',
        size: 5 * MiB + 1234,
        crc32: crc32(Buffer.concat(parts)),
        etag: whole.etag,
      });
      await driver.write(parsePath('small'), bodyOf(parts[1]!), call);
      expect(await driver.head(parsePath('small'), { signal })).toMatchObject({
        token: 'transfer-7',
        crc32: crc32(parts[1]!),
      });
      expect(driver.traits.checksWrites).toBe(true);
      await driver.close();
    });

    it('are not published when the whole is not what was announced', async () => {
      const { driver } = driverOn(server());
      const call = writeCall();
      const part = randomBytes(1000);
      const upload = await driver.multipart.begin(parsePath('wrong'), call);
      const receipt = await driver.multipart.part(upload, { number: 1 }, bodyOf(part), call);
      for (const whole of [
        { size: 1000, crc32: 7 },
        { size: 999, crc32: crc32(part) },
      ]) {
        const error = await driver.multipart
          .finish(upload, [receipt], whole, call)
          .catch((thrown: unknown) => thrown);
        expect(driver.classify(error).kind).toBe('corrupt');
      }
      expect(await all(driver.list(parsePath(''), { signal, deep: true }))).toEqual([]);
      await driver.multipart.abandon(upload, { signal });
      await driver.close();
    });

    it('are not published from a body that breaks off, also when nobody knows its CRC32', async () => {
      const { driver } = driverOn(server());
      const torn = async function* () {
        yield randomBytes(100_000);
        throw new Failure('unavailable', 'the source went away');
      };
      const short = async function* () {
        yield randomBytes(100_000);
      };
      for (const open of [torn, short])
        await expect(driver.write(parsePath('torn'), { size: 300_000, open }, writeCall())).rejects.toThrow();
      await expect(
        driver.write(parsePath('torn'), { size: 300_000, crc32: 9, open: torn }, writeCall()),
      ).rejects.toThrow('the source went away');
      expect(await all(driver.list(parsePath(''), { signal, deep: true }))).toEqual([]);
      const whole = { size: 300_000, open: () => [Buffer.alloc(100_000, 1), Buffer.alloc(200_000, 2)] };
      expect((await driver.write(parsePath('whole'), whole, writeCall())).crc32).toBe(
        crc32(Buffer.concat(whole.open())),
      );
      await driver.close();
    });
  });

  it('objects without a known CRC32 arrive whole in chunks of any length', async () => {
    const { driver } = driverOn(server());
    const bytes = randomBytes(17 * MiB);
    const everyThousand = Array.from({ length: 300 }, (_, n) => 1000 * n);
    for (const cuts of [[], [1], [1, 5000, 70_000, 9 * MiB, 10 * MiB, 10 * MiB + 3], everyThousand]) {
      const edges = [0, ...cuts, bytes.length];
      const chunks = edges.slice(1).map((end, n) => bytes.subarray(edges[n], end));
      const path = parsePath(`chunks-${cuts.length}`);
      const { crc32: stored } = await driver.write(
        path,
        { size: bytes.length, open: () => chunks },
        writeCall(),
      );
      expect(stored).toBe(crc32(bytes));
      expect((await bytesOf((await driver.read(path, undefined, { signal })).bytes)).equals(bytes)).toBe(
        true,
      );
    }
    await driver.close();
  });

  describe('conditions', () => {
    it('let exactly one of eight creators win, in one write or in parts', async () => {
      const { driver } = driverOn(server());
      const create = () => writeCall({ mode: 'create' });
      const attempts = [
        ...Array.from({ length: 4 }, () =>
          driver.write(parsePath('one'), bodyOf(randomBytes(100)), create()),
        ),
        ...Array.from({ length: 4 }, async () => {
          const call = create();
          return uploadInParts(
            driver,
            await driver.multipart.begin(parsePath('one'), call),
            [randomBytes(100)],
            call,
          );
        }),
      ];
      const ended = await Promise.allSettled(attempts);
      expect(ended.filter((attempt) => attempt.status === 'fulfilled')).toHaveLength(1);
      for (const attempt of ended)
        if (attempt.status === 'rejected')
          expect(['already-exists', 'busy']).toContain(driver.classify(attempt.reason).kind);
      for (const upload of await all(driver.multipart.pending(parsePath('one'), { signal })))
        await driver.multipart.abandon(upload, { signal });
      await driver.close();
    });

    it('on a version hold for that version only', async () => {
      const { driver } = driverOn(server());
      const path = parsePath('v');
      const first = await driver.write(path, bodyOf(Buffer.from('1')), writeCall());
      const second = await driver.write(path, bodyOf(Buffer.from('2')), writeCall({ ifMatch: first.etag }));
      const kindOf = async (work: Promise<unknown>) =>
        driver.classify(
          await work.then(
            () => undefined,
            (error: unknown) => error,
          ),
        ).kind;
      expect(
        await kindOf(driver.write(path, bodyOf(Buffer.from('3')), writeCall({ ifMatch: first.etag }))),
      ).toBe('precondition');
      expect(
        await kindOf(
          driver.write(parsePath('none'), bodyOf(Buffer.from('3')), writeCall({ ifMatch: first.etag })),
        ),
      ).toBe('precondition');
      expect(await kindOf(driver.read(path, undefined, { signal, ifMatch: first.etag }))).toBe(
        'precondition',
      );
      expect(await kindOf(driver.read(parsePath('none'), undefined, { signal, ifMatch: first.etag }))).toBe(
        'precondition',
      );
      const read = await driver.read(path, { start: 0, end: 1 }, { signal, ifMatch: second.etag });
      expect((await bytesOf(read.bytes)).toString()).toBe('2');
      expect(pathsOf(await all(driver.list(parsePath(''), { signal, deep: true })))).toEqual(['v']);
      await driver.close();
    });
  });

  describe('multipart uploads', () => {
    it('are found by their exact path, and all of them below the root', async () => {
      const { driver } = driverOn(server());
      const upload = await driver.multipart.begin(parsePath('p/a b'), writeCall());
      const other = await driver.multipart.begin(parsePath('p/a b c'), writeCall());
      const found = await all(driver.multipart.pending(upload.path, { signal }));
      expect(found.map(({ path, id }) => ({ path, id }))).toEqual([upload]);
      expect(Math.abs(found[0]!.begunMs - Date.now())).toBeLessThan(60_000);
      const everywhere = await all(driver.multipart.pending(parsePath(''), { signal }));
      expect(pathsOf(everywhere as never)).toEqual(['p/a b', 'p/a b c']);
      for (const one of [upload, other]) {
        await driver.multipart.abandon(one, { signal });
        await driver.multipart.abandon(one, { signal });
      }
      expect(await all(driver.multipart.pending(parsePath(''), { signal }))).toEqual([]);
      await driver.close();
    });

    it('take parts in any order from a process that did not begin them', async () => {
      const { driver: beginner, prefix } = driverOn(server());
      const worker = new S3Driver({ bucket: BUCKET, prefix }, settingsFor(server()), NAMES);
      const call = writeCall();
      const upload = await beginner.multipart.begin(parsePath('w'), call);
      const last = randomBytes(10);
      const first = randomBytes(5 * MiB);
      await worker.multipart.part(upload, { number: 2 }, bodyOf(last), call);
      await worker.multipart.part(upload, { number: 1 }, bodyOf(first), call);
      const receipts = await all(worker.multipart.parts(upload, { signal }));
      expect(receipts.map(({ number, size }) => [number, size])).toEqual([
        [1, 5 * MiB],
        [2, 10],
      ]);
      const whole = { size: 5 * MiB + 10, crc32: crc32(Buffer.concat([first, last])) };
      const entry = await worker.multipart.finish(upload, receipts, whole, call);
      expect((await worker.head(parsePath('w'), { signal })).etag).toBe(entry.etag);
      const gone = await worker.multipart
        .part(upload, { number: 1 }, bodyOf(last), call)
        .catch((error: unknown) => error);
      expect(worker.classify(gone)).toMatchObject({ kind: 'not-found' });
      await Promise.all([beginner.close(), worker.close()]);
    });
  });
}
