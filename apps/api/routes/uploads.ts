/** Uploads that are answered once their bytes are durable in staging; a worker carries them to their store. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { z } from 'zod';
import { Failure } from '../../../lib/errors.ts';
import { newTransferId } from '../../../lib/ledger/ids.ts';
import type { NewTransfer, Place } from '../../../lib/ledger/transfer.ts';
import { inStore } from '../../../lib/stores/uri.ts';
import { answerAccepted, deadlineMsOf, idempotencyKey, idempotencyOf } from '../accept.ts';
import { ARTIFACTS_STORE, demandAt } from '../access.ts';
import { requestBytes, requestSignal } from '../body.ts';
import { isConditional } from '../conditional.ts';
import type { ApiDeps } from '../deps.ts';
import { expectedDigests } from '../digest-headers.ts';
import { transferView, uploadOptions } from '../schemas.ts';
import { UPLOADS, uploadTarget } from '../target.ts';
import { withZod } from '../validation.ts';
import { IDEMPOTENCY_HELP } from './transfers.ts';

type UploadOptions = z.output<typeof uploadOptions>;
/** Freeing is one request to the staging store. */
const FREE_MS = 30_000;
/** Those of an MLflow PUT with `Prefer: respond-async`, which has nowhere to say any. */
const NO_OPTIONS: UploadOptions = uploadOptions.parse({});

export function registerUploads(plain: FastifyInstance, deps: ApiDeps): void {
  const app = withZod(plain);
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', (_request, _payload, done) => done(null));
  app.put(
    `${UPLOADS}*`,
    {
      schema: {
        summary: 'Upload an artifact asynchronously',
        description:
          'Answered when the bytes are durable in staging and the transfer is written down; the artifact appears, ' +
          'whole, when the transfer has succeeded.',
        tags: ['transfers'],
        bytes: { takes: 'The bytes of the artifact.' },
        takesHeaders: {
          'Idempotency-Key': IDEMPOTENCY_HELP,
          'Content-Digest': 'Checked (RFC 9530, `sha-256` or `sha-512`): 400 where the bytes differ.',
          'Repr-Digest': 'As `Content-Digest`.',
          'Content-MD5': 'Checked as well.',
        },
        querystring: uploadOptions,
        answers: { 415: 'The bytes come in a `Content-Encoding`; only `identity` is accepted.' },
        response: { 202: transferView },
      },
    },
    (request, reply) => {
      const given = uploadTarget(request.raw);
      if (given === '' || given.endsWith('/'))
        throw new Failure('invalid', 'Invalid path: an upload names a file; this ends with a slash');
      const to = inStore(ARTIFACTS_STORE, given, deps.stores);
      const why = deps.artifacts.refuses(to.path);
      if (why !== undefined) throw new Failure('invalid', `Invalid path: ${why}`);
      if (isConditional(request.headers))
        throw new Failure(
          'invalid',
          'conditions such as If-None-Match are kept by a synchronous PUT only; here say on-exists=fail, skip or skip-if-same',
        );
      return acceptUpload(deps, request, reply, to, request.query);
    },
  );
}

/** An MLflow PUT that asked not to wait (`Prefer: respond-async`). */
export function acceptPreferred(
  deps: ApiDeps,
  request: FastifyRequest,
  reply: FastifyReply,
  to: Place,
): Promise<void> {
  void reply.header('preference-applied', 'respond-async');
  return acceptUpload(deps, request, reply, to, NO_OPTIONS);
}

/** Whether the request asks for an answer before the work is done (RFC 7240). */
export const prefersAsync = (request: FastifyRequest): boolean =>
  String(request.headers.prefer ?? '')
    .split(',')
    .some((preference) => preference.split(';', 1)[0]?.trim().toLowerCase() === 'respond-async');

/** Bytes to staging, synced; then the ledger's commit; then the answer; then the queue. */
async function acceptUpload(
  deps: ApiDeps,
  request: FastifyRequest,
  reply: FastifyReply,
  to: Place,
  options: UploadOptions,
): Promise<void> {
  const { principal } = request;
  demandAt(principal, 'write', to);
  const key = idempotencyKey(request);
  const before = key === undefined ? undefined : await deps.ledger.transfers.findByKey(principal.name, key);
  const deadlineMs = deadlineMsOf(options.deadline, before !== undefined);
  const expected = expectedDigests(request.headers);
  const id = newTransferId();
  const digests = await stage(deps, request, reply, id, expected);
  const transfer: NewTransfer = {
    id,
    kind: 'upload',
    to,
    digests,
    expected,
    onExists: options['on-exists'],
    tree: false,
    priority: options.priority,
    labels: options.label,
    deadlineMs,
    owner: principal.name,
  };
  const idempotency = idempotencyOf(request, principal, {
    route: 'uploads',
    to,
    options,
    sha256: digests.sha256,
  });
  try {
    const accepted = await deps.ledger.transfers.accept(
      transfer,
      idempotency,
      Date.now() + deps.config.failedBytesMs,
    );
    if (accepted.replayed) await free(deps, id);
    else deps.staging.accounted(id);
    answerAccepted(deps, request, reply, accepted);
  } catch (error) {
    if (!reply.sent) await freeUnlessAccepted(deps, id);
    throw error;
  }
}

async function stage(
  deps: ApiDeps,
  request: FastifyRequest,
  reply: FastifyReply,
  id: string,
  expected: ReturnType<typeof expectedDigests>,
) {
  const signal = requestSignal(request.raw, reply.raw, 'body');
  const length = request.headers['content-length'];
  const bytes = requestBytes(request.raw, reply.raw, deps.config.stallMs);
  return deps.staging.stage(id, bytes, {
    ...(length !== undefined && { size: Number(length) }),
    ...(expected && { expected }),
    signal,
  });
}

/** A commit may have happened although its answer got lost: bytes that a row may need are left to gc. */
async function freeUnlessAccepted(deps: ApiDeps, id: string): Promise<void> {
  try {
    if ((await deps.ledger.transfers.get(id)) === undefined) await free(deps, id);
  } catch (error) {
    deps.log.warn(
      { transfer: id, err: error },
      'left staged bytes of a refused upload behind; gc takes them in a day',
    );
  }
}

const free = (deps: ApiDeps, id: string): Promise<void> =>
  deps.staging.free(id, AbortSignal.timeout(FREE_MS));
