/** Tenants that share one real worker; how its queues hand out jobs in detail is `fairness-order.test.ts`. */
import { Redis } from 'ioredis';
import { afterEach, expect, test } from 'vitest';
import type { Transfer } from '../../lib/ledger/transfer.ts';
import { requireServer } from '../servers/require.ts';
import { redisForAll } from '../servers/shared.ts';
import { Trouble } from './around.ts';
import { eventually, openQuay, type Quay, type QuayOptions } from './quay.ts';

requireServer('redis')('tenants', () => {
  const redis = redisForAll();
  let quay: Quay;
  const open = async (options: Omit<QuayOptions, 'redisUrl'> = {}): Promise<Quay> =>
    (quay = await openQuay({ redisUrl: redis.url, ...options }));
  afterEach(() => quay.close());

  /** Each of an object that is not there, which is the least work that a transfer can be. */
  const submit = async (tenant: string, count: number, priority = 100): Promise<string[]> => {
    const submitted = Array.from({ length: count }, (_, n) =>
      quay.submit({
        kind: 'delete',
        to: quay.place(`${tenant}/${priority}/${n}`),
        labels: { tenant },
        priority,
      }),
    );
    return (await Promise.all(submitted)).map(({ id }) => id);
  };
  /** In the order in which workers took them up. */
  const inOrder = async (ids: readonly string[]): Promise<Transfer[]> => {
    const transfers: Transfer[] = [];
    for (const id of ids) transfers.push(await quay.ended(id, 60_000));
    expect(new Set(transfers.map(({ state }) => state))).toEqual(new Set(['succeeded']));
    return transfers.sort((a, b) => a.startedMs! - b.startedMs!);
  };
  /** How many of `others` had ended when the last of `ids` did. */
  const endedBefore = async (ids: readonly string[], others: readonly string[]): Promise<number> => {
    const lastMs = Math.max(...(await inOrder(ids)).map(({ endedMs }) => endedMs!));
    const transfers = await Promise.all(others.map((id) => quay.get(id)));
    return transfers.filter(({ endedMs }) => endedMs !== undefined && endedMs <= lastMs).length;
  };
  const lastOf = (order: readonly Transfer[], ids: readonly string[]): number =>
    order.findLastIndex(({ id }) => ids.includes(id)) + 1;

  test('with ten jobs are done before the hundredth of one with five hundred', {
    timeout: 90_000,
  }, async () => {
    await open();
    const many = await submit('many', 500);
    const few = await submit('few', 10);
    await quay.work();
    expect(await endedBefore(few, many)).toBeLessThan(100);
  });

  test('are served by priority first', { timeout: 60_000 }, async () => {
    await open();
    const usual = await submit('a', 100);
    const urgent = await submit('b', 20, 1);
    const idle = await submit('c', 10, 1000);
    await quay.work();
    const order = await inOrder([...usual, ...urgent, ...idle]);
    // a worker takes up several at once
    expect(lastOf(order, urgent)).toBeLessThanOrEqual(20 + 8);
    expect(order.slice(-2).every(({ id }) => idle.includes(id))).toBe(true);
  });

  test('are not held up by one whose store is throttled, and whose jobs come back again and again', {
    timeout: 60_000,
  }, async () => {
    const trouble = new Trouble();
    await open({ around: (name, driver) => (name === 'other' ? trouble.around(driver) : driver) });
    trouble.failures.push(
      ...Array<{ kind: 'busy'; retryAfterMs: number }>(100_000).fill({ kind: 'busy', retryAfterMs: 50 }),
    );
    const to = (n: number) => quay.place(`x/${n}`, 'other');
    const labels = { tenant: 'throttled' };
    const held = await Promise.all(
      Array.from({ length: 60 }, (_, n) =>
        quay.submit({ kind: 'upload', to: to(n), labels }, Buffer.from('small')),
      ),
    );
    await quay.work();
    await eventually(() => trouble.writes > 60, 20_000);
    await inOrder(await submit('free', 100));
    trouble.failures.length = 0;
    await inOrder(held.map(({ id }) => id));
  });

  test('whose jobs Redis lost with all it knew take turns again', { timeout: 90_000 }, async () => {
    await open();
    const many = await submit('many', 200);
    const few = await submit('few', 10);
    const wiped = new Redis(redis.url);
    await wiped.flushall();
    await wiped.quit();
    // as the reconciler does: a new epoch and a new job for each
    for (const id of [...many, ...few]) {
      const epoch = await quay.ledger.transfers.requeue(id, 1);
      await quay.queue.submit({ ...(await quay.get(id)), epoch: epoch! });
    }
    await quay.work();
    expect(await endedBefore(few, many)).toBeLessThan(60);
  });
});
