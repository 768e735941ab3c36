import { randomBytes } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { afterEach, expect, test } from 'vitest';
import { pause } from '../../lib/deadline.ts';
import type { Driver } from '../../lib/stores/driver.ts';
import { around } from '../../lib/stores/layers/around.ts';
import { eventually, openQuay, type Quay } from '../e2e/quay.ts';
import { scaled } from '../scale.ts';
import { requireServer } from '../servers/require.ts';
import { redisForAll } from '../servers/shared.ts';

const MIB = 1024 * 1024;

requireServer('redis')('a rolling restart', () => {
  const redis = redisForAll();
  let quay: Quay;
  afterEach(() => quay.close());

  test('during one long upload, again and again, costs it no attempt', { timeout: 300_000 }, async () => {
    const rounds = scaled(100);
    let slow = true;
    let parts = 0;
    /** Each part is written, and then its answer never comes. */
    const slowly = (name: string, driver: Driver): Driver =>
      name !== 'artifacts'
        ? driver
        : around(driver, {
            once: (_op, { signal }, run) => run(signal),
            async send(_op, { signal }, body, run) {
              const receipt = await run(signal, body);
              parts++;
              if (slow) await pause(2 ** 31 - 1, signal);
              return receipt;
            },
            read: (signal, run) => run(signal),
            pages: (_op, signal, open) => open(signal),
          });
    quay = await openQuay({ redisUrl: redis.url, around: slowly });
    const bytes = randomBytes(13 * MIB);
    const { id } = await quay.submit({ kind: 'upload', to: quay.place('long/w.bin') }, bytes);
    for (let round = 1; round <= rounds; round++) {
      const before = parts;
      const pool = await quay.work({ name: `worker-${round}` });
      await eventually(() => parts > before, 30_000);
      await pool.close();
      const { state, attempts, starts } = await quay.get(id);
      expect({ state, attempts, starts }).toEqual({ state: 'running', attempts: 0, starts: round });
      expect((await quay.queue.counts()).upload).toMatchObject({ waiting: 1, active: 0, delayed: 0 });
    }
    slow = false;
    await quay.work();
    expect(await quay.ended(id, 60_000)).toMatchObject({
      state: 'succeeded',
      attempts: 0,
      starts: rounds + 1,
    });
    expect(quay.bytesAt('long/w.bin').equals(bytes)).toBe(true);
    expect(readdirSync(quay.fileOf('long'))).toEqual(['w.bin']);
    console.log(`${rounds} restarts, ${parts} parts were written in all`);
  });
});
