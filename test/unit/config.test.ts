import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  CONFIG_KEYS,
  configOf,
  defaultText,
  envNamesOf,
  isLoopback,
  loadConfig,
  optionOf,
  redactedConfig,
  refuseExposed,
} from '../../lib/config.ts';
import { Failure } from '../../lib/errors.ts';

const fileOf = (json: unknown): string => {
  const path = join(mkdtempSync(join(tmpdir(), 'longshore-config-')), 'longshore.json');
  writeFileSync(path, typeof json === 'string' ? json : JSON.stringify(json));
  return path;
};
const refusal = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    if (error instanceof Failure && error.kind === 'invalid') return error.message;
    throw error;
  }
  throw new Error('it was not refused');
};
const load = (flags: Record<string, unknown> = {}, env: Record<string, string> = {}) =>
  loadConfig({ flags }, env).config;

describe('where a setting comes from', () => {
  test('a flag wins over the environment, that over the file, that over the default', () => {
    const file = fileOf({ port: 1003, workers: 7, attempts: '3' });
    const { config, sources } = loadConfig(
      { flags: { port: '1001' }, file },
      { MLFLOW_PORT: '1002', MLFLOW_WORKERS: '5' },
    );
    expect([config.port, config.workers, config.attempts, config.host]).toEqual([1001, 5, 3, '127.0.0.1']);
    expect(sources.port).toEqual({ from: 'flag', name: '--port' });
    expect(sources.workers).toEqual({ from: 'environment', name: 'MLFLOW_WORKERS' });
    expect(sources.attempts).toEqual({ from: 'file', name: `"attempts" in ${file}` });
    expect(sources.host).toEqual({ from: 'default', name: 'default' });
  });

  test("our own variable wins over MLflow's", () => {
    expect(load({}, { LONGSHORE_PORT: '1', MLFLOW_PORT: '2' }).port).toBe(1);
  });

  test('a variable set to nothing counts as not set', () => {
    expect(load({}, { MLFLOW_PORT: '', REDIS_URL: '' })).toMatchObject({ port: 5600, redisUrl: undefined });
  });

  test('the file can be named by a variable', () => {
    expect(load({}, { LONGSHORE_CONFIG: fileOf({ port: 9 }) }).port).toBe(9);
  });

  test('everything that is kept lies in the data folder unless told otherwise', () => {
    const data = resolve('/tmp/d');
    expect(load({ dataFolder: '/tmp/d' })).toMatchObject({
      dataFolder: data,
      artifactsDestination: join(data, 'artifacts'),
      stagingUri: join(data, 'staging'),
      ledgerPath: join(data, 'ledger.db'),
    });
    expect(load().dataFolder).toBe(resolve('longshore-data'));
  });

  test('stores come from repeated flags, from a variable and from a file of their own', () => {
    expect(load({ stores: ['a=s3://b/c=d', 'z=/x y'] }).stores).toEqual({ a: 's3://b/c=d', z: '/x y' });
    expect(load({}, { LONGSHORE_STORES: 'a=/1  b=/2' }).stores).toEqual({ a: '/1', b: '/2' });
    const more = fileOf({ c: '/3' });
    expect(load({ stores: ['a=/1'], storesFile: more }).stores).toEqual({ a: '/1', c: '/3' });
    expect(refusal(() => load({ stores: ['c=/1'], storesFile: more }))).toContain('name it once');
  });

  test("MLflow's timeout is in seconds, and -1 means none", () => {
    const name = 'MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT';
    expect(load({}, { [name]: '90' }).attemptTimeoutMs).toBe(90_000);
    expect(load({}, { [name]: '-1' }).attemptTimeoutMs).toBe(0);
    expect(load({}, { LONGSHORE_ATTEMPT_TIMEOUT: '2m' }).attemptTimeoutMs).toBe(120_000);
  });

  test('settings survive being handed to a child as JSON', () => {
    const config = load({ dataFolder: '/tmp/d', stores: ['a=/1'], stallMs: '90s', allowedHosts: 'x,y' });
    const { s3: _, ...again } = configOf(JSON.parse(JSON.stringify(config)), {});
    const { s3: __, ...before } = config;
    expect(again).toEqual(before);
  });
});

describe('what a value may be', () => {
  test.each([
    ['stagingLimitBytes', '64MiB', 67_108_864],
    ['stagingLimitBytes', '1.5 GB', 1_500_000_000],
    ['stagingLimitBytes', '1048576', 1_048_576],
    ['stallMs', '500ms', 500],
    ['stallMs', '1h30m', 5_400_000],
    ['lifetimeMs', '7d', 604_800_000],
    ['queueWaitMs', 'none', 0],
    ['insecure', 'TRUE', true],
    ['insecure', '0', false],
    ['xFrameOptions', 'deny', 'DENY'],
    ['allowedHosts', ' a.example , *.b ', ['a.example', '*.b']],
    ['staticPrefix', '/mlflow/x', '/mlflow/x'],
    ['redisUrl', 'unix:///run/redis.sock', 'unix:///run/redis.sock'],
  ] as const)('%s reads %j', (key, given, value) => {
    expect(load({ [key]: given })[key]).toEqual(value);
  });

  test.each([
    ['port', 'http', '--port: "http" is not usable; it needs a whole number from 0 to 65535'],
    ['port', '65536', '--port: "65536" is not usable; it needs a whole number from 0 to 65535'],
    [
      'stallMs',
      '60',
      '--stall-timeout: "60" is not usable; it needs a time of at least 100ms with its unit, such as',
    ],
    [
      'stagingLimitBytes',
      '5 parsecs',
      '--staging-limit: "5 parsecs" is not usable; it needs a size of at least 1MiB',
    ],
    ['staticPrefix', '/a/', '--static-prefix: "/a/" is not usable; it needs a path that starts with /'],
    ['logLevel', 'loud', '--log-level: "loud" is not usable; it needs one of trace, debug'],
    ['stores', ['artifacts=/x'], '--store: what was given is not usable; it needs <name>=<uri>'],
    ['stores', ['a=/x', 'a=/y'], '--store: what was given is not usable'],
    ['stores', ['/x'], '--store: what was given is not usable'],
  ] as const)('%s refuses %j in one line that says what would be right', (key, given, message) => {
    const said = refusal(() => load({ [key]: given }));
    expect(said).toContain(message);
    expect(said).not.toContain('\n');
  });

  test('what is refused from the environment or a file is named by that', () => {
    expect(refusal(() => load({}, { MLFLOW_WORKERS: '-1' }))).toMatch(/^MLFLOW_WORKERS: "-1"/);
    const file = fileOf({ workers: [] });
    expect(refusal(() => loadConfig({ flags: {}, file }, {}))).toBe(
      `"workers" in ${file}: [] is not usable; it needs a whole number from 0 to 256`,
    );
  });

  test('a refused value that may hold a password is not repeated', () => {
    expect(refusal(() => load({ redisUrl: 'http://u:hunter2@h' }))).not.toContain('hunter2');
  });

  test('a config file that is absent, no JSON or has an unknown name is refused', () => {
    expect(refusal(() => loadConfig({ flags: {}, file: '/nowhere.json' }, {}))).toContain('ENOENT');
    expect(refusal(() => loadConfig({ flags: {}, file: fileOf('{port: 1}') }, {}))).toContain(
      'it is not JSON',
    );
    const said = refusal(() => loadConfig({ flags: {}, file: fileOf({ staticPrefix: '/a' }) }, {}));
    expect(said).toContain('did you mean "static-prefix"?');
  });
});

test('what the environment says about S3 counts only where something is kept there', () => {
  const env = { MLFLOW_S3_IGNORE_TLS: 'true', AWS_CA_BUNDLE: '/ca.pem' };
  expect(load({}, env).s3.tls).toEqual({ verify: true });
  for (const [key, uri] of [
    ['artifactsDestination', 's3://b/p'],
    ['stagingUri', 'S3://b'],
    ['stores', ['lake=s3://b']],
  ] as const)
    expect(refusal(() => load({ [key]: uri }, env))).toMatch(/MLFLOW_S3_IGNORE_TLS and AWS_CA_BUNDLE/);
});

describe('who may reach it', () => {
  test('without an auth file it listens to this machine only, unless told to', () => {
    refuseExposed(load());
    refuseExposed(load({ host: '127.8.9.1' }));
    refuseExposed(load({ host: '0.0.0.0', insecure: true }));
    refuseExposed(load({ host: '0.0.0.0', authFile: 'tokens' }));
    expect(refusal(() => refuseExposed(load({ host: '0.0.0.0' })))).toContain('--insecure');
  });

  test.each([
    ['localhost', true],
    ['[::1]', true],
    ['::1', true],
    ['127.0.0.1.example.com', false],
    ['127.evil.com', false],
    ['::', false],
  ])('%s is this machine only: %j', (host, expected) => {
    expect(isLoopback(host)).toBe(expected);
  });
});

describe('what is shown of the settings', () => {
  test('no user, password, query value or key is in it', () => {
    const config = load(
      {
        redisUrl: 'redis://ann:hunter2@h:1/0',
        artifactsDestination: 's3://key:hunter2@b/p?sig=hunter2',
        stores: ['a=ftp://u:hunter2@h/p'],
      },
      { AWS_ACCESS_KEY_ID: 'ann', AWS_SECRET_ACCESS_KEY: 'hunter2' },
    );
    const shown = redactedConfig(config);
    expect(JSON.stringify(shown)).not.toMatch(/hunter2|ann/);
    expect(shown.redisUrl).toBe('redis://***@h:1/0');
    expect(JSON.stringify(config)).not.toContain('"secretAccessKey"');
  });

  test('sizes and times have their units', () => {
    const shown = redactedConfig(load({ stallMs: '90s' }));
    expect([shown.stagingLimitBytes, shown.stallMs, shown.lifetimeMs, shown.attemptTimeoutMs]).toEqual([
      '50GiB',
      '90s',
      '7d',
      'none',
    ]);
  });
});

describe('the settings themselves', () => {
  test('each has a flag of its own, an environment name of its own and a sentence', () => {
    const flags = CONFIG_KEYS.map((key) => optionOf(key).flag);
    const names = CONFIG_KEYS.flatMap(envNamesOf);
    expect(new Set(flags).size).toBe(flags.length);
    expect(new Set(names).size).toBe(names.length);
    for (const key of CONFIG_KEYS) expect(optionOf(key).help).toMatch(/\w{2}/);
  });

  test("the README's table tells of options that exist, with their defaults", () => {
    const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8');
    const rows = [...readme.matchAll(/^\| `--([a-z-]+)` \| `([^`]*)` \|/gm)];
    const defaults = new Map(CONFIG_KEYS.map((key) => [optionOf(key).flag, defaultText(key)]));
    expect(rows.length).toBeGreaterThan(5);
    for (const [, flag, text] of rows) expect([flag, text]).toEqual([flag, defaults.get(flag!)]);
  });

  test('what the README names of the environment is read somewhere', () => {
    const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8');
    const s3 = readFileSync(new URL('../../lib/stores/drivers/s3-config.ts', import.meta.url), 'utf8');
    const known = new Set(CONFIG_KEYS.flatMap(envNamesOf));
    const ofMlflow = ['MLFLOW_TRACKING_URI', 'MLFLOW_DEFAULT_ARTIFACT_ROOT'];
    for (const [name] of readme.matchAll(/\b(MLFLOW|LONGSHORE|AWS|REDIS)_[A-Z0-9_]+\b/g))
      expect(known.has(name) || s3.includes(name) || ofMlflow.includes(name), name).toBe(true);
  });
});
