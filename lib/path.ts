import { Failure } from './errors.ts';
import { percentDecoded, percentEncoded } from './path-bytes.ts';

declare const checked: unique symbol;
/**
 * A name inside a store, below its root: segments joined by `/`, `''` for the root. It may be any name that some store
 * can hold: empty segments, control characters, bytes that are no UTF-8 (`path-bytes.ts` says how). Whether a certain
 * store can hold it is the word of `Driver.refuses`, which `Store` asks before every call.
 */
export type StorePath = string & { readonly [checked]: true };
export const ROOT = '' as StorePath;

/**
 * Files on their way to being published: `.longshore-<installation>-<token>-<nonce>-<MAC>`, and what an upload in parts
 * keeps beside its own. `HiddenNames` tells whose they are; what merely begins like this is a file like any other.
 */
export const HIDDEN_NAME =
  /^\.longshore-([0-9a-f]{16})-([A-Za-z0-9-]{1,64})-([0-9a-f]{8})-([0-9a-f]{32})(?:\.parts|\.joined)?$/;
/** Those of MLflow's own server, as Python's `mkstemp` completes them. */
export const MLFLOW_HIDDEN_NAME = /^\.artifact\.uploading\.[a-z0-9_]{8}$/;

const refuse = (why: string): never => {
  throw new Failure('invalid', `Invalid path: ${why}`);
};

/**
 * A path by MLflow's rules, as its routes and an operator's settings have it: as it was given, already percent-decoded
 * once. Runs of slashes collapse and one trailing
 * slash falls away, as on MLflow's server. Whatever would be an escape after more decoding is refused as well.
 * @throws Failure `invalid`
 */
export function parsePath(given: string): StorePath {
  rules(given);
  for (let text = given, round = 0; round < 10; round++) {
    let next: string;
    try {
      next = decodeURIComponent(text);
    } catch {
      break; // a lone percent sign is a legal character of a name
    }
    if (next === text) break;
    if (round === 9) refuse('percent-encoded too many times');
    rules(next);
    text = next;
  }
  return given.replace(/\/+/g, '/').replace(/\/$/, '') as StorePath;
}

function rules(text: string): void {
  if (!text.isWellFormed()) refuse('not valid Unicode');
  if (text.startsWith('/')) refuse('an absolute path; it must be relative to the artifact root');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this looks for
  if (/[\u0000-\u001f\u007f]/.test(text)) refuse('it contains a control character');
  if (text.includes('#')) refuse("it contains '#'");
  if (text.includes('\\')) refuse('it contains a backslash');
  if (/^[A-Za-z]:/.test(text)) refuse('it starts with a drive letter');
  if (/^file:/i.test(text)) refuse('it is a file: URI');
  for (const segment of text.split('/')) {
    if (segment === '.' || segment === '..') refuse(`it contains the segment '${segment}'`);
    if (HIDDEN_NAME.test(segment) || MLFLOW_HIDDEN_NAME.test(segment))
      refuse(`the name '${segment}' is reserved for files that are on their way`);
  }
}

/** A path as it is written: any text, taken as it is. @throws Failure `invalid`: not Unicode */
export function plainPath(given: string): StorePath {
  if (!given.isWellFormed())
    refuse('not valid Unicode; a name of other bytes is given percent-encoded, with "encoding": "percent"');
  return given as StorePath;
}

/** A path whose bytes are percent-encoded. @throws Failure `invalid` */
export function encodedPath(given: string): StorePath {
  if (!given.isWellFormed()) refuse('not valid Unicode');
  return (percentDecoded(given) ??
    refuse('a percent sign that starts no escape; write it as %25')) as StorePath;
}

/** A path as JSON has it: text as it is, and percent-encoded bytes where it is no text. */
export interface WrittenPath {
  readonly path: string;
  readonly encoding?: 'percent';
}
export const writtenPath = (path: string): WrittenPath =>
  path.isWellFormed() ? { path } : { path: percentEncoded(path), encoding: 'percent' };

/** `dir/name`, where either may be the root. Both are already checked. */
export function joinPath(dir: StorePath, below: StorePath): StorePath {
  return (dir === '' ? below : below === '' ? dir : `${dir}/${below}`) as StorePath;
}

/** What comes after `dir` in a path at or below it: `''`, or a slash and the rest. */
export const belowOf = (dir: StorePath, path: StorePath): string =>
  dir === '' ? (path === '' ? '' : `/${path}`) : path.slice(dir.length);

/** The path that `belowOf` was taken of. */
export const pathBelow = (dir: StorePath, below: string): StorePath =>
  (dir === '' ? below.slice(1) : dir + below) as StorePath;

/** Last segment; `''` for the root. */
export const baseName = (path: StorePath): string => path.slice(path.lastIndexOf('/') + 1);

/** The directory that holds it; the root for a top-level name. */
export const parentOf = (path: StorePath): StorePath =>
  path.slice(0, Math.max(0, path.lastIndexOf('/'))) as StorePath;

/** Whether `path` is `dir` or lies below it, by whole segments. */
export const isWithin = (path: StorePath, dir: StorePath): boolean =>
  dir === '' || path === dir || path.startsWith(`${dir}/`);
