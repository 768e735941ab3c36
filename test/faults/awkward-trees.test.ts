/**
 * A tree with every awkward thing at once, from folder and MinIO to folder and MinIO: what a walker that is not ours
 * counts is what the transfer accounts for, each entry once, by its name, and with a reason where it was not carried.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CreateMultipartUploadCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { TransferView } from '../../apps/api/schemas.ts';
import { scaled } from '../scale.ts';
import { startMinio } from '../servers/minio.ts';
import { requireServer } from '../servers/require.ts';
import type { S3Server } from '../servers/s3.ts';
import { AwkwardFolder, awkwardKeys, bytesOfRaw, MOVING, type Raw, rawOf } from './awkward.ts';
import { Humble, type ListedFile } from './humble.ts';
import { randomOf, seedOf } from './seed.ts';
import { keyOf, type Walk, type Walked, walkBucket, walkFolder } from './walkers.ts';

/** For each of the four ways; a tree's takes some seconds. */
const SEEDS = scaled(200) === 200 ? 200 : 1;
const BUCKET = 'awkward';
const PART_BYTES = 8 * 1024 * 1024;

interface Side {
  readonly kind: 'folder' | 'MinIO';
  readonly store: string;
  walk(name: string, follow?: boolean): Promise<Walk>;
}

requireServer('redis', 'minio')('an awkward tree', () => {
  let minio: S3Server;
  let humble: Humble;
  let s3: S3Client;
  beforeAll(async () => {
    minio = await startMinio();
    await minio.makeBucket(BUCKET);
    s3 = new S3Client({
      endpoint: minio.url,
      region: minio.region,
      forcePathStyle: true,
      credentials: { accessKeyId: minio.accessKey, secretAccessKey: minio.secretKey },
    });
    const buckets = { lake: `s3://${BUCKET}/lake`, pond: `s3://${BUCKET}/pond` };
    humble = await Humble.start(buckets, minio, { partThresholdBytes: PART_BYTES });
  });
  afterAll(async () => {
    s3.destroy();
    await humble.close();
    await minio.stop();
  });

  const folder = (store: string): Side => {
    const root = () => join(humble.folder, store);
    return {
      kind: 'folder',
      store,
      walk: async (name, follow) =>
        walkFolder(join(root(), name), follow ? { follow: { store: root() } } : {}),
    };
  };
  const bucket = (store: string): Side => ({
    kind: 'MinIO',
    store,
    walk: (name) => walkBucket(s3, BUCKET, `${store}/${name}/`),
  });

  const makeKeys = async (store: string, name: string, seed: number): Promise<number> => {
    let refused = 0;
    for (const [Key, Body] of awkwardKeys(`${store}/${name}/`, seed))
      await s3.send(new PutObjectCommand({ Bucket: BUCKET, Key, Body })).catch(() => refused++);
    await s3.send(new CreateMultipartUploadCommand({ Bucket: BUCKET, Key: `${store}/${name}/d/on its way` }));
    return refused;
  };

  const first = seedOf('awkward trees');
  const seeds = Array.from({ length: SEEDS }, (_, n) => first + n);
  const pairs = ['folder', 'MinIO'].flatMap((from) => ['folder', 'MinIO'].map((to) => ({ from, to })));

  for (const { from, to } of pairs)
    test.concurrent(`from ${from} to ${to}`, { timeout: 180_000 + SEEDS * 60_000 }, async () => {
      for (const seed of seeds) {
        try {
          await scene(from, to, seed);
        } catch (error) {
          throw new Error(`${from} to ${to}, LONGSHORE_TEST_SEED=${seed}: ${(error as Error).message}`, {
            cause: error,
          });
        }
      }
    });

  async function scene(fromKind: string, toKind: string, seed: number): Promise<void> {
    const random = randomOf(seed);
    const from = fromKind === 'folder' ? folder('artifacts') : bucket('lake');
    const to = toKind === 'folder' ? folder('attic') : bucket('pond');
    const name = `${fromKind}-${toKind}-${seed}`;
    const links = (['refuse', 'skip', 'follow'] as const)[Math.floor(random() * 3)]!;
    const onUnsupported = random() < 0.5 ? 'skip' : 'fail';
    const tree =
      from.kind === 'folder'
        ? await AwkwardFolder.make(join(humble.folder, from.store), name, seed)
        : undefined;
    if (!tree) await makeKeys(from.store, name, seed);
    try {
      const source = { store: from.store, path: name };
      const target = { store: to.store, path: name };
      const asked = { kind: 'copy', tree: true, from: source, to: target, links, onUnsupported };
      const follow = links === 'follow';

      // it changes while it is carried: whatever is there then is whole at the target, or named
      if (tree) {
        const stop = new AbortController();
        const moved = tree.move(stop.signal);
        const copied = await humble.carry({ ...asked, to: { ...target, path: `${name}-moved` } });
        stop.abort();
        await moved;
        const files = await humble.files(copied.id);
        accounts(copied, files, onUnsupported);
        const there = await to.walk(`${name}-moved`);
        expect([...there.keys()].sort()).toEqual(doneKeys(files));
        checkMoving(files, there);
      }

      const walk = await from.walk(name, follow);
      const copied = await humble.carry(asked);
      const files = await humble.files(copied.id);
      accounts(copied, files, onUnsupported);
      expect(files.map(keyOfListed).sort()).toEqual([...walk.keys()].sort());
      await sameAs(walk, files, await to.walk(name), to, links);

      // what was closed is open: a retry carries the rest
      tree?.open();
      if (tree) await openedRest(copied, tree, { from, to, name, follow, links, onUnsupported });

      const opened = await from.walk(name, follow);
      const again = await humble.carry({ ...asked, onExists: 'skip-if-same' });
      const againFiles = await humble.files(again.id);
      accounts(again, againFiles, onUnsupported);
      expect(againFiles.map(keyOfListed).sort()).toEqual([...opened.keys()].sort());
      await sameAs(opened, againFiles, await to.walk(name), to, links, 'skipped');

      await archived(source, opened, follow ? 'follow' : links);
      if (from.store === 'artifacts') await listedAsMlflow(name, await from.walk(name));

      for (const [side, place] of [
        [to, target],
        [from, source],
      ] as const)
        await removed(side, place);
    } finally {
      tree?.close();
      if (tree) rmSync(tree.root, { recursive: true, force: true });
    }
  }

  /** The ending says no more than what happened, and the counts are those of the files. */
  function accounts(view: TransferView, files: readonly ListedFile[], onUnsupported: string): void {
    const count = (state: ListedFile['state']) => files.filter((file) => file.state === state).length;
    const directories = files.filter(({ state, directory }) => state === 'done' && directory).length;
    expect(new Set(files.map(keyOfListed)).size, 'each is named once').toBe(files.length);
    expect(view.files).toMatchObject({
      done: { files: count('done') - directories, directories },
      skipped: { files: count('skipped') },
      failed: { files: count('failed') },
      leftOut: { files: count('left-out') },
    });
    expect(count('pending')).toBe(0);
    for (const { state, failure, path } of files)
      if (state === 'failed' || state === 'left-out') expect(failure?.message, path).toMatch(/\S/);
    const fails = count('failed') > 0 || (count('left-out') > 0 && onUnsupported === 'fail');
    expect(view.state, view.failure?.message).toBe(fails ? 'failed' : 'succeeded');
    if (fails) expect(view.failure?.message).toMatch(/^(left out )?[\d,]+ of [\d,]+ files/);
  }

  /** Every file that is said to be carried is there with its bytes, and nothing else is. */
  async function sameAs(
    walk: Walk,
    files: readonly ListedFile[],
    there: Walk,
    to: Side,
    links: string,
    fine: 'done' | 'skipped' = 'done',
  ): Promise<void> {
    const carried = new Set<string>();
    for (const file of files) {
      const key = keyOfListed(file);
      const one = walk.get(key)!;
      const allowed = allowedFor(one, to, links);
      expect(allowed, `${one.is} ${file.path.slice(0, 80)}: ${file.failure?.message.slice(-300)}`).toContain(
        file.state,
      );
      if (file.state !== 'done' && !(file.state === fine && one.is === 'file')) continue;
      if (one.is === 'dir' && to.kind === 'folder' && isHolder(there, one.raw)) continue;
      carried.add(key);
      expect(there.get(key), key).toMatchObject({ size: one.size, ...(one.sha && { sha: one.sha }) });
      if (one.is === 'file') expect(file.state).toBe(fine);
    }
    expect([...there.keys()].sort()).toEqual([...carried].sort());
  }

  async function openedRest(
    copied: TransferView,
    tree: AwkwardFolder,
    {
      from,
      to,
      name,
      follow,
      links,
      onUnsupported,
    }: {
      from: Side;
      to: Side;
      name: string;
      follow: boolean;
      links: string;
      onUnsupported: string;
    },
  ): Promise<void> {
    expect(copied.state, `${tree.root} had closed folders`).toBe('failed');
    const retried = await humble.retry(copied.id);
    const files = await humble.files(copied.id);
    accounts(retried, files, onUnsupported);
    const walk = await from.walk(name, follow);
    expect(files.map(keyOfListed).sort()).toEqual([...walk.keys()].sort());
    await sameAs(walk, files, await to.walk(name), to, links);
  }

  async function archived(source: { store: string; path: string }, walk: Walk, links: string): Promise<void> {
    const view = await humble.carry({
      kind: 'download',
      tree: true,
      from: source,
      links,
      onUnsupported: 'skip',
    });
    expect(view.state, view.failure?.message).toBe('succeeded');
    const missing = await humble.files(view.id);
    const missingKeys = new Set(missing.map(keyOfListed));
    for (const { failure, path } of missing) expect(failure?.message, path).toMatch(/\S/);
    const { done, skipped, leftOut } = view.result!.files!;
    expect(done.files + done.directories + skipped.files + leftOut.files).toBe(walk.size);
    expect(missing.length).toBe(skipped.files + leftOut.files);
    const bytes = Buffer.from(await (await humble.fetch(view.content!)).arrayBuffer());
    const out = join(tmpdir(), `awkward-out-${process.pid}-${source.path}`);
    mkdirSync(out);
    try {
      const tar = spawnSync('tar', ['-x', '-f', '-', '-C', out], { input: bytes, maxBuffer: 2 ** 28 });
      // GNU tar says so of names that are no Unicode, and unpacks them
      const said = tar.stderr
        .toString()
        .split('\n')
        .filter((line) => !/hdrcharset|^$/.test(line));
      expect(said).toEqual([]);
      const found = walkFolder(join(out, source.path));
      const wanted = [...walk].filter(([key]) => !missingKeys.has(key));
      // a key and a marker of the same name cannot both be unpacked
      for (const [key, one] of wanted) {
        if (found.get(key) === undefined && one.is === 'dir') continue; // it has something in it, or is a file as well
        if (found.has(`${one.raw}/`) && walk.has(`${one.raw}/`)) continue; // the marker of that name came after it
        expect(found.get(key), key).toMatchObject({ size: one.size, ...(one.sha && { sha: one.sha }) });
      }
      for (const key of found.keys())
        expect(new Set(wanted.map(([wantedKey]) => wantedKey)), key).toContain(key);
      for (const one of walk.values())
        if (!missingKeys.has(keyOf(one))) expect(['file', 'dir']).toContain(one.is);
    } finally {
      execFileSync('chmod', ['-R', 'u+rwX', out]);
      rmSync(out, { recursive: true, force: true });
    }
  }

  /** Right below the root, and of one directory. */
  async function listedAsMlflow(name: string, walk: Walk): Promise<void> {
    const answer = await humble.fetch(`/api/2.0/mlflow-artifacts/artifacts?path=${encodeURIComponent(name)}`);
    const listing = (await answer.json()) as {
      files?: { path: string }[];
      left_out?: { path: string; encoding?: 'percent'; reason: string }[];
    };
    const children = new Set([...walk.values()].map(({ raw }) => raw.split('/')[0]!));
    const named = new Set([
      ...(listing.files ?? []).map(({ path }) => rawOf(path)),
      ...(listing.left_out ?? []).map((one) => rawOfListed(one)),
    ]);
    expect([...named].sort()).toEqual([...children].sort());
    for (const { reason, path } of listing.left_out ?? []) expect(reason, path).toMatch(/\S/);
  }

  /** What is still there afterwards is named, and nothing else is. */
  async function removed(side: Side, place: { store: string; path: string }): Promise<void> {
    const before = await side.walk(place.path);
    const view = await humble.carry({ kind: 'delete', tree: true, to: place });
    const files = await humble.files(view.id);
    accounts(view, files, 'fail');
    expect(files.map(keyOfListed).sort()).toEqual([...before.keys()].sort());
    const stays = files.filter(({ state }) => state !== 'done').map(keyOfListed);
    expect([...(await side.walk(place.path)).keys()].sort()).toEqual(stays.sort());
    for (const one of before.values())
      if (one.is !== 'reserved') expect(stays, 'everything else goes').not.toContain(keyOf(one));
  }

  function checkMoving(files: readonly ListedFile[], there: Walk): void {
    const moving = files.filter(({ path }) => path.startsWith(`${MOVING}/`));
    for (const file of moving)
      if (file.state === 'done' && !file.directory)
        expect(there.get(keyOfListed(file))?.uniform, `${file.path} is one version`).toBe(true);
    for (const { state, path } of moving) expect(['done', 'failed'], path).toContain(state);
  }
});

const rawOfListed = ({ path, encoding }: { path: string; encoding?: 'percent' | undefined }): Raw =>
  encoding === 'percent'
    ? path.replace(/%([0-9A-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
    : rawOf(path);

const keyOfListed = (file: ListedFile): string =>
  keyOf({ raw: rawOfListed(file), is: file.directory ? 'dir' : 'file' });

const doneKeys = (files: readonly ListedFile[]): string[] =>
  files
    .filter(({ state }) => state === 'done')
    .map(keyOfListed)
    .sort();

/** A directory with something in it, which no walk names on its own. */
const isHolder = (walk: Walk, raw: Raw): boolean =>
  [...walk.keys()].some((key) => key.startsWith(`${raw}/`) && key.length > raw.length + 1);

const isUnicode = (raw: Raw): boolean => rawOf(bytesOfRaw(raw).toString()) === raw;

/** What may have become of an entry, by what it is and by what its target holds. */
function allowedFor({ is, raw }: Walked, to: Side, links: string): readonly ListedFile['state'][] {
  if (is === 'link') return links === 'skip' ? ['skipped'] : ['left-out'];
  if (is === 'special' || is === 'reserved') return ['left-out'];
  if (is === 'closed') return ['failed'];
  const names = raw.split('/');
  if (to.kind === 'MinIO') {
    if (!isUnicode(raw) || names.some((name) => name.length > 255)) return ['left-out', 'failed'];
    return ['done', 'skipped'];
  }
  // a name in a folder has no empty segment, and a file there is no directory
  if (is === 'file' && names.includes('')) return ['left-out', 'failed'];
  return raw === 'both' || raw.startsWith('both/') ? ['done', 'skipped', 'failed'] : ['done', 'skipped'];
}
