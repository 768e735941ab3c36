import { expect, test } from 'vitest';
import { Together } from '../../lib/jobs/together.ts';

/** Lots that were sent, each with what ends it. */
function sending(most: number) {
  const lots: { items: readonly number[]; done: PromiseWithResolvers<void> }[] = [];
  const together = new Together<number>(most, (items) => {
    const done = Promise.withResolvers<void>();
    lots.push({ items, done });
    return done.promise;
  });
  const itemsOf = () => lots.map(({ items }) => items);
  return { together, lots, itemsOf };
}

test('what is asked for while a lot is on its way goes together in the next ones, in its order', async () => {
  const { together, lots, itemsOf } = sending(3);
  const first = together.add(1);
  await expect.poll(itemsOf).toEqual([[1]]);
  const others = [2, 3, 4, 5].map((n) => together.add(n));
  lots[0]!.done.resolve();
  await first;
  await expect.poll(itemsOf).toEqual([[1], [2, 3, 4]]);
  lots[1]!.done.resolve();
  await Promise.all(others.slice(0, 3));
  await expect.poll(() => itemsOf().at(-1)).toEqual([5]);
  lots[2]!.done.resolve();
  await Promise.all([...others, together.settled()]);
  const later = together.add(6);
  await expect.poll(() => itemsOf().at(-1)).toEqual([6]);
  lots[3]!.done.resolve();
  await later;
});

test('who waits behind a lot that fails is not kept waiting, and what comes after that is sent', async () => {
  const { together, lots, itemsOf } = sending(2);
  const waiting = [1, 2, 3, 4, 5].map((n) => together.add(n));
  await expect.poll(itemsOf).toEqual([[1, 2]]);
  lots[0]!.done.reject(new Error('away'));
  for (const one of waiting) await expect(one).rejects.toThrow('away');
  expect(lots).toHaveLength(1);
  const later = together.add(6);
  await expect.poll(itemsOf).toEqual([[1, 2], [6]]);
  lots[1]!.done.resolve();
  await later;
});
