/** The services that the benchmark puts side by side, each started afresh on its own folder and port. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cacheFolder, cleanEnvironment, freePort, watch } from '../servers/process.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const READY_TRIES = 1800;
const READY_PAUSE_MS = 100;

export interface Service {
  readonly name: string;
  readonly origin: string;
  /** Artifact route: `<artifacts>/<path>` is PUT and GET. */
  readonly artifacts: string;
  readonly pid: number;
  stop(): Promise<void>;
}

const running = new Set<Service>();

/** All that were started and not stopped: what ends without it leaves their Redis behind. */
export async function stopServices(): Promise<void> {
  await Promise.all([...running].map((service) => service.stop()));
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
  const service: Service = {
    name,
    origin,
    artifacts: `${origin}/api/2.0/mlflow-artifacts/artifacts`,
    pid: child.pid!,
    async stop() {
      running.delete(service);
      child.kill('SIGTERM');
      const timer = setTimeout(() => process.kill(-child.pid!, 'SIGKILL'), 20_000);
      await exited;
      clearTimeout(timer);
    },
  };
  running.add(service);
  return service;
}

export interface LongshoreOptions {
  /** Worker processes; default: what `up` runs. */
  readonly workers?: number;
  /** `name=uri` of a further store. */
  readonly store?: string;
  /** Node writes its CPU profiles there. */
  readonly profiles?: string | undefined;
}

export async function startLongshore(
  folder: string,
  to: Destination,
  { workers, store, profiles }: LongshoreOptions = {},
): Promise<Service> {
  const port = await freePort();
  const args = [join(ROOT, 'apps/cli/main.ts'), 'up', '--data', join(folder, 'data'), '--port', String(port)];
  args.push('--artifacts-destination', to.uriFor('longshore'), '--log-level', 'warn');
  if (workers !== undefined) args.push('--workers', String(workers));
  if (store !== undefined) args.push('--store', store);
  const env = {
    ...to.env,
    ...(profiles !== undefined && { NODE_OPTIONS: `--cpu-prof --cpu-prof-dir=${profiles}` }),
  };
  return started('longshore', join(ROOT, 'node_modules/node/bin/node'), args, env, folder, port);
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
