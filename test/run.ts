/**
 * `npm test`: gets the servers, runs every test (or those named as arguments, which go to vitest), and ends with the
 * line `N passed, N failed`. Started by `deploy/bootstrap.mjs`, which brings node modules and system packages.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { installServers, missingServers } from './servers/install.ts';
import { howToGet, SERVER_NAMES } from './servers/installed.ts';

const say = (line: string): void => console.log(`test servers: ${line}`);

await installServers(SERVER_NAMES, say);
for (const name of missingServers()) say(`${name} is missing: ${howToGet(name)}`);

const folder = mkdtempSync(join(tmpdir(), 'longshore-run-'));
const report = join(folder, 'report.json');
const vitest = [
  'node_modules/vitest/vitest.mjs',
  'run',
  '--reporter=default',
  '--reporter=json',
  `--outputFile.json=${report}`,
];
const child = spawn(process.execPath, [...vitest, ...process.argv.slice(2)], { stdio: 'inherit' });
// the terminal sends Ctrl-C to vitest as well: wait for it, so that the last line is true then too
process.on('SIGINT', () => undefined);
process.on('SIGTERM', () => child.kill('SIGTERM'));
const [code] = (await once(child, 'exit')) as [number | null];

const counts = read(report);
rmSync(folder, { recursive: true, force: true });
// what has no test to its name: a file that can't be loaded, an error outside of tests, vitest itself
const failed = counts.failed === 0 && code !== 0 ? 1 : counts.failed;
const skipped = counts.skipped > 0 ? `, ${counts.skipped} skipped` : '';
console.log(`${counts.passed} passed, ${failed} failed${skipped}`);
process.exitCode = failed > 0 ? 1 : 0;

interface Report {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
  readonly testResults: readonly { readonly status: string; readonly assertionResults: readonly unknown[] }[];
}

function read(file: string): { passed: number; failed: number; skipped: number } {
  let json: Report;
  try {
    json = JSON.parse(readFileSync(file, 'utf8')) as Report;
  } catch {
    return { passed: 0, failed: 1, skipped: 0 };
  }
  const unloaded = json.testResults.filter(
    (result) => result.status === 'failed' && result.assertionResults.length === 0,
  );
  return {
    passed: json.numPassedTests,
    failed: json.numFailedTests + unloaded.length,
    skipped: json.numPendingTests,
  };
}
