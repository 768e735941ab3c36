import { expect, test } from 'vitest';
import { bandOf, frontOf, lineOf } from '../../lib/jobs/fair.ts';

/** What BullMQ takes: 1 to 2^21 - 1, for 0 is none. */
const LARGEST = 2 ** 21 - 1;
const TURNS = 2 ** 17;

test('every priority has its place, in order, and the default one has it alone', () => {
  const bands = Array.from({ length: 1000 }, (_, n) => bandOf(n + 1));
  expect(bands).toEqual([...bands].sort((a, b) => a - b));
  expect(new Set(bands)).toEqual(new Set(Array.from({ length: 16 }, (_, n) => n)));
  for (const alone of [1, 100, 1000]) expect(bands.filter((band) => band === bandOf(alone))).toHaveLength(1);
  expect((bandOf(1000) + 1) * TURNS - 1).toBe(LARGEST);
});

test('what goes first goes before all of like priority, and behind better ones', () => {
  for (const band of [0, 8, 15])
    for (const turn of [1, 2, 5000, TURNS - 1]) {
      const front = frontOf(band * TURNS + turn);
      expect(front).toBeLessThanOrEqual(band * TURNS + turn);
      expect(front).toBeGreaterThan(band * TURNS);
    }
});

test('a tenant is the value of the label, or else who submits, and the two are never mixed up', () => {
  const lines = [
    lineOf({ owner: 'ann', labels: {} }, 'tenant'),
    lineOf({ owner: 'bob', labels: {} }, 'tenant'),
    lineOf({ owner: 'ann', labels: { tenant: 'bob' } }, 'tenant'),
    lineOf({ owner: 'ann', labels: { tenant: '' } }, 'tenant'),
  ];
  expect(new Set(lines).size).toBe(4);
  const carol = lineOf({ owner: 'carol', labels: { tenant: 'bob' } }, 'tenant');
  expect(carol).toBe(lines[2]);
  expect(lineOf({ owner: 'ann', labels: { none: 'x' } }, 'none')).toBe(lines[0]);
  expect(lineOf({ owner: 'ann', labels: {} }, 'constructor')).toBe(lines[0]);
});
