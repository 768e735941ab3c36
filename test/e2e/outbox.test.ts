import { afterEach, expect, test } from 'vitest';
import { pause } from '../../lib/deadline.ts';
import type { Driver } from '../../lib/stores/driver.ts';
import { Outbox } from '../../lib/transfer/outbox.ts';
import { requireServer } from '../servers/require.ts';
import { redisForAll } from '../servers/shared.ts';
import { eventually, openQuay, type Quay } from './quay.ts';

requireServer('redis')('the reconciler', () => {
  const redis = redisForAll();
  let quay: Quay;
  afterEach(() => quay.close());

  /** A transfer that has ended, of which a store still has an upload; `other` hears of that when `hear` says so. */
  const openDeaf = async (hear: (signal: AbortSignal) => Promise<void>): Promise<string> => {
    const deaf = (name: string, driver: Driver): Driver => {
      const { multipart } = driver;
      if (name !== 'other' || !multipart) return driver;
      const abandon: typeof multipart.abandon = async (upload, call) => {
        await hear(call.signal);
        return multipart.abandon(upload, call);
      };
      return Object.assign(driver, { multipart: { ...multipart, abandon } });
    };
    quay = await openQuay({ redisUrl: redis.url, around: deaf, clock: () => Date.now() - 20_000 });
    const { uploads, transfers } = quay.ledger;
    const place = quay.place('large.bin', 'other');
    const { id: owner } = await quay.accept({ kind: 'upload', to: place }, Buffer.from('large'));
    const { id } = await uploads.ensureParted({ owner, place, size: 5, partBytes: 5 });
    await uploads.begun(id, 'upload-1');
    await transfers.cancel(owner);
    return owner;
  };

  test('gives transfers their jobs while a store is deaf to the clean-up after others', async () => {
    const hear: (() => void)[] = [];
    const ended = await openDeaf(() => new Promise<void>((resolve) => hear.push(resolve)));
    await quay.accept({ kind: 'upload', to: quay.place('small.bin') }, Buffer.from('small'));
    const outbox = new Outbox(quay.deps);
    expect(await outbox.reconcile()).toBe(1);
    await eventually(() => hear.length === 1);
    expect(await quay.ledger.uploads.partedOf(ended)).toHaveLength(1);
    for (const heard of hear) heard();
    await eventually(async () => (await quay.ledger.uploads.partedOf(ended)).length === 0);
    await outbox.close();
  });

  test('does not wait for such a store when it closes', async () => {
    let asked = false;
    const ended = await openDeaf((signal) => {
      asked = true;
      return pause(600_000, signal);
    });
    const outbox = new Outbox(quay.deps);
    await outbox.reconcile();
    await eventually(() => asked);
    await outbox.close();
    expect(await quay.ledger.uploads.partedOf(ended)).toHaveLength(1);
  });

  test('gives back the turns of a tree that was cancelled, once none of its jobs is left', async () => {
    quay = await openQuay({ redisUrl: redis.url });
    const { trees, transfers } = quay.ledger;
    const to = quay.place('dst');
    const { id } = await quay.accept({ kind: 'delete', tree: true, to });
    await transfers.start(id, 1, 'a worker that died');
    expect(await trees.claim(id, 1, [quay.place('dst/w.bin').path])).toEqual(['ok']);
    await transfers.cancel(id);
    expect(await trees.claimedOfEnded(10)).toEqual([id]);
    const outbox = new Outbox(quay.deps);
    await outbox.reconcile();
    await eventually(async () => (await trees.claimedOfEnded(10)).length === 0);
    await outbox.close();
  });
});
