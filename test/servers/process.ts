/**
 * Starting real servers for tests: an environment of their own, free ports, a bounded wait until they are ready, and a
 * watchdog that ends them when the test process dies, however it dies.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';

/** Where servers are kept between runs, outside the tree. */
export function cacheFolder(): string {
  return process.env.LONGSHORE_CACHE ?? join(homedir(), '.cache', 'longshore');
}

/** Names that would change what a server or client under test does: credentials, CAs, proxies, our own settings. */
const FOREIGN =
  /^(AWS_|MLFLOW_|_MLFLOW_|MINIO_|ROOT_|VGW_|REDIS_|npm_|PYTHON)|_CA_BUNDLE$|^SSL_CERT_|^NODE_(EXTRA_CA_CERTS|OPTIONS|ENV)$|_proxy$|_CA_CERTS|^LONGSHORE_(?!CACHE$|TEST_)/i;

export function isForeign(name: string): boolean {
  return FOREIGN.test(name);
}

/** This process's environment without what is foreign to a test, and with `extra`. */
export function cleanEnvironment(extra: Readonly<Record<string, string>> = {}): Record<string, string> {
  const clean: Record<string, string> = {};
  for (const [name, value] of Object.entries(process.env))
    if (value !== undefined && !isForeign(name)) clean[name] = value;
  return { ...clean, ...extra };
}

/** Distinct loopback ports, held open together and then let go: somebody else may still take one, so retry launches. */
export async function freePorts(count: number): Promise<number[]> {
  const held: Server[] = [];
  try {
    const ports: number[] = [];
    for (let n = 0; n < count; n++) {
      const server = createServer();
      held.push(server);
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      const address = server.address();
      if (address === null || typeof address === 'string') throw new Error('no port was given');
      ports.push(address.port);
    }
    return ports;
  } finally {
    for (const server of held) server.close();
  }
}

export async function freePort(): Promise<number> {
  return (await freePorts(1))[0]!;
}

export interface Running {
  /** The server's own process id, not a wrapper's. It leads a process group of its own. */
  readonly pid: number;
  /** Its data, certificates and log. */
  readonly dir: string;
  /** What it has written to stdout and stderr so far. */
  log(): string;
  /** Asks it to end, makes it end after 10 s, and removes `dir`. */
  stop(): Promise<void>;
  /** SIGKILL to it and all its children; `dir` stays, so that it can be started again there. */
  kill(): Promise<void>;
}

export interface Launch {
  readonly name: string;
  /** Default: a fresh one. That of a killed server: starts again on the same data. */
  readonly dir?: string | undefined;
  /** How many ports `command` needs; or exactly these. */
  readonly ports: number | readonly number[];
  /** Called again with other ports when one was taken in between. */
  command(
    ports: readonly number[],
    dir: string,
  ): {
    readonly file: string;
    readonly args: readonly string[];
    readonly env?: Readonly<Record<string, string>>;
  };
  /** One cheap try; a throw counts as not yet. */
  ready(ports: readonly number[], dir: string): Promise<boolean>;
  readonly readyMs?: number;
}

const READY_MS = 30_000;
const STOP_MS = 10_000;
const LAUNCHES = 5;
const PORT_TAKEN = /EADDRINUSE|address already in use|port is already in use|Address in use/i;

/** Starts a server and resolves when it is ready. Rejects with the end of its log. */
export async function launch(spec: Launch): Promise<Running & { readonly ports: readonly number[] }> {
  const dir = spec.dir ?? mkdtempSync(join(watchdog().root, `${spec.name}-`));
  for (let tries = 1; ; tries++) {
    const ports = typeof spec.ports === 'number' ? await freePorts(spec.ports) : spec.ports;
    const started = start(spec, ports, dir);
    const problem = await readiness(spec, started, ports, dir);
    if (problem === undefined) return { ...started.running, ports };
    const log = started.running.log();
    await started.running.kill();
    if (PORT_TAKEN.test(log) && typeof spec.ports === 'number' && tries < LAUNCHES) continue;
    throw new Error(`could not start ${spec.name}: ${problem}\n${log.slice(-2000)}`);
  }
}

function start(spec: Launch, ports: readonly number[], dir: string) {
  const { file, args, env } = spec.command(ports, dir);
  const logFile = join(dir, 'log');
  const log = openSync(logFile, 'w');
  const child = spawn(file, args, {
    cwd: dir,
    env: cleanEnvironment(env),
    stdio: ['ignore', log, log],
    detached: true,
  });
  closeSync(log);
  const exited = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (code, signal) => resolve(`it ended with ${signal ?? `exit code ${code}`}`));
  });
  const pid = child.pid ?? 0;
  watch(child);
  child.unref();

  const end = async (signal: NodeJS.Signals): Promise<void> => {
    if (pid === 0) return;
    signalGroup(pid, signal);
    const timer = setTimeout(() => signalGroup(pid, 'SIGKILL'), STOP_MS);
    child.ref();
    await exited;
    clearTimeout(timer);
  };
  const running: Running = {
    pid,
    dir,
    log: () => readFileSync(logFile, 'utf8'),
    async stop() {
      await end('SIGTERM');
      rmSync(dir, { recursive: true, force: true });
    },
    kill: () => end('SIGKILL'),
  };
  return { running, exited };
}

/** What kept it from becoming ready; undefined when it is. */
async function readiness(
  spec: Launch,
  { exited }: { exited: Promise<string> },
  ports: readonly number[],
  dir: string,
): Promise<string | undefined> {
  let ended: string | undefined;
  void exited.then((how) => {
    ended = how;
  });
  const deadline = Date.now() + (spec.readyMs ?? READY_MS);
  while (ended === undefined) {
    if (await spec.ready(ports, dir).catch(() => false)) return undefined;
    if (Date.now() > deadline) return `not ready after ${spec.readyMs ?? READY_MS} ms`;
    await sleep(30);
  }
  return ended;
}

/** The whole group, so that a server's own children end with it; none left is fine. */
function signalGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Has the group of a child that was spawned `detached` killed when the child ends, or this process does. */
export function watch(child: ChildProcess): void {
  const pid = child.pid;
  if (pid === undefined) return;
  watchdog().say(`+ ${pid}`);
  child.once('exit', () => {
    signalGroup(pid, 'SIGKILL');
    watchdog().say(`- ${pid}`);
  });
}

/** Told of each group by a line. When the pipe closes, which the kernel does for the dead, kills those it still knows. */
const WATCHDOG = `
groups=' '
while read -r what pid; do
  case $what in
    +) groups="$groups$pid " ;;
    -) groups=$(printf %s "$groups" | sed "s/ $pid / /") ;;
  esac
done
for pid in $groups; do kill -KILL -"$pid" 2>/dev/null; done
rm -rf "$1"
`;

interface Watchdog {
  /** Folder for this process's servers, removed after it. */
  readonly root: string;
  say(line: string): void;
}
let watching: Watchdog | undefined;

function watchdog(): Watchdog {
  if (watching) return watching;
  const root = mkdtempSync(join(tmpdir(), 'longshore-test-'));
  const child = spawn('/bin/sh', ['-c', WATCHDOG, 'watchdog', root], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  });
  child.unref();
  const pipe: Writable & { unref?(): void } = child.stdin;
  pipe.unref?.();
  watching = { root, say: (line) => void pipe.write(`${line}\n`) };
  return watching;
}
