import { describe, expect, test } from 'vitest';
import { backoffMs, laterMs } from '../../workers/endings.ts';
import { createProcessor } from '../../workers/run.ts';

describe('the delay before another attempt', () => {
  test('is anything up to a limit that doubles and is capped', () => {
    const most = (attempt: number): number => backoffMs(attempt, 0, () => 1);
    expect([1, 2, 3, 4].map(most)).toEqual([1000, 2000, 4000, 8000]);
    expect(most(60)).toBe(300_000);
    expect(backoffMs(5, 0, () => 0)).toBe(0);
  });

  test('is never shorter than what the store asked for', () => {
    expect(backoffMs(1, 30_000, () => 0)).toBe(30_000);
    expect(laterMs(30_000, () => 0)).toBe(30_000);
    expect(laterMs(30_000, () => 1)).toBeLessThanOrEqual(36_000);
  });

  test('is spread out where the store named none', () => {
    expect(laterMs(undefined, () => 0)).toBe(1000);
    expect(laterMs(undefined, () => 1)).toBe(15_000);
  });
});

test('the processor names three parameters, without which BullMQ gives it no signal', () => {
  const build = createProcessor as (...args: unknown[]) => { readonly length: number };
  expect(build({ health: new Map(), stores: new Map() }, {}).length).toBe(3);
});
