/**
 * `npm run bench -- --only rclone`: one big object and many small ones from a folder to MinIO and back, asynchronously,
 * by the whole service (API, workers and Redis counted) and by `rclone copy`. Wall time of ours is from the first submit
 * to the last ending as the API tells it. Ours is durable in the folder (each file synced), rclone's is not.
 */
import { randomFillSync } from 'node:crypto';
import { appendFileSync, mkdirSync, readdirSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ListObjectsV2Command, S3Client } from '@aws-sdk/client-s3';
import type { S3Server } from '../servers/s3.ts';
import { ApiClient } from './api.ts';
import { reportQueueShare } from './bare-queue.ts';
import {
  BUCKET,
  type Direction,
  fileNames,
  type Job,
  libStorage,
  longshores,
  type Peer,
  type Running,
  rclones,
  type Workload,
} from './copy-peers.ts';
import { type Cost, writeBack } from './processes.ts';
import { rcloneCopy, rcloneRemote } from './rclone.ts';
import { startLongshore } from './services.ts';
import { alternated, median, mib, ratioTo, seconds } from './statistics.ts';

const BLOCK_BYTES = 8 * 2 ** 20;

export interface CopiesOptions {
  readonly folder: string;
  readonly minio: S3Server;
  readonly env: Readonly<Record<string, string>>;
  readonly rounds: number;
  readonly bigBytes: number;
  /** Share of the small files' numbers, 1 for all. */
  readonly scale: number;
  readonly workers: readonly number[];
  /** Names of workloads: `big`, `small`, `tiny`. */
  readonly which: readonly string[];
  readonly profiles?: string | undefined;
}

/** What all of it shares. */
interface Bench {
  readonly options: CopiesOptions;
  /** The folder store. */
  readonly root: string;
  readonly running: readonly Running[];
}

function workloads({ bigBytes, scale, which }: CopiesOptions): readonly Workload[] {
  const all: Workload[] = [
    { name: 'big', title: mib(bigBytes), files: 1, bytesEach: bigBytes },
    { name: 'small', title: '64 KiB', files: Math.ceil(2000 * scale), bytesEach: 64 * 1024 },
    { name: 'tiny', title: '4 KiB', files: Math.ceil(20_000 * scale), bytesEach: 4 * 1024 },
  ];
  return all.filter(({ name }) => which.includes(name));
}

export async function benchCopies(options: CopiesOptions): Promise<void> {
  const root = join(options.folder, 'copies');
  const running: Running[] = [];
  try {
    for (const workload of workloads(options)) await makeSources(options.minio, root, workload);
    for (const workers of options.workers) {
      const service = await startLongshore(
        join(options.folder, `longshore-${workers}`),
        { name: 'folder', uriFor: () => root, env: options.env },
        { workers, store: `minio=s3://${BUCKET}`, profiles: options.profiles },
      );
      running.push({ workers, service, api: new ApiClient(service.origin) });
    }
    console.log(
      '\n| what | by | wall | CPU | peak memory | wall ÷ rclone | CPU ÷ rclone |\n|---|---|---|---|---|---|---|',
    );
    for (const workload of workloads(options))
      for (const direction of ['up', 'down'] as const)
        await compare({ options, root, running }, workload, direction);
  } finally {
    for (const { service, api } of running) {
      await api.close();
      await service.stop();
    }
    rmSync(root, { recursive: true, force: true });
  }
}

async function makeSources(minio: S3Server, root: string, workload: Workload): Promise<void> {
  const source = join(root, 'source', workload.name);
  const bytes = Buffer.alloc(Math.min(workload.bytesEach, BLOCK_BYTES));
  for (const name of fileNames(workload)) {
    mkdirSync(dirname(join(source, name)), { recursive: true });
    for (let left = workload.bytesEach; left > 0; left -= bytes.length)
      appendFileSync(join(source, name), randomFillSync(bytes).subarray(0, left));
  }
  // by another hand, so that the ledger knows nothing of them
  await rcloneCopy(source, rcloneRemote(minio, `${BUCKET}/source/${workload.name}`), ['--transfers', '16']);
}

async function compare(bench: Bench, workload: Workload, direction: Direction): Promise<void> {
  const { options, root, running } = bench;
  const [plain, ...tuned] = rclones(options.minio, root, workload);
  const best = await fastest(bench, tuned, { workload, direction });
  const ours = running.flatMap((one) => longshores(workload, one));
  const peers = [...ours, plain!, best];
  if (workload.files === 1 && direction === 'up') peers.push(libStorage(options.minio, root, workload));
  const samples = await alternated(peers, options.rounds, (peer, round) =>
    checked(bench, peer, { workload, direction, target: `target-${round}-${peers.indexOf(peer)}` }),
  );
  const what = `${workload.files} × ${workload.title}, ${direction === 'up' ? 'folder → MinIO' : 'MinIO → folder'}`;
  const base = samples.get(plain!)!;
  const [wall, cpu] = [(cost: Cost) => cost.seconds, (cost: Cost) => cost.cpuSeconds];
  for (const [{ name }, costs] of samples) {
    const peak = mib(Math.max(...costs.map(({ peakBytes }) => peakBytes)));
    console.log(
      `| ${what} | ${name} | ${seconds(costs, wall)} | ${seconds(costs, cpu)} | ${peak} | ${ratioTo(costs, base, wall)} | ${ratioTo(costs, base, cpu)} |`,
    );
  }
  if (workload.name !== 'small') return;
  const costs = samples.get(ours[0]!)!;
  const each = (of: (cost: Cost) => number) => median(costs.map(of)) / workload.files;
  await reportQueueShare(`${what}, ${ours[0]!.name}`, options.folder, {
    seconds: each(wall),
    cpuSeconds: each(cpu),
  });
}

/** Of peers that are tried once each. */
async function fastest(bench: Bench, peers: readonly Peer[], job: Omit<Job, 'target'>): Promise<Peer> {
  const tried: { readonly peer: Peer; readonly seconds: number }[] = [];
  for (const peer of peers) {
    const { seconds } = await checked(bench, peer, { ...job, target: `tried-${tried.length}` });
    tried.push({ peer, seconds });
  }
  return tried.reduce((best, one) => (one.seconds < best.seconds ? one : best)).peer;
}

/**
 * Runs it with what earlier runs wrote on disk, and sees that all of it arrived. Small files stay until the end: ext4
 * without a journal does not use the inodes of removed ones for a while, and makes whoever creates files search for others.
 */
async function checked({ options, root }: Bench, peer: Peer, job: Job): Promise<Cost> {
  const { minio } = options;
  writeBack(options.folder);
  const cost = await peer.run(job);
  const { files, bytes } =
    job.direction === 'up' ? await inBucket(minio, `${job.target}/`) : inFolder(join(root, job.target));
  const { files: wanted, bytesEach } = job.workload;
  if (files !== wanted || bytes !== wanted * bytesEach)
    throw new Error(`${peer.name} copied ${files} files of ${wanted}, ${bytes} bytes`);
  // MinIO keeps an object in a folder of its name: removed there, its own work is no part of the next run
  const inMinio = join(minio.dir, 'data', BUCKET);
  if (files === 1) rmSync(join(job.direction === 'up' ? inMinio : root, job.target), { recursive: true });
  return cost;
}

function inFolder(folder: string): { files: number; bytes: number } {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true });
  const sizes = entries
    .filter((entry) => entry.isFile())
    .map((entry) => statSync(join(entry.parentPath, entry.name)).size);
  return { files: sizes.length, bytes: sizes.reduce((sum, size) => sum + size, 0) };
}

async function inBucket(minio: S3Server, prefix: string): Promise<{ files: number; bytes: number }> {
  const credentials = { accessKeyId: minio.accessKey, secretAccessKey: minio.secretKey };
  const { url: endpoint, region } = minio;
  const client = new S3Client({ endpoint, region, forcePathStyle: true, credentials });
  const found = { files: 0, bytes: 0 };
  let after: string | undefined;
  do {
    const page = await client.send(
      new ListObjectsV2Command({ Bucket: BUCKET, Prefix: prefix, ContinuationToken: after }),
    );
    for (const { Size } of page.Contents ?? []) {
      found.files++;
      found.bytes += Size ?? 0;
    }
    after = page.NextContinuationToken;
  } while (after !== undefined);
  client.destroy();
  return found;
}
