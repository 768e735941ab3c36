/**
 * `npm run test:planted`: plants one bug after the other into a copy of the tree and says whether the suite that should
 * catch it does. Names given as arguments: only the bugs that have one of them in their name.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cleanEnvironment, watch } from '../servers/process.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const COPIED = ['apps', 'deploy', 'docs', 'lib', 'test', 'workers', 'package.json', 'tsconfig.json'];
const CONFIG = 'vitest.config.ts';
const SUITE_MS = 300_000;

interface Bug {
  readonly name: string;
  readonly file: string;
  /** There exactly once; replaced by `instead`. */
  readonly find: string;
  readonly instead: string;
  readonly suite: string;
  /** Of the suite's tests only these. */
  readonly only?: string;
}

const BUGS: readonly Bug[] = [
  {
    name: 'skip the fsync',
    file: 'lib/stores/drivers/file-publish.ts',
    find: 'await handle.sync();',
    instead: '',
    suite: 'test/durability/durability.test.ts',
    only: 'every 202 and every folder 200',
  },
  {
    name: 'free staging before the commit',
    file: 'lib/transfer/copy.ts',
    find: "  if (!(await deps.ledger.transfers.end(row.id, row.epoch, ending))) return 'stale';",
    instead:
      "  await deps.staging.free(row.id, AbortSignal.timeout(1000));\n  if (!(await deps.ledger.transfers.end(row.id, row.epoch, ending))) return 'stale';",
    suite: 'test/faults/planted-order.test.ts',
  },
  {
    name: 'ignore the epoch',
    file: 'lib/ledger/moves.ts',
    find: 'row && row.epoch === epoch && isUnended(row.state)',
    instead: 'row && isUnended(row.state)',
    suite: 'test/unit/ledger-moves.test.ts',
  },
  {
    name: 'drop the digest check',
    file: 'lib/stores/draft.ts',
    find: 'if (mismatch)',
    instead: 'if (mismatch && size === -1)',
    suite: 'test/contract/memory.test.ts',
  },
  {
    name: 'do not page the listing',
    file: 'lib/stores/drivers/s3.ts',
    find: '} while (after !== undefined);',
    instead: '} while (after === null);',
    suite: 'test/contract/s3-minio.test.ts',
    only: 'list',
  },
  {
    name: 'drop the part-order check',
    file: 'lib/stores/drivers/file-multipart.ts',
    find: 'assertParts(receipts, record, whole);\n',
    instead: '\n',
    suite: 'test/contract/file.test.ts',
  },
  {
    name: 'publish without the slot',
    file: 'lib/transfer/copy.ts',
    find: 'const turn = await deps.ledger.transfers.publishing(row.id, row.epoch);',
    instead: "const turn: string = 'ok';",
    suite: 'test/e2e/workers.test.ts',
    only: 'never replaces',
  },
];

interface Report {
  readonly testResults: readonly {
    readonly assertionResults: readonly { readonly status: string; readonly fullName: string }[];
  }[];
}

/** Tests that fail with the bug in; none: it was not caught. @throws where the tests could not even run */
async function catchers(bug: Bug): Promise<string[]> {
  const copy = mkdtempSync(join(tmpdir(), 'longshore-planted-'));
  try {
    for (const part of [...COPIED, CONFIG]) cpSync(join(ROOT, part), join(copy, part), { recursive: true });
    symlinkSync(join(ROOT, 'node_modules'), join(copy, 'node_modules'));
    const source = readFileSync(join(copy, bug.file), 'utf8');
    const times = source.split(bug.find).length - 1;
    if (times !== 1) throw new Error(`${bug.file} has what is to be replaced ${times} times, not once`);
    writeFileSync(
      join(copy, bug.file),
      source.replace(bug.find, () => bug.instead),
    );
    return await failingTests(copy, bug);
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
}

async function failingTests(copy: string, { suite, only }: Bug): Promise<string[]> {
  const report = join(copy, 'report.json');
  const vitest = ['node_modules/vitest/vitest.mjs', 'run', '--reporter=json', `--outputFile.json=${report}`];
  const args = [...vitest, ...(only === undefined ? [] : ['-t', only]), suite];
  const child = spawn(process.execPath, args, {
    cwd: copy,
    env: cleanEnvironment(),
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
    timeout: SUITE_MS,
    killSignal: 'SIGKILL',
  });
  watch(child);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (output += String(text)));
  await once(child, 'close');
  const tests = readReport(report, output).testResults.flatMap(({ assertionResults }) => assertionResults);
  const ran = tests.filter(({ status }) => status === 'passed' || status === 'failed');
  if (ran.length === 0) throw new Error(`no test of ${suite} ran:\n${output.slice(-2000)}`);
  return ran.filter(({ status }) => status === 'failed').map(({ fullName }) => fullName);
}

function readReport(file: string, output: string): Report {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Report;
  } catch (error) {
    throw new Error(`the suite left no report:\n${output.slice(-2000)}`, { cause: error });
  }
}

const wanted = process.argv.slice(2);
const chosen = BUGS.filter(({ name }) => wanted.length === 0 || wanted.some((word) => name.includes(word)));
let missed = chosen.length === 0 ? 1 : 0;
for (const bug of chosen) {
  const startedMs = Date.now();
  const found = await catchers(bug).catch((error: unknown) => {
    console.log(`could not plant '${bug.name}': ${error instanceof Error ? error.message : String(error)}`);
    return [];
  });
  if (found.length === 0) missed++;
  const seconds = Math.round((Date.now() - startedMs) / 1000);
  const by = found.length === 0 ? '' : `: ${found.length} failed, '${found[0]}' first`;
  console.log(
    `${found.length > 0 ? 'caught    ' : 'NOT caught'} ${bug.name} by ${bug.suite} (${seconds} s)${by}`,
  );
}
console.log(`${chosen.length - missed} of ${chosen.length} planted bugs caught`);
process.exitCode = missed === 0 ? 0 : 1;
