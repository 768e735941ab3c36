/** What is on disk before an answer is: watched from outside, system call by system call. */
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { beforeAll, expect, test } from 'vitest';
import { serverFile } from '../servers/installed.ts';
import { cleanEnvironment, freePort, watch } from '../servers/process.ts';
import { requireServer } from '../servers/require.ts';
import { type Expectation, orderViolation } from './order.ts';
import { parseTrace, type SystemCall } from './trace.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const TRACED =
  'trace=openat,fsync,fdatasync,rename,renameat,renameat2,link,linkat,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg';
const READY_TRIES = 300;
/** More than one part of a folder's multipart upload. */
const BIG_BYTES = 11 * 1024 * 1024;

interface Requested {
  readonly name: string;
  readonly expected: Expectation;
}

/** Runs the API of the checkout at `root` under strace, sends it one request after the other, and reads the trace. */
async function traced(
  root: string,
): Promise<{ calls: readonly SystemCall[]; requested: readonly Requested[] }> {
  const folder = mkdtempSync(join(tmpdir(), 'longshore-durability-'));
  try {
    const port = await freePort();
    const trace = join(folder, 'trace');
    mkdirSync(join(folder, 'data'));
    const args = ['apps/cli/main.ts', 'api', '--data', join(folder, 'data'), '--port', String(port)];
    const child = spawn(
      serverFile('strace'),
      [
        '-f',
        '-yy',
        '-s',
        '96',
        '-e',
        TRACED,
        '-o',
        trace,
        process.execPath,
        ...args,
        '--redis-url',
        `unix:${folder}/none`,
        '--log-level',
        'silent',
      ],
      { cwd: root, env: { ...cleanEnvironment(), UV_THREADPOOL_SIZE: '4' }, stdio: 'ignore', detached: true },
    );
    watch(child);
    const exited = once(child, 'exit');
    try {
      const requested = await sendAll(`http://127.0.0.1:${port}`);
      process.kill(-child.pid!, 'SIGTERM');
      await exited;
      return { calls: parseTrace(readFileSync(trace, 'utf8')), requested };
    } finally {
      if (child.exitCode === null && child.signalCode === null) process.kill(-child.pid!, 'SIGKILL');
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function sendAll(origin: string): Promise<readonly Requested[]> {
  // asks for what is not there, so that the answers counted later are those to the requests below
  for (
    let tries = 0;
    !(await fetch(`${origin}/none`).then(
      () => true,
      () => false,
    ));
    tries++
  ) {
    if (tries > READY_TRIES) throw new Error('the API did not become ready under strace');
    await sleep(50);
  }
  const artifacts = `${origin}/api/2.0/mlflow-artifacts/artifacts`;
  const requested: Requested[] = [];
  const labels = [
    ['small', 65_536],
    ['empty', 0],
    ['big', BIG_BYTES],
  ] as const;
  for (const [nth, [label, bytes]] of labels.entries()) {
    const body = randomBytes(bytes);
    const etag = createHash('sha256').update(body).digest('hex').slice(0, 8);
    const put = await fetch(`${artifacts}/runs/${label}-${etag}/model.bin`, { method: 'PUT', body });
    expect(put.status).toBe(200);
    requested.push({
      name: `200 for a ${label} file`,
      // what an empty file's digest is nobody need write down
      expected: expectation('HTTP/1.1 200', nth, `/${label}-${etag}/model.bin`, bytes > 0),
    });
    const sent = await fetch(`${origin}/api/v1/uploads/later/${label}.bin`, { method: 'PUT', body });
    expect(sent.status).toBe(202);
    const id = sent.headers.get('location')!.split('/').at(-1)!;
    requested.push({
      name: `202 for a ${label} file`,
      expected: expectation('HTTP/1.1 202', nth, `/staging/${id}-`, true),
    });
  }
  return requested;
}

const expectation = (answer: string, nth: number, published: string, commits: boolean): Expectation => ({
  answer,
  nth,
  published,
  ...(commits && { ledgerLog: 'ledger.db-wal' }),
});

/** One step taken out of the source, and what the trace must then show. */
const MUTATIONS = [
  {
    step: 'the sync of the file',
    file: 'lib/stores/drivers/file-publish.ts',
    find: 'await handle.sync();',
    instead: '',
    found: 'the file was not synced before it was renamed',
  },
  {
    step: 'the rename',
    file: 'lib/stores/drivers/file-publish.ts',
    find: 'await rename(folder.at(sibling), folder.at(target.name));',
    instead: '',
    found: 'the file was not renamed into place before the answer',
  },
  {
    step: 'the sync of the folder',
    file: 'lib/stores/drivers/file-publish.ts',
    find: 'await folder.sync();',
    instead: '',
    found: 'the folder was not synced after the rename',
  },
  {
    step: "the sync of the ledger's commit",
    file: 'lib/ledger/sqlite.ts',
    find: 'await (await this.#file).datasync();',
    instead: '',
    found: 'the answer was written before the ledger had committed',
  },
] as const;

requireServer('strace')('under strace', () => {
  let calls: readonly SystemCall[];
  let requested: readonly Requested[];
  beforeAll(async () => {
    ({ calls, requested } = await traced(ROOT));
  }, 120_000);

  test('every 202 and every folder 200 is written after sync, rename, sync of the folder and sync of the ledger', () => {
    const violations = requested.flatMap(({ name, expected }) => {
      const violation = orderViolation(calls, expected);
      return violation ? [`${name}: ${violation}`] : [];
    });
    expect(violations).toEqual([]);
  });

  test.each(MUTATIONS)(
    'without $step in the source it is found: $found',
    async ({ file, find, instead, found }) => {
      const copy = mkdtempSync(join(tmpdir(), 'longshore-mutated-'));
      try {
        for (const part of ['apps', 'lib', 'workers', 'package.json'])
          cpSync(join(ROOT, part), join(copy, part), { recursive: true });
        symlinkSync(join(ROOT, 'node_modules'), join(copy, 'node_modules'));
        const source = readFileSync(join(copy, file), 'utf8');
        expect(source.split(find), `${file} has the step once`).toHaveLength(2);
        writeFileSync(join(copy, file), source.replace(find, instead));
        const mutated = await traced(copy);
        const violations = mutated.requested.map(({ expected }) => orderViolation(mutated.calls, expected));
        expect(violations).toContain(found);
      } finally {
        rmSync(copy, { recursive: true, force: true });
      }
    },
  );
});
