import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { freePort } from '../servers/process.ts';
import { Command, type Process, processes } from './command.ts';

const MINUTE_MS = 60_000;
/** Longer than two signals are taken for one press. */
const ANOTHER_PRESS_MS = 600;

let data: string;
let port: number;
let running: Command[];

beforeEach(async () => {
  data = mkdtempSync(join(tmpdir(), 'longshore-up-'));
  port = await freePort();
  running = [];
});

afterEach(async () => {
  for (const command of running)
    if (command.child.exitCode === null && command.child.signalCode === null) await command.stop();
  for (const { pid } of [...childrenIn(), ...redises()]) process.kill(pid, 'SIGKILL');
  rmSync(data, { recursive: true, force: true });
});

/** Starts on this test's folder and port, and waits until it is ready. */
async function up(
  args: readonly string[] = [],
  env: Readonly<Record<string, string>> = {},
): Promise<Command> {
  const all = [
    'up',
    '--data',
    data,
    '--port',
    String(port),
    '--log-level',
    'warn',
    '--gc-every',
    '1d',
    ...args,
  ];
  const command = new Command(all, env);
  running.push(command);
  await command.said(/Ctrl-C stops it/);
  return command;
}

const url = (path: string): string => `http://127.0.0.1:${port}${path}`;
const artifact = (path: string): string => url(`/api/2.0/mlflow-artifacts/artifacts/${path}`);
/** Roles started by the newest `up` of this test. */
const childrenIn = (): Process[] => {
  const parent = running.at(-1)?.child.pid;
  return processes().filter((one) => one.parent === parent && one.command.includes('--supervised'));
};
const redises = (): Process[] =>
  processes().filter(({ cwd, command }) => cwd === join(data, 'redis') && /redis-server/.test(command));

async function submit(path: string, body: string): Promise<string> {
  const reply = await fetch(url(`/api/v1/uploads/${path}`), { method: 'PUT', body });
  const text = await reply.text();
  expect(`${reply.status} ${text}`).toMatch(/^202 /);
  return (JSON.parse(text) as { id: string }).id;
}

/** Its state, once it has ended. */
async function ended(id: string): Promise<string> {
  for (let tries = 0; tries < 600; tries++) {
    const { state } = (await (await fetch(url(`/api/v1/transfers/${id}`))).json()) as { state: string };
    if (/succeeded|failed|cancelled|superseded/.test(state)) return state;
    await sleep(50);
  }
  throw new Error(`transfer ${id} did not end`);
}

/** A PUT whose body never comes: what is in flight when a shutdown begins. */
async function hang(): Promise<() => void> {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => {});
  socket.write(
    `PUT /api/2.0/mlflow-artifacts/artifacts/slow.bin HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\nabc`,
  );
  await sleep(200);
  return () => socket.destroy();
}

test(
  'what it prints can be copied: an upload that is not waited for lands, and Ctrl-C stops all of it in order',
  async () => {
    const service = await up();
    expect(service.stdout).toContain(`export MLFLOW_TRACKING_URI=http://127.0.0.1:${port}\n`);
    expect(service.stdout).toContain(
      `export MLFLOW_DEFAULT_ARTIFACT_ROOT=${url('/api/2.0/mlflow-artifacts/artifacts')}\n`,
    );
    const [, curl] = await service.said(/^ +(echo hello \| curl .*)$/m);
    const { stdout } = await promisify(execFile)('/bin/sh', ['-c', curl!]);
    expect(await ended(JSON.parse(stdout).id)).toBe('succeeded');
    expect(await (await fetch(artifact('hello.txt'))).text()).toBe('hello\n');
    expect(statSync(data).mode & 0o777).toBe(0o700);

    const children = [...childrenIn(), ...redises()].map(({ pid }) => pid);
    expect(children).toHaveLength(4);
    service.signal('SIGINT');
    const { code, stderr } = await service.ended;
    expect(code).toBe(0);
    expect(stderr).toMatch(/the API takes nothing new.*the workers hand back.*Redis writes.*stopped\n$/s);
    // an orphan has two seconds to close in order
    await expect
      .poll(() => processes().filter(({ pid }) => children.includes(pid)), { timeout: 20_000 })
      .toEqual([]);
  },
  MINUTE_MS,
);

test(
  'a press that arrives twice, as from a terminal and from npm, is one press',
  async () => {
    const service = await up(['--workers', '1']);
    service.signal('SIGINT');
    service.signal('SIGINT');
    service.signal('SIGTERM');
    expect((await service.ended).code).toBe(0);
    expect(service.stderr).not.toContain('at once;');
  },
  MINUTE_MS,
);

test(
  'a second Ctrl-C stops at once; what was accepted lands after the next start',
  async () => {
    const service = await up(['--workers', '0']);
    const id = await submit('a/b.txt', 'later');
    const release = await hang();
    service.signal('SIGINT');
    await service.said(/takes nothing new/);
    await sleep(ANOTHER_PRESS_MS);
    const pressedMs = performance.now();
    service.signal('SIGINT');
    const { code, stderr } = await service.ended;
    expect(code).toBe(130);
    expect(performance.now() - pressedMs).toBeLessThan(5000);
    expect(stderr).toContain('stopping at once');
    release();

    await up(['--workers', '1']);
    expect(await ended(id)).toBe('succeeded');
    expect(await (await fetch(artifact('a/b.txt'))).text()).toBe('later');
  },
  MINUTE_MS,
);

test(
  'after kill -9 its children end by themselves, and the next start goes on with one Redis',
  async () => {
    const first = await up(['--workers', '0']);
    const id = await submit('a.txt', 'kept');
    const [redis] = redises();
    const children = childrenIn().map(({ pid }) => pid);
    first.signal('SIGKILL');
    await first.ended;

    const second = await up(['--workers', '1']);
    expect(second.stderr).toContain('did not stop in order');
    expect(await ended(id)).toBe('succeeded');
    await expect
      .poll(() => processes().filter(({ pid }) => children.includes(pid)), { timeout: 20_000 })
      .toEqual([]); // an orphan has two seconds to close in order
    expect(redises()).toHaveLength(1);
    expect(redises()[0]?.pid).not.toBe(redis?.pid);
  },
  MINUTE_MS,
);

test(
  'whatever of it is killed starts again: a worker, the API, Redis',
  async () => {
    const service = await up(['--workers', '1']);
    for (const [name, one] of [
      ['worker 1', () => childrenIn().find(({ command }) => / worker /.test(command))],
      ['the API', () => childrenIn().find(({ command }) => / api /.test(command))],
      ['Redis', () => redises()[0]],
    ] as const) {
      process.kill(one()!.pid, 'SIGKILL');
      await service.said(new RegExp(`${name} \\(process \\d+\\): .*SIGKILL.*; starting it again in`));
      await service.said(new RegExp(`${name} runs again`));
      expect(await ended(await submit(`after/${encodeURIComponent(name)}`, name))).toBe('succeeded');
    }
  },
  MINUTE_MS,
);

test(
  'settings, which may hold a password, are in no argument of a child',
  async () => {
    await up(['--workers', '1', '--allowed-hosts', 'hunter2.example,127.0.0.1']);
    expect(childrenIn()).toHaveLength(2);
    for (const { command } of childrenIn()) expect(command).not.toContain('hunter2');
    expect((await fetch(url('/api/v1/transfers'))).status).toBe(200);
  },
  MINUTE_MS,
);

test(
  'a store that does not answer is told of at the start, and is no reason not to start',
  async () => {
    const env = {
      MLFLOW_S3_ENDPOINT_URL: 'http://127.0.0.1:1',
      AWS_ACCESS_KEY_ID: 'a',
      AWS_SECRET_ACCESS_KEY: 'b',
    };
    const command = await up(['--workers', '0', '--store', 'lake=s3://lake/x'], env);
    const [line] = await command.said(/a store cannot be used now: could not list lake:[^"]*/);
    expect(line).toContain('nothing answers there');
    expect((await fetch(url('/health'))).status).toBe(200);
  },
  MINUTE_MS,
);

test(
  'a Ctrl-C while it starts leaves nothing running',
  async () => {
    const command = new Command(['up', '--data', data, '--port', String(port)]);
    running.push(command);
    while (redises().length === 0) await sleep(5);
    command.signal('SIGINT');
    expect((await command.ended).code).toBe(0);
    expect([...childrenIn(), ...redises()]).toEqual([]);
  },
  MINUTE_MS,
);
