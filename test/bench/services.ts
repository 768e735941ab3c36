/** The services that the benchmark puts side by side, each started afresh on its own folder and port. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cacheFolder, cleanEnvironment, freePort, watch } from '../servers/process.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const READY_TRIES = 600;
const READY_PAUSE_MS = 100;

export interface Service {
  readonly name: string;
  /** Artifact route: `<artifacts>/<path>` is PUT and GET. */
  readonly artifacts: string;
  readonly pid: number;
  stop(): Promise<void>;
}

export interface Destination {
  /** `folder` or `MinIO`. */
  readonly name: string;
  /** What `--artifacts-destination` gets; made below `folder` where it is a folder. */
  uriFor(service: string): string;
  /** Endpoint and credentials. */
  readonly env: Readonly<Record<string, string>>;
}

async function started(
  name: string,
  command: string,
  args: readonly string[],
  env: Record<string, string>,
  folder: string,
  port: number,
): Promise<Service> {
  mkdirSync(folder, { recursive: true });
  const child: ChildProcess = spawn(command, args, {
    cwd: folder,
    env: { ...cleanEnvironment(), ...env },
    stdio: ['ignore', 'ignore', 'inherit'],
    detached: true,
  });
  watch(child);
  const exited = once(child, 'exit');
  const origin = `http://127.0.0.1:${port}`;
  for (let tries = 0; ; tries++) {
    const healthy = await fetch(`${origin}/health`).then(
      (reply) => reply.ok,
      () => false,
    );
    if (healthy) break;
    if (child.exitCode !== null || tries >= READY_TRIES) throw new Error(`${name} did not become ready`);
    await new Promise((resolve) => setTimeout(resolve, READY_PAUSE_MS));
  }
  return {
    name,
    artifacts: `${origin}/api/2.0/mlflow-artifacts/artifacts`,
    pid: child.pid!,
    async stop() {
      child.kill('SIGTERM');
      const timer = setTimeout(() => process.kill(-child.pid!, 'SIGKILL'), 20_000);
      await exited;
      clearTimeout(timer);
    },
  };
}

export async function startLongshore(folder: string, to: Destination): Promise<Service> {
  const port = await freePort();
  const args = ['apps/cli/main.ts', 'up', '--data', join(folder, 'data'), '--port', String(port)];
  const script = args[0]!;
  return started(
    'longshore',
    join(ROOT, 'node_modules/node/bin/node'),
    [
      join(ROOT, script),
      ...args.slice(1),
      '--artifacts-destination',
      to.uriFor('longshore'),
      '--log-level',
      'warn',
    ],
    { ...to.env },
    folder,
    port,
  );
}

export async function startMlflow(folder: string, to: Destination): Promise<Service> {
  const port = await freePort();
  const args = ['server', '--artifacts-only', '--host', '127.0.0.1', '--port', String(port)];
  return started(
    'mlflow server',
    join(cacheFolder(), 'mlflow-3.17.2/bin/mlflow'),
    [...args, '--artifacts-destination', to.uriFor('mlflow')],
    { ...to.env },
    folder,
    port,
  );
}
