/**
 * A driver that fails as it is told to: the nth call of a method, each time the same. For tests of everything above
 * a driver; nothing of the product puts it into a stack.
 */
import { pause } from '../../deadline.ts';
import { Failure, type FailureKind } from '../../errors.ts';
import type { Body, Bytes, Driver, Reading } from '../driver.ts';
import { around, type Hooks, type StoreOp, tapped } from './around.ts';

export interface Fault {
  readonly op: StoreOp;
  /** From 1: the first call that it happens to. */
  readonly nth: number;
  /** How many calls in a row; default 1. */
  readonly times?: number;
  readonly what:
    | { readonly kind: 'fail'; readonly as: FailureKind; readonly retryAfterMs?: number }
    /** Does it, then fails as if the reply had been lost. */
    | { readonly kind: 'lose-reply'; readonly as: FailureKind }
    /** One bit of that byte, of what is read, written or sent. */
    | { readonly kind: 'flip'; readonly byte: number }
    /** Never answers; of a reading the bytes do not. Ends with the signal. */
    | { readonly kind: 'hang' }
    /** Bytes of a reading end after so many: quietly, or by a failure. */
    | { readonly kind: 'cut'; readonly afterBytes: number; readonly as?: FailureKind };
}
type What = Fault['what'];

const HANG_MS = 2 ** 31 - 1;

export function chaos(driver: Driver, faults: readonly Fault[]): Driver {
  const calls = new Map<StoreOp, number>();
  const next = (op: StoreOp): What | undefined => {
    const call = (calls.get(op) ?? 0) + 1;
    calls.set(op, call);
    return faults.find(
      (fault) => fault.op === op && call >= fault.nth && call < fault.nth + (fault.times ?? 1),
    )?.what;
  };
  const hooks: Hooks = {
    once: (op, { signal }, run) => suffered(op, next(op), signal, () => run(signal)),
    send(op, { signal }, body, run) {
      const what = next(op);
      return suffered(op, what, signal, () =>
        run(signal, what?.kind === 'flip' ? flipped(body, what.byte) : body),
      );
    },
    async read(signal, run) {
      const what = next('read');
      if (what?.kind === 'fail' || what?.kind === 'lose-reply') throw failure('read', what);
      const reading = await run(signal);
      if (!what) return reading;
      const { entry, range } = reading;
      return { entry, range, bytes: spoilt(reading, what, signal) };
    },
    pages: (op, signal, open) => tapped(open(signal), (pull) => suffered(op, next(op), signal, pull)),
  };
  return around(driver, hooks);
}

async function suffered<T>(
  op: StoreOp,
  what: What | undefined,
  signal: AbortSignal,
  work: () => Promise<T>,
): Promise<T> {
  if (what?.kind === 'fail') throw failure(op, what);
  if (what?.kind === 'hang') await pause(HANG_MS, signal);
  const result = await work();
  if (what?.kind === 'lose-reply') throw failure(op, what);
  return result;
}

function failure(op: StoreOp, what: What & { kind: 'fail' | 'lose-reply' }): Failure {
  const retryAfterMs = what.kind === 'fail' ? what.retryAfterMs : undefined;
  return new Failure(
    what.as,
    `chaos: ${op} was told to ${what.kind}`,
    retryAfterMs === undefined ? {} : { retryAfterMs },
  );
}

function flipped(body: Body, byte: number): Body {
  return {
    ...body,
    async *open() {
      let at = 0;
      for await (const chunk of body.open()) {
        yield flip(chunk, byte - at);
        at += chunk.length;
      }
    },
  };
}

function flip(chunk: Uint8Array, byte: number): Uint8Array {
  if (byte < 0 || byte >= chunk.length) return chunk;
  const copy = Uint8Array.from(chunk);
  copy[byte] = copy[byte]! ^ 1;
  return copy;
}

function spoilt(reading: Reading, what: What, signal: AbortSignal): Bytes {
  let at = 0;
  return tapped(reading.bytes, async (next) => {
    if (what.kind === 'hang') await pause(HANG_MS, signal);
    const step = await next();
    if (step.done) return step;
    const start = at;
    at += step.value.length;
    if (what.kind === 'flip') return { done: false, value: flip(step.value, what.byte - start) };
    if (what.kind !== 'cut' || at <= what.afterBytes) return step;
    if (start < what.afterBytes)
      return { done: false, value: step.value.subarray(0, what.afterBytes - start) };
    if (what.as) throw new Failure(what.as, 'chaos: the reading was told to break');
    return { done: true, value: undefined };
  });
}
