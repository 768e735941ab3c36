import { randomBytes } from 'node:crypto';
import { readdirSync, statSync } from 'node:fs';
import { afterEach, expect, test } from 'vitest';
import { requireServer } from '../servers/require.ts';
import { redisForAll } from '../servers/shared.ts';
import { eventually, openQuay, type Quay } from './quay.ts';
import { startWorker as startWorkerProcess } from './worker-process.ts';

const startWorker = ({ deps: { config } }: Quay) => {
  const { dataFolder, redisUrl, redisPrefix, partThresholdBytes } = config;
  return startWorkerProcess({ dataFolder, redisUrl, redisPrefix, partThresholdBytes });
};

/** One job a transfer, however large. */
const IN_ONE = { partThresholdBytes: 2 ** 40 };

requireServer('redis')('a worker process', () => {
  const redis = redisForAll();
  let quay: Quay;
  afterEach(() => quay.close());

  test('that is killed in the middle leaves a transfer that another finishes', async () => {
    quay = await openQuay({ redisUrl: redis.url, config: IN_ONE });
    const bytes = randomBytes(256 * 1024 * 1024);
    const first = await startWorker(quay);
    const { id } = await quay.submit({ kind: 'upload', to: quay.place('big/w.bin') }, bytes);
    await quay.until(id, ({ state }) => state === 'running');
    await eventually(() => hiddenBytes(quay.fileOf('big')) > 0);
    await first.kill();
    expect((await quay.get(id)).state).toBe('running');
    const second = await startWorker(quay);
    expect(await quay.ended(id, 40_000)).toMatchObject({ state: 'succeeded', attempts: 0, starts: 2 });
    expect(quay.bytesAt('big/w.bin').equals(bytes)).toBe(true);
    expect(await second.stop()).toBe(0);
  });

  test('hands its jobs back and ends when its standard input closes', async () => {
    quay = await openQuay({ redisUrl: redis.url, config: IN_ONE });
    const worker = await startWorker(quay);
    const { id } = await quay.submit(
      { kind: 'upload', to: quay.place('w.bin') },
      randomBytes(256 * 1024 * 1024),
    );
    await quay.until(id, ({ state }) => state !== 'accepted');
    expect(await worker.stop()).toBe(0);
    const { state, attempts } = await quay.get(id);
    expect(attempts).toBe(0);
    if (state !== 'succeeded')
      expect((await quay.queue.counts()).upload).toMatchObject({ waiting: 1, active: 0 });
  });

  test('serves its metrics and whether it takes jobs', async () => {
    quay = await openQuay({ redisUrl: redis.url, config: IN_ONE });
    const worker = await startWorker(quay);
    const { id } = await quay.submit({ kind: 'upload', to: quay.place('w') }, Buffer.from('x'));
    await quay.ended(id);
    await eventually(async () =>
      (await (await fetch(`${worker.url}/metrics`)).text()).includes(
        'longshore_transfers_ended_total{kind="upload",store="artifacts",outcome="succeeded"} 1',
      ),
    );
    expect(await (await fetch(`${worker.url}/ready`)).text()).toBe('OK');
    expect((await fetch(`${worker.url}/nothing`)).status).toBe(404);
    expect(await worker.stop()).toBe(0);
  });
});

/** Bytes of files that are not published yet. */
function hiddenBytes(folder: string): number {
  try {
    return readdirSync(folder)
      .filter((name) => name.startsWith('.'))
      .reduce((sum, name) => sum + statSync(`${folder}/${name}`).size, 0);
  } catch {
    return 0; // not made yet, or gone meanwhile
  }
}
