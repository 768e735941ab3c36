/**
 * The settings of a process: flag, else environment, else config file, else default. The only reader of the
 * environment. `config-options.ts` has the settings themselves.
 */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { join, resolve } from 'node:path';
import type { z } from 'zod';
import { configSchema, DATA, type Option, options } from './config-options.ts';
import {
  formatBytes,
  formatDuration,
  formatStoreLimit,
  redactUri,
  type StoreLimit,
} from './config-values.ts';
import { Failure } from './errors.ts';
import { type S3Settings, s3SettingsFromEnv } from './stores/drivers/s3-config.ts';

type Settings = z.output<typeof configSchema>;
export type ConfigKey = keyof Settings;
/** Durations are ms, sizes bytes; 0 stands for `none` where a time may be that. Paths are absolute. Plain JSON, so that a process can hand it to its children. */
export type Config = Readonly<Settings> & {
  /** What MLflow's and the AWS SDK's own variables say about S3; looked at only where a store is on S3. */
  readonly s3: S3Settings;
};

export type Environment = Readonly<Record<string, string | undefined>>;
export type Source = 'flag' | 'environment' | 'file' | 'default';

export const CONFIG_KEYS = Object.keys(configSchema.shape) as readonly ConfigKey[];

export function optionOf(key: ConfigKey): Option {
  const option = options.get(configSchema.shape[key]);
  if (!option) throw new Failure('bug', `the setting ${key} has no option`);
  return option;
}

/** Environment names of a setting, the one that wins first. */
export function envNamesOf(key: ConfigKey): readonly string[] {
  const { flag, env = [] } = optionOf(key);
  return [...new Set([`LONGSHORE_${flag.toUpperCase().replaceAll('-', '_')}`, ...env])];
}

export interface LoadedConfig {
  readonly config: Config;
  readonly sources: Readonly<
    Record<ConfigKey, { readonly from: Source /** Flag, variable or file. */; readonly name: string }>
  >;
}

/**
 * @param given values of flags by setting, as they were typed, and `file`: the config file's path
 * @throws Failure `invalid`, one line: which setting, where it was given, what it needs
 */
export function loadConfig(
  given: {
    readonly flags: Readonly<Partial<Record<ConfigKey, unknown>>>;
    readonly file?: string | undefined;
  },
  env: Environment = process.env,
): LoadedConfig {
  const file = readConfigFile(given.file ?? env.LONGSHORE_CONFIG);
  const sources = {} as Record<ConfigKey, { from: Source; name: string }>;
  const values: Partial<Record<ConfigKey, unknown>> = {};
  for (const key of CONFIG_KEYS) {
    const found = find(key, given.flags, env, file);
    sources[key] = { from: found.from, name: found.name };
    values[key] = parseOne(key, found);
  }
  const settings = withStoresFile(placed(values as Settings), sources);
  return { config: { ...settings, s3: s3Of(settings, env) }, sources };
}

/** Settings as JSON (a parent's, a test's), with numbers in ms and bytes; what is left out has its default. @throws ZodError */
export function configOf(settings: unknown, env: Environment = process.env): Config {
  const values = placed(configSchema.parse(settings));
  return { ...values, s3: s3Of(values, env) };
}

/** Whether anything is kept on S3. */
export const usesS3 = (settings: Settings): boolean =>
  [settings.artifactsDestination, settings.stagingUri, ...Object.values(settings.stores)].some((uri) =>
    /^\s*s3:/i.test(uri),
  );

/** Wrong variables of a machine that keeps nothing on S3 must not stop it. */
const s3Of = (settings: Settings, env: Environment): S3Settings =>
  s3SettingsFromEnv(usesS3(settings) ? env : {});

interface Found {
  readonly from: Source;
  /** For people: `--port`, `MLFLOW_PORT`, `port in longshore.json`. */
  readonly name: string;
  readonly value: unknown;
}

function find(
  key: ConfigKey,
  flags: Readonly<Partial<Record<ConfigKey, unknown>>>,
  env: Environment,
  file: ConfigFile,
): Found {
  const { flag } = optionOf(key);
  if (flags[key] !== undefined) return { from: 'flag', name: `--${flag}`, value: flags[key] };
  // a variable set to nothing counts as not set: compose files do that
  const name = envNamesOf(key).find((candidate) => (env[candidate] ?? '') !== '');
  if (name !== undefined) return { from: 'environment', name, value: inOurUnits(name, env[name]!) };
  if (flag in file.values)
    return { from: 'file', name: `"${flag}" in ${file.path}`, value: file.values[flag] };
  return { from: 'default', name: 'default', value: undefined };
}

/** MLflow gives this one in seconds, with -1 for none. */
function inOurUnits(name: string, value: string): string {
  if (name !== 'MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT') return value;
  if (value.trim() === '-1') return 'none';
  return /^\d+$/.test(value.trim()) ? `${value.trim()}s` : value;
}

function parseOne(key: ConfigKey, found: Found): unknown {
  const parsed = configSchema.shape[key].safeParse(found.value);
  if (parsed.success) return parsed.data;
  const shown = optionOf(key).secret ? 'what was given' : JSON.stringify(found.value);
  const needs = parsed.error.issues[0]?.message ?? 'another value';
  throw new Failure('invalid', `${found.name}: ${shown} is not usable; it needs ${needs}`);
}

/** Paths made absolute, and the data folder put in where a value begins with it. */
function placed(settings: Settings): Settings {
  const dataFolder = resolve(settings.dataFolder);
  const result: Record<string, unknown> = { ...settings };
  for (const key of CONFIG_KEYS) {
    const value = settings[key];
    if (typeof value !== 'string') continue;
    const inFolder = value.startsWith(DATA) ? dataFolder + value.slice(DATA.length) : value;
    result[key] = optionOf(key).path ? resolve(inFolder) : inFolder;
  }
  return result as Settings;
}

function withStoresFile(settings: Settings, sources: LoadedConfig['sources']): Settings {
  const path = settings.storesFile;
  if (path === undefined) return settings;
  const entries = Object.entries(readJson('--stores-file', path));
  const uris = entries.map(([name, value]) => [name, inFile(value, 'uri') ?? value]);
  const limits = entries.flatMap(([name, value]) => {
    const limit = inFile(value, 'limit');
    return limit === undefined ? [] : [[name, limit]];
  });
  const parsed = <K extends 'stores' | 'storeLimits'>(key: K, pairs: unknown[][]): Settings[K] => {
    const value: unknown = Object.fromEntries(pairs as [string, unknown][]);
    const more = parseOne(key, { from: 'file', name: `--stores-file ${path}`, value }) as Settings[K];
    const twice = Object.keys(more).find((name) => name in settings[key]);
    if (twice === undefined) return { ...more, ...settings[key] };
    const what = key === 'stores' ? `the store "${twice}"` : `a limit of the store "${twice}"`;
    throw new Failure('invalid', `${what} is in ${path} and in ${sources[key].name} as well; name it once`);
  };
  return { ...settings, stores: parsed('stores', uris), storeLimits: parsed('storeLimits', limits) };
}

const inFile = (value: unknown, field: 'uri' | 'limit'): unknown =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[field] : undefined;

interface ConfigFile {
  readonly path: string;
  readonly values: Readonly<Record<string, unknown>>;
}

function readConfigFile(path: string | undefined): ConfigFile {
  if (path === undefined || path === '') return { path: '', values: {} };
  const values = readJson('--config', path);
  const flags = CONFIG_KEYS.map((key) => optionOf(key).flag);
  for (const name of Object.keys(values)) {
    if (flags.includes(name)) continue;
    const close = flags.find(
      (flag) => flag.replaceAll('-', '') === name.toLowerCase().replaceAll(/[-_]/g, ''),
    );
    const hint =
      close === undefined
        ? 'names are those of the options, without dashes in front'
        : `did you mean "${close}"?`;
    throw new Failure('invalid', `${path} has a setting "${name}" that does not exist; ${hint}`);
  }
  return { path, values };
}

function readJson(option: string, path: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    const why = error instanceof SyntaxError ? 'it is not JSON' : (error as NodeJS.ErrnoException).code;
    throw new Failure(
      'invalid',
      `${option}: could not read ${path}: ${why}; it needs a JSON object`,
      {},
      { cause: error },
    );
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Failure('invalid', `${option}: ${path} holds no JSON object`);
  return value as Record<string, unknown>;
}

/** Whether an address is reachable from this machine only. */
export function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, '');
  return bare === 'localhost' || bare === '::1' || (isIP(bare) === 4 && bare.startsWith('127.'));
}

/** @throws Failure `invalid` where others could reach an API that asks nobody who they are */
export function refuseExposed(config: Config): void {
  if (config.authFile !== undefined || config.insecure || isLoopback(config.host)) return;
  throw new Failure(
    'invalid',
    `--host ${config.host} is reachable from other machines and there is no --auth-file; give one (longshore token makes its lines), or say --insecure`,
  );
}

/** Each setting as text for people, without a secret in it; sizes and times with their units. */
export function redactedConfig(config: Config): Readonly<Record<ConfigKey, string>> {
  const shown = CONFIG_KEYS.map((key) => [key, shownValue(optionOf(key), config[key])] as const);
  return Object.fromEntries(shown) as Record<ConfigKey, string>;
}

/** As `redactedConfig` would show it; `<data>` stands for the data folder. */
export const defaultText = (key: ConfigKey): string =>
  shownValue(optionOf(key), configSchema.shape[key].parse(undefined));

function shownValue(option: Option, value: Settings[ConfigKey]): string {
  if (value === undefined || value === '') return 'none';
  if (typeof value === 'string') return option.secret ? redactUri(value) : value;
  if (option.unit === 'bytes') return formatBytes(Number(value));
  if (option.unit === 'ms') return value === 0 ? 'none' : formatDuration(Number(value));
  if (Array.isArray(value)) return value.join(',') || 'none';
  if (typeof value === 'object') {
    const pairs = Object.entries<string | StoreLimit>(value).map(
      ([name, one]) => `${name}=${typeof one === 'string' ? redactUri(one) : formatStoreLimit(one)}`,
    );
    return pairs.join(' ') || 'none';
  }
  return String(value);
}

/** Stack traces for whoever looks for a fault of ours. */
export const isDebugging = (env: Environment = process.env): boolean => (env.LONGSHORE_DEBUG ?? '') !== '';

/**
 * What a child is started with: ours, and what Node and the C library take from the environment only: more threads for
 * files, compiled sources kept (which also saves the compiler's memory), and few malloc arenas (each keeps what it freed).
 */
export const childEnvironment = (config: Config, env: Environment = process.env): NodeJS.ProcessEnv => ({
  UV_THREADPOOL_SIZE: '16',
  MALLOC_ARENA_MAX: '2',
  NODE_COMPILE_CACHE: join(config.dataFolder, 'compiled'),
  ...env,
});
