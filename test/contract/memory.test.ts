import { BufferPool } from '../../lib/stores/buffers.ts';
import { MemoryDriver } from '../../lib/stores/drivers/memory.ts';
import { Store } from '../../lib/stores/store.ts';
import { storeContract } from './store.ts';

storeContract({
  name: 'memory',
  async open() {
    const driver = new MemoryDriver({ goodBytes: 256 * 1024 });
    const buffers = new BufferPool({ budgetBytes: 16 * 1024 * 1024 });
    const store = new Store({ name: 'memory', uri: 'memory:', driver, buffers });
    return { store, driver, cleanup: () => store.close() };
  },
});
