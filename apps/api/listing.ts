/**
 * Answers a listing of one directory, as MLflow's server does, and accounts for every entry: what MLflow's routes cannot
 * read stands in `left_out` as well, with the reason. MLflow's clients pass over that key. What they can name stands in
 * `files` all the same, so that a client which downloads the directory fails on that file rather than miss it.
 */
import { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { failureOf } from '../../lib/errors.ts';
import { baseName, parsePath, type WrittenPath, writtenPath } from '../../lib/path.ts';
import type { Entry } from '../../lib/stores/driver.ts';
import { demand } from './auth.ts';
import { requestSignal } from './body.ts';
import type { ApiDeps } from './deps.ts';
import { queryParameter } from './target.ts';

/** Entries that one piece of the JSON holds. */
const LIST_PIECE = 2000;

/** An absent directory, an empty one and a file all answer `{}`. */
export async function sendListing(
  deps: ApiDeps,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const dir = parsePath(queryParameter(request.raw.url ?? '', 'path') ?? '');
  demand(request.principal, 'read', dir);
  const signal = requestSignal(request.raw, reply.raw, 'answer');
  const entries: Entry[] = [];
  for await (const page of deps.artifacts.list(dir, { deep: false, signal })) entries.push(...page);
  entries.sort((a, b) => compareCodePoints(a.path, b.path));
  void reply.type('application/json');
  if (entries.length === 0) return reply.send('{}');
  if (entries.length <= LIST_PIECE) return reply.send([...pieces(entries)].join(''));
  return reply.send(Readable.from(pieces(entries)));
}

function* pieces(entries: readonly Entry[]): Generator<string> {
  const leftOut = entries.flatMap((entry) => leftOutOf(entry) ?? []);
  const files = leftOut.length === 0 ? entries : entries.filter(isNamed);
  yield '{';
  if (files.length > 0) yield* arrayPieces('files', files, fileOf);
  if (files.length > 0 && leftOut.length > 0) yield ',';
  if (leftOut.length > 0) yield* arrayPieces('left_out', leftOut, (entry) => entry);
  yield '}';
}

function* arrayPieces<T>(key: string, items: readonly T[], write: (item: T) => object): Generator<string> {
  for (let at = 0; at < items.length; at += LIST_PIECE) {
    const some = items.slice(at, at + LIST_PIECE).map(write);
    yield (at === 0 ? `"${key}":[` : ',') + JSON.stringify(some).slice(1, -1);
  }
  yield ']';
}

/** Names only, not paths; fields that are zero are left out, as the reference does. */
const fileOf = (entry: Entry): object => ({
  path: baseName(entry.path),
  is_dir: entry.kind === 'dir',
  ...(entry.kind === 'file' && entry.size > 0 && { file_size: entry.size }),
});

interface LeftOut extends WrittenPath {
  readonly reason: string;
}

/** `undefined`: MLflow's routes can read it. */
function leftOutOf(entry: Entry): LeftOut | undefined {
  const name = baseName(entry.path);
  const reason = entry.kind === 'other' ? entry.why : refusalOf(name);
  return reason === undefined ? undefined : { ...writtenPath(name), reason };
}

/** Why MLflow's routes refuse a path with this name in it. */
function refusalOf(name: string): string | undefined {
  if (name === '') return 'Invalid path: it has an empty segment';
  try {
    parsePath(name);
    return undefined;
  } catch (error) {
    return failureOf(error).message;
  }
}

/**
 * Whether a client can put the name behind that of the directory and ask for it. Names that lead somewhere else then
 * (`..`, a drive letter), are no text, or are those of another writer's files on their way, a client never gets to see.
 */
function isNamed(entry: Entry): boolean {
  if (entry.kind === 'other' && entry.is === 'reserved') return false;
  const name = baseName(entry.path);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this looks for
  return name.isWellFormed() && refusalOf(name.replaceAll(/[#\u0000-\u001f\u007f]/g, '_')) === undefined;
}

/** The order of Python's strings, which differs from UTF-16's beyond U+D7FF. */
function compareCodePoints(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const x = a.charCodeAt(i);
    const y = b.charCodeAt(i);
    if (x === y) continue;
    if (isSurrogate(x) === isSurrogate(y)) return x - y;
    return isSurrogate(x) ? 1 : -1;
  }
  return a.length - b.length;
}

/** Half of a code point beyond U+FFFF. */
const isSurrogate = (unit: number): boolean => unit >= 0xd800 && unit <= 0xdfff;
