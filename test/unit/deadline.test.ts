import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { Deadline, pause, stopReason, throwIfAborted } from '../../lib/deadline.ts';
import { Failure } from '../../lib/errors.ts';

const because = (kind: Failure['kind']) => () => new Failure(kind, `stopped as ${kind}`);
const aborted = (signal: AbortSignal): Promise<Failure> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve(stopReason(signal));
    signal.addEventListener('abort', () => resolve(stopReason(signal)));
  });

describe('a deadline', () => {
  test('keeps the first reason it was stopped for', () => {
    using deadline = new Deadline();
    deadline.stop(new Failure('cancelled', 'first'));
    deadline.stop(new Failure('timeout', 'second'));
    expect(() => throwIfAborted(deadline.signal)).toThrow('first');
    expect(stopReason(deadline.signal).kind).toBe('cancelled');
  });

  test('stops when its time has come, and at once when it has passed', async () => {
    using soon = new Deadline().limit(Date.now() + 20, because('timeout'));
    expect(soon.signal.aborted).toBe(false);
    expect((await aborted(soon.signal)).kind).toBe('timeout');
    using past = new Deadline().limit(Date.now() - 1, because('timeout'));
    expect(past.signal.aborted).toBe(true);
  });

  test('does not stop early for a time further away than a timer can count', async () => {
    using deadline = new Deadline().limit(Date.now() + 60 * 24 * 3600 * 1000, because('timeout'));
    await sleep(20);
    expect(deadline.signal.aborted).toBe(false);
  });

  test('stops when nothing moves, and not before', async () => {
    using deadline = new Deadline().watch(60, because('timeout'));
    for (let n = 0; n < 8; n++) {
      await sleep(15);
      deadline.progress();
    }
    expect(deadline.signal.aborted).toBe(false);
    const lastMs = Date.now();
    await aborted(deadline.signal);
    expect(Date.now() - lastMs).toBeGreaterThanOrEqual(55);
  });

  test('expects nothing to move while it rests', async () => {
    using deadline = new Deadline().watch(20, because('timeout'));
    deadline.rest();
    await sleep(60);
    expect(deadline.signal.aborted).toBe(false);
    deadline.progress();
    expect((await aborted(deadline.signal)).kind).toBe('timeout');
  });

  test('takes over why a parent was stopped, also where it was stopped before', () => {
    const parent = new AbortController();
    using child = new Deadline([parent.signal]);
    parent.abort(new Failure('interrupted', 'shutting down'));
    expect(stopReason(child.signal).kind).toBe('interrupted');
    using late = new Deadline([parent.signal]);
    expect(stopReason(late.signal).kind).toBe('interrupted');
  });

  test('a disposed one never stops', async () => {
    const deadline = new Deadline().limit(Date.now() + 10, because('timeout')).watch(10, because('timeout'));
    deadline[Symbol.dispose]();
    await sleep(40);
    expect(deadline.signal.aborted).toBe(false);
  });
});

test('a pause ends at once, with the reason, when its signal aborts', async () => {
  const controller = new AbortController();
  const paused = pause(10_000, controller.signal);
  controller.abort(new Failure('cancelled', 'no longer wanted'));
  await expect(paused).rejects.toThrow('no longer wanted');
  await expect(pause(10_000, controller.signal)).rejects.toThrow('no longer wanted');
});

test('a reason that is no failure counts as cancelled', () => {
  expect(stopReason(AbortSignal.abort('gone')).kind).toBe('cancelled');
});
