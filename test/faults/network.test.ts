/**
 * Transfers over lines in trouble: slow, cut, deaf, lying. Each ends whole or as the failure that it was; none hangs, and
 * nothing that differs from its source is ever found anywhere.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { FailureKind } from '../../lib/errors.ts';
import { scaled } from '../scale.ts';
import { startMinio } from '../servers/minio.ts';
import { type RedisServer, startRedis } from '../servers/redis.ts';
import { requireServer } from '../servers/require.ts';
import type { S3Server } from '../servers/s3.ts';
import { startToxiproxy, type Toxic, type Toxiproxy, type TroubledLine } from '../servers/toxiproxy.ts';
import { BUCKET, type Ended, Harbour } from './harbour.ts';
import { deafLine, flippingLine } from './lines.ts';
import { randomOf, seedOf } from './seed.ts';

/** As many transfers in each of the troubles below: 500 in all. */
const EACH = scaled(30);
const AT_ONCE = 10;
/** How long a line is down. */
const AWAY_MS = 3000;
const LIMIT_MS = 280_000;

interface Trouble {
  readonly name: string;
  readonly toxics: readonly Toxic[];
}
const both = (toxic: Omit<Toxic, 'stream'>): Toxic[] => [
  { ...toxic, stream: 'upstream' },
  { ...toxic, stream: 'downstream' },
];
const BROKEN: readonly FailureKind[] = ['unavailable', 'timeout'];

const AT_THE_STORE: readonly Trouble[] = [
  {
    name: 'deaf now and then',
    toxics: both({ type: 'timeout', toxicity: 0.15, attributes: { timeout: 0 } }),
  },
  { name: 'late', toxics: both({ type: 'latency', attributes: { latency: 150, jitter: 100 } }) },
  { name: 'narrow', toxics: both({ type: 'bandwidth', attributes: { rate: 8000 } }) },
  {
    name: 'in small pieces',
    toxics: both({ type: 'slicer', attributes: { average_size: 5000, size_variation: 4900, delay: 1 } }),
  },
  {
    name: 'reset in the middle',
    toxics: both({ type: 'reset_peer', toxicity: 0.3, attributes: { timeout: 30 } }),
  },
  {
    name: 'closed before the request was there',
    toxics: [{ type: 'limit_data', stream: 'upstream', toxicity: 0.5, attributes: { bytes: 20_000 } }],
  },
  {
    name: 'closed in the middle of an answer, or right after it',
    toxics: [{ type: 'limit_data', stream: 'downstream', toxicity: 0.5, attributes: { bytes: 3000 } }],
  },
  {
    name: 'without answers now and then',
    toxics: [{ type: 'limit_data', stream: 'downstream', toxicity: 0.4, attributes: { bytes: 0 } }],
  },
];

/** Redis carries notes: its troubles fail no transfer. */
const AT_REDIS: readonly Trouble[] = [
  { name: 'late', toxics: both({ type: 'latency', attributes: { latency: 100, jitter: 100 } }) },
  {
    name: 'narrow and in small pieces',
    toxics: [
      ...both({ type: 'bandwidth', attributes: { rate: 40 } }),
      ...both({ type: 'slicer', attributes: { average_size: 100, size_variation: 90, delay: 1 } }),
    ],
  },
  { name: 'reset', toxics: both({ type: 'reset_peer', toxicity: 0.5, attributes: { timeout: 200 } }) },
  {
    name: 'closed in the middle of an answer',
    toxics: [{ type: 'limit_data', stream: 'downstream', toxicity: 0.5, attributes: { bytes: 5000 } }],
  },
];

const seed = seedOf('network');

requireServer(
  'redis',
  'minio',
  'toxiproxy',
)('transfers over a line in trouble', () => {
  let redis: RedisServer;
  let minio: S3Server;
  let toxiproxy: Toxiproxy;
  let made = 0;
  beforeAll(async () => {
    [redis, minio, toxiproxy] = await Promise.all([startRedis(), startMinio(), startToxiproxy()]);
    await minio.makeBucket(BUCKET);
  });
  afterAll(() => Promise.all([redis?.stop(), minio?.stop(), toxiproxy?.stop()]));

  type Ports = Pick<Parameters<typeof Harbour.open>[0], 'storePort' | 'redisPort' | 'lockMs'>;

  /** Opens a harbour on those ports, does `work`, and closes it. */
  async function inHarbour(ports: Ports, work: (harbour: Harbour) => Promise<void>): Promise<void> {
    const name = `harbour-${++made}`;
    const harbour = await Harbour.open({ name, minio, redis, random: randomOf(seed + made), ...ports });
    try {
      await work(harbour);
    } finally {
      await harbour.close();
    }
  }

  test.concurrent.each(AT_THE_STORE)(
    'to a store that is $name end whole or as broken off',
    async ({ toxics }) => {
      const line = await toxiproxy.line(`store-${++made}`, minio.port);
      for (const toxic of toxics) await line.add(toxic);
      await inHarbour({ storePort: line.port }, async (harbour) => {
        expect(await wrong(harbour, EACH, BROKEN)).toEqual([]);
        await line.heal();
      });
    },
    LIMIT_MS,
  );

  test.concurrent(
    'to a store that stays deaf end as timeout, soon enough',
    async () => {
      const line = await toxiproxy.line(`store-${++made}`, minio.port);
      await line.add({ type: 'timeout', stream: 'upstream', attributes: { timeout: 0 } });
      await inHarbour({ storePort: line.port }, async (harbour) => {
        const ended = await Promise.all([0, 1, 2, 3, 4].map((nth) => harbour.carry(nth)));
        const endings = ended.map(({ view }) => [view.kind, view.state, view.failure?.kind]);
        expect(endings).toEqual(ended.map(({ view }) => [view.kind, 'failed', 'timeout']));
        await line.heal();
      });
    },
    LIMIT_MS,
  );

  test.concurrent(
    'to a store that is away for a while go on when it is back',
    async () => {
      const line = await toxiproxy.line(`store-${++made}`, minio.port);
      await line.enable(false);
      await inHarbour({ storePort: line.port }, async (harbour) => {
        const [found] = await Promise.all([wrong(harbour, EACH, ['unavailable']), back(line)]);
        expect(found).toEqual([]);
      });
    },
    LIMIT_MS,
  );

  test.concurrent(
    'over which bits flip end whole or as corrupt, and nothing else is found anywhere',
    async () => {
      const line = await flippingLine(minio.port, { every: 5, random: randomOf(seed) });
      try {
        await inHarbour({ storePort: line.port }, async (harbour) => {
          const found = await wrong(harbour, 4 * EACH, ['corrupt', ...BROKEN]);
          expect(found).toEqual([]);
          expect(line.flipped.requests).toBeGreaterThan(0);
          expect(line.flipped.answers).toBeGreaterThan(0);
        });
      } finally {
        await line.close();
      }
    },
    LIMIT_MS,
  );

  test.concurrent.each(AT_REDIS)(
    'succeed all with a Redis that is $name',
    async ({ toxics }) => {
      const line = await toxiproxy.line(`redis-${++made}`, redis.port);
      await inHarbour({ redisPort: line.port, lockMs: 5000 }, async (harbour) => {
        for (const toxic of toxics) await line.add(toxic);
        expect(await wrong(harbour, EACH)).toEqual([]);
        await line.heal();
      });
    },
    LIMIT_MS,
  );

  test.concurrent(
    'succeed all with a Redis that is away for a while',
    async () => {
      const line = await toxiproxy.line(`redis-${++made}`, redis.port);
      await inHarbour({ redisPort: line.port }, async (harbour) => {
        await line.enable(false);
        const [found] = await Promise.all([wrong(harbour, EACH), back(line)]);
        expect(found).toEqual([]);
      });
    },
    LIMIT_MS,
  );

  test.concurrent(
    'succeed all when the connections to Redis go deaf for good and only new ones are good',
    // of this test: those that run beside it have an expect of their own
    async ({ expect }) => {
      const line = await deafLine(redis.port);
      try {
        await inHarbour({ redisPort: line.port }, async (harbour) => {
          const carried = wrong(harbour, EACH);
          line.deafen();
          const ready = async () => (await harbour.service.fetch('/ready')).status;
          await expect.poll(ready, { timeout: 30_000, interval: 500 }).toBe(200);
          expect(await carried).toEqual([]);
        });
      } finally {
        await line.close();
      }
    },
    LIMIT_MS,
  );
});

async function back(line: TroubledLine): Promise<void> {
  await sleep(AWAY_MS);
  await line.enable(true);
}

/** Carries `count` transfers, some at once, and tells of those that did not end as they should. */
async function wrong(
  harbour: Harbour,
  count: number,
  failures: readonly FailureKind[] = [],
): Promise<string[]> {
  const found: string[] = [];
  for (let at = 0; at < count; at += AT_ONCE) {
    const some = Array.from({ length: Math.min(AT_ONCE, count - at) }, (_, n) => harbour.carry(at + n));
    for (const ended of await Promise.all(some)) {
      const why = whyWrong(ended, failures);
      if (why) found.push(`${ended.what}: ${why}: ${JSON.stringify(ended.view)}`);
    }
  }
  return found;
}

function whyWrong({ view, done, damaged }: Ended, failures: readonly FailureKind[]): string | undefined {
  // before a delete that failed the object is there, whole, as it was
  if (damaged) return 'something else is there than was sent';
  if (view.state === 'succeeded') return done ? undefined : 'what should be there is not';
  if (view.state !== 'failed' || !view.failure) return `ended as ${view.state}`;
  return (failures as readonly string[]).includes(view.failure.kind) ? undefined : 'failed as something else';
}
