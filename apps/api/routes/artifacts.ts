/**
 * MLflow's artifact routes, single objects: list, get, head, put, delete. They need the store and the ledger, and no
 * Redis. Bytes stream both ways: nothing here holds an object, whatever its size.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { Failure, failureOf } from '../../../lib/errors.ts';
import { baseName, type StorePath } from '../../../lib/path.ts';
import type { FileEntry } from '../../../lib/stores/driver.ts';
import { contentTypeOf } from '../../../lib/transfer/media-type.ts';
import { deleteNow, putNow } from '../../../lib/transfer/put.ts';
import { demand } from '../auth.ts';
import { requestBytes, requestSignal } from '../body.ts';
import { isConditional, judge, onlyIfNoneMatch } from '../conditional.ts';
import type { ApiDeps } from '../deps.ts';
import { expectedDigests } from '../digest-headers.ts';
import { sendListing } from '../listing.ts';
import { sendArtifact } from '../read.ts';
import { sendError, writeError } from '../replies.ts';
import { ARTIFACTS, artifactTarget } from '../target.ts';
import { acceptPreferred, prefersAsync } from './uploads.ts';

const BELOW = `${ARTIFACTS}*`;
const ROOT_URL = ARTIFACTS.slice(0, -1);
const SERVICE = '/api/2.0/mlflow-artifacts';
/** Sentences of the reference: its client falls back to a plain transfer where an answer starts with them. */
const NO_MULTIPART_UPLOAD = 'Multipart upload is not supported for the current artifact repository';
const NO_MULTIPART_DOWNLOAD = 'Multipart download is not supported for the current artifact repository';
const NO_TRACKING =
  'Longshore serves artifacts only: ask the tracking server for experiments, runs, models and traces';
export function registerArtifacts(app: FastifyInstance, deps: ApiDeps): void {
  // bodies are taken from the request itself, as they come
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', (_request, _payload, done) => done(null));

  app.route({
    method: ['GET', 'HEAD'],
    url: ROOT_URL,
    handler: (request, reply) => sendListing(deps, request, reply),
  });
  app.route({
    method: ['GET', 'HEAD'],
    url: BELOW,
    handler: (request, reply) => hijacked(deps, request, reply, (res) => sendArtifact(deps, request, res)),
  });
  app.put(BELOW, (request, reply) => put(deps, request, reply));
  app.delete(BELOW, (request, reply) => remove(deps, request, reply));

  const refuse = (message: string) => (request: FastifyRequest, reply: FastifyReply) =>
    sendError(new Failure('unsupported', message), request, reply, deps.log);
  app.post(`${SERVICE}/mpu/*`, refuse(NO_MULTIPART_UPLOAD));
  app.get(`${SERVICE}/presigned/*`, refuse(NO_MULTIPART_DOWNLOAD));
  // 501, because clients try again on the 503 of the reference and nothing will have changed
  for (const url of [
    '/api/2.0/mlflow/*',
    '/api/3.0/mlflow/*',
    '/get-artifact',
    '/model-versions/get-artifact',
  ])
    app.route({ method: ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'], url, handler: refuse(NO_TRACKING) });
}

/** Runs a handler that writes its answer itself. */
async function hijacked(
  deps: ApiDeps,
  request: FastifyRequest,
  reply: FastifyReply,
  answer: (res: ServerResponse) => Promise<void>,
): Promise<void> {
  reply.hijack();
  try {
    await answer(reply.raw);
  } catch (error) {
    writeError(error, request, reply.raw, deps.log);
  }
}

async function put(deps: ApiDeps, request: FastifyRequest, reply: FastifyReply): Promise<void> {
  const { path, slash } = artifactTarget(request.raw);
  if (slash) throw new Failure('invalid', "Artifact path must include a filename (cannot end with '/').");
  demand(request.principal, 'write', path);
  // a preference may be passed over: whether a condition holds is known when the artifact is published
  if (prefersAsync(request) && !isConditional(request.headers)) {
    await acceptPreferred(deps, request, reply, { store: deps.artifacts.name, path });
    return;
  }
  await hijacked(deps, request, reply, (res) => putSynchronously(deps, request, res, path));
}

async function putSynchronously(
  deps: ApiDeps,
  request: FastifyRequest,
  res: ServerResponse,
  path: StorePath,
): Promise<void> {
  const req = request.raw;
  const expected = expectedDigests(req.headers);
  const signal = requestSignal(req, res, 'body');
  const condition = await writeCondition(deps, req, path, signal);
  const length = req.headers['content-length'];
  const bytes = requestBytes(req, res, deps.config.stallMs);
  const { entry } = await putNow(deps, { store: deps.artifacts.name, path }, bytes, {
    owner: request.principal.name,
    signal,
    mediaType: contentTypeOf(baseName(path)),
    ...condition,
    ...(expected && { expected }),
    ...(length !== undefined && { size: Number(length) }),
  }).catch((error: unknown) => {
    // the condition was If-None-Match, which answers 412 however late it is found not to hold
    const failure = failureOf(error);
    throw failure.kind === 'already-exists' && condition.mode === 'create'
      ? new Failure('precondition', failure.message, failure.facts, { cause: failure })
      : failure;
  });
  res.writeHead(200, {
    'content-type': 'application/json',
    'content-length': 2,
    etag: `"${entry.etag}"`,
  });
  res.end('{}');
}

type WriteCondition = { readonly mode?: 'create'; readonly ifMatch?: string };

/** What the conditions leave to the store, which decides at the last moment; refused here where they fail already. */
async function writeCondition(
  deps: ApiDeps,
  req: IncomingMessage,
  path: StorePath,
  signal: AbortSignal,
): Promise<WriteCondition> {
  if (!isConditional(req.headers)) return {};
  const create = req.headers['if-none-match']?.trim() === '*';
  const entry = await demandConditions(deps, req, path, signal).catch((error: unknown) => {
    // who may write and not look leaves it to the store, which decides that alone
    if (create && onlyIfNoneMatch(req.headers) && failureOf(error).kind === 'denied') return undefined;
    throw error;
  });
  if (create) return { mode: 'create' };
  const bound = req.headers['if-match'] !== undefined || req.headers['if-unmodified-since'] !== undefined;
  return entry && bound ? { ifMatch: entry.etag } : {};
}

/** What is there now. @throws Failure `precondition` where the conditions do not hold for that */
async function demandConditions(
  deps: ApiDeps,
  req: IncomingMessage,
  path: StorePath,
  signal: AbortSignal,
): Promise<FileEntry | undefined> {
  const entry = await deps.artifacts.head(path, signal).catch((error: unknown) => {
    if (failureOf(error).kind === 'not-found') return undefined;
    throw error;
  });
  if (judge(req.headers, entry, req.method ?? '') !== 'failed') return entry;
  throw new Failure(
    'precondition',
    entry
      ? `'${path}' is there as version "${entry.etag}", which the request's conditions forbid`
      : `'${path}' is not there, which the request's conditions forbid`,
  );
}

async function remove(deps: ApiDeps, request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
  const { path } = artifactTarget(request.raw);
  if (path === '') throw new Failure('not-found', 'The artifact root cannot be deleted');
  demand(request.principal, 'write', path);
  // it goes on when the client has gone: half a tree is of no use to anybody, and asking again is harmless
  const signal = requestSignal(request.raw, reply.raw, 'body');
  if (isConditional(request.headers)) await demandConditions(deps, request.raw, path, signal);
  await deleteNow(deps, { store: deps.artifacts.name, path }, { owner: request.principal.name, signal });
  return reply.type('application/json').send('{}');
}
