/** From the ledger's commit on the answer is 202: what Redis has not heard of by then, the reconciler tells it. */
import { createHash } from 'node:crypto';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Failure } from '../../lib/errors.ts';
import type { Idempotency } from '../../lib/ledger/contract.ts';
import type { Transfer } from '../../lib/ledger/transfer.ts';
import type { Principal } from './auth.ts';
import type { ApiDeps } from './deps.ts';
import { transferPath, viewOf } from './views.ts';

/**
 * The request's `Idempotency-Key`, as the ledger keeps it. The key belongs to who asks; what was asked, the route
 * included, is hashed: the same key with anything else is another request.
 * @throws Failure `invalid`
 */
export function idempotencyOf(
  request: FastifyRequest,
  principal: Principal,
  asked: unknown,
): Idempotency | undefined {
  const key = idempotencyKey(request);
  if (key === undefined) return undefined;
  return {
    scope: principal.name,
    key,
    requestHash: createHash('sha256').update(canonical(asked)).digest('hex'),
  };
}

/** @throws Failure `invalid`: not 1 to 255 printable ASCII characters */
export function idempotencyKey(request: FastifyRequest): string | undefined {
  const key = request.headers['idempotency-key'];
  if (key === undefined) return undefined;
  if (typeof key === 'string' && /^[\x20-\x7e]{1,255}$/.test(key)) return key;
  throw new Failure('invalid', 'Idempotency-Key must be 1 to 255 printable ASCII characters, sent once');
}

/** JSON with sorted keys and without what is undefined. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}

/**
 * `deadline` in unix ms. A repeated request may come when its deadline has passed: then it is only looked up.
 * @throws Failure `invalid`: it has passed
 */
export function deadlineMsOf(deadline: number | string | undefined, repeated: boolean): number | undefined {
  if (deadline === undefined) return undefined;
  const nowMs = Date.now();
  const atMs = typeof deadline === 'number' ? nowMs + deadline * 1000 : Date.parse(deadline);
  if (atMs <= nowMs && !repeated) throw new Failure('invalid', `the deadline ${deadline} has passed already`);
  return atMs;
}

/** The static prefix, where the request came through it. */
export function prefixOf(request: FastifyRequest, staticPrefix: string): string {
  return staticPrefix !== '' && request.originalUrl.startsWith(`${staticPrefix}/`) ? staticPrefix : '';
}

/** Sends the 202, then gives the job to the queue, in that order: the answer never waits for Redis. */
export function answerAccepted(
  deps: ApiDeps,
  request: FastifyRequest,
  reply: FastifyReply,
  { transfer, replayed }: { readonly transfer: Transfer; readonly replayed: boolean },
): void {
  const prefix = prefixOf(request, deps.config.staticPrefix);
  void reply.code(202).header('location', transferPath(prefix, transfer.id));
  if (replayed) void reply.header('idempotency-replayed', 'true');
  void reply.send(viewOf(transfer, prefix));
  if (!replayed) enqueue(deps, transfer);
}

/** Never throws and is not waited for. */
export function enqueue(deps: ApiDeps, transfer: Transfer): void {
  deps.queue.submit(transfer).catch((error: unknown) => {
    const why = error instanceof Error ? error.message : String(error);
    deps.log.warn(
      { transfer: transfer.id, why },
      'accepted, but the queue was not told; the reconciler will',
    );
  });
}
