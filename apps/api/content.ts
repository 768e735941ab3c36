/** Serves the staged bytes of a finished download: whole, a range, or why not. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Failure, failureOf } from '../../lib/errors.ts';
import { hasEnded, type Transfer, type TransferResult } from '../../lib/ledger/transfer.ts';
import { baseName } from '../../lib/path.ts';
import { contentTypeOf } from '../../lib/transfer/media-type.ts';
import { requestSignal, sendBytes } from './body.ts';
import { judge, rangeOf } from './conditional.ts';
import { dispositionOf } from './content-type.ts';
import type { ApiDeps } from './deps.ts';
import { reprDigest } from './digest-headers.ts';
import { errorBody, writeError } from './replies.ts';

/** When to look again for a download that is not ready. */
const NOT_READY_RETRY_MS = 1000;

/** What is known of the bytes: they never change, so their digest is their version. */
interface Content {
  readonly size: number;
  readonly etag: string;
  readonly modifiedMs: number;
}

/** @throws Failure `conflict` until it is ready, `not-found` when it is over or was no download */
export async function sendContent(
  deps: ApiDeps,
  request: FastifyRequest,
  reply: FastifyReply,
  transfer: Transfer,
): Promise<void> {
  const result = readyResult(transfer);
  const content = {
    size: result.size ?? 0,
    etag: result.sha256 ?? transfer.id,
    modifiedMs: transfer.endedMs ?? 0,
  };
  await renew(deps, transfer.id);
  reply.hijack();
  try {
    await answer(deps, request, reply, transfer, content);
  } catch (error) {
    writeError(
      failureOf(error).kind === 'not-found' ? over(transfer.id) : error,
      request,
      reply.raw,
      deps.log,
    );
  }
}

async function answer(
  deps: ApiDeps,
  request: FastifyRequest,
  reply: FastifyReply,
  transfer: Transfer,
  content: Content,
): Promise<void> {
  const { raw: res } = reply;
  const { headers, method } = request.raw;
  const verdict = judge(headers, content, 'GET');
  if (verdict === 'failed')
    throw new Failure('precondition', 'the content is another version than the request demands');
  const version = { etag: `"${content.etag}"`, 'last-modified': new Date(content.modifiedMs).toUTCString() };
  if (verdict === 'not-modified') return void res.writeHead(304, version).end();
  const range = method === 'HEAD' ? undefined : rangeOf(headers, content, content.size);
  if (range === 'unsatisfiable') return sendUnsatisfiable(reply, content.size);
  const { start, end } = range ?? { start: 0, end: content.size };
  const name = nameOf(transfer);
  const head = {
    ...version,
    'accept-ranges': 'bytes',
    'content-length': end - start,
    'content-type': contentTypeOf(name),
    'content-disposition': dispositionOf(name),
    ...(transfer.result?.sha256 !== undefined && { 'repr-digest': reprDigest(transfer.result.sha256) }),
    ...(range && { 'content-range': `bytes ${start}-${end - 1}/${content.size}` }),
  };
  if (method === 'HEAD') return void res.writeHead(200, head).end();
  const reading = await deps.staging.open(transfer.id, range, requestSignal(request.raw, res, 'answer'));
  // a slow reader may take longer than a lease
  const renewing = setInterval(
    () => void renew(deps, transfer.id).catch(() => {}),
    deps.config.downloadLeaseMs / 2,
  );
  try {
    res.writeHead(range ? 206 : 200, head);
    await sendBytes(res, reading.bytes, end - start, deps.config.stallMs);
  } finally {
    clearInterval(renewing);
  }
}

function nameOf({ id, from, tree }: Transfer): string {
  const name = from && from.path !== '' ? baseName(from.path) : id;
  return tree ? `${name}.tar` : name;
}

function readyResult({ id, kind, state, failure, result }: Transfer): TransferResult {
  if (kind !== 'download') throw new Failure('not-found', `transfer ${id} is no download: it has no content`);
  if (state === 'succeeded' && result) return result;
  if (!hasEnded(state))
    throw new Failure('conflict', `download ${id} is not ready yet: it is ${state}`, {
      retryAfterMs: NOT_READY_RETRY_MS,
    });
  throw new Failure(
    'conflict',
    `download ${id} has no content: it ended as ${state}${failure ? ` (${failure.message})` : ''}`,
  );
}

/** @throws Failure `not-found`: the lease was over and the bytes were collected */
async function renew(deps: ApiDeps, id: string): Promise<void> {
  if (!(await deps.ledger.transfers.extendStaged(id, Date.now() + deps.config.downloadLeaseMs)))
    throw over(id);
}

const over = (id: string): Failure =>
  new Failure(
    'not-found',
    `the bytes of download ${id} are gone, its lease is over: submit the download again`,
  );

function sendUnsatisfiable({ raw: res }: FastifyReply, size: number): void {
  const body = errorBody(
    'invalid',
    'INVALID_PARAMETER_VALUE',
    `The range lies outside the ${size} bytes of the content`,
  );
  res.writeHead(416, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
    'content-range': `bytes */${size}`,
  });
  res.end(body);
}
