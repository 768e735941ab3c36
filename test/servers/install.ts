/** Installs what the tests run against into the cache folder, once per version. `deploy/bootstrap.mjs` brings the rest. */
import { execFile } from 'node:child_process';
import { mkdirSync, readdirSync, readlinkSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { cachedFolder, isInstalled, onPath, SERVER_NAMES, type ServerName } from './installed.ts';
import { cacheFolder } from './process.ts';
import { VERSIONS } from './versions.ts';

type Say = (line: string) => void;

/** Downloads and compiles; a first Go build takes minutes on a small machine. */
const STEP_MS = 30 * 60_000;
const GO_SERVERS = ['minio', 'versitygw', 'toxiproxy'] as const;
const PYTHON_SERVERS = ['mlflow', 'moto'] as const;

/** Installs each that is missing and can be; says what it does and why one could not be. Never rejects. */
export async function installServers(names: readonly ServerName[], say: Say): Promise<void> {
  const missing = names.filter((name) => cachedFolder(name) !== undefined && !isInstalled(name));
  const go = GO_SERVERS.filter((name) => missing.includes(name));
  // Go builds use all cores: one after the other, beside the downloads for Python
  await Promise.all([goServers(go, say), pythonServers(missing, say)]);
}

async function goServers(names: readonly (typeof GO_SERVERS)[number][], say: Say): Promise<void> {
  if (names.length === 0) return;
  const go = (await findGo()) ?? (await attempt(VERSIONS.go.requirement, say, getGo));
  if (go === undefined) return;
  for (const name of names) {
    const { module, version } = VERSIONS[name];
    const env = { GOBIN: '', CGO_ENABLED: '0', GOFLAGS: '-trimpath -ldflags=-s' };
    await attempt(`${name} ${version}`, say, () =>
      inCache(cachedFolder(name)!, (folder) =>
        run(go, ['install', `${module}@${version}`], { ...env, GOBIN: folder }),
      ),
    );
  }
}

async function pythonServers(missing: readonly ServerName[], say: Say): Promise<void> {
  for (const name of PYTHON_SERVERS.filter((one) => missing.includes(one))) {
    const { version, requirements } = VERSIONS[name];
    await attempt(`${name} ${version}`, say, () =>
      inCache(cachedFolder(name)!, (folder) => venv(folder, requirements)),
    );
  }
}

/** Says how it went; undefined when it failed. */
async function attempt<T>(what: string, say: Say, work: () => Promise<T>): Promise<T | undefined> {
  const begun = Date.now();
  say(`${what}: installing`);
  try {
    const result = await work();
    say(`${what}: ready after ${Math.round((Date.now() - begun) / 1000)} s`);
    return result;
  } catch (error) {
    say(`${what}: could not be installed: ${error instanceof Error ? error.message : String(error)}`);
    return undefined;
  }
}

/**
 * Fills a folder of its own and puts it in place at once, as a symlink: a venv can't be moved, two runs may be at it
 * together, and what an interrupted run left is never taken for whole.
 */
async function inCache(place: string, fill: (folder: string) => Promise<unknown>): Promise<void> {
  mkdirSync(cacheFolder(), { recursive: true });
  sweep(place);
  const folder = `${place}.${process.pid}`;
  rmSync(folder, { recursive: true, force: true });
  try {
    await fill(folder);
    symlinkSync(basename(folder), `${folder}.link`);
    renameSync(`${folder}.link`, place);
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    rmSync(`${folder}.link`, { force: true });
    throw error;
  }
}

/** Removes folders of runs that have ended without putting theirs in place. */
function sweep(place: string): void {
  for (const name of readdirSync(cacheFolder())) {
    const pid = Number(/\.(\d+)$/.exec(name)?.[1]);
    if (!name.startsWith(`${basename(place)}.`) || !Number.isInteger(pid) || isAlive(pid)) continue;
    if (linkAt(place) !== name) rmSync(join(cacheFolder(), name), { recursive: true, force: true });
  }
}

function linkAt(place: string): string | undefined {
  try {
    return readlinkSync(place);
  } catch {
    return undefined;
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

async function venv(folder: string, requirements: readonly string[]): Promise<void> {
  await run(await findPython(), ['-m', 'venv', folder]);
  await run(join(folder, 'bin/python'), [
    '-m',
    'pip',
    'install',
    '--quiet',
    '--disable-pip-version-check',
    ...requirements,
  ]);
}

const isAtLeast = (version: string, least: string): boolean =>
  version.localeCompare(least, 'en', { numeric: true }) >= 0;

async function findPython(): Promise<string> {
  const { atLeast } = VERSIONS.python;
  const asks = 'import ensurepip, platform, venv; print(platform.python_version())';
  for (const name of ['python3', 'python3.13', 'python3.12', 'python3.11', 'python3.10']) {
    const python = onPath(name);
    const version = python === undefined ? '' : await run(python, ['-c', asks]).catch(() => '');
    if (python !== undefined && isAtLeast(version, atLeast)) return python;
  }
  throw new Error(`no Python ${atLeast} or newer with venv was found: sudo apt-get install python3-venv`);
}

/** One that is new enough for the modules: the system's, or the one that an earlier run got. */
async function findGo(): Promise<string | undefined> {
  const installed = onPath('go');
  const version = installed === undefined ? '' : await run(installed, ['env', 'GOVERSION']).catch(() => '');
  return isAtLeast(version.replace(/^go/, ''), VERSIONS.go.atLeast)
    ? installed
    : onPath('bin/go', [goFolder()]);
}

const goFolder = (): string => join(cacheFolder(), VERSIONS.go.requirement.replace('==', '-'));

async function getGo(): Promise<string> {
  await inCache(goFolder(), (folder) => venv(folder, [VERSIONS.go.requirement]));
  return join(goFolder(), 'bin/go');
}

/** What it printed, trimmed; rejects with the end of what it complained about. */
async function run(
  file: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<string> {
  const options = { env: { ...process.env, ...env }, timeout: STEP_MS, maxBuffer: 2 ** 26 };
  try {
    return (await promisify(execFile)(file, args, options)).stdout.trim();
  } catch (error) {
    const { stderr = '', message } = error as Error & { stderr?: string };
    throw new Error(
      `${basename(file)} ${args.slice(0, 3).join(' ')}: ${stderr.trim().slice(-1500) || message}`,
      {
        cause: error,
      },
    );
  }
}

/** What is not there after all, for a summary. */
export function missingServers(): ServerName[] {
  return SERVER_NAMES.filter((name) => !isInstalled(name));
}
