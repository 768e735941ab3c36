import { expect, test } from 'vitest';
import { costOf, NOTHING, workMs } from '../../apps/api/backlog-cost.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

test('before anything was carried there is a number, not nothing', () => {
  expect(costOf({ jobs: 0, bytes: 0, busyMs: 0 })).toBeUndefined();
  expect(NOTHING.basis).toBe('assumed');
  expect(workMs({ jobs: 10, bytes: 0 }, NOTHING)).toBe(10_000);
  expect(workMs({ jobs: 1, bytes: GIB }, NOTHING)).toBe(128_000);
  expect(workMs({ jobs: 0, bytes: 0 }, NOTHING)).toBe(0);
});

test('many small files take as long as their number says', () => {
  const cost = costOf({ jobs: 500, bytes: 500 * 4 * KIB, busyMs: 10_000 })!;
  expect(workMs({ jobs: 100_000, bytes: 100_000 * 4 * KIB }, cost)).toBe(100_000 * 20);
});

test('few large ones take as long as their bytes say', () => {
  const cost = costOf({ jobs: 2, bytes: 2 * GIB, busyMs: 40_000 })!;
  expect(workMs({ jobs: 1, bytes: 10 * GIB }, cost)).toBe(200_000);
});

test('small files say nothing of how fast bytes are, nor large ones of how long a job takes', () => {
  const small = costOf({ jobs: 10, bytes: 50, busyMs: 200 })!;
  expect(workMs({ jobs: 1, bytes: GIB }, small)).toBe(128_000);
  const large = costOf({ jobs: 1, bytes: 100 * GIB, busyMs: 1_000_000 })!;
  expect(workMs({ jobs: 100, bytes: 100 * KIB }, large)).toBe(100_000);
});

test('what took no time that could be measured still costs something', () => {
  expect(costOf({ jobs: 5, bytes: 0, busyMs: 0 })!.msPerJob).toBe(1);
});
