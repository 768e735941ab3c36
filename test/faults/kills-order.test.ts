import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { scaled } from '../scale.ts';
import { requireServer } from '../servers/require.ts';
import { Client, Reader } from './client.ts';
import { hasEnded, jobKeysIn, rowsIn } from './oracle.ts';
import { randomOf, seedOf } from './seed.ts';
import { Service, type Target } from './service.ts';
import { Source, shuffled } from './sources.ts';

const TEST_MS = 900_000;
const SETTLE_MS = 90_000;
const POINTS = ['publishing', 'published', 'ended', 'started'] as const;
const PATH = 'models/latest.bin';
const targets: readonly Target[] = ['folder', 'MinIO'];

requireServer('redis', 'minio')('versions of one path, submitted in order', () => {
  for (const target of targets)
    test.concurrent(
      `to ${target === 'folder' ? 'a folder' : target} never go backwards while workers are killed, and the last accepted one stays`,
      async () => {
        const seed = seedOf(`order, ${target}`);
        const random = randomOf(seed);
        const service = await Service.start(target, 2);
        const client = new Client(() => service.url);
        try {
          for (let round = 0; round < scaled(5); round++) {
            const count = Math.max(60, scaled(200));
            const path = `${round}/${PATH}`;
            const versions = Array.from(
              { length: count },
              () => new Source(path, 1 + Math.floor(random() * 200_000), Math.floor(random() * 2 ** 31)),
            );
            const places = new Map(versions.map(({ sha256 }, at) => [sha256, at]));
            let newest = -1;
            const reader = new Reader();
            reader.start(async () => {
              const found = await service.shelf.read(path);
              if (!found) return newest < 0 ? undefined : 'it is not there any more';
              const at = places.get(found.sha256);
              if (at === undefined) return `${found.size} bytes that are no version of it`;
              if (at < newest) return `version ${at} after version ${newest}`;
              newest = at;
              return undefined;
            });
            const quiet = new AbortController();
            const killing = (async () => {
              for (const point of shuffled(POINTS, random).slice(0, Math.max(2, scaled(4))))
                await service.points.next('kill', 'worker', point, quiet.signal);
            })();
            const ids: string[] = [];
            for (const [at, version] of versions.entries())
              ids.push(await client.upload(version, `${round} ${at}`));
            const unended = () => rowsIn(service.ledger).filter((row) => !hasEnded(row));
            for (const untilMs = Date.now() + SETTLE_MS; unended().length > 0; await sleep(50))
              if (Date.now() > untilMs) throw new Error(`not ended: ${JSON.stringify(unended())}`);
            quiet.abort();
            await killing;
            await reader.stop();
            expect(reader.seen).toEqual([]);
            const last = versions.at(-1)!;
            expect(await service.shelf.read(path)).toEqual({ size: last.size, sha256: last.sha256 });
            const rows = new Map(rowsIn(service.ledger).map((row) => [row.id, row]));
            const endings = ids.map((id) => rows.get(id)!);
            expect(endings.at(-1)?.state).toBe('succeeded');
            expect(endings.filter((row) => !/^(succeeded|superseded)$/.test(row.state))).toEqual([]);
            expect(endings.filter((row) => row.endings !== 1)).toEqual([]);
            const superseded = endings.filter((row) => row.state === 'superseded').length;
            console.log(
              `order, ${target}: ${count} versions, ${superseded} superseded, ${reader.looks} looks`,
            );
          }
          console.log(`order, ${target}: ${JSON.stringify(service.points.counts())}`);
          while ((await jobKeysIn(service.redis.url)).length > 0) await sleep(50);
          await service.stopRoles();
          await service.collect();
          expect(await service.leftBehind(await service.shelf.paths())).toEqual([]);
        } catch (error) {
          console.log(service.log.slice(-4000));
          throw error;
        } finally {
          await client.close();
          await service.close();
        }
      },
      TEST_MS,
    );
});
