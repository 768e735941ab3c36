/** Conditional and range requests (RFC 9110), decided against the version that is there. */
import type { IncomingHttpHeaders } from 'node:http';
import type { ByteRange, FileEntry } from '../../lib/stores/driver.ts';

type Version = Pick<FileEntry, 'etag' | 'modifiedMs'>;
const CONDITIONS = ['if-match', 'if-none-match', 'if-modified-since', 'if-unmodified-since'] as const;

export const isConditional = (headers: IncomingHttpHeaders): boolean =>
  CONDITIONS.some((name) => headers[name] !== undefined);

/** Whether `If-None-Match` is the only condition. */
export const onlyIfNoneMatch = (headers: IncomingHttpHeaders): boolean =>
  CONDITIONS.every((name) => (headers[name] !== undefined) === (name === 'if-none-match'));

/** What the conditions say to a request for, or a change of, `version` (`undefined`: nothing is there). */
export function judge(
  headers: IncomingHttpHeaders,
  version: Version | undefined,
  method: string,
): 'go' | 'not-modified' | 'failed' {
  const reads = method === 'GET' || method === 'HEAD';
  const seconds = version && Math.floor(version.modifiedMs / 1000);
  const ifMatch = headers['if-match'];
  const unmodifiedSince = httpDate(headers['if-unmodified-since']);
  if (ifMatch !== undefined) {
    if (!version || !matches(ifMatch, version.etag, 'strong')) return 'failed';
  } else if (unmodifiedSince !== undefined && (seconds === undefined || seconds > unmodifiedSince))
    return 'failed';

  const ifNoneMatch = headers['if-none-match'];
  const modifiedSince = httpDate(headers['if-modified-since']);
  if (ifNoneMatch !== undefined) {
    if (version && matches(ifNoneMatch, version.etag, 'weak')) return reads ? 'not-modified' : 'failed';
  } else if (reads && modifiedSince !== undefined && seconds !== undefined && seconds <= modifiedSince)
    return 'not-modified';
  return 'go';
}

/** Whether a list such as `"a", W/"b"` or `*` names `etag`. A weak tag never matches strongly. */
function matches(list: string, etag: string, compare: 'strong' | 'weak'): boolean {
  if (list.trim() === '*') return true;
  for (const [, weak, tag] of list.matchAll(/(W\/)?"([^"]*)"/g))
    if (tag === etag && (compare === 'weak' || weak === undefined)) return true;
  return false;
}

/** Unix time in seconds; `undefined` for what is no date, which then does not count. */
function httpDate(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const ms = Date.parse(text);
  return Number.isNaN(ms) ? undefined : Math.floor(ms / 1000);
}

/**
 * The range that is asked for of `version`. `undefined`: the whole, because none is asked for, it is malformed, names
 * several pieces, or was meant for another version (`If-Range`).
 */
export function rangeOf(
  headers: IncomingHttpHeaders,
  version: Version,
  size: number,
): ByteRange | 'unsatisfiable' | undefined {
  const match = /^bytes=\s*(\d*)\s*-\s*(\d*)\s*$/i.exec(headers.range ?? '');
  if (!match || !sameVersion(headers['if-range'], version)) return undefined;
  const [, from = '', to = ''] = match;
  if (from === '') {
    if (to === '') return undefined;
    if (Number(to) === 0) return 'unsatisfiable';
    return size === 0 ? undefined : { start: Math.max(0, size - Number(to)), end: size };
  }
  const start = Number(from);
  if (to !== '' && Number(to) < start) return undefined;
  if (start >= size) return 'unsatisfiable';
  return { start, end: to === '' ? size : Math.min(size, Number(to) + 1) };
}

function sameVersion(ifRange: string | string[] | undefined, version: Version): boolean {
  if (ifRange === undefined) return true;
  const text = String(ifRange).trim();
  if (text.startsWith('"')) return text === `"${version.etag}"`;
  return httpDate(text) === Math.floor(version.modifiedMs / 1000);
}
