/** Many small requests from 8 clients at once, by `wrk`, which itself costs next to nothing. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';

const SCRIPT = fileURLToPath(new URL('small.lua', import.meta.url));

export interface WrkOptions {
  readonly seconds: number;
  /** PUT and GET bodies of 64 KiB below `prefix`; POST a submit of a copy of `from` to below `prefix`. */
  readonly method: 'PUT' | 'GET' | 'POST';
  readonly prefix: string;
  /** How many an earlier PUT has put, for GET. */
  readonly files?: number;
  readonly from?: string;
}

export interface WrkResult {
  readonly requests: number;
  readonly perSecond: number;
  readonly p99Ms: number;
  /** So many of each client's are there for certain. */
  readonly files: number;
}

export async function wrk(origin: string, options: WrkOptions): Promise<WrkResult> {
  const args = ['-t2', '-c8', `-d${options.seconds}s`, '--timeout', '20s', '-s', SCRIPT, origin];
  const child = spawn('wrk', args, {
    env: {
      PATH: process.env.PATH,
      BENCH_PREFIX: options.prefix,
      BENCH_METHOD: options.method,
      BENCH_FILES: String(options.files ?? 1),
      BENCH_FROM: options.from ?? '',
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [output] = await Promise.all([text(child.stdout), once(child, 'close')]);
  const result = /RESULT (\d+) (\d+) (\d+) (\d+) (\d+)/.exec(output)?.slice(1).map(Number);
  if (result?.[2] !== 0 || result[0] === 0) throw new Error(`wrk ${options.method} at ${origin}: ${output}`);
  return {
    requests: result[0]!,
    perSecond: result[0]! / (result[1]! / 1e6),
    p99Ms: result[3]! / 1000,
    files: result[4]!,
  };
}
