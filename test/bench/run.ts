/**
 * `npm run bench`: Longshore beside `mlflow server`, on the same stores, in the same run, rounds alternated. Prints
 * medians and the median of the rounds' ratios, CPU of the whole service (API, workers and Redis; all of MLflow's
 * processes), and the sum of each process's peak memory. Options: `--rounds 5 --megabytes 1024 --seconds 4 --only folder,MinIO,engines`.
 */
import { spawnSync } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import { cpus, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { startMinio } from '../servers/minio.ts';
import { benchEngines } from './engines.ts';
import { cpuSecondsOf, largestPeakOf, peakBytesOf } from './processes.ts';
import { type Destination, type Service, startLongshore, startMlflow } from './services.ts';
import { median } from './statistics.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    megabytes: { type: 'string', default: '1024' },
    seconds: { type: 'string', default: '4' },
    only: { type: 'string', default: 'folder,MinIO,engines' },
  },
});
const ROUNDS = Number(values.rounds);
const BIG_BYTES = Number(values.megabytes) * 2 ** 20;
const SMALL_SECONDS = Number(values.seconds);
const MIB = 2 ** 20;
const GIB = 2 ** 30;

interface Sample {
  /** Wall seconds for a big object; requests per second for small ones. */
  readonly figure: number;
  readonly cpuSeconds: number;
  readonly p99Ms?: number;
}
interface Row {
  readonly name: string;
  readonly unit: 's' | '/s';
  readonly durable: string;
  run(service: Service, round: number): Sample;
}

function measured(service: Service, work: () => { figure: number; p99Ms?: number }): Sample {
  const before = cpuSecondsOf(service.pid);
  const result = work();
  return { ...result, cpuSeconds: cpuSecondsOf(service.pid) - before };
}

function curl(args: readonly string[]): { figure: number } {
  const done = spawnSync('curl', ['-sS', '--fail', '-o', '/dev/null', '-w', '%{time_total}', ...args], {
    encoding: 'utf8',
  });
  if (done.status !== 0) throw new Error(`curl ${args.join(' ')}: ${done.stderr}`);
  return { figure: Number(done.stdout) };
}

const WRK_SCRIPT = fileURLToPath(new URL('small.lua', import.meta.url));
function wrk(
  service: Service,
  method: 'PUT' | 'GET',
  prefix: string,
  files: number,
): { figure: number; p99Ms: number; files: number } {
  const url = new URL(service.artifacts);
  const done = spawnSync(
    'wrk',
    ['-t2', '-c8', `-d${SMALL_SECONDS}s`, '--timeout', '20s', '-s', WRK_SCRIPT, url.origin],
    {
      encoding: 'utf8',
      env: {
        PATH: process.env.PATH,
        BENCH_PREFIX: `${url.pathname}/${prefix}`,
        BENCH_METHOD: method,
        BENCH_FILES: String(files),
      },
    },
  );
  const result = /RESULT (\d+) (\d+) (\d+) (\d+) (\d+)/.exec(done.stdout)?.slice(1).map(Number);
  if (result?.[2] !== 0) throw new Error(`wrk ${method} at ${service.name}: ${done.stdout}${done.stderr}`);
  return { figure: result[0]! / (result[1]! / 1e6), p99Ms: result[3]! / 1000, files: result[4]! };
}

function rowsFor(destination: Destination, source: string): readonly Row[] {
  const durable =
    destination.name === 'folder' ? 'longshore: fsync file and folder; mlflow: none' : 'the store says';
  const smallFiles = new Map<string, number>();
  const size = BIG_BYTES === GIB ? '1 GiB' : `${values.megabytes} MiB`;
  return [
    {
      name: `${size} PUT, ${destination.name}`,
      unit: 's',
      durable,
      run: (service) => measured(service, () => curl(['-T', source, `${service.artifacts}/big/object.bin`])),
    },
    {
      name: `${size} GET, ${destination.name}`,
      unit: 's',
      durable: '-',
      run: (service) => measured(service, () => curl([`${service.artifacts}/big/object.bin`])),
    },
    {
      name: `64 KiB PUT, 8 clients, ${destination.name}`,
      unit: '/s',
      durable,
      run: (service, round) =>
        measured(service, () => {
          const { files, ...sample } = wrk(service, 'PUT', `small/${round}`, 1);
          smallFiles.set(`${service.name} ${round}`, files);
          return sample;
        }),
    },
    {
      name: `64 KiB GET, 8 clients, ${destination.name}`,
      unit: '/s',
      durable: '-',
      run: (service, round) =>
        measured(service, () => {
          const { files: _, ...sample } = wrk(
            service,
            'GET',
            `small/${round}`,
            smallFiles.get(`${service.name} ${round}`)!,
          );
          return sample;
        }),
    },
  ];
}

function report(row: Row, ours: readonly Sample[], theirs: readonly Sample[]): void {
  const faster = ours.map((sample, round) =>
    row.unit === 's' ? theirs[round]!.figure / sample.figure : sample.figure / theirs[round]!.figure,
  );
  const show = (samples: readonly Sample[]) => {
    const digits = row.unit === 's' ? 2 : 0;
    const figure = `${median(samples.map((s) => s.figure)).toFixed(digits)} ${row.unit}`;
    const p99 =
      samples[0]?.p99Ms === undefined ? '' : `, p99 ${median(samples.map((s) => s.p99Ms!)).toFixed(1)} ms`;
    return `${figure} (CPU ${median(samples.map((s) => s.cpuSeconds)).toFixed(2)} s${p99})`;
  };
  const spread = `${Math.min(...faster).toFixed(1)}–${Math.max(...faster).toFixed(1)}`;
  console.log(
    `| ${row.name} | ${show(ours)} | ${show(theirs)} | ${median(faster).toFixed(2)}× (${spread}) | ${row.durable} |`,
  );
}

async function makeSource(path: string): Promise<void> {
  const file = await open(path, 'w');
  const block = Buffer.alloc(8 * MIB);
  for (let left = BIG_BYTES; left > 0; left -= block.length)
    await file.write(randomFillSync(block), 0, Math.min(left, block.length));
  await file.sync();
  await file.close();
}

/** For scale: what the machine itself takes to copy the same bytes and make them durable. */
function copyAndSync(source: string, folder: string): number {
  const target = join(folder, 'copied.bin');
  const begun = performance.now();
  const done = spawnSync('sh', ['-c', 'cp "$0" "$1" && sync "$1"', source, target]);
  if (done.status !== 0) throw new Error(`cp: ${done.stderr}`);
  const seconds = (performance.now() - begun) / 1000;
  rmSync(target);
  return seconds;
}

async function bench(destination: Destination, folder: string, source: string): Promise<void> {
  const ours = await startLongshore(join(folder, `longshore-${destination.name}`), destination);
  const theirs = await startMlflow(join(folder, `mlflow-${destination.name}`), destination);
  try {
    for (const row of rowsFor(destination, source)) {
      const samples = new Map<Service, Sample[]>([
        [ours, []],
        [theirs, []],
      ]);
      for (let round = 0; round < ROUNDS; round++)
        for (const service of round % 2 === 0 ? [ours, theirs] : [theirs, ours])
          samples.get(service)!.push(row.run(service, round));
      report(row, samples.get(ours)!, samples.get(theirs)!);
    }
    const mib = (bytes: number) => `${Math.round(bytes / MIB)} MiB`;
    console.log(
      `| peak memory, ${destination.name} | API ${mib(largestPeakOf(ours.pid, ' api'))}, a worker ${mib(largestPeakOf(ours.pid, ' worker'))}, ` +
        `all ${mib(peakBytesOf(ours.pid))} | all ${mib(peakBytesOf(theirs.pid))} | ${(peakBytesOf(theirs.pid) / peakBytesOf(ours.pid)).toFixed(2)}× | - |`,
    );
  } finally {
    await ours.stop();
    await theirs.stop();
  }
}

const folder = mkdtempSync(join(process.env.BENCH_FOLDER ?? tmpdir(), 'longshore-bench-'));
try {
  console.log(
    `${cpus().length} × ${cpus()[0]?.model}, ${Math.round(totalmem() / GIB)} GiB, Node ${process.version}; ${ROUNDS} rounds, alternated\n`,
  );
  const source = join(folder, 'source.bin');
  await makeSource(source);
  console.log(
    '| what | longshore | mlflow server 3.17.2 | longshore is faster by (min–max) | durable |\n|---|---|---|---|---|',
  );
  const copies = Array.from({ length: ROUNDS }, () => copyAndSync(source, folder));
  console.log(
    `| ${values.megabytes} MiB cp + sync, for scale | ${median(copies).toFixed(2)} s | | | fsync |`,
  );
  if (values.only.includes('folder')) {
    await mkdir(join(folder, 'stores'));
    await bench(
      { name: 'folder', uriFor: (service) => join(folder, 'stores', service), env: {} },
      folder,
      source,
    );
  }
  if (values.only.includes('MinIO') || values.only.includes('engines')) {
    const minio = await startMinio();
    try {
      const env = {
        AWS_ACCESS_KEY_ID: minio.accessKey,
        AWS_SECRET_ACCESS_KEY: minio.secretKey,
        AWS_DEFAULT_REGION: 'us-east-1',
        MLFLOW_S3_ENDPOINT_URL: minio.url,
      };
      await minio.makeBucket('bench');
      if (values.only.includes('MinIO'))
        await bench({ name: 'MinIO', uriFor: (service) => `s3://bench/${service}`, env }, folder, source);
      if (values.only.includes('engines')) benchEngines(minio, source, ROUNDS);
    } finally {
      await minio.stop();
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
