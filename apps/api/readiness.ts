/** Whether this process should be sent work. */
import { Deadline } from '../../lib/deadline.ts';
import { Failure } from '../../lib/errors.ts';
import type { ApiDeps } from './deps.ts';

/** How long each part has to answer. A disk that syncs for others takes seconds now and then. */
const LEDGER_MS = 2000;
const STAGING_MS = 10_000;
/** From what age on an answer that costs something is asked for again, and until what age it is given meanwhile. */
const FRESH_MS = 5000;
const BELIEVED_MS = 30_000;

/** Asks every part. Answers what is wrong, by part; empty when nothing is. */
type Readiness = () => Promise<Record<string, string>>;

export function readiness(deps: ApiDeps): Readiness {
  const checks: Record<string, () => Promise<unknown>> = {
    ledger: () => patiently('the ledger', LEDGER_MS, (signal) => deps.ledger.ping(signal)),
    staging: believed(() =>
      patiently('staging', STAGING_MS, (signal) => deps.staging.probe(`ready-${deps.instance}`, signal)),
    ),
    redis: async () => {
      const { problem } = await deps.queue.health();
      if (problem !== undefined) throw new Error(problem);
    },
  };
  return async () => {
    const found = await Promise.all(
      Object.entries(checks).map(async ([part, check]) => {
        try {
          await check();
          return [];
        } catch (error) {
          return [[part, error instanceof Error ? error.message : String(error)] as const];
        }
      }),
    );
    return Object.fromEntries(found.flat());
  };
}

async function patiently(
  part: string,
  withinMs: number,
  ask: (signal: AbortSignal) => Promise<unknown>,
): Promise<void> {
  using deadline = new Deadline();
  deadline.limit(
    Date.now() + withinMs,
    () => new Failure('timeout', `${part} did not answer within ${withinMs / 1000} s`),
  );
  await ask(deadline.signal);
}

/** Only one question at a time, and nobody waits for its answer where there is one of a moment ago. */
function believed(ask: () => Promise<void>): () => Promise<void> {
  let last: { readonly answer: Promise<void>; readonly atMs: number } | undefined;
  let asking: Promise<void> | undefined;
  const begin = (): Promise<void> => {
    const answer = ask();
    const heard = (): void => {
      last = { answer, atMs: performance.now() };
      asking = undefined;
    };
    answer.then(heard, heard);
    return answer;
  };
  return () => {
    const ageMs = last ? performance.now() - last.atMs : Number.POSITIVE_INFINITY;
    if (ageMs > FRESH_MS) asking ??= begin();
    return last && ageMs <= BELIEVED_MS ? last.answer : (asking ?? begin());
  };
}
