import { defineConfig } from 'vitest/config';
import { isForeign } from './test/servers/process.ts';

// the workers are forked from this process: a test's outcome must not hang on whose shell it was started in
for (const name of Object.keys(process.env)) if (isForeign(name)) delete process.env[name];

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 120_000,
    teardownTimeout: 20_000,
  },
});
