/**
 * `npm run bench -- --only engines`: one stream of unknown length to MinIO, by our own cutting into parts, by
 * lib-storage's `Upload` with parts of the same size, and by rclone; each in a process of its own, rounds alternated.
 */
import { fileURLToPath } from 'node:url';
import { cleanEnvironment } from '../servers/process.ts';
import type { S3Server } from '../servers/s3.ts';
import { type Cost, costOfProgram } from './processes.ts';
import { rcloneRemote } from './rclone.ts';
import { alternated, mib, ratioTo, seconds } from './statistics.ts';

const CHILD = fileURLToPath(new URL('engine-child.ts', import.meta.url));

const engines: Record<string, (minio: S3Server, file: string) => Promise<Cost>> = {
  'longshore Store': (minio, file) => runEngine('longshore', minio, 'longshore.bin', file),
  'lib-storage Upload': (minio, file) => runEngine('lib-storage', minio, 'lib-storage.bin', file),
  'rclone rcat': (minio, file) => {
    const script =
      'exec rclone --config /dev/null --s3-chunk-size 16M --s3-upload-concurrency 4 rcat "$0" < "$1"';
    const remote = rcloneRemote(minio, 'bench/rclone.bin');
    return costOfProgram('sh', ['-c', script, remote, file], cleanEnvironment());
  },
};

/** Of one upload to `key`. Wall time is the child's own word: a Node takes a while to start. */
export async function runEngine(
  engine: 'longshore' | 'lib-storage',
  minio: S3Server,
  key: string,
  file: string,
): Promise<Cost> {
  const env = { ...cleanEnvironment(), ...minio.env };
  const args = [CHILD, engine, 'bench', key, file];
  const { cpuSeconds, output } = await costOfProgram(process.execPath, args, env);
  return { ...(JSON.parse(output) as { seconds: number; peakBytes: number }), cpuSeconds };
}

export async function benchEngines(minio: S3Server, file: string, rounds: number): Promise<void> {
  const samples = await alternated(Object.keys(engines), rounds, (name) => engines[name]!(minio, file));
  console.log(
    '\n| one stream to MinIO, by | wall | CPU of the client | peak memory | wall ÷ ours | CPU ÷ ours |\n|---|---|---|---|---|---|',
  );
  const ours = samples.get('longshore Store')!;
  for (const [name, costs] of samples) {
    const wall = ratioTo(costs, ours, (cost) => cost.seconds);
    const cpu = ratioTo(costs, ours, (cost) => cost.cpuSeconds);
    const peak = mib(Math.max(...costs.map((cost) => cost.peakBytes)));
    console.log(
      `| ${name} | ${seconds(costs, (cost) => cost.seconds)} | ${seconds(costs, (cost) => cost.cpuSeconds)} | ${peak} | ${wall} | ${cpu} |`,
    );
  }
}
