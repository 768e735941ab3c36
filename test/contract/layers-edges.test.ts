/** What layers hold on to, and let go of, when calls are given up. */
import { describe, expect, test } from 'vitest';
import { Failure } from '../../lib/errors.ts';
import { parsePath } from '../../lib/path.ts';
import { BufferPool } from '../../lib/stores/buffers.ts';
import type { Body, Bytes, Driver, Reading } from '../../lib/stores/driver.ts';
import { MemoryDriver } from '../../lib/stores/drivers/memory.ts';
import { chaos } from '../../lib/stores/layers/chaos.ts';
import { limit } from '../../lib/stores/layers/limit.ts';
import { meter } from '../../lib/stores/layers/meter.ts';
import { retry } from '../../lib/stores/layers/retry.ts';
import { stall } from '../../lib/stores/layers/stall.ts';
import { Store } from '../../lib/stores/store.ts';
import { bodyOf, bytesOf, collect, failure, kindOf, stream } from './data.ts';

const PATH = parsePath('d/x');
const QUICK = { tries: 4, firstMs: 1, capMs: 5 };
const unseen = { observe: () => {}, bytes: () => {} };
const { signal } = new AbortController();
const writing = { signal, mode: 'replace', token: 'test' } as const;

async function holding(size: number): Promise<Driver> {
  const driver = new MemoryDriver();
  await driver.write(PATH, bodyOf(bytesOf(size)), writing);
  return meter(driver, unseen);
}
const tick = (): Promise<void> => new Promise(setImmediate);

/** `driver`, whose readings say when they are over. */
function watched(driver: Driver): { readonly driver: Driver; readonly open: Set<object> } {
  const open = new Set<object>();
  const read: Driver['read'] = async (...args) => {
    const reading = await driver.read(...args);
    open.add(reading);
    return { ...reading, bytes: telling(reading, () => open.delete(reading)) };
  };
  return { driver: { ...driver, read }, open };
}
function telling(reading: Reading, over: () => void): Bytes {
  const from = reading.bytes[Symbol.asyncIterator]();
  return {
    [Symbol.asyncIterator]: () => ({
      async next() {
        const step = await from.next();
        if (step.done) over();
        return step;
      },
      async return() {
        over();
        return { done: true, value: undefined };
      },
    }),
  };
}

describe('a limit', () => {
  test('always has a place for who writes here what it reads here', async () => {
    const limited = limit(await holding(1000), { connections: 3 });
    const copies = Array.from({ length: 9 }, async (_, i) => {
      const { bytes } = await limited.read(PATH, undefined, { signal });
      let written = 0;
      for await (const chunk of bytes) {
        await limited.write(parsePath(`copy/${i}`), bodyOf(Buffer.from(chunk)), writing);
        written += chunk.length;
      }
      return written;
    });
    expect(await Promise.all(copies)).toEqual(Array(9).fill(1000));
  });

  test('gets its places back from calls that fail, are left, or are aborted', async () => {
    const limited = limit(
      chaos(await holding(700_000), [
        { op: 'read', nth: 2, times: 3, what: { kind: 'cut', afterBytes: 9, as: 'unavailable' } },
      ]),
      { connections: 2 },
    );
    for (let i = 0; i < 12; i++) {
      const stop = new AbortController();
      await kindOf(limited, limited.head(parsePath('absent'), { signal }));
      const reading = await limited.read(PATH, undefined, { signal: stop.signal });
      const iterator = reading.bytes[Symbol.asyncIterator]();
      if (i % 3 > 0) await iterator.next().catch(() => undefined);
      if (i % 3 > 1) {
        stop.abort(new Failure('cancelled', 'enough'));
        await iterator.next().catch(() => undefined);
      } else await iterator.return?.();
      await kindOf(limited, limited.read(parsePath('absent'), undefined, { signal }));
      for await (const _ of limited.list(parsePath('d'), { deep: true, signal })) break;
    }
    const readings = await Promise.all([
      limited.read(PATH, undefined, { signal }),
      limited.head(PATH, { signal }),
    ]);
    expect(await collect(readings[0].bytes)).toHaveLength(700_000);
  });
});

describe('a stall', () => {
  test('aborts what the driver was doing', async () => {
    const inner = await holding(5);
    let aborted: unknown;
    const hung: Driver = {
      ...inner,
      head: (_path, call) =>
        new Promise((_, reject) => {
          call.signal.addEventListener('abort', () => reject((aborted = call.signal.reason)));
        }),
    };
    expect(await kindOf(inner, stall(hung, { stallMs: 20 }).head(PATH, { signal }))).toBe('timeout');
    expect(aborted).toBeInstanceOf(Failure);
  });

  test('does not wait for a driver that hears nothing, and says so of bytes that it was lent', async () => {
    const inner = await holding(5);
    const deaf: Driver = { ...inner, head: () => new Promise(() => {}), write: () => new Promise(() => {}) };
    const watching = stall(deaf, { stallMs: 20 });
    expect((await failure(watching.head(PATH, { signal }))).facts.lent).toBeUndefined();
    const given = await failure(watching.write(PATH, bodyOf(bytesOf(7)), writing));
    expect([given.kind, given.facts.lent]).toEqual(['timeout', true]);
  });

  test('gives a driver that was lent bytes a moment to let go of them', async () => {
    const inner = await holding(5);
    const slow: Driver = {
      ...inner,
      write: (_path, _body, call) =>
        new Promise((_, reject) => {
          call.signal.addEventListener('abort', () => setTimeout(reject, 50, new Error('let go')));
        }),
    };
    const given = await failure(stall(slow, { stallMs: 20 }).write(PATH, bodyOf(bytesOf(7)), writing));
    expect([given.kind, given.facts.lent]).toEqual(['timeout', undefined]);
  });

  test('of a hung mount ends the draft, without another try and with its memory left to whoever reads it', async () => {
    const inner = await holding(5);
    const lent: Uint8Array[][] = [];
    const hang = (body: Body): Promise<never> => {
      lent.push([...(body.open() as Iterable<Uint8Array>)]);
      return new Promise(() => {});
    };
    const deaf: Driver = {
      ...inner,
      write: (_path, body) => hang(body),
      multipart: { ...inner.multipart!, part: (_upload, _part, body) => hang(body) },
    };
    const buffers = new BufferPool({ budgetBytes: 16 * 1024 * 1024 });
    const driver = retry(stall(deaf, { stallMs: 20 }), QUICK);
    const store = new Store({ name: 'hung', uri: 'memory:', driver, buffers });
    const partBytes = inner.multipart!.limits.goodBytes;
    for (const size of [partBytes, partBytes + 1]) {
      lent.length = 0;
      const bytes = bytesOf(size);
      const publishing = async (): Promise<void> => {
        const draft = await store.prepare(PATH, stream(bytes), { signal, token: 'hung' });
        await draft.publish({ signal }).finally(() => draft.discard());
      };
      expect((await failure(publishing())).kind).toBe('timeout');
      expect(buffers.usedBytes).toBe(0);
      const next = await buffers.reserve(buffers.largestLeaseBytes, signal);
      next.append(Buffer.alloc(buffers.largestLeaseBytes));
      next.release();
      expect(Buffer.concat(lent.flat()).equals(bytes)).toBe(true);
    }
  });

  test('leaves nothing open of a reading that came too late', async () => {
    const { driver, open } = watched(await holding(500_000));
    let answer = (): void => {};
    const late: Driver = {
      ...driver,
      async read(...args) {
        await new Promise<void>((resolve) => {
          answer = resolve;
        });
        return driver.read(args[0], args[1], { signal });
      },
    };
    expect(await kindOf(driver, stall(late, { stallMs: 20 }).read(PATH, undefined, { signal }))).toBe(
      'timeout',
    );
    answer();
    await expect.poll(() => open.size).toBe(0);
  });

  test('gives the end of an upload longer than other calls', async () => {
    const inner = await holding(5);
    const slow: Driver = {
      ...inner,
      multipart: {
        ...inner.multipart!,
        finish: async (...args) => {
          await new Promise((resolve) => setTimeout(resolve, 250));
          return inner.multipart!.finish(...args);
        },
      },
    };
    const { multipart } = stall(slow, { stallMs: 100 });
    const upload = await multipart!.begin(PATH, writing);
    const receipt = await multipart!.part(upload, { number: 1, offset: 0 }, bodyOf(bytesOf(9)), writing);
    expect((await multipart!.finish(upload, [receipt], { size: 9 }, writing)).size).toBe(9);
  });
});

test('an upload whose parts were cut off stays in the journal, for one of them may still land', async () => {
  const inner = await holding(5);
  const driver = chaos(inner, [{ op: 'part', nth: 1, what: { kind: 'hang' } }]);
  const buffers = new BufferPool({ budgetBytes: 16 * 1024 * 1024 });
  const store = new Store({ name: 'cut', uri: 'memory:', driver, buffers });
  const told: string[] = [];
  const journal = {
    intend: async () => 'entry',
    begun: async () => {},
    ended: async (id: string) => void told.push(id),
  };
  const breaking = async function* (): AsyncGenerator<Uint8Array> {
    yield* stream(bytesOf(inner.multipart!.limits.goodBytes + 1));
    throw new Failure('cancelled', 'the client went away');
  };
  const given = await failure(store.prepare(PATH, breaking(), { signal, token: 'cut', journal }));
  expect([given.kind, told]).toEqual(['cancelled', []]);
  for await (const page of store.pending(parsePath(''), signal)) expect(page).toEqual([]);
});

describe('a retry', () => {
  test('begins an upload again only where the store did nothing', async () => {
    for (const [as, kind] of [
      ['unavailable', 'unavailable'],
      ['timeout', 'timeout'],
      ['busy', 'no failure'],
    ] as const) {
      const again = retry(
        chaos(await holding(1), [{ op: 'begin', nth: 1, what: { kind: 'fail', as } }]),
        QUICK,
      );
      expect(await kindOf(again, again.multipart!.begin(PATH, writing))).toBe(kind);
    }
  });

  test('hands on a reading that was opened just as the signal fired, and keeps none of those that broke', async () => {
    const { driver, open } = watched(await holding(900_000));
    const stop = new AbortController();
    const quick: Driver = {
      ...driver,
      async read(...args) {
        const reading = await driver.read(...args);
        stop.abort(new Failure('cancelled', 'enough'));
        return reading;
      },
    };
    const { bytes } = await retry(quick, QUICK).read(PATH, undefined, { signal: stop.signal });
    expect(open.size).toBe(1);
    await bytes[Symbol.asyncIterator]().return?.();
    expect(open.size).toBe(0);
    const broken = chaos(driver, [{ op: 'read', nth: 1, times: 2, what: { kind: 'cut', afterBytes: 7 } }]);
    expect(await collect((await retry(broken, QUICK).read(PATH, undefined, { signal })).bytes)).toHaveLength(
      900_000,
    );
    expect(open.size).toBe(0);
  });

  test('never hands on more than was announced', async () => {
    const inner = await holding(1000);
    const generous: Driver = {
      ...inner,
      async read(...args) {
        const reading = await inner.read(...args);
        return {
          ...reading,
          bytes: (async function* () {
            yield* reading.bytes;
            yield bytesOf(1);
          })(),
        };
      },
    };
    const reading = async () =>
      collect((await retry(generous, QUICK).read(PATH, undefined, { signal })).bytes);
    expect(await kindOf(inner, reading())).toBe('corrupt');
  });

  test('tells apart a directory and a file of one name in a listing', async () => {
    const inner = await holding(1);
    await inner.write(parsePath('d/x/y'), bodyOf(bytesOf(1)), writing);
    const kinds: string[] = [];
    for await (const page of retry(inner, QUICK).list(parsePath('d'), { deep: false, signal }))
      kinds.push(...page.map((entry) => entry.kind));
    expect(kinds.toSorted()).toEqual(['dir', 'file']);
  });

  test('opens the body anew for each try, and none after the signal fired', async () => {
    let opened = 0;
    const stop = new AbortController();
    const body: Body = {
      size: 10,
      open: () => {
        if (++opened === 3) stop.abort(new Failure('interrupted', 'we are leaving'));
        return [bytesOf(10)];
      },
    };
    const failing = chaos(await holding(1), [
      { op: 'write', nth: 1, times: 99, what: { kind: 'lose-reply', as: 'unavailable' } },
    ]);
    const again = retry(failing, { ...QUICK, tries: 10 });
    await kindOf(again, again.write(PATH, body, { ...writing, signal: stop.signal }));
    expect(opened).toBe(3);
  });
});

test('a meter tells an aborted call by the reason it was aborted for', async () => {
  const seen: string[] = [];
  const stop = new AbortController();
  const hung = chaos(await holding(1), [{ op: 'head', nth: 1, what: { kind: 'hang' } }]);
  const measured = meter(hung, {
    ...unseen,
    observe: (op, _ms, outcome) => void seen.push(`${op} ${outcome}`),
  });
  const head = kindOf(measured, measured.head(PATH, { signal: stop.signal }));
  await tick();
  stop.abort(new Failure('interrupted', 'we are leaving'));
  await head;
  expect(seen).toEqual(['head interrupted']);
});
