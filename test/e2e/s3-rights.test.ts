import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  GetObjectTaggingCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  type S3Client,
} from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { configOf } from '../../lib/config.ts';
import { openDeps } from '../../lib/deps.ts';
import { newTransferId } from '../../lib/ledger/ids.ts';
import type { NewTransfer } from '../../lib/ledger/transfer.ts';
import { parsePath } from '../../lib/path.ts';
import { once } from '../../lib/stores/bytes.ts';
import { S3Driver } from '../../lib/stores/drivers/s3.ts';
import { s3SettingsFromEnv } from '../../lib/stores/drivers/s3-config.ts';
import { S3_OPERATIONS } from '../../lib/stores/drivers/s3-rights.ts';
import { checkStore } from '../../lib/stores/open.ts';
import type { Store } from '../../lib/stores/store.ts';
import { Pool } from '../../workers/pool.ts';
import { all, bodyOf, clientOf, signal, writeCall } from '../contract/s3.ts';
import { storeOn } from '../contract/s3-stores.ts';
import { NAMES } from '../hidden.ts';
import { startMinio } from '../servers/minio.ts';
import { type RedisServer, startRedis } from '../servers/redis.ts';
import { requireServer } from '../servers/require.ts';
import type { S3Server } from '../servers/s3.ts';
import { envWithRights } from '../servers/sts.ts';
import { type Api, startApi } from './api.ts';
import { eventually, TIMINGS } from './quay.ts';

const BUCKET = 'rights';
const READ = 's3:GetObject';
const LIST = 's3:ListBucket';
const WRITE = 's3:PutObject';
const REMOVE = 's3:DeleteObject';

/** A prefix with `a.txt`, `d/b.txt` and `d/e/c.txt`, and who works on it with no more than some rights. */
interface Scene {
  readonly prefix: string;
  readonly env: Readonly<Record<string, string>>;
  readonly driver: S3Driver;
  store(): Promise<Store>;
  api(): Promise<Api>;
  /** Paths that are there now, hidden ones as well. */
  keys(): Promise<string[]>;
}

/** What an operation says of itself once it is done, and whether it did what it should. */
type Work = (scene: Scene) => Promise<void>;
const THERE = ['a.txt', 'd/b.txt', 'd/e/c.txt'];

class Refused extends Error {}
/** One request of an API on the scene. @throws Refused with MLflow's message where it is answered 403 */
async function ask(scene: Scene, method: string, path: string, more: RequestInit = {}): Promise<Response> {
  const api = await scene.api();
  const url = path.startsWith('?') ? api.artifacts.slice(0, -1) + path : api.artifacts + path;
  const answer = await fetch(url, { method, ...more });
  if (answer.status !== 403) return answer;
  const { error_code, message } = (await answer.json()) as { error_code: string; message: string };
  expect(error_code).toBe('PERMISSION_DENIED');
  throw new Refused(message);
}
const done = async (answer: Promise<Response>): Promise<Response> => {
  const given = await answer;
  expect([given.status, given.status === 200 ? '' : await given.text()]).toEqual([200, '']);
  return given;
};

/** One transfer to `path`, by a worker of its own. @throws Refused where it failed for want of a right */
async function carry(scene: Scene, given: Pick<NewTransfer, 'kind'> & Partial<NewTransfer>, path: string) {
  const folder = mkdtempSync(join(tmpdir(), 'longshore-rights-'));
  const artifactsDestination = `s3://${BUCKET}/${scene.prefix}`;
  const wanted = { dataFolder: folder, artifactsDestination, redisUrl: redis.url, logLevel: 'silent' };
  const deps = await openDeps(configOf(wanted, scene.env), 'worker');
  const pool = new Pool({ ...deps, worker: 'test' }, TIMINGS);
  try {
    await pool.started();
    const id = newTransferId();
    const to = { store: 'artifacts', path: parsePath(path) };
    const rest = { onExists: 'replace', tree: false, priority: 100, labels: {}, owner: 'test' } as const;
    const bytes = Buffer.from(path);
    const digests =
      given.kind === 'upload' &&
      (await deps.staging.stage(id, once(bytes), {
        signal: AbortSignal.timeout(20_000),
        size: bytes.length,
      }));
    const wish: NewTransfer = { id, to, ...rest, ...given, ...(digests && { digests }) };
    const { transfers } = deps.ledger;
    const { transfer } = await transfers.accept(wish, undefined, digests ? Date.now() + 60_000 : undefined);
    await deps.queue.submit(transfer);
    await eventually(async () => (await transfers.get(id))?.endedMs !== undefined, 30_000);
    const { state, failure, result } = (await transfers.get(id))!;
    if (failure?.kind === 'denied') throw new Refused(failure.message);
    expect([state, failure]).toEqual(['succeeded', undefined]);
    return result;
  } finally {
    await pool.close();
    await deps.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

const OPERATIONS: Record<keyof typeof S3_OPERATIONS, Work> = {
  async get(scene) {
    expect(await (await done(ask(scene, 'GET', 'a.txt'))).text()).toBe('a.txt');
  },
  async list(scene) {
    expect(await (await done(ask(scene, 'GET', '?path=d'))).json()).toMatchObject({
      files: [{ path: 'b.txt' }, { path: 'e', is_dir: true }],
    });
  },
  async put(scene) {
    await done(ask(scene, 'PUT', 'new.txt', { body: 'new' }));
    expect(await scene.keys()).toEqual([...THERE, 'new.txt']);
  },
  async transfer(scene) {
    await carry(scene, { kind: 'upload' }, 'new.txt');
    expect(await scene.keys()).toEqual([...THERE, 'new.txt']);
  },
  async transferFail(scene) {
    await carry(scene, { kind: 'upload', onExists: 'fail' }, 'new.txt');
    expect(await scene.keys()).toEqual([...THERE, 'new.txt']);
  },
  async create(scene) {
    const headers = { 'if-none-match': '*' };
    await done(ask(scene, 'PUT', 'new.txt', { body: 'new', headers }));
    expect((await ask(scene, 'PUT', 'a.txt', { body: 'new', headers })).status).toBe(412);
    expect(await scene.keys()).toEqual([...THERE, 'new.txt']);
  },
  async replace(scene) {
    const headers = { 'if-match': '"0123"' };
    expect((await ask(scene, 'PUT', 'a.txt', { body: 'new', headers })).status).toBe(412);
    await done(ask(scene, 'PUT', 'a.txt', { body: 'new', headers: { 'if-match': '*' } }));
  },
  async removeFile(scene) {
    await done(ask(scene, 'DELETE', 'a.txt'));
    expect(await scene.keys()).toEqual(THERE.slice(1));
  },
  async removeTree(scene) {
    await done(ask(scene, 'DELETE', 'd'));
    expect(await scene.keys()).toEqual(['a.txt']);
  },
  async removeObject(scene) {
    await carry(scene, { kind: 'delete' }, 'a.txt');
    expect(await scene.keys()).toEqual(THERE.slice(1));
  },
  async upload({ driver, env, prefix, keys }) {
    const begun = await driver.multipart.begin(parsePath('up.bin'), writeCall());
    const other = new S3Driver({ bucket: BUCKET, prefix }, s3SettingsFromEnv(env), NAMES);
    const bytes = Buffer.from('all of it');
    const receipt = await other.multipart.part(begun, { number: 1 }, bodyOf(bytes), writeCall());
    await other.close();
    expect(await all(driver.multipart.parts(begun, { signal }))).toHaveLength(1);
    const whole = { size: bytes.length, crc32: bodyOf(bytes).crc32! };
    await driver.multipart.finish(begun, [receipt], whole, writeCall());
    const second = await driver.multipart.begin(parsePath('given-up.bin'), writeCall());
    await driver.multipart.abandon(second, { signal });
    expect(await keys()).toEqual([...THERE, 'up.bin']);
  },
  async copy({ driver, keys }) {
    const { etag, size } = await driver.head(parsePath('a.txt'), { signal });
    const source = { source: driver.serverCopy.source(parsePath('a.txt')), etag, size };
    await driver.serverCopy.copy(source, parsePath('copy.txt'), writeCall());
    expect(await keys()).toEqual(['a.txt', 'copy.txt', ...THERE.slice(1)]);
  },
  async pending(scene) {
    expect(await all((await scene.store()).pending(parsePath('none'), signal))).toEqual([]);
  },
  async leftovers(scene) {
    const name = NAMES.nameIn('' as never, 'canary-test');
    await root.send(new PutObjectCommand({ Bucket: BUCKET, Key: `${scene.prefix}/${name}`, Body: '' }));
    const store = await scene.store();
    const [found] = await all(store.leftovers(signal));
    await store.removeLeftover(found!.path, signal);
    expect(await scene.keys()).toEqual(THERE);
  },
  async doctor(scene) {
    await checkStore(await scene.store(), NAMES, signal);
    expect(await scene.keys()).toEqual(THERE);
  },
};

let server: S3Server;
let redis: RedisServer;
let root: S3Client;
const closing: (() => Promise<unknown>)[] = [];

async function sceneWith(rights: readonly string[]): Promise<Scene> {
  const prefix = `t/${randomUUID()}`;
  for (const path of THERE)
    await root.send(new PutObjectCommand({ Bucket: BUCKET, Key: `${prefix}/${path}`, Body: path }));
  const env = await envWithRights(server, BUCKET, rights);
  const uri = `s3://${BUCKET}/${prefix}`;
  const driver = new S3Driver({ bucket: BUCKET, prefix }, s3SettingsFromEnv(env), NAMES);
  closing.push(() => driver.close());
  const kept = async <T extends { close(): Promise<void> }>(opened: Promise<T>): Promise<T> => {
    const it = await opened;
    closing.push(() => it.close());
    return it;
  };
  return {
    prefix,
    env,
    driver,
    store: () => kept(storeOn({ ...server, env }, uri)),
    api: () => kept(startApi({ artifactsDestination: uri }, env)),
    async keys() {
      const listed = await root.send(new ListObjectsV2Command({ Bucket: BUCKET, Prefix: `${prefix}/` }));
      return (listed.Contents ?? []).map(({ Key }) => Key!.slice(prefix.length + 1));
    },
  };
}

requireServer('redis', 'minio')('the least rights at S3', () => {
  beforeAll(async () => {
    [server, redis] = await Promise.all([startMinio(), startRedis()]);
    await server.makeBucket(BUCKET);
    root = clientOf(server);
  });
  afterAll(async () => {
    await Promise.all(closing.map((close) => close()));
    root.destroy();
    await Promise.all([server.stop(), redis.stop()]);
  });

  for (const [name, { does, rights }] of Object.entries(S3_OPERATIONS)) {
    const work = OPERATIONS[name as keyof typeof S3_OPERATIONS];
    describe(`${name}: ${does}`, () => {
      test(`needs no more than ${rights.join(', ')}`, async () => work(await sceneWith(rights)));

      for (const missing of rights)
        test(`without ${missing} says so, with nothing half done`, async () => {
          const scene = await sceneWith(rights.filter((right) => right !== missing));
          const before = await scene.keys();
          const refused = await work(scene).then(
            () => undefined,
            (error: Error) => error,
          );
          expect(refused?.name).not.toBe('AssertionError');
          const said =
            refused && 'status' in refused
              ? scene.driver.classify(refused).message
              : (refused?.message ?? '');
          expect(said).toContain(missing);
          const after = await scene.keys();
          if (name !== 'doctor' && name !== 'upload' && name !== 'leftovers') expect(after).toEqual(before);
        });
    });
  }

  describe('what MLflow’s DELETE may do', () => {
    const remove = async (scene: Scene, path: string): Promise<[number, string]> => {
      const answer = await fetch((await scene.api()).artifacts + path, { method: 'DELETE' });
      const text = await answer.text();
      return [answer.status, text === '{}' ? text : (JSON.parse(text) as { message: string }).message];
    };

    test('with get, put and delete rights alone it removes a file, and cannot know of one that is missing', async () => {
      const scene = await sceneWith([READ, WRITE, REMOVE]);
      expect(await remove(scene, 'a.txt')).toEqual([200, '{}']);
      expect(await scene.keys()).toEqual(THERE.slice(1));
      const [status, message] = await remove(scene, 'a.txt');
      expect(status).toBe(403);
      for (const said of ['missing, or there is no right to know', LIST, 'nothing was removed'])
        expect(message).toContain(said);
      expect((await remove(scene, 'd'))[0]).toBe(403);
      expect(await scene.keys()).toEqual(THERE.slice(1));
    });

    test('with list and delete rights alone it removes a file and a directory, and one that is missing is fine', async () => {
      const scene = await sceneWith([LIST, REMOVE]);
      expect(await remove(scene, 'a.txt')).toEqual([200, '{}']);
      expect(await remove(scene, 'd')).toEqual([200, '{}']);
      expect(await remove(scene, 'none')).toEqual([200, '{}']);
      expect(await scene.keys()).toEqual([]);
    });

    test('with all but delete it says so, and all stays', async () => {
      const scene = await sceneWith([READ, LIST, WRITE]);
      for (const path of ['a.txt', 'd'])
        expect(await remove(scene, path)).toEqual([403, expect.stringContaining(REMOVE)]);
      expect(await scene.keys()).toEqual(THERE);
    });

    test('where nothing may be listed, what lies below a file stays, and the store says why', async () => {
      const scene = await sceneWith([READ, REMOVE]);
      await root.send(new PutObjectCommand({ Bucket: BUCKET, Key: `${scene.prefix}/d`, Body: 'd' }));
      const { removed, unseen } = await (await scene.store()).removeTree(parsePath('d'), signal);
      expect([removed, unseen?.message]).toEqual([1, expect.stringContaining(LIST)]);
      expect(await scene.keys()).toEqual(THERE);
    });
  });

  test.each([
    ['both rights of tags', [READ, WRITE, 's3:GetObjectTagging', 's3:PutObjectTagging']],
    ['no right to read tags', [READ, WRITE, 's3:PutObjectTagging']],
    ['no right to give tags', [READ, WRITE, 's3:GetObjectTagging']],
    ['no right of tags', [READ, WRITE]],
  ])(
    'a copy of an object with tags, with %s, is made, and has them or says that it has not',
    async (_, rights) => {
      const scene = await sceneWith(rights);
      const key = (path: string) => ({ Bucket: BUCKET, Key: `${scene.prefix}/${path}` });
      await root.send(new PutObjectCommand({ ...key('a.txt'), Body: 'a.txt', Tagging: 'stage=prod' }));
      const from = { store: 'artifacts', path: parsePath('a.txt') };
      const result = await carry(scene, { kind: 'copy', from }, 'copied.txt');
      const { TagSet } = await root.send(new GetObjectTaggingCommand(key('copied.txt')));
      expect(result?.notKept ?? []).toEqual(TagSet?.length === 1 ? [] : ['tags']);
      if (rights.length === 4) expect(TagSet).toEqual([{ Key: 'stage', Value: 'prod' }]);
    },
  );

  test('a GET of what is missing is 404 where the server says so, and 403 where it may be a directory', async () => {
    for (const [rights, path, status] of [
      [[READ, LIST], 'none', 404],
      [[READ, LIST], 'none/', 404],
      [[READ, LIST], 'd', 400],
      [[READ], 'none/', 403],
      [[LIST], 'none', 403],
      [[LIST], 'a.txt', 403],
    ] as const) {
      const scene = await sceneWith(rights);
      const answer = await fetch((await scene.api()).artifacts + path);
      const said = await answer.text();
      expect([rights, path, answer.status]).toEqual([rights, path, status]);
      if (status !== 403) continue;
      expect(said).toContain(path.endsWith('/') ? LIST : READ);
      if (!path.endsWith('/')) expect(said).toContain('missing, or there is no right to know');
    }
  });
});
