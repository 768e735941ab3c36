/** The gates that eight processes have to one store, all in this process: what they let through together. */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { StoreGate, type StoreLimit } from '../../lib/jobs/limit-gate.ts';
import { connectRedis } from '../../lib/jobs/redis.ts';
import { createLog } from '../../lib/log.ts';
import { scaled } from '../scale.ts';
import { type RedisServer, startRedis } from '../servers/redis.ts';
import { requireServer } from '../servers/require.ts';

const PROCESSES = 8;
const AT_ONCE = 4;
const RUN_MS = scaled(60_000);
/** Longer than it takes until each process has its part of a limit without Redis. */
const AWAY_MS = 16_000;

requireServer('redis')('the gates of eight processes', () => {
  let redis: RedisServer;
  let close: (() => Promise<void>)[] = [];
  let stores = 0;
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis?.stop());
  afterEach(async () => {
    await Promise.all(close.map((one) => one()));
    close = [];
  });

  function gatesTo(limit: StoreLimit, { url } = redis): StoreGate[] {
    const log = createLog({ level: 'silent', format: 'json', process: 'test' });
    const key = `{gates}:limits:${++stores}`;
    return Array.from({ length: PROCESSES }, (_, n) => {
      const connection = connectRedis(url, 'producer', { log, name: 'gate' });
      const gate = new StoreGate({
        redis: connection,
        key,
        process: `process-${n}`,
        channel: '{gates}:limits:',
        limit,
        processes: PROCESSES,
        onWaited: () => undefined,
        onHeld: () => undefined,
      });
      close.push(async () => {
        await gate.close();
        connection.disconnect();
      });
      return gate;
    });
  }

  /** Every process always has some that want to enter, and stay for `workMs`. */
  async function rush(gates: readonly StoreGate[], workMs: number, runMs = RUN_MS) {
    const starts: number[] = [];
    const each = gates.map(() => 0);
    let now = 0;
    let most = 0;
    let busyMs = 0;
    const { signal } = new AbortController();
    const beganMs = performance.now();
    const enter = async (gate: StoreGate, at: number): Promise<void> => {
      while (performance.now() < beganMs + runMs) {
        const pass = await gate.enter(signal, 'other');
        most = Math.max(most, ++now);
        const startedMs = performance.now();
        starts.push(startedMs);
        each[at]!++;
        await new Promise((resolve) => setTimeout(resolve, workMs));
        busyMs += performance.now() - startedMs;
        now--;
        pass.leave('answered');
      }
    };
    await Promise.all(gates.flatMap((gate, at) => Array.from({ length: AT_ONCE }, () => enter(gate, at))));
    const ms = performance.now() - beganMs;
    const mostInSecond = Math.max(
      ...starts.map((from) => starts.filter((time) => time >= from && time < from + 1000).length),
    );
    return { most, mostInSecond, rate: (starts.length * 1000) / ms, inUse: busyMs / ms, each };
  }

  test('let no more in than are allowed, nearly as many, and each process about as many', async () => {
    const { most, mostInSecond, rate, each } = await rush(gatesTo({ connections: 4, requests: 50 }), 8);
    process.stdout.write(`gates: ${rate.toFixed(1)}/s of 50, at most ${mostInSecond} in a second\n`);
    expect(most).toBeLessThanOrEqual(4);
    expect(mostInSecond).toBeLessThanOrEqual(50);
    expect(rate).toBeGreaterThan(0.7 * 50);
    expect(Math.min(...each)).toBeGreaterThan(Math.max(...each) / 2);
  });

  test('hand connections over from one to the next', async () => {
    const { most, inUse, each } = await rush(gatesTo({ connections: 4 }), 50);
    process.stdout.write(`gates: ${inUse.toFixed(2)} of 4 in use\n`);
    expect(most).toBeLessThanOrEqual(4);
    expect(inUse).toBeGreaterThan(0.5 * 4);
    expect(Math.min(...each)).toBeGreaterThan(0);
  });

  test('keep to a limit of requests alone', async () => {
    const { mostInSecond } = await rush(gatesTo({ requests: 20 }), 1);
    expect(mostInSecond).toBeLessThanOrEqual(20);
  });

  test('go on without Redis, each with its part: no more than are allowed, or than one each', async () => {
    const own = await startRedis();
    const enough = gatesTo({ connections: 2 * PROCESSES }, own);
    const scarce = gatesTo({ connections: 4 }, own);
    const before = await Promise.all([rush(enough, 20, 1000), rush(scarce, 20, 1000)]);
    await own.kill();
    const [many, few] = await Promise.all([rush(enough, 20, AWAY_MS), rush(scarce, 20, AWAY_MS)]);
    process.stdout.write(`gates without Redis: ${many.most} of 16, ${few.most} of 4\n`);
    expect(before[1].most).toBeLessThanOrEqual(4);
    expect(many.most).toBeLessThanOrEqual(2 * PROCESSES);
    expect(few.most).toBeLessThanOrEqual(PROCESSES);
    for (const { each } of [many, few]) expect(Math.min(...each)).toBeGreaterThan(0);
    await own.stop();
  }, 60_000);

  test('let one who reads write there too, however many read', async () => {
    const gates = gatesTo({ connections: 2 });
    const { signal } = new AbortController();
    const copies = gates.flatMap((gate) =>
      Array.from({ length: 2 }, async () => {
        const doneReading = await gate.enter(signal, 'reading');
        const doneWriting = await gate.enter(signal, 'other');
        doneWriting.leave('answered');
        doneReading.leave('answered');
      }),
    );
    await Promise.all(copies);
  });

  test('open again for those who wait when one that waits gives up', async () => {
    const [gate] = gatesTo({ connections: 2 });
    const { signal } = new AbortController();
    const [first, second] = [await gate!.enter(signal, 'other'), await gate!.enter(signal, 'other')];
    const patience = new AbortController();
    const third = gate!.enter(patience.signal, 'other');
    const fourth = gate!.enter(signal, 'other');
    patience.abort();
    await expect(third).rejects.toMatchObject({ kind: 'cancelled' });
    first!.leave('answered');
    (await fourth).leave('answered');
    second!.leave('answered');
  });
});
