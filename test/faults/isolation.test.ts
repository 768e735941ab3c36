/** One store in trouble, many jobs for it first in the queue, and some for another store behind them. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Service, viewIn } from '../e2e/service.ts';
import { scaled } from '../scale.ts';
import { startMinio } from '../servers/minio.ts';
import { startRedis } from '../servers/redis.ts';
import { requireServer } from '../servers/require.ts';
import type { S3Server } from '../servers/s3.ts';
import { startToxiproxy, type Toxiproxy, type TroubledLine } from '../servers/toxiproxy.ts';
import { type CountingLine, countingLine } from './counting.ts';

const BUCKET = 'isolation';
const TROUBLED = Math.max(60, scaled(200));
const OTHERS = 20;
/** Until then a call that hangs is not given up. */
const STALL_MS = 60_000;
const PATIENCE_MS = 150_000;

interface Trouble {
  readonly name: string;
  begin(line: TroubledLine, counting: CountingLine): Promise<void>;
}
const TROUBLES: readonly Trouble[] = [
  {
    name: 'deaf',
    begin: (line) => line.add({ type: 'timeout', stream: 'upstream', attributes: { timeout: 0 } }),
  },
  { name: 'down', begin: (line) => line.enable(false) },
  {
    name: 'throttled',
    begin: async (_line, counting) => counting.refuse({ status: 503, retryAfterSeconds: 20 }),
  },
];

requireServer(
  'redis',
  'minio',
  'toxiproxy',
)('a store that is', () => {
  let minio: S3Server;
  let toxiproxy: Toxiproxy;
  beforeAll(async () => {
    [minio, toxiproxy] = await Promise.all([startMinio(), startToxiproxy()]);
    await minio.makeBucket(BUCKET);
  });
  afterAll(() => Promise.all([minio?.stop(), toxiproxy?.stop()]));

  test.concurrent.each(TROUBLES)(
    '$name holds up no job of another store, and its own are carried when it is well',
    async ({ name, begin }) => {
      const counting = await countingLine(minio.port);
      const line = await toxiproxy.line(name, counting.port);
      const uri = `s3://${BUCKET}/${name}`;
      const env = { ...minio.env, MLFLOW_S3_ENDPOINT_URL: `http://127.0.0.1:${line.port}` };
      const service = new Service(await startRedis(), { stores: { lake: uri }, stallMs: STALL_MS }, env);
      Object.assign(service.settings.stores as object, { attic: service.attic });
      try {
        await service.startApi();
        writeFileSync(join(service.root, 'small'), 'a few bytes');
        const submit = async (to: string): Promise<string> =>
          (await viewIn(await service.submit({ kind: 'copy', from: 'small', to }), 202)).id;
        const all = async (count: number, toOf: (n: number) => string): Promise<string[]> => {
          const ids: string[] = [];
          for (let n = 0; n < count; n++) ids.push(await submit(toOf(n)));
          return ids;
        };
        const troubled = await all(TROUBLED, (n) => `${uri}/file-${n}`);
        const others = await all(OTHERS, (n) => `file://${service.attic}/file-${n}`);
        await begin(line, counting);
        const beganMs = performance.now();
        await service.startWorker();
        await carried(service, others);
        const tookMs = performance.now() - beganMs;
        process.stdout.write(`isolation: ${name}: the others ended after ${(tookMs / 1000).toFixed(1)} s\n`);
        expect(tookMs).toBeLessThan(STALL_MS);
        await told(service, [
          /longshore_jobs_held_back_total\{store="lake"\} [1-9]/,
          /longshore_store_trouble\{store="lake"\} [12]/,
          ...(name === 'throttled' ? [/longshore_store_throttled_total\{store="lake"\} [1-9]/] : []),
        ]);
        await line.enable(false); // what hangs is cut
        await line.heal();
        counting.refuse(undefined);
        await line.enable(true);
        await carried(service, troubled);
      } finally {
        await service.close();
        await counting.close();
      }
    },
    3 * PATIENCE_MS,
  );
});

/** The others may have ended before the store was asked for the first time. */
async function told(service: Service, wanted: readonly RegExp[]): Promise<void> {
  for (const lastMs = Date.now() + PATIENCE_MS; ; await sleep(50)) {
    const metrics = await (await fetch(`${service.workerUrl}/metrics`)).text();
    if (wanted.every((line) => line.test(metrics))) return;
    if (Date.now() > lastMs) for (const line of wanted) expect(metrics).toMatch(line);
  }
}

async function carried(service: Service, ids: readonly string[]): Promise<void> {
  const lastMs = Date.now() + PATIENCE_MS;
  for (const id of ids)
    for (;;) {
      const view = await service.transfer(id);
      if (view.state === 'succeeded') break;
      if (view.state === 'failed' || Date.now() > lastMs) throw new Error(JSON.stringify(view));
      await sleep(100);
    }
}
