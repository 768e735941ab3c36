/**
 * `npm run bench`: Longshore beside `mlflow server` (`folder`, `MinIO`), beside `rclone copy` (`rclone`), under a load of
 * submits (`submits`), amid clients that never get on (`loris`), and its way of cutting a stream beside others
 * (`engines`); on the same stores, in the same run, rounds alternated. Prints medians and the median of the rounds'
 * ratios, CPU of the whole service (API, workers and Redis; all of MLflow's processes), and the sum of each process's
 * peak memory.
 *
 * Options: `--only` any of these names; `--rounds`, `--megabytes` of the big object, `--seconds` of each load of small
 * requests; of `rclone`: `--copies big,small,tiny`, `--workers 1,2,4`, `--scale` (default 0.1: a tenth of the small
 * files); `--profiles <folder>` has Node's CPU profiles of our processes written there.
 */
import { randomFillSync } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import { cpus, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { startMinio } from '../servers/minio.ts';
import { benchCopies } from './copies.ts';
import { benchEngines } from './engines.ts';
import { benchLoris } from './loris.ts';
import { benchMlflow, reportHeader } from './mlflow.ts';
import { type Destination, stopServices } from './services.ts';
import { benchSubmits } from './submits.ts';

const NAMES = ['folder', 'MinIO', 'engines', 'rclone', 'submits', 'loris'];
const MIB = 2 ** 20;
const GIB = 2 ** 30;

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    megabytes: { type: 'string', default: '1024' },
    seconds: { type: 'string', default: '4' },
    only: { type: 'string', default: NAMES.join(',') },
    copies: { type: 'string', default: 'big,small,tiny' },
    workers: { type: 'string', default: '2' },
    scale: { type: 'string', default: '0.1' },
    profiles: { type: 'string' },
  },
});
const rounds = Number(values.rounds);
const bigBytes = Number(values.megabytes) * MIB;
const seconds = Number(values.seconds);
const only = values.only.split(',');
const unknown = only.filter((name) => !NAMES.includes(name));
if (unknown.length > 0) throw new Error(`--only takes ${NAMES.join(', ')}; not ${unknown.join(', ')}`);
const wants = (...names: readonly string[]): boolean => names.some((name) => only.includes(name));

async function makeSource(path: string): Promise<void> {
  const file = await open(path, 'w');
  const block = Buffer.alloc(8 * MIB);
  for (let left = bigBytes; left > 0; left -= block.length)
    await file.write(randomFillSync(block), 0, Math.min(left, block.length));
  await file.sync();
  await file.close();
}

const folder = mkdtempSync(join(process.env.BENCH_FOLDER ?? tmpdir(), 'longshore-bench-'));
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => {
    void stopServices().finally(() => {
      rmSync(folder, { recursive: true, force: true });
      process.exit(1);
    });
  });
try {
  console.log(
    `${cpus().length} × ${cpus()[0]?.model}, ${Math.round(totalmem() / GIB)} GiB, Node ${process.version}; ${rounds} rounds, alternated\n`,
  );
  const source = join(folder, 'source.bin');
  const mlflow = { folder, source, bigBytes, rounds, seconds };
  if (wants('folder', 'MinIO', 'engines')) await makeSource(source);
  if (wants('folder', 'MinIO')) reportHeader(mlflow);
  await mkdir(join(folder, 'stores'));
  const local: Destination = {
    name: 'folder',
    uriFor: (service) => join(folder, 'stores', service),
    env: {},
  };
  if (wants('folder')) await benchMlflow(local, mlflow);
  if (wants('submits')) await benchSubmits(local, { folder, rounds, seconds, profiles: values.profiles });
  if (wants('loris')) await benchLoris(local, { folder, rounds, seconds });
  if (wants('MinIO', 'engines', 'rclone', 'submits', 'loris')) {
    const minio = await startMinio();
    try {
      await minio.makeBucket('bench');
      const { env } = minio;
      const bucket: Destination = { name: 'MinIO', uriFor: (service) => `s3://bench/${service}`, env };
      const profiles = values.profiles;
      if (wants('MinIO')) await benchMlflow(bucket, mlflow);
      if (wants('submits')) await benchSubmits(bucket, { folder, rounds, seconds, profiles });
      if (wants('loris')) await benchLoris(bucket, { folder, rounds, seconds });
      if (wants('engines')) await benchEngines(minio, source, rounds);
      if (wants('rclone')) {
        const workers = values.workers.split(',').map(Number);
        const scale = Number(values.scale);
        const which = values.copies.split(',');
        await benchCopies({ folder, minio, env, rounds, bigBytes, scale, workers, which, profiles });
      }
    } finally {
      await minio.stop();
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
