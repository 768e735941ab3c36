/** How the values of settings are read: each is a string (flag, environment) or JSON (config file). */
import { z } from 'zod';

const KIB = 1024;
const BYTE_UNITS: Readonly<Record<string, number>> = {
  b: 1,
  kib: KIB,
  mib: KIB ** 2,
  gib: KIB ** 3,
  tib: KIB ** 4,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
};
const SECOND = 1000;
const DURATION_UNITS: Readonly<Record<string, number>> = {
  ms: 1,
  s: SECOND,
  m: 60 * SECOND,
  h: 3600 * SECOND,
  d: 86_400 * SECOND,
};

/** `64MiB`, `1.5 GB`, or plain bytes; undefined for anything else. */
export function parseBytes(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?i?b)?$/i.exec(text.trim());
  if (!match) return undefined;
  const unit = BYTE_UNITS[(match[2] ?? 'b').toLowerCase()];
  return unit === undefined ? undefined : Math.round(Number(match[1]) * unit);
}

/** `10m`, `1h30m`, `500ms` in ms; a plain number has no unit and is refused, save 0. */
export function parseDuration(text: string): number | undefined {
  const given = text.trim().replaceAll(/\s+/g, '');
  if (given === '0') return 0;
  if (!/^(\d+(\.\d+)?(ms|s|m|h|d))+$/.test(given)) return undefined;
  let total = 0;
  for (const [, count, unit] of given.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d)/g))
    total += Number(count) * DURATION_UNITS[unit!]!;
  return Math.round(total);
}

/** A schema whose only complaint is `right`: what would have been right, as it follows "needs". */
const read = <T>(right: string, parse: (given: unknown) => T | undefined): z.ZodType<T, unknown> =>
  z.unknown().transform((given, context) => {
    const value = parse(given);
    if (value === undefined) {
      context.addIssue({ code: 'custom', message: right });
      return z.NEVER;
    }
    return value;
  });

/** Needs what it says; an empty string counts as not given, long before this. */
export const text = (right: string, pattern = /^[^\0\r\n]+$/) =>
  read(right, (given) => (typeof given === 'string' && pattern.test(given) ? given : undefined));

export const integer = (min: number, max: number) =>
  read(`a whole number from ${min} to ${max}`, (given) => {
    const value = typeof given === 'string' && /^-?\d+$/.test(given.trim()) ? Number(given) : given;
    return typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max
      ? value
      : undefined;
  });

/** Bytes. */
export const bytes = (min: number) =>
  read(`a size of at least ${formatBytes(min)}, such as 64MiB or 50GiB`, (given) => {
    const value = typeof given === 'string' ? parseBytes(given) : given;
    return typeof value === 'number' && Number.isSafeInteger(value) && value >= min ? value : undefined;
  });

const MAX_DURATION_MS = 3650 * 86_400 * SECOND;
const durationOf = (given: unknown, minMs: number): number | undefined => {
  const value = typeof given === 'string' ? parseDuration(given) : given;
  return typeof value === 'number' &&
    Number.isSafeInteger(value) &&
    value >= minMs &&
    value <= MAX_DURATION_MS
    ? value
    : undefined;
};
/** Milliseconds. */
export const duration = (minMs: number) =>
  read(
    `a time of at least ${formatDuration(minMs)} with its unit, such as 500ms, 30s, 10m, 1h30m or 7d`,
    (given) => durationOf(given, minMs),
  );

/** Milliseconds, or 0 for `none`. */
export const durationOrNone = (minMs: number) =>
  read(
    `"none", or a time of at least ${formatDuration(minMs)} with its unit, such as 30s, 10m or 7d`,
    (given) => (given === 'none' || given === 0 ? 0 : durationOf(given, minMs)),
  );

export const oneOf = <const T extends readonly string[]>(values: T) =>
  read(`one of ${values.join(', ')}`, (given): T[number] | undefined =>
    values.find((value) => typeof given === 'string' && value.toLowerCase() === given.toLowerCase()),
  );

export const flag = () =>
  read('true or false', (given) => {
    if (typeof given === 'boolean') return given;
    const word = typeof given === 'string' ? given.toLowerCase() : '';
    if (word === 'true' || word === '1') return true;
    return word === 'false' || word === '0' ? false : undefined;
  });

/** Comma-separated, or a JSON array. */
export const list = (right: string) =>
  read(right, (given): readonly string[] | undefined => {
    const items = typeof given === 'string' ? given.split(',') : given;
    if (!Array.isArray(items) || !items.every((item) => typeof item === 'string')) return undefined;
    return items.map((item) => item.trim()).filter((item) => item !== '');
  });

const STORE_NAME = /^[a-z][a-z0-9-]{0,31}$/;
/** These are configured by options of their own. */
const RESERVED_STORES: readonly string[] = ['artifacts', 'staging'];

/** `name=uri` (several: an array, or separated by spaces), or a JSON object of names and URIs. */
export const stores = () =>
  read(
    `<name>=<uri>; a name is a-z, 0-9 and dashes, at most 32, given once, and neither of ${RESERVED_STORES.join(', ')}`,
    (given): Readonly<Record<string, string>> | undefined => {
      const pairs = storePairs(given);
      if (!pairs) return undefined;
      const names = new Set(pairs.map(([name]) => name));
      const good = pairs.every(
        ([name, uri]) =>
          STORE_NAME.test(name) && !RESERVED_STORES.includes(name) && typeof uri === 'string' && uri !== '',
      );
      return good && names.size === pairs.length
        ? (Object.fromEntries(pairs) as Record<string, string>)
        : undefined;
    },
  );

/** At least one of them; see `--store-limit`. */
export interface StoreLimit {
  readonly connections?: number | undefined;
  readonly requests?: number | undefined;
}
/** One connection would be too few: whoever writes to a store what it reads there needs two. */
const LEAST_LIMIT = { connections: 2, requests: 1 };
const MOST_LIMIT = 1_000_000;

/** `name=connections:4,requests:50` (several: an array, or separated by spaces), or a JSON object of names and limits. */
export const storeLimits = () =>
  read(
    `<name>=connections:<n>,requests:<n>, each store once, one of the two or both; at least ${LEAST_LIMIT.connections} connections`,
    (given): Readonly<Record<string, StoreLimit>> | undefined => {
      const pairs = storePairs(given);
      if (!pairs) return undefined;
      const limits = pairs.map(([name, limit]) => [name, storeLimitOf(limit)] as const);
      const good = limits.every(([name, limit]) => STORE_NAME.test(name) && limit);
      return good && new Set(pairs.map(([name]) => name)).size === pairs.length
        ? (Object.fromEntries(limits) as Record<string, StoreLimit>)
        : undefined;
    },
  );

function storeLimitOf(given: unknown): StoreLimit | undefined {
  const fields =
    typeof given === 'string'
      ? given.split(',').map((one) => one.split(':').map((word) => word.trim()))
      : Object.entries(given ?? {});
  const limit: Record<string, number> = {};
  for (const [what, value, ...more] of fields) {
    if ((what !== 'connections' && what !== 'requests') || more.length > 0 || what in limit) return undefined;
    const count = typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : value;
    if (typeof count !== 'number' || !Number.isInteger(count)) return undefined;
    if (count < LEAST_LIMIT[what] || count > MOST_LIMIT) return undefined;
    limit[what] = count;
  }
  return Object.keys(limit).length > 0 ? limit : undefined;
}

export const formatStoreLimit = (limit: StoreLimit): string =>
  Object.entries(limit)
    .map(([what, count]) => `${what}:${count}`)
    .join(',');

function storePairs(given: unknown): [string, unknown][] | undefined {
  if (typeof given === 'object' && given !== null && !Array.isArray(given)) return Object.entries(given);
  const items = typeof given === 'string' ? given.split(/\s+/).filter((item) => item !== '') : given;
  if (!Array.isArray(items)) return undefined;
  return items.map((item) => {
    const at = String(item).indexOf('=');
    return at < 0 ? ['', ''] : [String(item).slice(0, at), String(item).slice(at + 1)];
  });
}

/** The largest binary unit that says it exactly: `64MiB`, `1500B`. */
export function formatBytes(value: number): string {
  for (const unit of ['TiB', 'GiB', 'MiB', 'KiB'])
    if (value >= BYTE_UNITS[unit.toLowerCase()]! && value % BYTE_UNITS[unit.toLowerCase()]! === 0)
      return `${value / BYTE_UNITS[unit.toLowerCase()]!}${unit}`;
  return `${value}B`;
}

/** The largest unit that says it exactly: `7d`, `90s`. */
export function formatDuration(ms: number): string {
  for (const unit of ['d', 'h', 'm', 's'])
    if (ms >= DURATION_UNITS[unit]! && ms % DURATION_UNITS[unit]! === 0)
      return `${ms / DURATION_UNITS[unit]!}${unit}`;
  return `${ms}ms`;
}

/**
 * A URI without its user, password and query values. Anything else stays as it is. A password that should have been
 * percent-encoded (AWS keys have slashes) ends at the last `@`.
 */
export function redactUri(uri: string): string {
  return uri
    .replace(/^([a-z][a-z0-9+.-]*:\/\/)(?:[^/?#]*:.*|[^/?#]*)@/is, '$1***@')
    .replaceAll(/([?&][^=&#]*=)[^&#]*/g, '$1***');
}
