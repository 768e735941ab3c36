import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Service, viewIn } from '../e2e/service.ts';
import { requireServer } from '../servers/require.ts';

const TRIES = 100;
/** Time enough to remove a file. */
const HELD_MS = 500;

requireServer('redis')('staged bytes', () => {
  let service: Service;
  let sql: DatabaseSync;
  beforeAll(async () => {
    service = await Service.start();
    sql = new DatabaseSync(join(service.folder, 'ledger.db'), { timeout: 0 });
  });
  afterAll(async () => {
    sql?.close();
    await service?.close();
  });

  /** Keeps everybody from committing, from when `path` is published until its ending would be next. */
  async function holdsEnding(id: string, path: string): Promise<boolean> {
    const state = sql.prepare('select state from transfers where id = ?');
    while (!existsSync(join(service.root, path))) await turn();
    try {
      sql.exec('begin immediate');
    } catch {
      return false; // somebody is writing just now: too late
    }
    if (state.get(id)?.state === 'publishing') return true;
    sql.exec('rollback');
    return false;
  }

  test('stay until the ending is committed, and go then', async () => {
    for (let tries = 1; ; tries++) {
      const { id } = await viewIn(await service.put(`w${tries}.bin`, 'x'), 202);
      const held = await holdsEnding(id, `w${tries}.bin`);
      if (held) {
        await sleep(HELD_MS);
        const isThere = service.stagedFile(id) !== undefined;
        sql.exec('rollback');
        expect(isThere).toBe(true);
      }
      expect(await service.ended(id)).toMatchObject({ state: 'succeeded' });
      if (held) break;
      expect(tries).toBeLessThan(TRIES);
    }
    await expect.poll(() => service.staged()).toEqual([]);
  });
});
