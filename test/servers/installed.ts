/** Where each test server is, when it is: the system's own on PATH, the others in the cache folder. */
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { cacheFolder } from './process.ts';
import { VERSIONS } from './versions.ts';

/** The file to run, and what to say to somebody who lacks it. `cached`: `install.ts` makes it. */
const SERVERS = {
  redis: { program: 'redis-server', get: system('redis-server', 'redis') },
  promtool: { program: 'promtool', get: system('prometheus', 'prometheus') },
  strace: { program: 'strace', get: system('strace', undefined) },
  rclone: { program: 'rclone', get: system('rclone', 'rclone') },
  openssl: { program: 'openssl', get: system('openssl', 'openssl') },
  minio: { cached: `minio-${VERSIONS.minio.version}`, program: 'minio', get: built('Go') },
  versitygw: { cached: `versitygw-${VERSIONS.versitygw.version}`, program: 'versitygw', get: built('Go') },
  toxiproxy: { cached: `toxiproxy-${VERSIONS.toxiproxy.version}`, program: 'server', get: built('Go') },
  mlflow: { cached: `mlflow-${VERSIONS.mlflow.version}`, program: 'bin/python', get: built('Python') },
  moto: { cached: `moto-${VERSIONS.moto.version}`, program: 'bin/moto_server', get: built('Python') },
} as const satisfies Record<string, { program: string; cached?: string; get: string }>;

export type ServerName = keyof typeof SERVERS;
export const SERVER_NAMES = Object.keys(SERVERS) as readonly ServerName[];

function system(apt: string, brew: string | undefined): string {
  if (process.platform !== 'darwin') return `sudo apt-get install ${apt}`;
  return brew === undefined ? 'it exists on Linux only' : `brew install ${brew}`;
}

function built(language: 'Go' | 'Python'): string {
  const python = `Python ${VERSIONS.python.atLeast} or newer with venv`;
  const needs = language === 'Go' ? `Go ${VERSIONS.go.atLeast} or newer, or ${python}` : python;
  return `'npm test' installs it; that needs ${needs} (sudo apt-get install python3-venv)`;
}

/** How to get one that is missing, for people. */
export function howToGet(name: ServerName): string {
  return SERVERS[name].get;
}

/** The folder in the cache that `install.ts` is to make; undefined for what comes from the system's packages. */
export function cachedFolder(name: ServerName): string | undefined {
  const server = SERVERS[name];
  return 'cached' in server ? join(cacheFolder(), server.cached) : undefined;
}

export function isInstalled(name: ServerName): boolean {
  return find(name) !== undefined;
}

/** Absolute path of the program; for `mlflow` the Python that has it. */
export function serverFile(name: ServerName): string {
  const file = find(name);
  if (file === undefined) throw new Error(`${name} is not installed: ${howToGet(name)}`);
  return file;
}

function find(name: ServerName): string | undefined {
  const folder = cachedFolder(name);
  return onPath(SERVERS[name].program, folder === undefined ? undefined : [folder]);
}

/** The first executable of that name in `folders`; default those of PATH. */
export function onPath(program: string, folders?: readonly string[]): string | undefined {
  for (const folder of folders ?? (process.env.PATH ?? '').split(delimiter)) {
    const file = join(folder, program);
    try {
      accessSync(file, constants.X_OK);
      return file;
    } catch {
      // not in this one
    }
  }
  return undefined;
}
