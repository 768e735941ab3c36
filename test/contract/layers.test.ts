/** Every layer keeps the contract, and does what it is for. */
import { describe, expect, test } from 'vitest';
import { Failure } from '../../lib/errors.ts';
import { parsePath, type StorePath } from '../../lib/path.ts';
import { BufferPool } from '../../lib/stores/buffers.ts';
import type { Driver } from '../../lib/stores/driver.ts';
import { MemoryDriver, MemoryServer } from '../../lib/stores/drivers/memory.ts';
import type { StoreOp } from '../../lib/stores/layers/around.ts';
import { chaos, type Fault } from '../../lib/stores/layers/chaos.ts';
import { limit } from '../../lib/stores/layers/limit.ts';
import { type Meter, meter } from '../../lib/stores/layers/meter.ts';
import { type RetryOptions, retry } from '../../lib/stores/layers/retry.ts';
import { stall } from '../../lib/stores/layers/stall.ts';
import { Store } from '../../lib/stores/store.ts';
import { bodyOf, bytesOf, collect, failure, kindOf, newToken, stream } from './data.ts';
import { storeContract } from './store.ts';

const MIB = 1024 * 1024;
const QUICK: RetryOptions = { tries: 4, firstMs: 1, capMs: 50 };
const PATH = parsePath('d/x');
const { signal } = new AbortController();

const ignored: Meter = { observe: () => {}, bytes: () => {} };
const memory = (server = new MemoryServer()): MemoryDriver =>
  new MemoryDriver({ goodBytes: 256 * 1024, server });

/** Fails every third call, as a server does that is too busy. */
const flaky = (driver: Driver): Driver =>
  chaos(
    driver,
    (['head', 'write', 'list', 'remove', 'part', 'parts', 'read', 'copy', 'copy-part'] as const).flatMap(
      (op) =>
        Array.from(
          { length: 400 },
          (_, i): Fault => ({ op, nth: 1 + i * 3, what: { kind: 'fail', as: 'busy' } }),
        ),
    ),
  );

const LAYERS: Readonly<Record<string, (driver: Driver) => Driver>> = {
  limit: (driver) => limit(driver, { connections: 2 }),
  meter: (driver) => meter(driver, ignored),
  stall: (driver) => stall(driver, { stallMs: 20_000 }),
  retry: (driver) => retry(driver, QUICK),
  'chaos that was told nothing': (driver) => chaos(driver, []),
  'retry, over what fails every third call': (driver) => retry(flaky(driver), { ...QUICK, tries: 16 }),
  'all of them, as they are stacked': (driver) =>
    retry(limit(meter(stall(driver, { stallMs: 20_000 }), ignored), { connections: 4 }), QUICK),
};

for (const [name, layer] of Object.entries(LAYERS))
  storeContract({
    name: `memory behind ${name}`,
    async open() {
      const server = new MemoryServer();
      const driver = layer(memory(server));
      const buffers = new BufferPool({ budgetBytes: 16 * MIB });
      const store = new Store({ name: 'layered', uri: 'memory:', driver, buffers });
      return { store, driver, neighbour: memory(server), cleanup: () => store.close() };
    },
  });

/** A memory driver that holds `bytes` at `PATH`. */
async function holding(bytes: Uint8Array): Promise<MemoryDriver> {
  const driver = memory();
  await driver.write(PATH, bodyOf(bytes), { signal, mode: 'replace', token: 'before' });
  return driver;
}
const read = async (driver: Driver): Promise<Buffer> =>
  collect((await driver.read(PATH, undefined, { signal })).bytes);
const write = (driver: Driver, bytes: Uint8Array, mode: 'replace' | 'create' = 'replace') =>
  driver.write(PATH, bodyOf(bytes), { signal, mode, token: newToken() });
/** How often a call reaches the driver below. */
function counting(driver: Driver): { readonly driver: Driver; readonly calls: Map<StoreOp, number> } {
  const calls = new Map<StoreOp, number>();
  const counted = meter(driver, { ...ignored, observe: (op) => calls.set(op, (calls.get(op) ?? 0) + 1) });
  return { driver: counted, calls };
}

describe('retry', () => {
  test('tries what may pass again, as often as it was told, and no more', async () => {
    for (const as of ['unavailable', 'timeout', 'busy', 'corrupt'] as const) {
      const { driver, calls } = counting(
        chaos(memory(), [{ op: 'write', nth: 1, times: 99, what: { kind: 'fail', as } }]),
      );
      const retried: string[] = [];
      const again = retry(driver, { ...QUICK, onRetry: (op, kind) => retried.push(`${op} ${kind}`) });
      expect(await kindOf(again, write(again, bytesOf(10)))).toBe(as);
      expect(calls.get('write')).toBe(4);
      expect(retried).toEqual(Array(3).fill(`write ${as}`));
    }
  });

  test('does not try again what will not pass', async () => {
    for (const as of ['denied', 'not-found', 'invalid', 'no-space', 'precondition', 'bug'] as const) {
      const { driver, calls } = counting(
        chaos(memory(), [{ op: 'head', nth: 1, times: 99, what: { kind: 'fail', as } }]),
      );
      const again = retry(driver, QUICK);
      expect(await kindOf(again, again.head(PATH, { signal }))).toBe(as);
      expect(calls.get('head')).toBe(1);
    }
  });

  test('waits as long as the store asks, and leaves a longer wait to the job', async () => {
    const asking = (retryAfterMs: number): Fault => ({
      op: 'head',
      nth: 1,
      what: { kind: 'fail', as: 'busy', retryAfterMs },
    });
    const soon = retry(chaos(await holding(bytesOf(1)), [asking(40)]), QUICK);
    const began = performance.now();
    await soon.head(PATH, { signal });
    expect(performance.now() - began).toBeGreaterThan(35);
    const late = retry(chaos(await holding(bytesOf(1)), [asking(60_000)]), QUICK);
    expect(await kindOf(late, late.head(PATH, { signal }))).toBe('busy');
  });

  test('goes on reading at the same offset of the same version when a reading breaks, however often it moves on', async () => {
    const bytes = bytesOf(3 * MIB);
    const cuts = [300_000, 1, 700_000, 0, 5].map(
      (afterBytes, i): Fault => ({
        op: 'read',
        nth: i + 1,
        what: { kind: 'cut', afterBytes, ...(i % 2 === 0 && { as: 'unavailable' }) },
      }),
    );
    const { driver, calls } = counting(chaos(await holding(bytes), cuts));
    expect((await read(retry(driver, QUICK))).equals(bytes)).toBe(true);
    expect(calls.get('read')).toBe(6);
  });

  test('gives up a reading that breaks and breaks without moving on', async () => {
    const cut: Fault = {
      op: 'read',
      nth: 1,
      times: 99,
      what: { kind: 'cut', afterBytes: 0, as: 'unavailable' },
    };
    const { driver, calls } = counting(chaos(await holding(bytesOf(1000)), [cut]));
    expect(await kindOf(driver, read(retry(driver, QUICK)))).toBe('unavailable');
    expect(calls.get('read')).toBeLessThanOrEqual(5);
  });

  test('never joins two versions of an object', async () => {
    const inner = await holding(bytesOf(3 * MIB, 1));
    const cut: Fault = { op: 'read', nth: 1, what: { kind: 'cut', afterBytes: MIB, as: 'unavailable' } };
    const { bytes } = await retry(chaos(inner, [cut]), QUICK).read(PATH, undefined, { signal });
    const reading = async (): Promise<void> => {
      let first = true;
      for await (const _ of bytes) {
        if (first) await write(inner, bytesOf(3 * MIB, 2));
        first = false;
      }
    };
    expect(await kindOf(inner, reading())).toBe('unavailable');
  });

  test('sends a body anew from its start', async () => {
    const inner = memory();
    const flip: Fault = { op: 'write', nth: 1, what: { kind: 'flip', byte: 700_000 } };
    const again = retry(chaos(inner, [flip]), QUICK);
    const body = { ...bodyOf(bytesOf(MIB)), crc32: (await import('node:zlib')).crc32(bytesOf(MIB)) };
    await again.write(PATH, body, { signal, mode: 'replace', token: newToken() });
    expect((await read(inner)).equals(bytesOf(MIB))).toBe(true);
  });

  test('does not create twice when the first reply was lost', async () => {
    const { driver, calls } = counting(
      chaos(memory(), [{ op: 'write', nth: 1, what: { kind: 'lose-reply', as: 'timeout' } }]),
    );
    expect(await kindOf(driver, write(retry(driver, QUICK), bytesOf(5), 'create'))).toBe('timeout');
    expect(calls.get('write')).toBe(1);
  });

  test('stops waiting when its signal says so', async () => {
    const stop = new AbortController();
    const asking: Fault = { op: 'head', nth: 1, what: { kind: 'fail', as: 'busy', retryAfterMs: 30_000 } };
    const again = retry(chaos(memory(), [asking]), { tries: 3, firstMs: 1, capMs: 60_000 });
    const waiting = failure(again.head(PATH, { signal: stop.signal }));
    setImmediate(() => stop.abort(new Failure('interrupted', 'we are leaving')));
    expect((await waiting).kind).toBe('interrupted');
  });

  test('lists each entry once when a listing breaks between two pages', async () => {
    const inner = memory();
    const paths = Array.from({ length: 2500 }, (_, i) => parsePath(`many/${i}`));
    for (const path of paths)
      await inner.write(path, bodyOf(bytesOf(1)), { signal, mode: 'replace', token: 'many' });
    const breaks = [2, 4].map(
      (nth): Fault => ({ op: 'list', nth, what: { kind: 'fail', as: 'unavailable' } }),
    );
    const listed: StorePath[] = [];
    for await (const page of retry(chaos(inner, breaks), QUICK).list(parsePath('many'), {
      deep: true,
      signal,
    }))
      listed.push(...page.map(({ path }) => path));
    expect(listed.toSorted()).toEqual(paths.toSorted());
  });
});

describe('limit', () => {
  test('lets so many calls run at once and the others wait their turn', async () => {
    let running = 0;
    let most = 0;
    const inner = await holding(bytesOf(10));
    const slow: Driver = {
      ...meter(inner, ignored),
      async head(path, call) {
        most = Math.max(most, ++running);
        await new Promise(setImmediate);
        running--;
        return inner.head(path, call);
      },
    };
    const limited = limit(slow, { connections: 3 });
    await Promise.all(Array.from({ length: 40 }, () => limited.head(PATH, { signal })));
    expect(most).toBe(3);
  });

  test('counts a reading until its bytes end or are left', async () => {
    const limited = limit(await holding(bytesOf(MIB)), { connections: 1 });
    const { bytes } = await limited.read(PATH, undefined, { signal });
    let headed = false;
    const head = limited.head(PATH, { signal }).then(() => {
      headed = true;
    });
    const iterator = bytes[Symbol.asyncIterator]();
    await iterator.next();
    await new Promise(setImmediate);
    expect(headed).toBe(false);
    await iterator.return?.();
    await head;
  });

  test('gives up its place in the queue when the caller leaves', async () => {
    const limited = limit(await holding(bytesOf(MIB)), { connections: 1 });
    const { bytes } = await limited.read(PATH, undefined, { signal });
    const stop = new AbortController();
    const leaving = failure(limited.head(PATH, { signal: stop.signal }));
    const staying = limited.head(PATH, { signal });
    stop.abort(new Failure('cancelled', 'never mind'));
    expect((await leaving).kind).toBe('cancelled');
    await bytes[Symbol.asyncIterator]().return?.();
    await staying;
  });
});

describe('stall', () => {
  const hung = (op: StoreOp): readonly Fault[] => [{ op, nth: 1, what: { kind: 'hang' } }];

  test('ends a call in which nothing moves', async () => {
    for (const op of ['head', 'write', 'remove', 'begin'] as const) {
      const watched = stall(chaos(memory(), hung(op)), { stallMs: 30 });
      const call = { signal, mode: 'replace', token: 'stalls' } as const;
      const calls = {
        head: () => watched.head(PATH, call),
        write: () => watched.write(PATH, bodyOf(bytesOf(1)), call),
        remove: () => watched.remove([PATH], call),
        begin: () => watched.multipart!.begin(PATH, call),
      };
      expect(await kindOf(watched, calls[op]())).toBe('timeout');
    }
  });

  test('ends a reading and a listing that hang in the middle', async () => {
    const watched = stall(chaos(await holding(bytesOf(MIB)), [...hung('read'), ...hung('list')]), {
      stallMs: 30,
    });
    expect(await kindOf(watched, read(watched))).toBe('timeout');
    const listing = async (): Promise<void> => {
      for await (const _ of watched.list(PATH, { deep: true, signal })) expect.unreachable();
    };
    expect(await kindOf(watched, listing())).toBe('timeout');
  });

  test('does not blame the store for a consumer that takes its time', async () => {
    const watched = stall(await holding(bytesOf(MIB)), { stallMs: 20 });
    const { bytes } = await watched.read(PATH, undefined, { signal });
    let size = 0;
    for await (const chunk of bytes) {
      size += chunk.length;
      await new Promise((resolve) => setTimeout(resolve, 60));
    }
    expect(size).toBe(MIB);
  });

  test('lets a slow body take as long as it likes while it moves', async () => {
    const watched = stall(memory(), { stallMs: 400 });
    const slow = {
      size: 10,
      async *open() {
        for (let i = 0; i < 10; i++) {
          await new Promise((resolve) => setTimeout(resolve, 60));
          yield bytesOf(1, i);
        }
      },
    };
    const entry = await watched.write(PATH, slow, { signal, mode: 'replace', token: 'slow' });
    expect(entry.size).toBe(10);
  });
});

describe('meter', () => {
  test('tells each call with its outcome, and the bytes of both directions', async () => {
    const seen: string[] = [];
    const moved = { read: 0, written: 0 };
    const measured = meter(memory(), {
      observe: (op, ms, outcome) => void (ms >= 0 && seen.push(`${op} ${outcome}`)),
      bytes: (direction, count) => void (moved[direction] += count),
    });
    await write(measured, bytesOf(1000));
    await read(measured);
    await kindOf(measured, measured.head(parsePath('no'), { signal }));
    await kindOf(measured, write(measured, bytesOf(5), 'create'));
    expect(seen).toEqual(['write ok', 'read ok', 'head not-found', 'write already-exists']);
    expect(moved).toEqual({ read: 1000, written: 1005 });
  });
});

describe('a lost reply', () => {
  const storeOver = (faults: readonly Fault[], driver: Driver = memory()): Store =>
    new Store({
      name: 'lossy',
      uri: 'memory:',
      driver: retry(chaos(driver, faults), QUICK),
      buffers: new BufferPool({ budgetBytes: 16 * MIB }),
    });

  for (const mode of ['replace', 'create'] as const)
    for (const [op, size] of [
      ['write', 1000],
      ['finish', 600_000],
    ] as const)
      test(`of ${op} (${mode}) is settled by looking: what carries our token is ours`, async () => {
        const store = storeOver([{ op, nth: 1, times: 9, what: { kind: 'lose-reply', as: 'timeout' } }]);
        const draft = await store.prepare(PATH, stream(bytesOf(size)), { signal, token: 'mine', mode });
        const { entry } = await draft.publish({ signal });
        expect(entry.size).toBe(size);
        expect((await store.head(PATH, signal)).etag).toBe(entry.etag);
      });

  test('does not make somebody else’s object ours', async () => {
    const inner = await holding(bytesOf(1000));
    const store = storeOver(
      [{ op: 'write', nth: 1, times: 9, what: { kind: 'fail', as: 'timeout' } }],
      inner,
    );
    for (const mode of ['replace', 'create'] as const) {
      const draft = await store.prepare(PATH, stream(bytesOf(1000)), { signal, token: 'mine', mode });
      expect((await failure(draft.publish({ signal }))).kind).toBe('timeout');
      await draft.discard();
    }
  });

  test('of a part costs nothing but another try', async () => {
    const store = storeOver([{ op: 'part', nth: 2, what: { kind: 'lose-reply', as: 'unavailable' } }]);
    const draft = await store.prepare(PATH, stream(bytesOf(900_000)), { signal, token: 'mine' });
    await draft.publish({ signal });
    expect((await collect((await store.read(PATH, { signal })).bytes)).equals(bytesOf(900_000))).toBe(true);
  });
});

test('a bit that flips between us and the store is noticed, sent again, and never published', async () => {
  const inner = memory();
  const faults: Fault[] = [
    { op: 'write', nth: 1, what: { kind: 'flip', byte: 17 } },
    { op: 'part', nth: 2, what: { kind: 'flip', byte: 17 } },
  ];
  const buffers = new BufferPool({ budgetBytes: 16 * MIB });
  const driver = retry(chaos(inner, faults), QUICK);
  const store = new Store({ name: 'noisy', uri: 'memory:', driver, buffers });
  for (const size of [1000, 900_000]) {
    const draft = await store.prepare(PATH, stream(bytesOf(size)), { signal, token: newToken() });
    const { verified } = await draft.publish({ signal });
    expect(verified).toContainEqual({ check: 'crc32', by: 'store' });
    expect((await read(inner)).equals(bytesOf(size))).toBe(true);
  }
  expect(buffers.usedBytes).toBe(0);
});

test('what fails for good gives all memory back and leaves nothing', async () => {
  const inner = memory();
  for (const op of ['part', 'begin', 'finish', 'write'] as const) {
    const faults: Fault[] = [
      { op, nth: op === 'part' ? 3 : 1, times: 99, what: { kind: 'fail', as: 'denied' } },
    ];
    const buffers = new BufferPool({ budgetBytes: 4 * MIB });
    const store = new Store({ name: 'broken', uri: 'memory:', driver: chaos(inner, faults), buffers });
    const size = op === 'write' ? 1000 : 3 * MIB;
    const publishing = async (): Promise<void> => {
      const draft = await store.prepare(PATH, stream(bytesOf(size)), { signal, token: newToken() });
      await draft.publish({ signal }).finally(() => draft.discard());
    };
    expect((await failure(publishing())).kind).toBe('denied');
    expect(buffers.usedBytes).toBe(0);
    for await (const page of store.pending(parsePath(''), signal)) expect(page).toEqual([]);
  }
  expect(await kindOf(inner, inner.head(PATH, { signal }))).toBe('not-found');
});
