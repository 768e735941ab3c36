/** The official MLflow: its server, and its client as a Python to run scripts with. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { serverFile } from './installed.ts';
import { cleanEnvironment, launch, type Running, watch } from './process.ts';
import { healthy } from './s3.ts';

export interface MlflowServer extends Running {
  readonly url: string;
  readonly port: number;
}

export interface MlflowOptions {
  /** After the defaults (one worker, SQLite and `artifacts/` in `dir`), so that these win. */
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** Importing MLflow takes seconds on a busy machine, once in each of its processes. */
const READY_MS = 120_000;

export async function startMlflowServer(options: MlflowOptions = {}): Promise<MlflowServer> {
  const running = await launch({
    name: 'mlflow',
    ports: 1,
    readyMs: READY_MS,
    command([port], dir) {
      const where = ['--host', '127.0.0.1', '--port', String(port), '--workers', '1'];
      const data = ['--backend-store-uri', `sqlite:///${join(dir, 'mlflow.db')}`];
      if (!options.args?.includes('--no-serve-artifacts'))
        data.push('--artifacts-destination', join(dir, 'artifacts'));
      const args = ['-m', 'mlflow', 'server', ...where, ...data, ...(options.args ?? [])];
      return { file: serverFile('mlflow'), args, env: { ...QUIET, ...options.env } };
    },
    ready: ([port]) => healthy(`http://127.0.0.1:${port}/health`, undefined),
  });
  const port = running.ports[0]!;
  return { ...running, url: `http://127.0.0.1:${port}`, port };
}

const QUIET = { MLFLOW_DISABLE_TELEMETRY: 'true', DO_NOT_TRACK: 'true', PYTHONUNBUFFERED: '1' };
const SCRIPT_MS = 300_000;

/**
 * Runs Python source with MLflow and boto3 installed; resolves to what it printed. Rejects with its stderr when it does
 * not end with 0, or after `timeoutMs` (default 5 minutes). `args` are its `sys.argv[1:]`.
 */
export async function mlflowPython(
  source: string,
  env: Readonly<Record<string, string>> = {},
  options: { readonly args?: readonly string[]; readonly timeoutMs?: number; readonly cwd?: string } = {},
): Promise<string> {
  const child = spawn(serverFile('mlflow'), ['-c', source, ...(options.args ?? [])], {
    env: cleanEnvironment({ ...QUIET, ...env }),
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
    timeout: options.timeoutMs ?? SCRIPT_MS,
    killSignal: 'SIGKILL',
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  watch(child);
  const said = { out: '', err: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => (said.out += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said.err += text));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      if (code === 0) resolve(said.out);
      else reject(new Error(`python ended with ${signal ?? code}: ${said.err.slice(-4000)}`));
    });
  });
}
