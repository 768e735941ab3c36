/** Answers GET and HEAD of one artifact: whole, a range, or why not. Streams; holds no more than one piece of it. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { FastifyRequest } from 'fastify';
import { EMPTY_SHA256 } from '../../lib/digests.ts';
import { Failure, failureOf } from '../../lib/errors.ts';
import { baseName, type StorePath } from '../../lib/path.ts';
import type { FileEntry, Reading } from '../../lib/stores/driver.ts';
import { contentTypeOf } from '../../lib/transfer/media-type.ts';
import { demand } from './auth.ts';
import { requestSignal, sendBytes } from './body.ts';
import { isConditional, judge, rangeOf } from './conditional.ts';
import { dispositionOf } from './content-type.ts';
import type { ApiDeps } from './deps.ts';
import { reprDigest } from './digest-headers.ts';
import { errorBody } from './replies.ts';
import { artifactTarget } from './target.ts';

/** How often a read starts over because the object was replaced between looking at it and opening it. */
const MAX_REPLACED = 5;

/** Writes the whole answer to `res`. @throws Failure before anything was written, or when it broke off in the middle */
export async function sendArtifact(
  deps: ApiDeps,
  request: FastifyRequest,
  res: ServerResponse,
): Promise<void> {
  const { path, slash } = artifactTarget(request.raw);
  demand(request.principal, 'read', path);
  const signal = requestSignal(request.raw, res, 'answer');
  if (slash) throw await explainMissing(deps, path, signal, '/');
  try {
    if (request.method === 'HEAD' || isConditional(request.headers) || request.headers.range !== undefined)
      await getConditionally(deps, request.raw, res, path, signal);
    else await sendReading(deps, res, path, await deps.artifacts.read(path, { signal }), false);
  } catch (error) {
    throw failureOf(error).kind === 'not-found' ? await explainMissing(deps, path, signal) : error;
  }
}

/** Looks first, and then reads exactly the version that it looked at. */
async function getConditionally(
  deps: ApiDeps,
  req: IncomingMessage,
  res: ServerResponse,
  path: StorePath,
  signal: AbortSignal,
): Promise<void> {
  for (let replaced = 0; ; replaced++) {
    const entry = await deps.artifacts.head(path, signal);
    const verdict = judge(req.headers, entry, 'GET');
    if (verdict === 'failed')
      throw new Failure('precondition', `'${path}' is another version than the request demands`);
    if (verdict === 'not-modified') {
      res.writeHead(304, versionHeaders(entry)).end();
      return;
    }
    const range = req.method === 'HEAD' ? undefined : rangeOf(req.headers, entry, entry.size);
    if (range === 'unsatisfiable') {
      sendUnsatisfiable(res, path, entry);
      return;
    }
    if (req.method === 'HEAD') {
      res.writeHead(200, { ...(await headersOf(deps, path, entry)), 'content-length': entry.size }).end();
      return;
    }
    try {
      const reading = await deps.artifacts.read(path, {
        ...(range && { range }),
        ifMatch: entry.etag,
        signal,
      });
      await sendReading(deps, res, path, reading, range !== undefined);
      return;
    } catch (error) {
      if (failureOf(error).kind !== 'precondition' || replaced >= MAX_REPLACED || res.headersSent)
        throw error;
    }
  }
}

async function sendReading(
  deps: ApiDeps,
  res: ServerResponse,
  path: StorePath,
  reading: Reading,
  partial: boolean,
): Promise<void> {
  const { entry, range, bytes } = reading;
  const length = range.end - range.start;
  const headers = { ...(await headersOf(deps, path, entry)), 'content-length': length };
  if (partial)
    res.writeHead(206, {
      ...headers,
      'content-range': `bytes ${range.start}-${range.end - 1}/${entry.size}`,
    });
  else res.writeHead(200, headers);
  await sendBytes(res, bytes, length, deps.config.stallMs);
}

const versionHeaders = (entry: FileEntry): Record<string, string> => ({
  etag: `"${entry.etag}"`,
  'last-modified': new Date(entry.modifiedMs).toUTCString(),
});

async function headersOf(deps: ApiDeps, path: StorePath, entry: FileEntry): Promise<Record<string, string>> {
  const name = baseName(path);
  const headers = versionHeaders(entry);
  headers['accept-ranges'] = 'bytes';
  headers['content-type'] = contentTypeOf(name);
  headers['content-disposition'] = dispositionOf(name);
  const sha256 = await knownDigest(deps, path, entry);
  if (sha256 !== undefined) headers['repr-digest'] = reprDigest(sha256);
  return headers;
}

/** A digest is a courtesy: a ledger that does not answer keeps nobody from their bytes. */
async function knownDigest(deps: ApiDeps, path: StorePath, entry: FileEntry): Promise<string | undefined> {
  if (entry.size === 0) return EMPTY_SHA256;
  try {
    return (await deps.ledger.objects.known({ store: deps.artifacts.name, path }, entry.etag))?.sha256;
  } catch (error) {
    deps.log.warn({ err: error }, 'the ledger did not say whether it knows a digest');
    return undefined;
  }
}

function sendUnsatisfiable(res: ServerResponse, path: StorePath, { size }: FileEntry): void {
  const body = errorBody(
    'invalid',
    'INVALID_PARAMETER_VALUE',
    `The range lies outside the ${size} bytes of '${path}'`,
  );
  res.writeHead(416, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
    'content-range': `bytes */${size}`,
  });
  res.end(body);
}

/** Nothing can be read at `path`: is it a directory, or nothing at all? */
async function explainMissing(
  deps: ApiDeps,
  path: StorePath,
  signal: AbortSignal,
  slash: '' | '/' = '',
): Promise<Failure> {
  const directory = new Failure('invalid', `Artifact path refers to a directory, not a file: '${path}'`);
  if (path === '') return directory;
  try {
    for await (const page of deps.artifacts.list(path, { deep: false, signal }))
      if (page.length > 0) return directory;
  } catch (error) {
    // that there is no such object the store has said already, where it was asked for one
    if (failureOf(error).kind !== 'denied' || slash !== '') throw error;
  }
  return new Failure('not-found', `No such artifact: '${path}${slash}'`);
}
