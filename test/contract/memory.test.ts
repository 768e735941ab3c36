import { BufferPool } from '../../lib/stores/buffers.ts';
import { MemoryDriver, MemoryServer } from '../../lib/stores/drivers/memory.ts';
import { Store } from '../../lib/stores/store.ts';
import { storeContract } from './store.ts';

storeContract({
  name: 'memory',
  async open() {
    const server = new MemoryServer();
    const driver = new MemoryDriver({ goodBytes: 256 * 1024, server });
    const neighbour = new MemoryDriver({ server });
    const buffers = new BufferPool({ budgetBytes: 16 * 1024 * 1024 });
    const store = new Store({ name: 'memory', uri: 'memory:', driver, buffers });
    return { store, driver, neighbour, cleanup: () => store.close() };
  },
});
