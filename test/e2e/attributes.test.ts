/** What copies carry beside the bytes, between S3 and folders, and what they say that they could not. */
import { createHash, randomBytes } from 'node:crypto';
import { chmodSync, mkdirSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import {
  GetObjectTaggingCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  PutObjectCommand,
  type PutObjectCommandInput,
  S3Client,
} from '@aws-sdk/client-s3';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startMinio } from '../servers/minio.ts';
import { startRedis } from '../servers/redis.ts';
import { requireServer } from '../servers/require.ts';
import type { S3Server } from '../servers/s3.ts';
import { TIMINGS } from './quay.ts';
import { Service } from './service.ts';
import { startWorker } from './worker-process.ts';

const MIB = 1024 * 1024;
const THRESHOLD = 17 * MIB;
const WHEN = new Date('2021-03-04T05:06:07Z');
const SAID: Partial<PutObjectCommandInput> = {
  ContentType: 'application/x-model',
  ContentEncoding: 'gzip',
  CacheControl: 'max-age=60',
  ContentDisposition: 'attachment; filename="m.bin"',
  ContentLanguage: 'nb',
  Expires: new Date('2065-10-21T07:28:00Z'),
  StorageClass: 'REDUCED_REDUNDANCY',
  Metadata: { team: 'vision', note: 'a  b=c;d' },
  Tagging: 'stage=prod&owner=a%2Bb',
};
const NAMES = [
  'cacheControl',
  'contentDisposition',
  'contentEncoding',
  'contentLanguage',
  'expires',
  'mediaType',
  'metadata',
  'storageClass',
  'tags',
];

requireServer('redis', 'minio')('what an object carries beside its bytes', () => {
  let minio: S3Server;
  let service: Service;
  let s3: S3Client;
  beforeAll(async () => {
    minio = await startMinio();
    await minio.makeBucket('lake');
    const { accessKey: accessKeyId, secretKey: secretAccessKey, region, url: endpoint } = minio;
    const credentials = { accessKeyId, secretAccessKey };
    s3 = new S3Client({ endpoint, region, forcePathStyle: true, credentials });
    const given = { artifactsDestination: 's3://lake/root', partThresholdBytes: THRESHOLD };
    service = new Service(await startRedis(), given, minio.env);
    await service.startApi();
    await service.startWorker();
  });
  afterAll(async () => {
    await service.close();
    s3.destroy();
    await minio.stop();
  });

  async function put(key: string, bytes: Buffer, more: Partial<PutObjectCommandInput> = SAID) {
    await s3.send(new PutObjectCommand({ Bucket: 'lake', Key: `root/${key}`, Body: bytes, ...more }));
  }
  async function tell(key: string) {
    const target = { Bucket: 'lake', Key: `root/${key}` };
    const head = await s3.send(new HeadObjectCommand(target));
    const { TagSet = [] } = await s3.send(new GetObjectTaggingCommand(target));
    const { 'longshore-token': _, ...metadata } = head.Metadata ?? {};
    return {
      type: head.ContentType,
      encoding: head.ContentEncoding,
      cache: head.CacheControl,
      disposition: head.ContentDisposition,
      language: head.ContentLanguage,
      expires: head.ExpiresString,
      class: head.StorageClass,
      metadata,
      tags: Object.fromEntries(TagSet.map(({ Key, Value }) => [Key, Value])),
    };
  }
  const folder = (path: string): string => `file://${service.attic}/${path}`;
  const kept = { state: 'succeeded', result: { outcome: 'published' } };
  const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

  test.each([
    ['at the server', 5000, 'replace', false],
    ['at the server, over nothing', 5000, 'fail', false],
    ['at the server, in parts', THRESHOLD + 5, 'replace', false],
    ['through us', 5000, 'replace', true],
    ['through us, of many parts', THRESHOLD * 2, 'replace', true],
  ])('goes from S3 to S3 %s', async (how, size, onExists, through) => {
    const bytes = randomBytes(size);
    await put(`from/${how}`, bytes);
    const said = await tell(`from/${how}`);
    expect(said).toMatchObject({ encoding: 'gzip', class: 'REDUCED_REDUNDANCY', tags: { owner: 'a+b' } });
    const checksum = through ? { checksum: `sha-256:${sha256(bytes)}` } : {};
    const ask = { kind: 'copy', from: `from/${how}`, to: `to/${how}`, onExists, ...checksum };
    const ended = await service.carry(ask);
    expect(ended).toMatchObject(kept);
    expect(ended.result).not.toHaveProperty('notKept');
    expect(await tell(`to/${how}`)).toEqual(said);
  });

  test.each(['replace', 'skip', 'skip-if-same', 'fail'])(
    'goes along with each file of a tree (%s)',
    async (onExists) => {
      const from = `tree-${onExists}`;
      const names = ['a.txt', 'b/c.bin', 'large.bin'];
      for (const name of names)
        await put(`${from}/${name}`, randomBytes(name === 'large.bin' ? THRESHOLD + 1 : 500));
      await put(`${from}/bare`, randomBytes(10), {});
      const ended = await service.carry({ kind: 'copy', tree: true, from, to: `${from}-to`, onExists });
      expect(ended).toMatchObject({ state: 'succeeded', files: { done: { files: 4 } } });
      expect(ended.result).not.toHaveProperty('notKept');
      for (const name of [...names, 'bare'])
        expect(await tell(`${from}-to/${name}`)).toEqual(await tell(`${from}/${name}`));
    },
  );

  test('that a folder cannot hold is named, of a file and of a tree', async () => {
    await put('down/a', randomBytes(500));
    await put('down/b', randomBytes(500), {});
    await put('down/c', randomBytes(500), { CacheControl: 'no-store' });
    const one = await service.carry({ kind: 'copy', from: 'down/a', to: folder('one') });
    expect(one.result).toMatchObject({ notKept: NAMES });
    const tree = await service.carry({ kind: 'copy', tree: true, from: 'down', to: folder('down') });
    const counts = { ...Object.fromEntries(NAMES.map((name) => [name, 1])), cacheControl: 2 };
    expect(tree.result).toMatchObject({ notKept: NAMES, notKeptFiles: counts });
    const { files } = (await (await service.fetch(`/api/v1/transfers/${tree.id}/files`)).json()) as {
      files: { path: string; notKept?: string[] }[];
    };
    expect(Object.fromEntries(files.map(({ path, notKept }) => [path, notKept]))).toEqual({
      a: NAMES,
      b: undefined,
      c: ['cacheControl'],
    });
  });

  test('is mode and time between folders, by wish only', async () => {
    const source = join(service.attic, 'modes');
    mkdirSync(join(source, 'd'), { recursive: true });
    for (const [name, mode] of [
      ['x', 0o640],
      ['d/y', 0o755],
      ['s', 0o4750],
    ] as const) {
      writeFileSync(join(source, name), randomBytes(100));
      chmodSync(join(source, name), mode);
      utimesSync(join(source, name), WHEN, WHEN);
    }
    const found = (to: string, name: string) => {
      const { mode, mtimeMs } = statSync(join(service.attic, to, name));
      return [mode & 0o7777, Math.floor(mtimeMs) === WHEN.getTime()];
    };
    const ask = { kind: 'copy', tree: true, from: folder('modes') };
    const bare = await service.carry({ ...ask, to: folder('modes-bare') });
    expect(bare.result).not.toHaveProperty('notKept');
    expect(found('modes-bare', 'd/y')).toEqual([0o666 & ~process.umask(), false]);
    const both = await service.carry({ ...ask, to: folder('modes-both'), preserve: ['mode', 'modified'] });
    expect(both).toMatchObject({ preserve: ['mode', 'modified'], result: { notKeptFiles: { setuid: 1 } } });
    expect(found('modes-both', 'x')).toEqual([0o640, true]);
    expect(found('modes-both', 'd/y')).toEqual([0o755, true]);
    expect(found('modes-both', 's')).toEqual([0o750, true]);
    const mode = await service.carry({
      kind: 'copy',
      from: folder('modes/x'),
      to: folder('x'),
      preserve: ['mode'],
    });
    expect(mode.result).not.toHaveProperty('notKept');
    expect(found('', 'x')).toEqual([0o640, false]);
  });

  test('is the time of an object on S3 for a file, and no mode for an object', async () => {
    await put('timed/small', randomBytes(100), {});
    await put('timed/large', randomBytes(THRESHOLD + 9), {});
    for (const name of ['small', 'large']) {
      const { LastModified } = await s3.send(
        new HeadObjectCommand({ Bucket: 'lake', Key: `root/timed/${name}` }),
      );
      await sleep(1100);
      const preserve = ['mode', 'modified'];
      const down = await service.carry({
        kind: 'copy',
        from: `timed/${name}`,
        to: folder(`timed/${name}`),
        preserve,
      });
      expect(down.result?.notKept).toEqual(['mode']);
      const { mtimeMs } = statSync(join(service.attic, 'timed', name));
      expect(Math.floor(mtimeMs)).toBe(LastModified?.getTime());
      const up = await service.carry({
        kind: 'copy',
        from: folder(`timed/${name}`),
        to: `up/${name}`,
        preserve,
      });
      expect(up.result?.notKept).toEqual(['mode', 'modified']);
      const across = await service.carry({
        kind: 'copy',
        tree: true,
        from: 'timed',
        to: `${name}-2`,
        preserve,
      });
      expect(across.failure).toBeUndefined();
      expect(across.result?.notKeptFiles).toEqual({ mode: 2, modified: 2 });
    }
  });

  test('is asked for of copies only, and is part of what an idempotency key stands for', async () => {
    for (const [preserve, kind] of [
      [['mode'], 'upload'],
      [['acl'], 'copy'],
      ['mode', 'copy'],
    ] as const)
      expect((await service.submit({ kind, from: 'a', to: folder('b'), preserve })).status).toBe(400);
    expect((await service.submit({ kind: 'delete', to: 'a', preserve: ['mode'] })).status).toBe(400);
    const ask = { kind: 'copy', from: 'timed/small', to: folder('keyed') };
    const key = { 'idempotency-key': 'k1' };
    expect((await service.submit({ ...ask, preserve: ['modified'] }, key)).status).toBe(202);
    expect((await service.submit({ ...ask, preserve: ['modified'] }, key)).status).toBe(202);
    expect((await service.submit(ask, key)).status).toBe(422);
  });

  test('is no difference: an object with the same bytes is skipped all the same', async () => {
    const bytes = randomBytes(300);
    await put('same/a', bytes);
    await put('same/b', bytes, {});
    const ended = await service.carry({
      kind: 'copy',
      from: 'same/a',
      to: 'same/b',
      onExists: 'skip-if-same',
    });
    expect(ended.result).toMatchObject({ outcome: 'skipped' });
    expect((await tell('same/b')).cache).toBeUndefined();
  });

  test("is no part of what MLflow's route serves: the stored bytes, as they are, whole or a range", async () => {
    const stored = gzipSync(randomBytes(3000));
    await put('packed', stored);
    for (const [range, wanted] of [
      [undefined, stored],
      ['bytes=100-199', stored.subarray(100, 200)],
    ] as const) {
      const answer = await service.fetch('/api/2.0/mlflow-artifacts/artifacts/packed', {
        headers: { 'accept-encoding': 'gzip', ...(range && { range }) },
      });
      expect(answer.headers.get('content-encoding')).toBeNull();
      expect(Buffer.from(await answer.arrayBuffer()).equals(wanted)).toBe(true);
    }
  });

  test('outlives the worker that began its parts', async () => {
    await put('killed/from', randomBytes(12 * THRESHOLD));
    const said = await tell('killed/from');
    await service.stopWorker();
    const first = await startWorker(service.settings as never, minio.env);
    const response = await service.submit({ kind: 'copy', from: 'killed/from', to: 'killed/to' });
    const { id } = (await response.json()) as { id: string };
    const Prefix = 'root/killed/to';
    for (let tries = 0; tries < 2000; tries++) {
      const { Uploads = [] } = await s3.send(new ListMultipartUploadsCommand({ Bucket: 'lake', Prefix }));
      if (Uploads.length > 0) break;
      await sleep(5);
    }
    await first.kill();
    await expect(s3.send(new HeadObjectCommand({ Bucket: 'lake', Key: Prefix }))).rejects.toThrow();
    await service.startWorker(TIMINGS);
    expect(await service.ended(id)).toMatchObject(kept);
    expect(await tell('killed/to')).toEqual(said);
  }, 120_000);
});
