/** Answers a listing of one directory, as MLflow's server does. */
import { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { baseName, parsePath } from '../../lib/path.ts';
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
  if (entries.length <= LIST_PIECE) return reply.send([...listPieces(entries)].join(''));
  return reply.send(Readable.from(listPieces(entries)));
}

/** Names only, not paths; fields that are zero are left out, as the reference does. */
function* listPieces(entries: readonly Entry[]): Generator<string> {
  for (let at = 0; at < entries.length; at += LIST_PIECE) {
    const files = entries.slice(at, at + LIST_PIECE).map((entry) => ({
      path: baseName(entry.path),
      is_dir: entry.kind === 'dir',
      ...(entry.kind === 'file' && entry.size > 0 && { file_size: entry.size }),
    }));
    yield (at === 0 ? '{"files":[' : ',') + JSON.stringify(files).slice(1, -1);
  }
  yield ']}';
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
