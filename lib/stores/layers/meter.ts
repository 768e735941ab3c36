/** Tells how long each call took and how it ended. Above `stall` and below `retry`: every try is one call. */
import { stopReason } from '../../deadline.ts';
import type { FailureKind } from '../../errors.ts';
import type { Body, Driver } from '../driver.ts';
import { around, classified, type Hooks, type StoreOp, tapped } from './around.ts';

export interface Meter {
  /** One call ended. A reading is timed until its first bytes can be had, a listing per page. */
  observe(op: StoreOp, ms: number, outcome: 'ok' | FailureKind): void;
  bytes(direction: 'read' | 'written', count: number): void;
}

export function meter(driver: Driver, to: Meter): Driver {
  const timed = async <T>(op: StoreOp, signal: AbortSignal, work: () => Promise<T>): Promise<T> => {
    const began = performance.now();
    try {
      const result = await work();
      to.observe(op, performance.now() - began, 'ok');
      return result;
    } catch (error) {
      const { kind } = signal.aborted ? stopReason(signal) : classified(driver, error);
      to.observe(op, performance.now() - began, kind);
      throw error;
    }
  };
  const counted = (body: Body): Body => ({
    ...body,
    open: () => {
      to.bytes('written', body.size);
      return body.open();
    },
  });
  const hooks: Hooks = {
    once: (op, { signal }, run) => timed(op, signal, () => run(signal)),
    send: (op, { signal }, body, run) => timed(op, signal, () => run(signal, counted(body))),
    async read(signal, run) {
      const reading = await timed('read', signal, () => run(signal));
      if (reading.content) {
        to.bytes('read', reading.content.length);
        return reading;
      }
      const bytes = tapped(reading.bytes, async (next) => {
        const step = await next();
        if (!step.done) to.bytes('read', step.value.length);
        return step;
      });
      return { ...reading, bytes };
    },
    pages: (op, signal, open) => tapped(open(signal), (next) => timed(op, signal, next)),
  };
  return around(driver, hooks);
}
