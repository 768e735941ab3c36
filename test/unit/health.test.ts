import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { Deadline } from '../../lib/deadline.ts';
import { Failure } from '../../lib/errors.ts';
import { parsePath } from '../../lib/path.ts';
import { MemoryDriver } from '../../lib/stores/drivers/memory.ts';
import { StoreHealth } from '../../lib/stores/health.ts';
import { vital } from '../../lib/stores/layers/vital.ts';
import { Breaker } from '../../workers/breaker.ts';

const never = new AbortController().signal;
const fail = (health: StoreHealth, times: number): void => {
  for (let n = 0; n < times; n++) health.begin()('unavailable');
};

describe('the health of a store', () => {
  test('counts calls in a row that were not answered; an answer of any kind ends the row', () => {
    const health = new StoreHealth('lake');
    fail(health, 2);
    health.begin()('timeout');
    expect(health.unanswered).toBe(3);
    health.begin()('stopped');
    expect(health.unanswered).toBe(3);
    health.begin()('not-found');
    expect(health.unanswered).toBe(0);
  });

  test('is silence only while something is asked of it, and since the last sign of life', async () => {
    const health = new StoreHealth('lake');
    await sleep(20);
    expect(health.silentMs).toBe(0);
    const end = health.begin();
    await sleep(20);
    expect(health.silentMs).toBeGreaterThan(10);
    health.alive();
    expect(health.silentMs).toBeLessThan(10);
    end('ok');
    expect(health.silentMs).toBe(0);
  });

  test('a store that throttles is paused once for all calls that it refused, and tells of it once', async () => {
    const told: number[] = [];
    const health = new StoreHealth('lake', (ms) => told.push(ms));
    const calls = [health.begin(), health.begin()];
    for (const end of calls) end('busy', 300);
    expect(told).toEqual([300]);
    const beganMs = performance.now();
    await health.turn(never);
    expect(performance.now() - beganMs).toBeGreaterThan(280);
    expect(health.pausedMs).toBe(0);
  });

  test('a long pause is not waited for: the failure says how long it is', async () => {
    const health = new StoreHealth('lake');
    health.pauseFor(30_000);
    await expect(health.turn(never)).rejects.toMatchObject({ kind: 'busy', facts: { store: 'lake' } });
    health.pauseFor(3_600_000);
    expect(health.pausedMs).toBeLessThanOrEqual(60_000);
  });

  test('waiting for the end of a pause is not standing still', async () => {
    const health = new StoreHealth('lake');
    const stalled = (): Failure => new Failure('timeout', 'nothing moved');
    using job = new Deadline().watch(50, stalled);
    using call = new Deadline([job.signal]).watch(50, stalled);
    health.pauseFor(200);
    await health.turn(call.signal);
    expect([job.signal.aborted, call.signal.aborted]).toEqual([false, false]);
    await new Promise((resolve) => job.signal.addEventListener('abort', resolve));
  });
});

describe('a store is not silent', () => {
  const path = parsePath('m/w.bin');
  const call = { signal: never, mode: 'replace', token: 'test' } as const;
  const opened = () => {
    const health = new StoreHealth('lake');
    return { health, driver: vital(new MemoryDriver(), health) };
  };
  const bodyOf = (...chunks: Uint8Array[]) => ({
    size: chunks.reduce((sum, { length }) => sum + length, 0),
    open: () => chunks,
  });

  test('while who reads from it is busy elsewhere', async () => {
    const { health, driver } = opened();
    await driver.write(path, bodyOf(Buffer.alloc(100_000)), call);
    const { bytes } = await driver.read(path, undefined, call);
    const reading = bytes[Symbol.asyncIterator]();
    for (let step = await reading.next(); ; step = await reading.next()) {
      await sleep(5);
      expect(health.silentMs).toBe(0);
      if (step.done) break;
    }
    const begun = (await driver.read(path, undefined, call)).bytes[Symbol.asyncIterator]();
    await begun.next();
    await begun.return?.();
    const end = health.begin(); // the count of those that wait is right
    await sleep(5);
    expect(health.silentMs).toBeGreaterThan(0);
    end('ok');
    expect(health.silentMs).toBe(0);
  });

  test('while what is to be written to it is not there yet', async () => {
    const { health, driver } = opened();
    const silences: number[] = [];
    const body = {
      size: 6,
      open: async function* () {
        for (const chunk of ['abc', 'def']) {
          await sleep(5);
          silences.push(health.silentMs);
          yield Buffer.from(chunk);
        }
      },
    };
    await driver.write(path, body, call);
    expect(silences).toEqual([0, 0]);
    expect(health.silentMs).toBe(0);
  });
});

describe('the breaker of a store', () => {
  const opened = () => {
    const changes: boolean[] = [];
    const health = new StoreHealth('lake');
    const breaker = new Breaker(health, (open) => changes.push(open));
    return { health, breaker, changes };
  };

  test('opens after some failures in a row, says so once, and closes at the first answer', () => {
    const { health, breaker, changes } = opened();
    fail(health, 4);
    expect(breaker.ask()).toEqual({ go: true });
    fail(health, 4);
    expect(breaker.ask()).toMatchObject({ go: false });
    health.begin()('not-found');
    expect(breaker.ask()).toEqual({ go: true });
    expect(changes).toEqual([true, false]);
  });

  test('lets one try after a while, and waits longer when that fails, too', async () => {
    const { health, breaker } = opened();
    fail(health, 5);
    const waited = breaker.ask();
    if (waited.go) throw new Error('it is closed');
    expect(waited.waitMs).toBeLessThanOrEqual(1250);
    await sleep(waited.waitMs + 5);
    const first = breaker.ask();
    expect(first.go).toBe(true);
    expect(breaker.ask()).toMatchObject({ go: false });
    fail(health, 1);
    if (first.go) first.over?.();
    const longer = breaker.ask();
    if (longer.go) throw new Error('it did not open again');
    expect(longer.waitMs).toBeGreaterThan(1250);
  });

  test('lets another try when the one that tried went away without a word of the store', async () => {
    const { health, breaker } = opened();
    fail(health, 5);
    const waited = breaker.ask();
    if (!waited.go) await sleep(waited.waitMs + 5);
    const first = breaker.ask();
    if (first.go) first.over?.();
    expect(breaker.ask().go).toBe(true);
  });
});
