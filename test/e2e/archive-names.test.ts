/** Keys that are both a file and a directory to whoever unpacks an archive of them. */
import { execFileSync } from 'node:child_process';
import { PutObjectCommand } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { clientOf } from '../contract/s3.ts';
import { startMinio } from '../servers/minio.ts';
import { startMoto } from '../servers/moto.ts';
import { startRedis } from '../servers/redis.ts';
import { requireServer } from '../servers/require.ts';
import type { S3Server } from '../servers/s3.ts';
import { Service } from './service.ts';

const CASES = [
  // MinIO lists no key below one that is an object
  ['minio', startMinio, ['t/a', 't/both', 't/both!', 't/both/'], ['both']],
  [
    'moto',
    startMoto,
    ['t/a', 't/b', 't/b!', 't/b-/c', 't/b/', 't/b/c', 't/b/c/d', 't/b0', 't/c'],
    ['b', 'b/c', 'b/c/d'],
  ],
] as const;

describe.each(CASES)('on %s', (name, start, keys, leftOut) => {
  requireServer('redis', name)("an archive of keys that are in each other's way", () => {
    let server: S3Server;
    let service: Service;
    beforeAll(async () => {
      server = await start();
      await server.makeBucket('lake');
      service = new Service(await startRedis(), { artifactsDestination: 's3://lake' }, server.env);
      await service.startApi();
      await service.startWorker();
      const s3 = clientOf(server);
      for (const Key of keys) {
        const Body = Key.endsWith('/') ? '' : Key;
        await s3.send(new PutObjectCommand({ Bucket: 'lake', Key, Body }));
      }
      s3.destroy();
    });
    afterAll(async () => {
      await service?.close();
      await server?.stop();
    });

    test('has the first one, unpacks to what it says, and names the others', async () => {
      const ask = { kind: 'download', tree: true, from: 't', onUnsupported: 'skip' };
      const view = await service.carry(ask);
      const total = keys.length;
      expect(view).toMatchObject({ state: 'succeeded', files: { leftOut: { files: leftOut.length } } });
      const { files } = (await (
        await service.fetch(`/api/v1/transfers/${view.id}/files?state=left-out`)
      ).json()) as {
        files: { path: string; failure: { message: string } }[];
      };
      expect(files.map(({ path }) => path)).toEqual(leftOut);
      for (const { failure } of files) expect(failure.message).toMatch(/cannot hold both '.*' as a file/);
      const archive = Buffer.from(await (await service.fetch(view.content ?? '')).arrayBuffer());
      const members = execFileSync('tar', ['-tf', '-'], { input: archive, encoding: 'utf8' })
        .trim()
        .split('\n');
      expect(members).toHaveLength(total - leftOut.length);
      const into = service.attic;
      execFileSync('tar', ['-xf', '-', '-C', into], { input: archive }); // it fails where they clash
      const unpacked = execFileSync('find', [into, '-type', 'f', '-printf', '%P\n'], { encoding: 'utf8' });
      expect(unpacked.trim().split('\n').sort()).toEqual([...members].sort());
      expect(await service.carry({ ...ask, onUnsupported: 'fail' })).toMatchObject({
        state: 'failed',
        failure: { kind: 'unsupported' },
      });
    });
  });
});
