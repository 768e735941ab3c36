import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { VERSION } from '../../lib/version.ts';

test("the version that Longshore tells is its package's", () => {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));
  expect(VERSION).toBe(version);
});
