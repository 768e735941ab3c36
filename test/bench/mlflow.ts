/** `npm run bench -- --only folder,MinIO`: what MLflow's own routes do, by Longshore and by `mlflow server`. */
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { cpuSecondsOf, largestPeakOf, peakBytesOf } from './processes.ts';
import { type Destination, type Service, startLongshore, startMlflow } from './services.ts';
import { alternated, median, mib } from './statistics.ts';
import { wrk } from './wrk.ts';

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
  run(service: Service, round: number): Promise<Sample>;
}

export interface MlflowOptions {
  readonly folder: string;
  readonly source: string;
  readonly bigBytes: number;
  readonly rounds: number;
  readonly seconds: number;
}

async function measured(
  service: Service,
  work: () => Promise<{ figure: number; p99Ms?: number }>,
): Promise<Sample> {
  const before = cpuSecondsOf(service.pid);
  const result = await work();
  return { ...result, cpuSeconds: cpuSecondsOf(service.pid) - before };
}

async function curl(args: readonly string[]): Promise<{ figure: number }> {
  const done = spawnSync('curl', ['-sS', '--fail', '-o', '/dev/null', '-w', '%{time_total}', ...args], {
    encoding: 'utf8',
  });
  if (done.status !== 0) throw new Error(`curl ${args.join(' ')}: ${done.stderr}`);
  return { figure: Number(done.stdout) };
}

function rowsFor(destination: Destination, { source, bigBytes, seconds }: MlflowOptions): readonly Row[] {
  const durable =
    destination.name === 'folder' ? 'longshore: fsync file and folder; mlflow: none' : 'the store says';
  const smallFiles = new Map<string, number>();
  const size = mib(bigBytes);
  const prefixOf = (service: Service, round: number) =>
    `${new URL(service.artifacts).pathname}/small/${round}`;
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
        measured(service, async () => {
          const prefix = prefixOf(service, round);
          const { files, perSecond, p99Ms } = await wrk(service.origin, { seconds, method: 'PUT', prefix });
          smallFiles.set(prefix + service.name, files);
          return { figure: perSecond, p99Ms };
        }),
    },
    {
      name: `64 KiB GET, 8 clients, ${destination.name}`,
      unit: '/s',
      durable: '-',
      run: (service, round) =>
        measured(service, async () => {
          const prefix = prefixOf(service, round);
          const files = smallFiles.get(prefix + service.name)!;
          const { perSecond, p99Ms } = await wrk(service.origin, { seconds, method: 'GET', prefix, files });
          return { figure: perSecond, p99Ms };
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

export function reportHeader({ folder, source, bigBytes, rounds }: MlflowOptions): void {
  console.log(
    '| what | longshore | mlflow server 3.17.2 | longshore is faster by (min–max) | durable |\n|---|---|---|---|---|',
  );
  const copies = Array.from({ length: rounds }, () => copyAndSync(source, folder));
  console.log(`| ${mib(bigBytes)} cp + sync, for scale | ${median(copies).toFixed(2)} s | | | fsync |`);
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

export async function benchMlflow(destination: Destination, options: MlflowOptions): Promise<void> {
  const { folder, rounds } = options;
  const ours = await startLongshore(join(folder, `longshore-${destination.name}`), destination);
  const theirs = await startMlflow(join(folder, `mlflow-${destination.name}`), destination);
  try {
    for (const row of rowsFor(destination, options)) {
      const samples = await alternated([ours, theirs], rounds, (service, round) => row.run(service, round));
      report(row, samples.get(ours)!, samples.get(theirs)!);
    }
    console.log(
      `| peak memory, ${destination.name} | API ${mib(largestPeakOf(ours.pid, ' api'))}, a worker ${mib(largestPeakOf(ours.pid, ' worker'))}, ` +
        `all ${mib(peakBytesOf(ours.pid))} | all ${mib(peakBytesOf(theirs.pid))} | ${(peakBytesOf(theirs.pid) / peakBytesOf(ours.pid)).toFixed(2)}× | - |`,
    );
  } finally {
    await ours.stop();
    await theirs.stop();
  }
}
