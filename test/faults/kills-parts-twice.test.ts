/** Parts with two workers at once: one that slept through its lock, and two that were given the same notes. */
import { expect, test } from 'vitest';
import { Queue } from '../../lib/jobs/queue.ts';
import type { TransferKind } from '../../lib/ledger/transfer.ts';
import { createLog } from '../../lib/log.ts';
import { eventually } from '../e2e/quay.ts';
import { scaled } from '../scale.ts';
import { requireServer } from '../servers/require.ts';
import { foundAt, type Haul, haul, originOf, WAYS, type Way } from './hauls.ts';
import { rowsIn } from './oracle.ts';
import type { Point } from './points.ts';
import { ended as endOf, jobsEnded, onStage, type Scene } from './scene.ts';
import { seedOf } from './seed.ts';
import { Service } from './service.ts';
import { Source } from './sources.ts';

const MIB = 1024 * 1024;
const THRESHOLD_BYTES = 17 * MIB;
/** Two parts, and three. */
const SIZES = [24 * MIB, 40 * MIB] as const;
const TEST_MS = 900_000;
const WAIT_MS = 90_000;
const OTHER_PREFIX = '{other}';
const KIND: Record<Way, TransferKind> = { upload: 'upload', send: 'copy', bring: 'copy', fetch: 'download' };

const SETTINGS = { partThresholdBytes: THRESHOLD_BYTES, partConcurrency: 2 };
const ended = (scene: Scene, id: string) => endOf(scene, id, WAIT_MS);

async function isRight({ service }: Scene, one: Haul): Promise<void> {
  const { size, sha256 } = one.source;
  expect(await foundAt(service, one), one.way).toEqual({ size, sha256 });
}

/** Looks again once no worker lives that could still write something, and for what was left behind. */
async function staysRight(scene: Scene, hauls: readonly Haul[]): Promise<void> {
  const { service } = scene;
  await jobsEnded(scene, WAIT_MS);
  await Promise.all(service.workers.map((worker) => worker.stop()));
  for (const one of hauls) await isRight(scene, one);
  await service.stopRoles();
  await service.collect();
  const paths = hauls.flatMap(({ source }) => [source.path, originOf(source)]);
  expect(await service.leftBehind(paths)).toEqual([]);
}

const NAPS: readonly (readonly [Way, Point])[] = [
  ['upload', 'part-sending'],
  ['upload', 'all-sent'],
  ['bring', 'part-sending'],
  ['fetch', 'part-sending'],
  ['send', 'part-sent'],
  ['bring', 'all-sent'],
  ['send', 'recorded'],
  ['fetch', 'all-sent'],
  ['upload', 'begun'],
  ['upload', 'completed'],
];

/** While it sleeps others end its transfer; when it wakes up that stays as it is. */
async function nap(scene: Scene, way: Way, point: Point, source: Source): Promise<Haul> {
  const { service, client } = scene;
  const stopped = service.points.next('stop', 'worker', point, AbortSignal.timeout(WAIT_MS));
  const one = await haul(service, client, way, source);
  const pid = await stopped;
  expect(pid, `a worker at ${point}`).toBeDefined();
  try {
    expect((await ended(scene, one.id)).state).toBe('succeeded');
    await isRight(scene, one);
  } finally {
    process.kill(pid!, 'SIGCONT');
  }
  const row = rowsIn(service.ledger).find(({ id }) => id === one.id);
  expect(row).toMatchObject({ state: 'succeeded', endings: 1 });
  return one;
}

requireServer('redis', 'minio')('a worker that slept for longer than its lock, with parts', () => {
  for (const target of ['folder', 'MinIO'] as const)
    test.concurrent(
      `and wakes up does no harm to what others did meanwhile (${target})`,
      async () => {
        const seed = seedOf(`naps in parts, ${target}`);
        await onStage(await Service.start(target, 2, { settings: SETTINGS }), async (scene) => {
          const hauls: Haul[] = [];
          for (const [at, [way, point]] of NAPS.slice(0, Math.max(2, scaled(NAPS.length))).entries())
            hauls.push(await nap(scene, way, point, new Source(`naps/${at}.bin`, SIZES[at % 2]!, seed)));
          await staysRight(scene, hauls);
          console.log(`naps in parts, ${target}: ${JSON.stringify(scene.service.points.counts())}`);
        });
      },
      TEST_MS,
    );
});

requireServer('redis', 'minio')('two workers with the same transfer and the same parts', () => {
  for (const target of ['folder', 'MinIO'] as const)
    test.concurrent(
      `end it once, with the right bytes (${target})`,
      async () => {
        const seed = seedOf(`parts twice, ${target}`);
        await onStage(await Service.start(target, 1, { settings: SETTINGS }), async (scene) => {
          const { service, client } = scene;
          // it has queues of its own: what it gets there the first one has as well
          await service.addWorker(OTHER_PREFIX);
          const log = createLog({ level: 'silent', format: 'json', process: 'test' });
          const other = new Queue({ url: service.redis.url, prefix: OTHER_PREFIX }, log);
          const hauls: Haul[] = [];
          try {
            for (let round = 0; round < Math.max(2, scaled(20)); round++) {
              const way = WAYS[round % WAYS.length]!;
              const one = await haul(
                service,
                client,
                way,
                new Source(`${round}.bin`, SIZES[round % 2]!, seed),
              );
              const note = { id: one.id, epoch: 1, priority: 100, owner: 'test', labels: {} };
              // a producer waits for a second at most, which a busy machine may need
              await eventually(() =>
                other.submit({ ...note, kind: KIND[way] }).then(
                  () => true,
                  () => false,
                ),
              );
              expect(await ended(scene, one.id)).toMatchObject({ state: 'succeeded', endings: 1, epoch: 1 });
              await isRight(scene, one);
              hauls.push(one);
            }
          } finally {
            await other.close();
          }
          await staysRight(scene, hauls);
          const taken = service.points.lines('parts');
          const twice = taken.length - new Set(taken).size;
          const starts = rowsIn(service.ledger).map((row) => row.starts);
          console.log(
            `parts twice, ${target}: taken up ${starts.join(', ')} times; of ${taken.length} parts ${twice} were sent twice`,
          );
        });
      },
      TEST_MS,
    );
});
