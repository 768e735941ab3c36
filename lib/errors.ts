/**
 * What a failure means, decided once: to the queue (`retry`), to HTTP (`http`, `mlflow`) and to the shell (`exit`).
 * `docs/failures.md` is generated from this table and a test fails when they drift.
 */

import { printable } from './path-bytes.ts';

/** `never`: end the transfer. `backoff`: spend an attempt, try again after a jittered delay. `later`: put the job back
 * without spending an attempt, after `retryAfterMs` where the store said so. `now`: hand the job back at once. */
export type RetryRule = 'never' | 'backoff' | 'later' | 'now';

interface FailureRule {
  readonly retry: RetryRule;
  /** HTTP status of an answer that carries this failure. */
  readonly http: number;
  /** MLflow's `error_code` in the answer's JSON. */
  readonly mlflow: string;
  /** Exit code of a command that ends with it. */
  readonly exit: number;
  readonly means: string;
}

// biome-ignore format: a table, one row a kind
export const FAILURES = {
  'not-found': { retry: 'never', http: 404, mlflow: 'RESOURCE_DOES_NOT_EXIST', exit: 4, means: 'the object, transfer or bucket does not exist' },
  'already-exists': { retry: 'never', http: 409, mlflow: 'RESOURCE_CONFLICT', exit: 5, means: 'something is there already and the request said not to replace it' },
  conflict: { retry: 'never', http: 409, mlflow: 'RESOURCE_CONFLICT', exit: 5, means: 'the state that the transfer is in does not allow this' },
  precondition: { retry: 'never', http: 412, mlflow: 'BAD_REQUEST', exit: 5, means: 'a condition of the request (If-Match, If-None-Match) does not hold' },
  invalid: { retry: 'never', http: 400, mlflow: 'INVALID_PARAMETER_VALUE', exit: 2, means: 'the request or a setting is wrong; sending it again will not help' },
  unprocessable: { retry: 'never', http: 422, mlflow: 'INVALID_PARAMETER_VALUE', exit: 2, means: 'an Idempotency-Key was used before for another request' },
  unauthenticated: { retry: 'never', http: 401, mlflow: 'UNAUTHENTICATED', exit: 6, means: "credentials are missing or wrong: the caller's, or ours towards a store (the message says whose)" },
  denied: { retry: 'never', http: 403, mlflow: 'PERMISSION_DENIED', exit: 6, means: 'the credentials are good but do not allow this' },
  unsupported: { retry: 'never', http: 501, mlflow: 'NOT_IMPLEMENTED', exit: 7, means: 'this store or server cannot do that' },
  'no-space': { retry: 'later', http: 507, mlflow: 'RESOURCE_EXHAUSTED', exit: 7, means: 'a disk, quota or the staging limit is full: ever more seldom tried again, no attempt spent' },
  corrupt: { retry: 'backoff', http: 502, mlflow: 'DATA_LOSS', exit: 8, means: 'a size or digest differed; nothing was published' },
  busy: { retry: 'later', http: 503, mlflow: 'TEMPORARILY_UNAVAILABLE', exit: 9, means: 'throttled, or no room just now: later, no attempt spent' },
  unavailable: { retry: 'backoff', http: 503, mlflow: 'TEMPORARILY_UNAVAILABLE', exit: 9, means: 'a store, Redis or the ledger cannot be reached or failed' },
  timeout: { retry: 'backoff', http: 504, mlflow: 'DEADLINE_EXCEEDED', exit: 9, means: 'a deadline passed, or there was no progress for too long' },
  interrupted: { retry: 'now', http: 503, mlflow: 'TEMPORARILY_UNAVAILABLE', exit: 130, means: "we are shutting down: not the transfer's fault" },
  cancelled: { retry: 'never', http: 409, mlflow: 'CANCELLED', exit: 130, means: 'somebody cancelled it' },
  bug: { retry: 'never', http: 500, mlflow: 'INTERNAL_ERROR', exit: 70, means: 'a fault of Longshore itself' },
} as const satisfies Record<string, FailureRule>;

export type FailureKind = keyof typeof FAILURES;
export const FAILURE_KINDS = Object.keys(FAILURES) as readonly FailureKind[];

export interface FailureFacts {
  /** What was tried: `put`, `list`, `publish` … */
  readonly op?: string;
  /** Name of the configured store, never its URI. */
  readonly store?: string;
  readonly path?: string;
  /** The store's or server's own wish, in ms from now. */
  readonly retryAfterMs?: number;
  /** What was given up may still read the bytes that it was lent. */
  readonly lent?: true;
}

/** The one error type that crosses a module border. `kind` decides, `message` is for people, `cause` keeps the original. */
export class Failure extends Error {
  readonly kind: FailureKind;
  readonly facts: FailureFacts;

  constructor(kind: FailureKind, message: string, facts: FailureFacts = {}, options?: ErrorOptions) {
    super(printable(message), options); // it may repeat a name, which may hold anything
    this.name = 'Failure';
    this.kind = kind;
    this.facts = facts;
  }

  get rule(): FailureRule {
    return FAILURES[this.kind];
  }
}

/** Any thrown value as a `Failure`; what is not one already is a `bug` (an abort keeps the reason it was given). */
export function failureOf(error: unknown): Failure {
  if (error instanceof Failure) return error;
  if (error instanceof Error && error.name === 'AbortError' && error.cause instanceof Failure)
    return error.cause;
  const text = error instanceof Error ? error.message : String(error);
  return new Failure('bug', `unexpected: ${text}`, {}, { cause: error });
}
