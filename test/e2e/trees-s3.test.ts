import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import {
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startMinio } from '../servers/minio.ts';
import { startRedis } from '../servers/redis.ts';
import { requireServer } from '../servers/require.ts';
import type { S3Server } from '../servers/s3.ts';
import { Service } from './service.ts';

const MIB = 1024 * 1024;
const SMALL = [
  'a.txt',
  'deep/er/b.bin',
  'deep/empty',
  'other name/ünïcode-重み-🚢',
  '100% "it\'s" +&=?.log',
  'dir/x',
  'dir/y',
];
const LARGE = 'deep/large.bin';

requireServer('redis', 'minio')('a tree on S3', () => {
  let minio: S3Server;
  let service: Service;
  let s3: S3Client;
  let wanted: Map<string, string>;
  let largeSize: number;
  beforeAll(async () => {
    minio = await startMinio();
    await minio.makeBucket('trees');
    const { accessKey: accessKeyId, secretKey: secretAccessKey, region, url: endpoint } = minio;
    s3 = new S3Client({
      endpoint,
      region,
      forcePathStyle: true,
      credentials: { accessKeyId, secretAccessKey },
    });
    const given = { artifactsDestination: 's3://trees/root', partThresholdBytes: 17 * MIB };
    service = new Service(await startRedis(), given, minio.env);
    await service.startApi();
    await service.startWorker();
    largeSize = 40 * MIB + 17;
    for (const name of [...SMALL, LARGE]) {
      const file = join(service.attic, 'src', name);
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, name === 'deep/empty' ? '' : randomBytes(name === LARGE ? largeSize : 5000));
    }
    wanted = inFolder(join(service.attic, 'src'));
  });
  afterAll(async () => {
    await service.close();
    s3.destroy();
    await minio.stop();
  });

  const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
  function inFolder(root: string): Map<string, string> {
    const files = readdirSync(root, { recursive: true, withFileTypes: true }).filter((entry) =>
      entry.isFile(),
    );
    return new Map(
      files
        .map((entry) => join(entry.parentPath, entry.name))
        .map((file): [string, string] => [file.slice(root.length + 1), sha256(readFileSync(file))])
        .sort(([a], [b]) => (a < b ? -1 : 1)),
    );
  }
  async function inBucket(prefix: string): Promise<Map<string, string>> {
    const { Contents = [] } = await s3.send(
      new ListObjectsV2Command({ Bucket: 'trees', Prefix: `root/${prefix}/` }),
    );
    const found = await Promise.all(
      Contents.map(async ({ Key }): Promise<[string, string]> => {
        const { Body } = await s3.send(new GetObjectCommand({ Bucket: 'trees', Key }));
        return [Key!.slice(`root/${prefix}/`.length), sha256(await Body!.transformToByteArray())];
      }),
    );
    return new Map(found.sort(([a], [b]) => (a < b ? -1 : 1)));
  }
  const succeeded = {
    state: 'succeeded',
    files: { done: { files: SMALL.length + 1 }, failed: { files: 0 } },
  };

  test('is sent there, its large file in parts, and fetched back', async () => {
    const up = { kind: 'copy', tree: true, from: `file://${service.attic}/src`, to: 'dst' };
    expect(await service.carry(up)).toMatchObject(succeeded);
    expect(await inBucket('dst')).toEqual(wanted);
    const head = await s3.send(new HeadObjectCommand({ Bucket: 'trees', Key: `root/dst/${LARGE}` }));
    expect(head.ETag).toMatch(/-3"$/); // 16 + 16 + 8 MiB
    const { Uploads = [] } = await s3.send(
      new ListMultipartUploadsCommand({ Bucket: 'trees', Prefix: `root/dst/${LARGE}` }),
    );
    expect(Uploads).toEqual([]);
    const down = { kind: 'copy', tree: true, from: 'dst', to: `file://${service.attic}/back` };
    expect(await service.carry(down)).toMatchObject(succeeded);
    expect(inFolder(join(service.attic, 'back'))).toEqual(wanted);
    const again = await service.carry({ ...up, onExists: 'skip-if-same' });
    expect(again).toMatchObject({ state: 'succeeded', files: { skipped: { files: SMALL.length + 1 } } });
  });

  test('is copied to another place there, archived, and removed', async () => {
    expect(await service.carry({ kind: 'copy', tree: true, from: 'dst', to: 'there' })).toMatchObject(
      succeeded,
    );
    expect(await inBucket('there')).toEqual(wanted);
    const metrics = await (await fetch(`${service.workerUrl}/metrics`)).text();
    expect(metrics, 'the server copied them itself').toMatch(/store="artifacts",op="copy",outcome="ok"\} 7/);
    const { content, state } = await service.carry({ kind: 'download', tree: true, from: 'there' });
    expect(state).toBe('succeeded');
    const answer = await service.fetch(content ?? '');
    const archive = join(service.folder, 'there.tar');
    writeFileSync(archive, Buffer.from(await answer.arrayBuffer()));
    const unpacked = join(service.folder, 'unpacked');
    mkdirSync(unpacked);
    execFileSync('tar', ['-xf', archive, '-C', unpacked], { env: { ...process.env, LC_ALL: 'C.UTF-8' } });
    expect(inFolder(join(unpacked, 'there'))).toEqual(wanted);
    expect(await service.carry({ kind: 'delete', tree: true, to: 'there' })).toMatchObject(succeeded);
    expect(await inBucket('there')).toEqual(new Map());
    expect(await inBucket('dst')).toEqual(wanted);
  });

  /** MinIO lists no key below one that is an object itself. */
  async function putBehindOthers(prefix: string): Promise<readonly string[]> {
    const keys = ['a', 'a/b', 'a/b/c', 'a/b/d', 'z'].map((name) => `root/${prefix}/${name}`);
    for (const Key of keys) await s3.send(new PutObjectCommand({ Bucket: 'trees', Key, Body: Key }));
    const { KeyCount } = await s3.send(
      new ListObjectsV2Command({ Bucket: 'trees', Prefix: `root/${prefix}/` }),
    );
    expect(KeyCount, 'some are not listed').toBe(2);
    return keys;
  }
  async function expectGone(keys: readonly string[]): Promise<void> {
    for (const Key of keys)
      await expect(s3.send(new HeadObjectCommand({ Bucket: 'trees', Key })), Key).rejects.toMatchObject({
        $metadata: { httpStatusCode: 404 },
      });
  }

  test('keys that a listing tells only once others are gone are removed with the tree', async () => {
    const keys = await putBehindOthers('behind');
    expect(await service.carry({ kind: 'delete', tree: true, to: 'behind' })).toMatchObject({
      state: 'succeeded',
      files: { done: { files: 5 } },
    });
    await expectGone(keys);
  });

  test.each(['', '/a'])("MLflow's DELETE removes them as well: of the directory%s", async (below) => {
    const keys = await putBehindOthers('behind');
    const url = `/api/2.0/mlflow-artifacts/artifacts/behind${below}`;
    expect((await service.fetch(url, { method: 'DELETE' })).status).toBe(200);
    await expectGone(below === '' ? keys : keys.slice(0, -1));
  });
});
