/**
 * `npm run bench -- engines`: one stream of unknown length to MinIO, by our own cutting into parts, by lib-storage's
 * `Upload` with parts of the same size, and by rclone; each in a process of its own, rounds alternated.
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { cleanEnvironment } from '../servers/process.ts';
import type { S3Server } from '../servers/s3.ts';
import { cpuSecondsOf } from './processes.ts';
import { median } from './statistics.ts';

const CHILD = fileURLToPath(new URL('engine-child.ts', import.meta.url));
const MIB = 2 ** 20;

interface Run {
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly peakBytes: number | undefined;
}

function run(
  command: string,
  args: readonly string[],
  env: Record<string, string>,
): { seconds: number; cpuSeconds: number; output: string } {
  const cpuBefore = cpuSecondsOf(process.pid);
  const began = performance.now();
  const done = spawnSync(command, args, { encoding: 'utf8', env: { ...cleanEnvironment(), ...env } });
  if (done.status !== 0) throw new Error(`${command} ${args.join(' ')}: ${done.stderr}`);
  const seconds = (performance.now() - began) / 1000;
  // an ended child's time counts as its parent's, who only waited
  return { seconds, cpuSeconds: cpuSecondsOf(process.pid) - cpuBefore, output: done.stdout };
}

const engines: Record<string, (minio: S3Server, file: string) => Run> = {
  'longshore Store': (minio, file) => ofChild('longshore', minio, file),
  'lib-storage Upload': (minio, file) => ofChild('lib-storage', minio, file),
  'rclone rcat': (minio, file) => {
    const remote = `:s3,provider=Minio,endpoint="${minio.url}",access_key_id=${minio.accessKey},secret_access_key=${minio.secretKey}:bench/rclone.bin`;
    const script =
      'exec rclone --config /dev/null --s3-chunk-size 16M --s3-upload-concurrency 4 rcat "$0" < "$1"';
    const { seconds, cpuSeconds } = run('sh', ['-c', script, remote, file], {});
    return { seconds, cpuSeconds, peakBytes: undefined };
  },
};

function ofChild(engine: string, minio: S3Server, file: string): Run {
  const { cpuSeconds, output } = run(process.execPath, [CHILD, engine, 'bench', file], minio.env);
  return { ...(JSON.parse(output) as { seconds: number; peakBytes: number }), cpuSeconds };
}

export function benchEngines(minio: S3Server, file: string, rounds: number): void {
  const samples = Object.keys(engines).map((name) => ({ name, runs: [] as Run[] }));
  for (let round = 0; round < rounds; round++)
    for (const { name, runs } of round % 2 === 0 ? samples : samples.toReversed())
      runs.push(engines[name]!(minio, file));
  console.log(
    '\n| one stream to MinIO, by | wall | CPU of the client | peak memory | wall ÷ ours | CPU ÷ ours |\n|---|---|---|---|---|---|',
  );
  const ours = samples[0]!.runs;
  for (const { name, runs } of samples) {
    const ratio = (of: (run: Run) => number) =>
      median(runs.map((one, round) => of(one) / of(ours[round]!))).toFixed(2);
    const peaks = runs.flatMap(({ peakBytes }) => (peakBytes === undefined ? [] : [peakBytes]));
    const peak = peaks.length > 0 ? `${Math.round(Math.max(...peaks) / MIB)} MiB` : 'not measured';
    const wall = median(runs.map(({ seconds }) => seconds)).toFixed(2);
    const cpu = median(runs.map(({ cpuSeconds }) => cpuSeconds)).toFixed(2);
    console.log(
      `| ${name} | ${wall} s | ${cpu} s | ${peak} | ${ratio((one) => one.seconds)}× | ${ratio((one) => one.cpuSeconds)}× |`,
    );
  }
}
