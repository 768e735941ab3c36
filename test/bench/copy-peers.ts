/** Who copies in the bench of copies: our whole service, `rclone copy`, and lib-storage for scale. */
import { join } from 'node:path';
import type { S3Server } from '../servers/s3.ts';
import type { ApiClient, Submission } from './api.ts';
import { runEngine } from './engines.ts';
import { type Cost, costOf } from './processes.ts';
import { FLAGS, rcloneCopy, rcloneRemote } from './rclone.ts';
import type { Service } from './services.ts';

export const BUCKET = 'bench';
export type Direction = 'up' | 'down';

export interface Workload {
  /** Folder of the source below `source`, in the folder store and in the bucket. */
  readonly name: string;
  /** Of each file. */
  readonly title: string;
  readonly files: number;
  readonly bytesEach: number;
}

export interface Job {
  readonly workload: Workload;
  readonly direction: Direction;
  /** Fresh, below the root of the target's store. */
  readonly target: string;
}

export interface Peer {
  readonly name: string;
  run(job: Job): Promise<Cost>;
}

/** A running service whose artifact root is the bench's folder. */
export interface Running {
  readonly workers: number;
  readonly service: Service;
  readonly api: ApiClient;
}

/** Paths below the source, and below the target once it was copied. */
export const fileNames = ({ files }: Pick<Workload, 'files'>): string[] =>
  Array.from({ length: files }, (_, n) => `${String(n % 100).padStart(2, '0')}/${n}.bin`);

/** One transfer for each file, and all as one tree. */
export function longshores(workload: Workload, { workers, service, api }: Running): Peer[] {
  const by = `longshore, ${workers} worker${workers === 1 ? '' : 's'}`;
  const singles = (job: Job) => api.submit(fileNames(workload).map((file) => submission(job, `/${file}`)));
  const one: Peer = {
    name: workload.files === 1 ? by : `${by}, a transfer each`,
    run: (job) =>
      costOf(service.pid, async () => {
        await singles(job);
        await api.allSucceeded();
      }),
  };
  if (workload.files === 1) return [one];
  const tree: Peer = {
    name: `${by}, one tree`,
    run: (job) =>
      costOf(service.pid, async () => {
        const [id] = await api.submit([{ ...submission(job, ''), tree: true }]);
        await api.succeeded(id!);
      }),
  };
  return [one, tree];
}

function submission({ workload, direction, target }: Job, file: string): Submission {
  const [from, to] = [`source/${workload.name}${file}`, `${target}${file}`];
  return direction === 'up'
    ? { kind: 'copy', from, to: `s3://${BUCKET}/${to}` }
    : { kind: 'copy', from: `s3://${BUCKET}/${from}`, to };
}

/** As it comes, then with each of the sets of flags that are worth a try. `root`: the bench's folder. */
export function rclones(minio: S3Server, root: string, workload: Workload): Peer[] {
  const sets = [[], ...FLAGS[workload.files === 1 ? 'big' : 'small']];
  return sets.map((flags) => ({
    name: `rclone ${flags.join(' ')}`.trim(),
    run({ direction, target }) {
      const here = (path: string) => join(root, path);
      const there = (path: string) => rcloneRemote(minio, `${BUCKET}/${path}`);
      const source = `source/${workload.name}`;
      const [from, to] = direction === 'up' ? [here(source), there(target)] : [there(source), here(target)];
      return rcloneCopy(from, to, flags);
    },
  }));
}

/** Of the one file of `workload`, up. */
export function libStorage(minio: S3Server, root: string, workload: Workload): Peer {
  const [file] = fileNames(workload);
  return {
    name: 'lib-storage Upload, 16 MiB × 4',
    run: ({ target }) =>
      runEngine('lib-storage', minio, `${target}/${file}`, join(root, 'source', workload.name, file!)),
  };
}
