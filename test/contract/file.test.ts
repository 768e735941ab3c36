import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BufferPool } from '../../lib/stores/buffers.ts';
import { openFileDriver } from '../../lib/stores/drivers/file.ts';
import { Store } from '../../lib/stores/store.ts';
import { NAMES } from '../hidden.ts';
import { storeContract } from './store.ts';

storeContract({
  name: 'a folder',
  async open() {
    const root = await mkdtemp(join(tmpdir(), 'longshore-file-'));
    const driver = await openFileDriver(root, NAMES);
    const buffers = new BufferPool({ budgetBytes: 64 * 1024 * 1024 });
    const store = new Store({ name: 'folder', uri: root, driver, buffers });
    return {
      store,
      driver,
      makeDir: async (path) => void (await mkdir(join(root, path), { recursive: true })),
      async cleanup() {
        await store.close();
        await rm(root, { recursive: true, force: true });
      },
    };
  },
});
