/** An API of its own for each test file: in this process, or in a child where memory is measured. No Redis: none is needed. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { runApi } from '../../apps/api/main.ts';
import { type Config, configOf } from '../../lib/config.ts';
import { cleanEnvironment, watch } from '../servers/process.ts';

type Given = Partial<{ -readonly [K in keyof Config]: unknown }>;

export interface Api {
  /** Without a trailing slash. */
  readonly url: string;
  readonly port: number;
  /** `url` and the head of MLflow's artifact routes, with a trailing slash. */
  readonly artifacts: string;
  /** The folder that is the artifact root, where it is one. */
  readonly root: string;
  /** Parent of `root`, of the ledger and of staging: nothing else is ever in it. */
  readonly folder: string;
  close(): Promise<void>;
}

function prepare(given: Given): { config: Given; folder: string; root: string } {
  const folder = mkdtempSync(join(tmpdir(), 'longshore-api-'));
  const root = join(folder, 'artifacts');
  mkdirSync(root);
  mkdirSync(join(folder, 'staging'));
  const config = {
    port: 0,
    dataFolder: folder,
    artifactsDestination: root,
    stagingUri: join(folder, 'staging'),
    ledgerPath: join(folder, 'ledger.db'),
    redisUrl: 'redis://127.0.0.1:1', // nobody listens there
    logLevel: 'silent',
    graceMs: 2000,
    ...given,
  };
  return { config, folder, root };
}

/** @param env what the API takes for its environment: that of an S3 server, say */
export async function startApi(given: Given = {}, env: Readonly<Record<string, string>> = {}): Promise<Api> {
  const { config, folder, root } = prepare(given);
  const running = await runApi(configOf(config, env)).catch((error: unknown) => {
    rmSync(folder, { recursive: true, force: true });
    throw error;
  });
  return api(running.url, folder, root, () => running.close());
}

function api(url: string, folder: string, root: string, close: () => Promise<void>): Api {
  return {
    url,
    port: Number(new URL(url).port),
    artifacts: `${url}/api/2.0/mlflow-artifacts/artifacts/`,
    root,
    folder,
    async close() {
      await close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

const CHILD = new URL('./api-child.ts', import.meta.url).pathname;

/** In a process of its own. */
export async function startApiProcess(
  given: Given = {},
  env: Readonly<Record<string, string>> = {},
): Promise<Api & { readonly pid: number }> {
  const { config, folder, root } = prepare(given);
  const child = spawn(process.execPath, [CHILD, JSON.stringify(config)], {
    env: cleanEnvironment(env),
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true,
  });
  watch(child);
  const lines = createInterface({ input: child.stdout });
  const ended = once(child, 'exit').then(() => {
    throw new Error('the API process ended before it listened');
  });
  const [url] = (await Promise.race([once(lines, 'line'), ended])) as [string];
  ended.catch(() => {}); // later it may end
  const close = async (): Promise<void> => {
    const exited = once(child, 'exit');
    child.stdin.end();
    await exited;
  };
  return { ...api(url, folder, root, close), pid: child.pid! };
}

/** Sends `bytes` as they are and resolves to all that comes back until the other side closes, or `untilMs` is over. */
export async function rawExchange(port: number, bytes: string | Uint8Array, untilMs = 5000): Promise<string> {
  const socket = connect(port, '127.0.0.1');
  const timer = setTimeout(() => socket.destroy(), untilMs);
  let answer = '';
  socket.setEncoding('latin1').on('data', (text: string) => (answer += text));
  socket.on('error', () => {}); // a reset ends it as well
  socket.write(bytes);
  await once(socket, 'close');
  clearTimeout(timer);
  return answer;
}

/** MLflow's error JSON of an answer, after checking that it is one. */
export async function errorOf(response: Response): Promise<{ code: string; message: string }> {
  const type = response.headers.get('content-type') ?? '';
  if (!type.startsWith('application/json'))
    throw new Error(`answered ${response.status} as ${type}, not as JSON`);
  const json = (await response.json()) as Record<string, unknown>;
  if (typeof json.error_code !== 'string' || typeof json.message !== 'string')
    throw new Error(`not MLflow's error JSON: ${JSON.stringify(json)}`);
  return { code: json.error_code, message: json.message };
}
