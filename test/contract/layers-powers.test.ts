/** Copies on the server's side and uploads in parts, through the layers and the store. */
import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Failure } from '../../lib/errors.ts';
import { parsePath } from '../../lib/path.ts';
import { BufferPool } from '../../lib/stores/buffers.ts';
import type { Driver, FileEntry } from '../../lib/stores/driver.ts';
import { MemoryDriver } from '../../lib/stores/drivers/memory.ts';
import { chaos, type Fault } from '../../lib/stores/layers/chaos.ts';
import { retry } from '../../lib/stores/layers/retry.ts';
import { stall } from '../../lib/stores/layers/stall.ts';
import { Store } from '../../lib/stores/store.ts';
import { bodyOf, bytesOf, failure, kindOf, newToken } from './data.ts';

const MIB = 1024 * 1024;
const QUICK = { tries: 4, firstMs: 1, capMs: 50 };
const [FROM, TO] = [parsePath('from'), parsePath('to')];
const { signal } = new AbortController();
const call = (mode: 'replace' | 'create' = 'replace') => ({ signal, mode, token: newToken() });

async function holding(bytes: Uint8Array) {
  const memory = new MemoryDriver();
  const { etag, size } = await memory.write(FROM, bodyOf(bytes), call());
  return { memory, from: { source: memory.serverCopy.source(FROM), etag, size } };
}

test('a copy is tried again, but one that is to create only where the store did nothing', async () => {
  const fault = (what: Fault['what']): readonly Fault[] => [{ op: 'copy', nth: 1, what }];
  const ends: string[] = [];
  for (const mode of ['replace', 'create'] as const)
    for (const what of [
      { kind: 'fail', as: 'busy' },
      { kind: 'fail', as: 'unavailable' },
      { kind: 'lose-reply', as: 'timeout' },
    ] as const) {
      const { memory, from } = await holding(bytesOf(100));
      const driver = retry(chaos(memory, fault(what)), QUICK);
      ends.push(await kindOf(driver, driver.serverCopy!.copy(from, TO, call(mode))));
    }
  expect(ends).toEqual([
    ...['no failure', 'no failure', 'no failure'],
    ...['no failure', 'unavailable', 'timeout'],
  ]);
});

test('a copied part is tried again, and one that came through twice counts once', async () => {
  const { memory, from } = await holding(bytesOf(5000));
  const faults: readonly Fault[] = [
    { op: 'copy-part', nth: 1, what: { kind: 'lose-reply', as: 'unavailable' } },
    { op: 'copy-part', nth: 2, what: { kind: 'fail', as: 'busy' } },
  ];
  const driver = retry(chaos(memory, faults), QUICK);
  const upload = await driver.serverCopy!.begin(TO, call());
  const range = { start: 1000, end: 5000 };
  const receipt = await driver.serverCopy!.part(from, range, upload, { number: 1, offset: 0 }, call());
  expect(receipt.size).toBe(4000);
  await driver.multipart!.finish(upload, [receipt], { size: 4000 }, call());
  expect((await memory.head(TO, { signal })).size).toBe(4000);
});

test('a store that copies is given the time that so many bytes take', async () => {
  const { memory, from } = await holding(bytesOf(4 * MIB));
  const slow: Driver = {
    ...chaos(memory, []),
    serverCopy: {
      ...memory.serverCopy,
      copy: async (source, path, how): Promise<FileEntry> => {
        await delay(200);
        return memory.serverCopy.copy(source, path, how);
      },
    },
  };
  const driver = stall(slow, { stallMs: 50 });
  expect(await kindOf(driver, driver.serverCopy!.copy(from, TO, call()))).toBe('no failure');
  expect(await kindOf(driver, driver.serverCopy!.copy({ ...from, size: 10 }, TO, call()))).toBe('timeout');
});

test("a store tells what went wrong with a part or a copy in its own name, and not in the vendor's", async () => {
  const { memory, from } = await holding(bytesOf(100));
  const buffers = new BufferPool({ budgetBytes: MIB });
  const store = new Store({ name: 'models', uri: 'memory:', driver: memory, buffers });
  const upload = await store.multipart!.begin(TO, call());
  const lying = { ...bodyOf(bytesOf(10)), crc32: 1 };
  const part = await failure(store.multipart!.part(upload, { number: 7, offset: 0 }, lying, { signal }));
  expect(part).toMatchObject({ kind: 'corrupt', facts: { store: 'models', path: TO } });
  expect(part.message).toContain('could not send part 7 of models:to');
  await store.abandon(upload, signal);
  const late = await failure(store.multipart!.finish(upload, [], { size: 0 }, call()));
  expect(late).toMatchObject({ kind: 'not-found', facts: { store: 'models' } });
  const other = { ...from, etag: 'another' };
  const copy = await failure(store.serverCopy!.copy(other, TO, call()));
  expect(copy).toMatchObject({ kind: 'precondition', facts: { store: 'models' } });
  const stopped = { ...call(), signal: AbortSignal.abort(new Failure('cancelled', 'gone')) };
  expect((await failure(store.serverCopy!.begin(TO, stopped))).kind).toBe('cancelled');
});
