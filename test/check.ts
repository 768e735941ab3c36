/** `npm run check`: what is worth knowing before a commit, in under a minute: format, lint, types, dead code, fast tests. */
import { spawn } from 'node:child_process';

const FAST_TESTS = ['test/unit', 'test/contract/memory', 'test/contract/file', 'test/contract/layers'];

const STEPS: Readonly<Record<string, readonly string[]>> = {
  'format and lint': [
    'node_modules/@biomejs/biome/bin/biome',
    'check',
    '--colors=off',
    '--error-on-warnings',
  ],
  types: ['node_modules/typescript/bin/tsc', '-p', '.'],
  'dead code': ['node_modules/knip/bin/knip.js', '--no-progress'],
  tests: ['node_modules/vitest/vitest.mjs', 'run', '--reporter=dot', ...FAST_TESTS],
};

/** Seconds it took, and what it said when it failed. */
function step(name: string, args: readonly string[]): Promise<boolean> {
  const begun = Date.now();
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => (output += text));
  return new Promise((resolve) => {
    child.once('close', (code) => {
      const good = code === 0;
      console.log(`${good ? 'good' : 'BAD '} ${name} (${((Date.now() - begun) / 1000).toFixed(1)} s)`);
      if (!good) console.log(output);
      resolve(good);
    });
  });
}

const outcomes = await Promise.all(Object.entries(STEPS).map(([name, args]) => step(name, args)));
process.exitCode = outcomes.every(Boolean) ? 0 : 1;
