import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { loadConfig, redactedConfig } from '../../lib/config.ts';
import { spacingOf, VALID_MS } from '../../lib/jobs/limit-slots.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'longshore-limits-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const load = (flags: Record<string, unknown>, env = {}) => loadConfig({ flags }, env).config;
const storesFile = (value: unknown): string => {
  const path = join(folder, 'stores.json');
  writeFileSync(path, JSON.stringify(value));
  return path;
};

describe('limits of stores', () => {
  test('are read from flags, from the environment and from JSON alike, and shown as they are written', () => {
    const limits = { models: { connections: 4, requests: 50 }, artifacts: { requests: 10 } };
    const words = ['models=connections:4,requests:50', 'artifacts=requests:10'];
    expect(load({ storeLimits: words }).storeLimits).toEqual(limits);
    expect(load({}, { LONGSHORE_STORE_LIMITS: words.join(' ') }).storeLimits).toEqual(limits);
    expect(load({ storeLimits: limits }).storeLimits).toEqual(limits);
    expect(redactedConfig(load({ storeLimits: words })).storeLimits).toBe(words.join(' '));
  });

  test.each([
    'models',
    'models=',
    'models=connections:1',
    'models=connections:0',
    'models=requests:0.5',
    'models=requests:-1',
    'models=requests:many',
    'models=bytes:5',
    'models=requests:5,requests:6',
    'models=requests:5:6',
    'Models=requests:5',
  ])('that make no sense are refused: %s', (word) => {
    expect(() => load({ storeLimits: [word] })).toThrow(/--store-limit: .*needs <name>=connections/);
  });

  test('of one store are given once', () => {
    const twice = ['models=requests:5', 'models=connections:5'];
    expect(() => load({ storeLimits: twice })).toThrow(/each store once/);
  });

  test('stand in the stores file beside the address, or not', () => {
    const path = storesFile({
      lake: 's3://lake',
      models: { uri: 's3://models/v1', limit: 'connections:4,requests:50' },
      attic: { uri: '/attic' },
    });
    const { stores, storeLimits } = load({ storesFile: path, storeLimits: ['lake=requests:9'] });
    expect(stores).toEqual({ lake: 's3://lake', models: 's3://models/v1', attic: '/attic' });
    expect(storeLimits).toEqual({ lake: { requests: 9 }, models: { connections: 4, requests: 50 } });
    expect(() => load({ storesFile: path, storeLimits: ['models=requests:9'] })).toThrow(
      /a limit of the store "models" is in .*stores.json and in --store-limit as well/,
    );
  });
});

describe('slots in time', () => {
  test.each([
    [50, 4],
    [50, undefined],
    [1, undefined],
    [2, 2],
    [10, 2],
    [3500, 100],
  ])(
    'for %i requests a second and %s connections never let more arrive in a second',
    (requests, connections) => {
      const everyMs = spacingOf(requests, connections) / 1000;
      // the worst second: slots used as late as they may be at its start, as early as they may be at its end, and
      // before them requests that were in flight when it began
      const slots = Math.ceil((1000 + VALID_MS) / everyMs - 1e-9);
      const late = Math.min(connections ?? Number.POSITIVE_INFINITY, Math.floor(requests / 10));
      expect(slots + late).toBeLessThanOrEqual(requests);
      expect(1000 / everyMs).toBeGreaterThan(0.7 * requests);
    },
  );
});
