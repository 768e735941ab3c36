/**
 * `npm start`, `npm test` and their like on a machine with only git, npm and some Node: brings what is missing, says so,
 * then runs the real thing with the Node that comes as a dependency. Hence: plain JavaScript, built-in modules only, good
 * for Node 20. Its own lines go to stderr.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { accessSync, constants, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const MODULES = join(ROOT, 'node_modules');
const NODE = join(MODULES, 'node', 'bin', 'node');
const STAMP = join(MODULES, '.longshore-modules');
const OLDEST_NODE = 20;
/** As in lib/errors.ts: unsupported, unavailable. */
const EXIT = { unsupported: 7, unavailable: 9 };

/** System packages by the program they bring; no `brew`: the program exists on Linux only. */
const PACKAGES = {
  'redis-server': { apt: 'redis-server', brew: 'redis' },
  promtool: { apt: 'prometheus', brew: 'prometheus' },
  strace: { apt: 'strace' },
  rclone: { apt: 'rclone', brew: 'rclone' },
  openssl: { apt: 'openssl', brew: 'openssl' },
  python3: { apt: 'python3-venv', brew: 'python' },
  curl: { apt: 'curl', brew: 'curl' },
  wrk: { apt: 'wrk', brew: 'wrk' },
};
const TEST_PROGRAMS = ['redis-server', 'promtool', 'strace', 'rclone', 'openssl', 'python3'];

/** `run`: scripts for Node 24, in order; the arguments go to the last. `must`: no use going on without the programs. */
const COMMANDS = {
  start: { programs: ['redis-server'], must: true, run: [['apps/cli/main.ts', 'up']] },
  longshore: { programs: [], run: [['apps/cli/main.ts']] },
  test: { programs: TEST_PROGRAMS, run: [['test/run.ts']] },
  'test:long': { programs: TEST_PROGRAMS, run: [['test/run.ts']], env: { LONGSHORE_TEST_SCALE: 'full' } },
  'test:planted': {
    programs: ['redis-server', 'strace'],
    must: true,
    run: [['test/install.ts', 'minio'], ['test/faults/planted.ts']],
  },
  check: { programs: [], run: [['test/check.ts']] },
  bench: {
    programs: ['redis-server', 'openssl', 'python3', 'curl', 'wrk', 'rclone'],
    must: true,
    run: [['test/install.ts', 'minio', 'mlflow'], ['test/bench/run.ts']],
  },
};

class Stop extends Error {
  constructor(exit, message) {
    super(message);
    this.exit = exit;
  }
}

const say = (line) => process.stderr.write(`longshore: ${line}\n`);

/** First executable of that name on PATH. */
function which(program) {
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return join(folder, program);
    } catch {
      // not in this one
    }
  }
  return undefined;
}

/** Whether it ended well; its output is the user's to see. */
function ran(file, args, env = process.env) {
  return spawnSync(file, args, { cwd: ROOT, stdio: ['ignore', 2, 2], env }).status === 0;
}

// --- node modules -------------------------------------------------------------------------------------------------

/** Packages by place and version, as the lock file says. */
function lockedPackages(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8')).packages;
  } catch {
    return undefined;
  }
}

/** npm writes its own list last of all: when it agrees with the lock file, somebody's `npm ci` came to its end. */
function npmSaysComplete() {
  const wanted = lockedPackages(join(ROOT, 'package-lock.json'));
  const installed = lockedPackages(join(MODULES, '.package-lock.json'));
  if (wanted === undefined || installed === undefined) return false;
  return Object.entries(wanted).every(
    ([place, { version, optional }]) => place === '' || optional || installed[place]?.version === version,
  );
}

/** npm must not run on the Node it is about to replace, and takes settings of the npm that runs us for its own. */
function environmentForNpm() {
  const ours = join(MODULES, '.bin');
  const path = (process.env.PATH ?? '').split(delimiter).filter((folder) => folder !== ours);
  const env = { ...process.env, PATH: path.join(delimiter) };
  for (const name of Object.keys(env))
    if (/^npm_(package|lifecycle|node_execpath)/.test(name)) delete env[name];
  return env;
}

/**
 * What `npm ci` does, save that it takes a lock file that lacks other platforms' optional packages: `npm ci` refuses one,
 * and npm writes one wherever the registry it sees does not have them all.
 */
function installModules() {
  const why = existsSync(MODULES)
    ? 'the node modules are older than package-lock.json or incomplete'
    : 'no node modules yet';
  say(`${why}: installing them with npm (about 400 MB, a minute or two)`);
  const begun = Date.now();
  rmSync(MODULES, { recursive: true, force: true });
  const env = environmentForNpm();
  if (
    !ran('npm', ['install', '--no-save', '--include=dev', '--no-audit', '--no-fund', '--loglevel=error'], env)
  )
    throw new Stop(EXIT.unavailable, "'npm install' failed, see above: mend that and run this again");
  // a user's `ignore-scripts` keeps the install script that brings Node from running
  if (!existsSync(NODE)) ran('npm', ['rebuild', 'node', '--ignore-scripts=false', '--loglevel=error'], env);
  say(`node modules are ready after ${Math.round((Date.now() - begun) / 1000)} s`);
}

function ensureModules() {
  const lock = readFileSync(join(ROOT, 'package-lock.json'));
  const stamp = `${createHash('sha256').update(lock).digest('hex')} ${process.platform}-${process.arch}\n`;
  const current = existsSync(STAMP) && readFileSync(STAMP, 'utf8') === stamp;
  if (current && existsSync(NODE)) return;
  if (!npmSaysComplete() || !existsSync(NODE)) installModules();
  const node = spawnSync(NODE, ['--version'], { encoding: 'utf8' });
  if (node.status !== 0)
    throw new Stop(
      EXIT.unsupported,
      `the Node of the npm package 'node' does not run on this machine (${process.platform}-${process.arch}): ${node.error?.message ?? node.stderr}`,
    );
  writeFileSync(STAMP, stamp);
}

// --- system packages ----------------------------------------------------------------------------------------------

/**
 * Debian starts the daemons it installs, and on default ports. The guard stops that, and `disable` keeps them from
 * starting with the machine; `$@` are the packages.
 */
const APT = `
guard=/usr/sbin/policy-rc.d
if [ ! -e $guard ]; then
  trap 'rm -f $guard' EXIT
  trap 'exit 130' INT TERM
  printf '#!/bin/sh\\nexit 101\\n' > $guard && chmod 755 $guard
fi
export DEBIAN_FRONTEND=noninteractive
get() { apt-get install -y -q -o DPkg::Lock::Timeout=120 --no-install-recommends "$@"; }
get "$@" || { apt-get update -q && get "$@"; } || exit 1
for package in "$@"; do
  case $package in
    redis-server|prometheus) systemctl disable --quiet $package 2>/dev/null || true ;;
  esac
done
`;

/** How this machine installs packages without asking anybody; undefined: it doesn't. */
function installer() {
  if (process.platform === 'darwin') return which('brew') && { kind: 'brew', command: ['brew', 'install'] };
  if (!which('apt-get')) return undefined;
  const script = ['sh', '-c', APT, 'apt'];
  if (process.getuid?.() === 0) return { kind: 'apt', command: script };
  const sudo = which('sudo') && spawnSync('sudo', ['-n', 'true'], { stdio: 'ignore' }).status === 0;
  return sudo ? { kind: 'apt', command: ['sudo', '-n', ...script] } : undefined;
}

function commandFor(programs) {
  const kind = process.platform === 'darwin' ? 'brew' : 'apt';
  const packages = programs.map((program) => PACKAGES[program][kind]).filter(Boolean);
  return kind === 'brew'
    ? `brew install ${packages.join(' ')}`
    : `sudo apt-get install ${packages.join(' ')}`;
}

function isThere(program) {
  if (process.platform === 'darwin' && PACKAGES[program].brew === undefined) return true;
  // Debian's python3 comes without the module that makes virtual environments
  if (program === 'python3')
    return spawnSync('python3', ['-c', 'import ensurepip, venv'], { stdio: 'ignore' }).status === 0;
  return which(program) !== undefined;
}

function ensurePrograms(programs, must) {
  const missing = programs.filter((program) => !isThere(program));
  if (missing.length === 0) return;
  const how = installer();
  if (how) {
    const packages = missing.map((program) => PACKAGES[program][how.kind]).filter(Boolean);
    say(`installing ${packages.join(' ')} with ${how.kind}`);
    const [file, ...args] = how.command;
    ran(file, [...args, ...packages]);
  }
  const still = missing.filter((program) => !isThere(program));
  if (still.length === 0) return;
  const problem = `${still.join(', ')} is missing and could not be installed from here: run '${commandFor(still)}'`;
  const instead = still.join() === 'redis-server' ? ', or name a Redis of yours with --redis-url' : '';
  if (must) throw new Stop(EXIT.unavailable, `${problem}, then this again${instead}`);
  say(`${problem} (going on without)`);
}

// --- running ------------------------------------------------------------------------------------------------------

/** Ctrl-C reaches the whole foreground group by itself; then a signal of ours on top would be a second one. */
function isForeground() {
  try {
    // after the name in brackets: state ppid pgrp session tty tpgid
    const fields = readFileSync('/proc/self/stat', 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ');
    return fields[4] !== '0' && fields[2] === fields[5];
  } catch {
    return Boolean(process.stdin.isTTY || process.stdout.isTTY || process.stderr.isTTY);
  }
}

/** One request to end may come twice: to the whole group, and from the npm above us. */
const SAME_REQUEST_MS = 500;

/** Runs it to its end with signals passed on once; its exit code, in the shell's way where a signal ended it. */
function runNode(args, env) {
  const child = spawn(NODE, args, { cwd: ROOT, stdio: 'inherit', env: { ...process.env, ...env } });
  const passed = new Map();
  const pass = (signal) => {
    if (signal !== 'SIGTERM' && isForeground()) return;
    if (Date.now() - (passed.get(signal) ?? 0) < SAME_REQUEST_MS) return;
    passed.set(signal, Date.now());
    child.kill(signal);
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, pass);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => {
      for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.off(name, pass);
      resolve(code ?? 128 + ({ SIGHUP: 1, SIGINT: 2, SIGKILL: 9, SIGTERM: 15 }[signal] ?? 0));
    });
  });
}

/** What a command really needs, its arguments and environment looked at. */
function needs(command, args) {
  if (command !== COMMANDS.start) return command.programs;
  const only = args.some((arg) => /^(--help|-h|--version|-V)$/.test(arg));
  return only || hasOwnRedis(args) ? [] : command.programs;
}

/** Whether a Redis of the user's is configured, wherever Longshore looks for one. */
function hasOwnRedis(args) {
  const { LONGSHORE_REDIS_URL, REDIS_URL, LONGSHORE_CONFIG } = process.env;
  if (LONGSHORE_REDIS_URL || REDIS_URL || args.some((arg) => /^--redis-url(=|$)/.test(arg))) return true;
  const at = args.findIndex((arg) => /^--config(=|$)/.test(arg));
  const file = at < 0 ? LONGSHORE_CONFIG : args[at].slice('--config='.length) || args[at + 1];
  try {
    return Boolean(JSON.parse(readFileSync(resolve(ROOT, file), 'utf8'))['redis-url']);
  } catch {
    return false; // none, or one that Longshore itself will complain about
  }
}

async function main([name, ...args]) {
  if (Number(process.versions.node.split('.')[0]) < OLDEST_NODE)
    throw new Stop(
      EXIT.unsupported,
      `this is Node ${process.versions.node}: install Node ${OLDEST_NODE} or newer`,
    );
  const command = COMMANDS[name];
  if (command === undefined) throw new Stop(2, `'${name}' is none of ${Object.keys(COMMANDS).join(', ')}`);
  ensureModules();
  ensurePrograms(needs(command, args), command.must);
  let exit = 0;
  for (const [index, script] of command.run.entries()) {
    const last = index === command.run.length - 1;
    exit = await runNode([...script, ...(last ? args : [])], command.env);
    if (exit !== 0) break;
  }
  return exit;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof Stop)) throw error;
  say(error.message);
  process.exitCode = error.exit;
}
