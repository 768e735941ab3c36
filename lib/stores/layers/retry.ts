/**
 * The only retry below a job. It tries again what may pass (unavailable, timeout, busy for a moment, corrupt), a few
 * times, after a capped delay with full jitter, or the one the store asked for. Bodies are opened anew for each try;
 * a reading that breaks goes on at its offset, from the same version. Two calls are tried again only where the store
 * says that it did nothing: a conditional publish, whose second try would trip over the first (the caller settles that
 * by looking), and the begin of an upload: the journal's entry then names the second one, and on S3 nothing proves that a
 * first one is ours. Nothing is tried again while a call that was given up still holds its bytes.
 */
import pRetry from 'p-retry';
import { pause, throwIfAborted } from '../../deadline.ts';
import { Failure, type FailureKind } from '../../errors.ts';
import type { Bytes, Driver, ReadCall, Reading } from '../driver.ts';
import { type AnyCall, around, classified, type Hooks, type Listed, type StoreOp, tapped } from './around.ts';

export interface RetryOptions {
  /** In all, the first one included. */
  readonly tries: number;
  /** The first delay is between 0 and this; the next ones between 0 and twice as much as the one before. */
  readonly firstMs: number;
  /** No delay is longer; a store that asks for more is left to the job. */
  readonly capMs: number;
  readonly onRetry?: (op: StoreOp, kind: FailureKind) => void;
}

/** Worst case: 4 tries, 3 delays, 0.2 + 0.4 + 0.8 s. */
export const RETRY_DEFAULTS: RetryOptions = { tries: 4, firstMs: 200, capMs: 2000 };

/** A call that times out after so long is left to the job: a store that stays deaf takes the whole stall time for each try. */
const DEAF_MS = 90_000;
const AGAIN: ReadonlySet<FailureKind> = new Set(['unavailable', 'timeout', 'busy', 'corrupt']);
/** Kinds that say that nothing was done. */
const NOTHING_DONE: ReadonlySet<FailureKind> = new Set(['busy', 'corrupt']);
/** A listing that breaks starts anew and leaves out what it told before, as long as that is no more than this. */
const REMEMBERED = 50_000;

type Retry = <T>(op: StoreOp, call: AnyCall, work: () => Promise<T>) => Promise<T>;

export function retry(driver: Driver, opts: RetryOptions = RETRY_DEFAULTS): Driver {
  const again: Retry = (op, call, work) => retrying(driver, opts, op, call, work);
  const hooks: Hooks = {
    once: (op, call, run) => again(op, call, () => run(call.signal)),
    send: (op, call, body, run) => again(op, call, () => run(call.signal, body)),
    read: (_signal, run) => run(_signal),
    pages: (op, signal, open) => resumedPages(again, op, signal, () => open(signal)),
  };
  return {
    ...around(driver, hooks),
    async read(path, range, call) {
      const reading = await again('read', call, async () => complete(await driver.read(path, range, call)));
      if (reading.content || !driver.traits.rangedRead) return reading;
      return { ...reading, bytes: resumedBytes(driver, again, reading, call) };
    },
    remove: async (paths, call) => {
      let left = paths;
      const removal = async () => {
        const failures = await driver.remove(left, call);
        const passing = failures.find(({ error }) => AGAIN.has(classified(driver, error).kind));
        if (passing) left = failures.map(({ path }) => path);
        return { failures, passing };
      };
      let last: Awaited<ReturnType<typeof removal>> | undefined;
      await again('remove', call, async () => {
        last = await removal();
        if (last.passing) throw last.passing.error;
      }).catch((error: unknown) => {
        if (!last || error !== last.passing?.error) throw error;
      });
      return last?.failures ?? [];
    },
  };
}

async function retrying<T>(
  driver: Driver,
  opts: RetryOptions,
  op: StoreOp,
  call: AnyCall,
  work: () => Promise<T>,
): Promise<T> {
  const publishes = op === 'write' || op === 'finish' || op === 'copy';
  const conditional = publishes && (call.mode === 'create' || call.ifMatch !== undefined);
  const kinds = conditional || op === 'begin' ? NOTHING_DONE : AGAIN;
  throwIfAborted(call.signal);
  const beganMs = Date.now();
  // p-retry is not told of the signal: it would throw away what a call brought back just as the signal fired
  return pRetry(work, {
    retries: opts.tries - 1,
    minTimeout: 0, // the delay is ours: p-retry's own jitter never goes below its base
    async shouldRetry({ error, attemptNumber }) {
      const { kind, retryAfterMs = 0 } = classified(driver, error);
      const lent = error instanceof Failure && error.facts.lent;
      if (kind === 'timeout' && Date.now() - beganMs > DEAF_MS) return false;
      if (!kinds.has(kind) || lent || retryAfterMs > opts.capMs || call.signal.aborted) return false;
      opts.onRetry?.(op, kind);
      const jitter = Math.random() * Math.min(opts.capMs, opts.firstMs * 2 ** (attemptNumber - 1));
      await pause(Math.min(opts.capMs, retryAfterMs + jitter), call.signal);
      return true;
    },
  });
}

/** @throws Failure `corrupt`: what came in one piece is not as long as the range */
function complete(reading: Reading): Reading {
  const { content, range } = reading;
  const difference = content ? content.length - (range.end - range.start) : 0;
  if (difference !== 0) throw wrongLength(difference);
  return reading;
}

/** The bytes of `first`, going on at the same offset of the same version when they break. */
function resumedBytes(driver: Driver, again: Retry, first: Reading, call: ReadCall): Bytes {
  const { entry, range } = first;
  let iterator = first.bytes[Symbol.asyncIterator]();
  let at = range.start;
  let broken = false;
  const reopen = async (): Promise<void> => {
    const rest = { start: at, end: range.end };
    const reading = await driver.read(entry.path, rest, { ...call, ifMatch: entry.etag });
    iterator = reading.bytes[Symbol.asyncIterator]();
    broken = false;
  };
  const step = async (): Promise<IteratorResult<Uint8Array>> => {
    if (broken) await reopen();
    try {
      const step = await iterator.next();
      const end = at + (step.done ? 0 : step.value.length);
      if (end > range.end || (step.done && end < range.end)) throw wrongLength(end - range.end);
      return step;
    } catch (error) {
      broken = true;
      iterator.return?.().catch(() => undefined); // not waited for: it may be what is stuck
      throw error;
    }
  };
  const source: Bytes = {
    [Symbol.asyncIterator]: () => ({
      async next() {
        const taken = await again('read', call, step).catch((error: unknown) => {
          throw replacedMeanwhile(driver, error);
        });
        if (!taken.done) at += taken.value.length;
        return taken;
      },
      async return() {
        await iterator.return?.();
        return { done: true, value: undefined };
      },
    }),
  };
  return tapped(source, (next) => next());
}

const wrongLength = (difference: number): Failure =>
  new Failure(
    'corrupt',
    `the store sent ${Math.abs(difference)} bytes ${difference < 0 ? 'less' : 'more'} than it announced`,
  );

/** Reading it all again may work: it was there, and as the caller wanted it, when the reading was opened. */
function replacedMeanwhile(driver: Driver, error: unknown): unknown {
  const { kind } = classified(driver, error);
  if (kind !== 'precondition' && kind !== 'not-found') return error;
  return new Failure(
    'unavailable',
    'it was replaced or removed while it was being read',
    {},
    { cause: error },
  );
}

const keyOf = (item: Listed): string =>
  'number' in item ? `${item.number}` : `${item.kind ?? ''}\0${item.path}\0${item.id ?? ''}`;

async function* resumedPages<T extends Listed>(
  again: Retry,
  op: StoreOp,
  signal: AbortSignal,
  open: () => AsyncIterable<readonly T[]>,
): AsyncGenerator<readonly T[]> {
  const told = new Set<string>();
  let tooMany = false;
  let iterator: AsyncIterator<readonly T[]> | undefined;
  const step = async (): Promise<IteratorResult<readonly T[]>> => {
    iterator ??= open()[Symbol.asyncIterator]();
    try {
      return await iterator.next();
    } catch (error) {
      iterator = undefined;
      throw error;
    }
  };
  try {
    for (;;) {
      const taken = tooMany ? await step() : await again(op, { signal }, step);
      if (taken.done) return;
      const fresh = tooMany ? taken.value : taken.value.filter((item) => !told.has(keyOf(item)));
      if (!tooMany) for (const item of fresh) told.add(keyOf(item));
      if (told.size > REMEMBERED) {
        tooMany = true;
        told.clear();
      }
      if (fresh.length > 0) yield fresh;
    }
  } finally {
    await iterator?.return?.();
  }
}
