/**
 * A private redis-server in the data folder: append-only file on, `noeviction`, reachable only through a unix socket in
 * a folder that no other user may enter. One that a killed owner left behind is ended first, so that there is never a
 * second one on the same files; ending it is clean, and whoever was connected finds the new one at the same socket. That
 * it is one of ours, it proves itself: each is started under a name that was written down before. A program that only
 * listens where ours would is left alone, and told of.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmod, lstat, mkdir, readFile, rm, rmdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { Failure } from '../errors.ts';

/** A socket's path must fit into `sun_path`: 104 bytes with its end on the BSDs, 108 on Linux. */
const MAX_SOCKET_BYTES = 103;
const READY_MS = 60_000;
const STOP_MS = 20_000;
const LOOK_MS = 25;
const LOG_LINES = 50;
/** In its folder. */
const NAME_FILE = 'redis.name';

export interface EmbeddedRedis {
  /** For `connectRedis`: the socket as `unix:///…`. */
  readonly url: string;
  readonly pid: number;
  /** Resolves with its last words when it ends, for whatever reason. */
  readonly ended: Promise<string>;
  /** Ends it with everything written; SIGKILL when it takes more than 20 s. */
  stop(): Promise<void>;
  /** At once. What it had not written yet (a second at most) the reconciler puts back from the ledger. */
  kill(): void;
}

/**
 * Starts one, or throws: `unavailable` when there is no `redis-server` or it cannot start (with its own last words).
 * @param folder its files; made, for this user only, when absent
 */
export async function startEmbeddedRedis(folder: string): Promise<EmbeddedRedis> {
  await privateFolder(folder);
  const socket = await socketPath(folder);
  await endLeftBehind(socket, await writtenName(folder));
  await removeSocket(socket);
  const name = `longshore-${randomBytes(16).toString('hex')}`;
  await writeFile(join(folder, NAME_FILE), name);
  const child = spawn('redis-server', settings(folder, socket, name), {
    cwd: folder,
    // out of the terminal's reach: whoever started it decides when it ends
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const lines = lastLines(child);
  const ended = endOf(child, lines);
  let lastWords: string | undefined;
  void ended.then((words) => {
    lastWords = words;
  });
  const deadline = Date.now() + READY_MS;
  while (lastWords === undefined && (await ask(socket, 'PING')) !== '"PONG"') {
    if (Date.now() > deadline) {
      child.kill('SIGKILL');
      throw new Failure(
        'unavailable',
        `could not start Redis: not ready after ${READY_MS / 1000} s; ${lines.at(-1)}`,
      );
    }
    await sleep(LOOK_MS);
  }
  if (lastWords !== undefined) throw new Failure('unavailable', `could not start Redis: it ${lastWords}`);
  return {
    url: `unix://${encodeURI(socket)}`,
    pid: child.pid!,
    ended,
    kill: () => void child.kill('SIGKILL'),
    async stop() {
      const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
      // on SIGTERM it writes and syncs what it has, as SHUTDOWN does
      if (lastWords === undefined) child.kill('SIGTERM');
      await ended;
      clearTimeout(timer);
      // empty: Redis has removed its socket, and nothing else in there is ours
      if (dirname(socket) !== folder) await rmdir(dirname(socket)).catch(() => undefined);
    },
  };
}

const settings = (folder: string, socket: string, name: string): string[] =>
  Object.entries({
    port: '0',
    unixsocket: socket,
    unixsocketperm: '700',
    dir: folder,
    appendonly: 'yes',
    appendfsync: 'everysec',
    save: '',
    maxmemory: '0',
    'maxmemory-policy': 'noeviction',
    // nothing is logged there: it is what this one answers when it is asked who it is
    'syslog-ident': name,
  }).flatMap(([name, value]) => [`--${name}`, value]);

/** Only this user may enter it, also where it was there before. @throws Failure `denied` where it is somebody else's */
async function privateFolder(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const { uid, mode } = await lstat(folder);
  if (uid !== process.getuid?.())
    throw new Failure('denied', `could not use ${folder} for Redis: it belongs to the user with id ${uid}`);
  if ((mode & 0o077) !== 0) await chmod(folder, 0o700);
}

/** In the folder; where that is too long for a socket, in a private folder of the same name each time. */
async function socketPath(folder: string): Promise<string> {
  const near = join(folder, 'redis.sock');
  if (Buffer.byteLength(near) <= MAX_SOCKET_BYTES) return near;
  const short = join(tmpdir(), `longshore-${createHash('sha256').update(folder).digest('hex').slice(0, 16)}`);
  await privateFolder(short);
  const path = join(short, 'redis.sock');
  if (Buffer.byteLength(path) <= MAX_SOCKET_BYTES) return path;
  throw new Failure(
    'invalid',
    `could not place Redis' socket: both ${near} and ${path} are longer than ${MAX_SOCKET_BYTES} bytes; choose a shorter --data`,
  );
}

/** The name under which the last one was started in this folder. */
const writtenName = (folder: string): Promise<string | undefined> =>
  readFile(join(folder, NAME_FILE), 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
    return undefined;
  });

/** One on which nobody listens any more. @throws Failure `invalid`: it is something else */
async function removeSocket(path: string): Promise<void> {
  const there = await lstat(path).catch(() => undefined);
  if (there && !there.isSocket())
    throw new Failure(
      'invalid',
      `could not start Redis: ${path} is in the place of its socket and is none; move it, or choose another --data`,
    );
  await rm(path, { force: true });
}

/** Whether somebody answers there, and what, as JSON; undefined: nobody listens. */
async function ask(socket: string, command: string, ...args: string[]): Promise<string | undefined> {
  const redis = new Redis({
    path: socket,
    lazyConnect: true,
    retryStrategy: () => null,
    enableReadyCheck: false,
    maxRetriesPerRequest: 0,
    connectTimeout: 1000,
    commandTimeout: 1000,
  });
  redis.on('error', () => {}); // told by connect and call as well
  try {
    await redis.connect();
  } catch {
    return undefined;
  }
  try {
    return JSON.stringify(await redis.call(command, ...args));
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  } finally {
    redis.disconnect();
  }
}

/** @throws Failure `busy`: somebody listens there who is none of ours; `unavailable`: it does not end */
async function endLeftBehind(socket: string, name: string | undefined): Promise<void> {
  const said = await ask(socket, 'CONFIG', 'GET', 'syslog-ident');
  if (said === undefined) return;
  if (name === undefined || !said.includes(JSON.stringify(name)))
    throw new Failure(
      'busy',
      `could not start Redis: a program listens on ${socket} that was not started from here; end it, or choose another --data`,
    );
  const deadline = Date.now() + STOP_MS;
  while ((await ask(socket, 'SHUTDOWN')) !== undefined) {
    if (Date.now() > deadline)
      throw new Failure(
        'unavailable',
        `could not start Redis: one that an earlier run left behind still listens on ${socket} and does not end; end it, then start again`,
      );
    await sleep(LOOK_MS);
  }
}

/** The lines it has written, the newest last. */
function lastLines(child: ChildProcess): string[] {
  const lines: string[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    if (!stream) continue;
    createInterface(stream).on('line', (line) => {
      const said = line.replace(/^\d+:\w \d+ \w+ \d+ [\d:.]+ [*#.-] /, '').trim();
      if (said !== '') lines.push(said);
      if (lines.length > LOG_LINES) lines.shift();
    });
  }
  return lines;
}

async function endOf(child: ChildProcess, lines: readonly string[]): Promise<string> {
  try {
    const [code, signal] = await once(child, 'close');
    const told = lines.filter((line) => !/^WARNING |^oO0OoO0OoO0Oo/.test(line));
    const why = told.findLast((line) =>
      /err|fail|fatal|bad|can't|cannot|denied|no space|invalid/i.test(line),
    );
    if (signal !== null) return `ended with ${signal}`;
    return `ended with exit code ${code}: ${why ?? told.at(-1) ?? 'it said nothing'}`;
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    return missing
      ? 'needs redis-server, which is not installed: `apt-get install redis-server`, `brew install redis`, or use one of yours with --redis-url'
      : String(error);
  }
}
