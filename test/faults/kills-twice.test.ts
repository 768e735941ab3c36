/** Two workers with one job: one that slept through its lock, and two that were given the same note. */
import { expect, test } from 'vitest';
import { Queue } from '../../lib/jobs/queue.ts';
import { createLog } from '../../lib/log.ts';
import { eventually } from '../e2e/quay.ts';
import { scaled } from '../scale.ts';
import { requireServer } from '../servers/require.ts';
import { rowsIn } from './oracle.ts';
import type { Point } from './points.ts';
import { ended as endOf, jobsEnded, onStage, type Scene, until } from './scene.ts';
import { seedOf } from './seed.ts';
import { Service, type Target } from './service.ts';
import { Source } from './sources.ts';

const MIB = 1024 * 1024;
const TEST_MS = 600_000;
const WAIT_MS = 60_000;
const OTHER_PREFIX = '{other}';

const ended = (scene: Scene, id: string) => endOf(scene, id, WAIT_MS);

/** Of the worker: transfers that it has at hand. */
async function atHand(url: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  const counts = [...text.matchAll(/^longshore_transfers_in_flight\{.*\} (\d+)$/gm)];
  return counts.reduce((sum, [, count]) => sum + Number(count), 0);
}

async function nothingIsLeft({ service }: Scene, paths: readonly string[]): Promise<void> {
  await jobsEnded({ service }, WAIT_MS);
  await service.stopRoles();
  await service.collect();
  expect(await service.leftBehind(paths)).toEqual([]);
}

const ALL_NAPS: readonly (readonly [Target, Point, number])[] = [
  ['MinIO', 'publishing', 100],
  ['folder', 'publishing', 100],
  ['MinIO', 'publishing', 20 * MIB],
  ['folder', 'publishing', 20 * MIB],
  ['folder', 'sending', 20 * MIB],
  ['MinIO', 'published', 100],
];
const NAPS = ALL_NAPS.slice(0, scaled(10));

/** Leaves every worker with open connections, over which something could be said at once. */
async function warmUp(scene: Scene, seed: number): Promise<void> {
  const sources = Array.from({ length: 12 }, (_, n) => new Source(`warm/${n}`, 1000, seed));
  const ids = await Promise.all(sources.map((source) => scene.client.upload(source, source.path)));
  await Promise.all(ids.map((id) => ended(scene, id)));
}

/** While it sleeps another one ends its transfer, and a later one of the same path. */
async function nap(scene: Scene, point: Point, older: Source, newer: Source): Promise<void> {
  const { service, client } = scene;
  const { path } = older;
  const stopped = service.points.next('stop', 'worker', point, AbortSignal.timeout(WAIT_MS));
  const first = await client.upload(older, `older ${path}`);
  const pid = (await stopped)!;
  expect((await ended(scene, first)).state).toBe('succeeded');
  const second = await client.upload(newer, `newer ${path}`);
  expect((await ended(scene, second)).state).toBe('succeeded');
  const last = { size: newer.size, sha256: newer.sha256 };
  expect(await service.shelf.read(path)).toEqual(last);
  process.kill(pid, 'SIGCONT');
  const { url } = service.workers.find((worker) => worker.pid === pid)!;
  await until('its end of the job', WAIT_MS, async () => ((await atHand(url)) === 0 ? true : undefined));
  expect(await service.shelf.read(path)).toEqual(last);
  const rows = rowsIn(service.ledger).filter((row) => row.path === path);
  expect(rows.map(({ endings }) => endings)).toEqual([1, 1]);
}

requireServer('redis', 'minio')('a worker that slept for longer than its lock lasts', () => {
  for (const [target, point, size] of NAPS)
    test.concurrent(
      `and wakes up in mid-transfer (${size} bytes, ${point}, ${target}) does no harm to what others did meanwhile`,
      async () => {
        const seed = seedOf('naps');
        await onStage(await Service.start(target, 2), async (scene) => {
          await warmUp(scene, seed);
          const paths = Array.from({ length: scaled(10) }, (_, round) => `naps/${round}.bin`);
          for (const path of paths)
            await nap(scene, point, new Source(path, size, seed), new Source(path, size + 1, seed));
          await nothingIsLeft(scene, paths);
        });
      },
      TEST_MS,
    );
});

/** The same note in the queues of both; each has only its own. */
async function shareOut(scene: Scene, sources: readonly Source[]): Promise<void> {
  const { service, client } = scene;
  await service.addWorker(OTHER_PREFIX);
  const log = createLog({ level: 'silent', format: 'json', process: 'test' });
  const other = new Queue({ url: service.redis.url, prefix: OTHER_PREFIX }, log);
  try {
    for (const source of sources) {
      const id = await client.upload(source, source.path);
      const note = { id, epoch: 1, kind: 'upload', priority: 100, owner: 'test', labels: {} } as const;
      // a producer waits for a second at most, which a busy machine may need
      await eventually(() =>
        other.submit(note).then(
          () => true,
          () => false,
        ),
      );
      expect(await ended(scene, id)).toMatchObject({ state: 'succeeded', endings: 1, epoch: 1 });
      const there = await service.shelf.read(source.path);
      expect(there).toEqual({ size: source.size, sha256: source.sha256 });
    }
  } finally {
    await other.close();
  }
}

requireServer('redis', 'minio')('two workers with the same job', () => {
  for (const target of ['folder', 'MinIO'] as const)
    test.concurrent(
      `end it once, with the right bytes in ${target === 'folder' ? 'a folder' : target}`,
      async () => {
        const seed = seedOf('twice');
        await onStage(await Service.start(target, 1), async (scene) => {
          const sources = Array.from(
            { length: scaled(20) },
            (_, round) => new Source(`twice/${round}.bin`, round % 2 === 0 ? 20 * MIB : 1000, seed),
          );
          await shareOut(scene, sources);
          await nothingIsLeft(
            scene,
            sources.map(({ path }) => path),
          );
          const starts = rowsIn(scene.service.ledger).map((row) => row.starts);
          console.log(`twice, ${target}: taken up ${starts.join(', ')} times`);
        });
      },
      TEST_MS,
    );
});
