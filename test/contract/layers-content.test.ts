/** A short reading that came in one piece: nothing is held for it, in any layer, and it is published as it is. */
import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { parsePath } from '../../lib/path.ts';
import { BufferPool } from '../../lib/stores/buffers.ts';
import { once } from '../../lib/stores/bytes.ts';
import type { Driver } from '../../lib/stores/driver.ts';
import { MemoryDriver } from '../../lib/stores/drivers/memory.ts';
import { StoreHealth } from '../../lib/stores/health.ts';
import { chaos, type Fault } from '../../lib/stores/layers/chaos.ts';
import { limit } from '../../lib/stores/layers/limit.ts';
import { meter } from '../../lib/stores/layers/meter.ts';
import { retry } from '../../lib/stores/layers/retry.ts';
import { stall } from '../../lib/stores/layers/stall.ts';
import { vital } from '../../lib/stores/layers/vital.ts';
import { Store } from '../../lib/stores/store.ts';
import { bodyOf, bytesOf, collect, failure } from './data.ts';

const QUICK = { tries: 4, firstMs: 1, capMs: 50 };
const PATH = parsePath('d/x');
const BYTES = bytesOf(1000);
const { signal } = new AbortController();

/** Holds `BYTES` and reads them in one piece; the first `cutShort` times without the last of them. */
async function inOnePiece(cutShort = 0): Promise<Driver> {
  const memory = new MemoryDriver();
  await memory.write(PATH, bodyOf(BYTES), { signal, mode: 'replace', token: 'before' });
  let calls = 0;
  return {
    ...meter(memory, { observe: () => {}, bytes: () => {} }),
    async read(path, range, call) {
      const reading = await memory.read(path, range, call);
      const all = await collect(reading.bytes);
      const content = calls++ < cutShort ? all.subarray(0, -1) : all;
      return { ...reading, content, bytes: once(content) };
    },
  };
}

const storeOver = (driver: Driver): Store =>
  new Store({ name: 's', uri: 'memory:', driver, buffers: new BufferPool({ budgetBytes: 2 ** 20 }) });

test('passes all layers as it is, its bytes counted once, and the store rests at once', async () => {
  const health = new StoreHealth('s');
  let counted = 0;
  const watched = stall(await inOnePiece(), { stallMs: 20_000 });
  const measured = meter(watched, {
    observe: () => {},
    bytes: (_direction, count) => void (counted += count),
  });
  const store = storeOver(retry(vital(limit(measured, { connections: 4 }), health), QUICK));
  const { content, bytes } = await store.read(PATH, { signal });
  expect(BYTES.equals(content!)).toBe(true);
  expect(BYTES.equals(await collect(bytes))).toBe(true);
  expect(counted).toBe(BYTES.length);
  expect(health.silentMs).toBe(0);
});

test('takes no turn from others, also where nobody looks at it', async () => {
  const limited = limit(await inOnePiece(), { connections: 1 });
  for (let reading = 0; reading < 5; reading++) await limited.read(PATH, undefined, { signal });
  expect((await limited.head(PATH, { signal })).size).toBe(BYTES.length);
});

test('is read again where it is shorter than the store said, and given up where it stays so', async () => {
  const { content } = await retry(await inOnePiece(2), QUICK).read(PATH, undefined, { signal });
  expect(BYTES.equals(content!)).toBe(true);
  const short = failure(retry(await inOnePiece(9), QUICK).read(PATH, undefined, { signal }));
  expect((await short).kind).toBe('corrupt');
});

test('is published with its digests, and refused where it is not what was declared', async () => {
  const store = storeOver(new MemoryDriver());
  const sha256 = createHash('sha256').update(BYTES).digest('hex');
  const md5 = createHash('md5').update(BYTES).digest('hex');
  const opts = { signal, token: 'mine', size: BYTES.length };
  const draft = await store.prepare(PATH, BYTES, { ...opts, expected: { sha256, md5 } });
  expect(draft.digests).toMatchObject({ size: BYTES.length, sha256 });
  expect(await draft.publish({ signal })).toMatchObject({
    entry: { size: BYTES.length },
    verified: expect.arrayContaining([{ check: 'md5', by: 'client' }]),
  });
  const longer = failure(store.prepare(PATH, BYTES, { ...opts, size: BYTES.length + 1 }));
  expect((await longer).kind).toBe('invalid');
  const other = store.prepare(PATH, bytesOf(1000, 7), {
    ...opts,
    expected: { sha256 },
    mismatch: () => 'corrupt',
  });
  expect((await failure(other)).kind).toBe('corrupt');
});

test('is settled by looking where the reply to its publishing was lost', async () => {
  const lost: Fault = { op: 'write', nth: 1, times: 9, what: { kind: 'lose-reply', as: 'timeout' } };
  const store = storeOver(chaos(new MemoryDriver(), [lost]));
  const draft = await store.prepare(PATH, BYTES, { signal, token: 'mine' });
  const { entry } = await draft.publish({ signal });
  expect(await store.head(PATH, signal)).toMatchObject({ etag: entry.etag, token: 'mine' });
});
