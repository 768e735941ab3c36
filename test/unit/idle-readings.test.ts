import { expect, test } from 'vitest';
import { parsePath } from '../../lib/path.ts';
import type { Bytes } from '../../lib/stores/driver.ts';
import { MemoryDriver } from '../../lib/stores/drivers/memory.ts';
import { limit } from '../../lib/stores/layers/limit.ts';
import { retry } from '../../lib/stores/layers/retry.ts';
import { bodyOf, bytesOf, collect } from '../contract/data.ts';

const { signal } = new AbortController();
const PATH = parsePath('x');

test('readings that stand still while others wait give up their places, and go on whole where they stopped', async () => {
  const bytes = bytesOf(3_000_000);
  const memory = new MemoryDriver();
  await memory.write(PATH, bodyOf(bytes), { signal, mode: 'replace', token: 't' });
  const driver = retry(limit(memory, { connections: 3 }), { tries: 4, firstMs: 1, capMs: 5 });
  const open = async (): Promise<Bytes> => (await driver.read(PATH, undefined, { signal })).bytes;
  const standing = await Promise.all([open(), open()]); // readings never take the last place
  const iterators = standing.map((some) => some[Symbol.asyncIterator]());
  const begun = await Promise.all(iterators.map(async (some) => Buffer.from((await some.next()).value!)));
  for (let n = 0; n < 4; n++) expect((await collect(await open())).equals(bytes)).toBe(true);
  for (const [n, iterator] of iterators.entries()) {
    const rest = await collect({ [Symbol.asyncIterator]: () => iterator });
    expect(Buffer.concat([begun[n]!, rest]).equals(bytes)).toBe(true);
  }
});
