/** How a failure is answered: MLflow's error JSON, whatever the route. */
import { randomBytes } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { FAILURES, Failure, type FailureKind, failureOf } from '../../lib/errors.ts';
import type { Log } from '../../lib/log.ts';
import { disposeOfBody, requestSignal } from './body.ts';
import { hasBody } from './body-headers.ts';

export interface ErrorReply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  /** JSON: `error_code` and `message` are MLflow's, `kind` is the failure's. */
  readonly body: string;
}

const JSON_TYPE = 'application/json';
/** What a busy answer asks for where the store named no time of its own. */
const BUSY_RETRY_MS = 1000;

/** The message of a `bug` stays here: it goes to the log with its stack, and the answer names the incident. */
export function errorReply(error: unknown, log: Log): ErrorReply {
  const failure = clientError(error) ?? failureOf(error);
  const headers: Record<string, string> = { 'content-type': JSON_TYPE };
  let message = failure.message;
  if (failure.kind === 'bug') {
    const incident = randomBytes(6).toString('hex');
    log.error({ err: failure.cause ?? failure, incident }, failure.message);
    message = `Internal error; the log has it under incident ${incident}`;
  } else if (failure.rule.http >= 500 && failure.kind !== 'unsupported') {
    log.warn({ kind: failure.kind, op: failure.facts.op, store: failure.facts.store }, failure.message);
  }
  const retryAfterMs = failure.facts.retryAfterMs ?? (failure.kind === 'busy' ? BUSY_RETRY_MS : undefined);
  if (retryAfterMs !== undefined)
    headers['retry-after'] = String(Math.max(1, Math.ceil(retryAfterMs / 1000)));
  if (failure.kind === 'unauthenticated' && failure.facts.store === undefined)
    headers['www-authenticate'] = 'Basic realm="longshore", charset="UTF-8", Bearer realm="longshore"';
  if (failure.facts.op === 'receive') headers.connection = 'close'; // a stalled body won't end
  return { status: statusOf(failure), headers, body: errorBody(failure.kind, failure.rule.mlflow, message) };
}

/** A body that came too slowly is the client's timeout, not one of ours towards a store. */
const statusOf = (failure: Failure): number =>
  failure.kind === 'timeout' && failure.facts.op === 'receive' ? 408 : failure.rule.http;

export const errorBody = (kind: string, code: string, message: string): string =>
  JSON.stringify({ error_code: code, message, kind });

/** Fastify's own refusals of a request (body too large, bad JSON, schema) as failures; `undefined` for anything else. */
function clientError(error: unknown): Failure | undefined {
  if (error instanceof Failure || !(error instanceof Error)) return undefined;
  const status = 'statusCode' in error && typeof error.statusCode === 'number' ? error.statusCode : 500;
  return status >= 400 && status < 500
    ? new Failure('invalid', error.message, {}, { cause: error })
    : undefined;
}

/** Answers a failure through Fastify. */
export function sendError(error: unknown, request: FastifyRequest, reply: FastifyReply, log: Log): void {
  const { status, headers, body } = errorReply(error, log);
  disposeOfBody(request.raw, reply.raw);
  void reply.code(status).headers(headers).send(body);
}

/** Answers a failure on a reply that was hijacked; where the head went out already, only breaking off tells the client. */
export function writeError(error: unknown, request: FastifyRequest, res: ServerResponse, log: Log): void {
  if (res.destroyed) return;
  const { status, headers, body } = errorReply(error, log);
  if (res.headersSent) {
    res.destroy();
    return;
  }
  disposeOfBody(request.raw, res);
  res.writeHead(status, { ...headers, 'content-length': Buffer.byteLength(body) });
  res.end(request.method === 'HEAD' ? undefined : body);
}

const KINDS: Readonly<Record<number, FailureKind>> = { 403: 'denied', 404: 'not-found', 501: 'unsupported' };

/**
 * A refusal that no failure kind stands for: of a Host or Origin, a header, an unknown endpoint, a method that an
 * endpoint does not have.
 */
export function sendRefusal(
  request: FastifyRequest,
  reply: FastifyReply,
  status: number,
  code: string,
  message: string,
): void {
  const kind = KINDS[status] ?? 'invalid';
  disposeOfBody(request.raw, reply.raw);
  if (hasBody(request.raw)) {
    requestSignal(request.raw, reply.raw, 'answer'); // bytes that are no body get no second answer: see breakOff
    if (status === 501) reply.raw.setHeader('connection', 'close'); // where such a body ends is anybody's guess
  }
  void reply
    .code(status)
    .header('content-type', JSON_TYPE)
    .send(errorBody(kind, code, message));
}

/** The answer to bytes that are no HTTP request, as it goes over the socket. */
export function rawErrorResponse(status: number, reason: string, message: string): string {
  const body = errorBody('invalid', FAILURES.invalid.mlflow, message);
  return [
    `HTTP/1.1 ${status} ${reason}`,
    `Content-Type: ${JSON_TYPE}`,
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Connection: close',
    '',
    body,
  ].join('\r\n');
}
