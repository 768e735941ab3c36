import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { VERSION } from '../../lib/version.ts';
import { freePort } from '../servers/process.ts';
import { Command, type Ended, run } from './command.ts';

const MINUTE_MS = 60_000;
let folder: string;
let count = 0;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'longshore-refused-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const fresh = (): string => join(folder, `data-${++count}`);

/** One line on standard error, nothing on standard output. */
function expectRefusal(ended: Ended, code: number, pattern: RegExp): void {
  expect(ended.stderr).toMatch(/^longshore: [^\n]+\n$/);
  expect(ended.stderr).toMatch(pattern);
  expect([ended.code, ended.stdout]).toEqual([code, '']);
}

test(
  'a port in use is said in one line, and nothing is left running',
  async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as { port: number };
    const data = fresh();
    const ended = await run(['up', '--data', data, '--port', String(port)]);
    expectRefusal(ended, 2, new RegExp(`could not listen on 127.0.0.1:${port}: the port is in use`));
    expect(readdirSync(data)).not.toContain('owner.json');
    server.close();
  },
  MINUTE_MS,
);

test('a file in place of the data folder is said in one line', async () => {
  const data = fresh();
  writeFileSync(data, '');
  expectRefusal(await run(['up', '--data', data]), 2, /there is a file in its place/);
  expectRefusal(await run(['up', '--data', join(data, 'below')]), 2, /there is a file in its place/);
});

test('a data folder whose owner.json is somebody else’s is refused, and the file stays as it is', async () => {
  for (const text of ['{"owner":"ann"}\n', 'not even JSON']) {
    const data = fresh();
    mkdirSync(data);
    writeFileSync(join(data, 'owner.json'), text);
    expectRefusal(
      await run(['up', '--data', data]),
      2,
      /owner\.json is not one that a Longshore has written/,
    );
    expect(readFileSync(join(data, 'owner.json'), 'utf8')).toBe(text);
  }
});

test.runIf(process.platform === 'linux')(
  'a place where the system makes no folders is refused, for the data and for the artifacts',
  async () => {
    expectRefusal(await run(['up', '--data', '/proc/none/here']), 2, /no folder can be made there/);
    const ended = await run(['up', '--data', fresh(), '--artifacts-destination', '/proc/none/here']);
    expect(ended.stderr).toMatch(/\/proc\/none/);
    expect(ended.code).not.toBe(0);
  },
  MINUTE_MS,
);

test.runIf(process.getuid?.() === 0 || process.platform === 'linux')(
  'a data folder of another user is refused',
  async () => {
    const foreign = process.getuid?.() === 0 ? fresh() : '/';
    if (foreign !== '/') {
      const { chownSync } = await import('node:fs');
      mkdirSync(foreign);
      chownSync(foreign, 12345, 12345);
    }
    expectRefusal(await run(['up', '--data', foreign]), 6, /it belongs to another user/);
  },
);

test(
  'a data folder that another one has is refused, naming its process',
  async () => {
    const data = fresh();
    const first = new Command([
      'up',
      '--data',
      data,
      '--port',
      String(await freePort()),
      '--workers',
      '0',
      '--log-level',
      'warn',
    ]);
    await first.said(/Ctrl-C stops it/);
    const second = await run(['up', '--data', data, '--port', String(await freePort())]);
    expectRefusal(second, 9, new RegExp(`is in use by another longshore \\(process ${first.child.pid} `));
    expect((await first.stop()).code).toBe(0);
  },
  MINUTE_MS,
);

test('without a redis-server, and without one configured, it says which to install', async () => {
  const ended = await run(['up', '--data', fresh(), '--port', '0'], { PATH: dirname(process.execPath) });
  expectRefusal(
    ended,
    9,
    /could not start Redis: it needs redis-server, which is not installed: `apt-get install redis-server`/,
  );
});

test(
  'a Redis that cannot read its files is quoted',
  async () => {
    const data = fresh();
    mkdirSync(join(data, 'redis', 'appendonlydir'), { recursive: true });
    writeFileSync(join(data, 'redis', 'appendonlydir', 'appendonly.aof.manifest'), 'rubbish\n');
    const ended = await run(['up', '--data', data, '--port', '0']);
    expectRefusal(ended, 9, /could not start Redis: it ended with exit code 1: .*(manifest|AOF)/i);
  },
  MINUTE_MS,
);

test(
  'a store that can never work ends the start, in the words of the process that found out',
  async () => {
    const ended = await run([
      'up',
      '--data',
      fresh(),
      '--port',
      '0',
      '--store',
      'far=gopher://x/y',
      '--log-level',
      'silent',
    ]);
    expect(ended.code).not.toBe(0);
    expect(ended.stderr.match(/gopher/g)).toHaveLength(1);
    expect(ended.stdout).toBe('');
  },
  MINUTE_MS,
);

test.each([
  [['--prot', '80'], /unknown option '--prot' \(Did you mean --port\?\)/],
  [['wroker'], /there is no command 'wroker'; there are up, api, worker, doctor, token/],
  [['up', 'now'], /too many arguments for 'up'/],
  [['--port', 'http'], /--port: "http" is not usable; it needs a whole number from 0 to 65535/],
  [['--host', '0.0.0.0'], /there is no --auth-file; .* --insecure/],
  [['--config', '/nowhere.json'], /--config: could not read \/nowhere.json: ENOENT/],
  [['worker', '--supervised'], /leave it out/],
  [
    ['token', 'ann', '--scope', 'fly'],
    /--scope: "fly" is not usable; it needs one of read, write, operate, admin/,
  ],
] as const)('longshore %j is refused with exit code 2', async (args, pattern) => {
  expectRefusal(await run(args), 2, pattern);
});

test('a role on its own says that it needs a Redis', async () => {
  expectRefusal(
    await run(['worker', '--data', fresh(), '--log-level', 'silent']),
    2,
    /no Redis is configured/,
  );
});

test('help has examples, and the version is the one of the package', async () => {
  const help = await run(['--help']);
  expect([help.code, help.stderr]).toEqual([0, '']);
  expect(help.stdout).toMatch(/Examples:\n {2}longshore /);
  expect((await run(['up', '--help'])).stdout).toContain('MLFLOW_ARTIFACTS_DESTINATION');
  expect(await run(['--version'])).toMatchObject({ code: 0, stdout: `${VERSION}\n` });
});
