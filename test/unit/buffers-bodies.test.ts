/** Many bodies in little memory: whatever they do, those that go on come to their end. */
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { failureOf } from '../../lib/errors.ts';
import { parsePath } from '../../lib/path.ts';
import { BufferPool } from '../../lib/stores/buffers.ts';
import { MemoryDriver } from '../../lib/stores/drivers/memory.ts';
import { Store } from '../../lib/stores/store.ts';
import { scaled } from '../scale.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const { signal } = new AbortController();
/** Looks at who stands still come twice a second. */
const LONG_MS = 4000;

interface Plan {
  readonly size: number;
  readonly chunkBytes: number;
  readonly declared: boolean;
  /** After how many bytes it rests, and for how long. */
  readonly restsAt: number;
  readonly restMs: number;
}

const contentOf = ({ size }: Pick<Plan, 'size'>, n: number): Buffer => {
  const bytes = Buffer.alloc(size, n + 1);
  for (let at = 0; at < size; at += 1000) bytes[at] = at / 1000;
  return bytes;
};

async function* slowly(bytes: Buffer, { chunkBytes, restsAt, restMs }: Plan): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += chunkBytes) {
    if (restMs > 0 && at <= restsAt && restsAt < at + chunkBytes) await sleep(restMs);
    else if (at % (8 * chunkBytes) === 0) await sleep(0);
    yield bytes.subarray(at, at + chunkBytes);
  }
}

async function put(store: Store, path: string, bytes: Buffer, plan: Plan): Promise<string> {
  try {
    const draft = await store.prepare(parsePath(path), slowly(bytes, plan), {
      signal,
      token: path,
      ...(plan.declared && { size: bytes.length }),
    });
    await draft.publish({ signal });
    return 'published';
  } catch (error) {
    return failureOf(error).kind;
  }
}

async function bytesAt(store: Store, path: string): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of (await store.read(parsePath(path), { signal })).bytes)
    chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks);
}

function smallStore(goodBytes: number, pool: { budgetBytes: number; slabBytes: number; idleMs?: number }) {
  const buffers = new BufferPool({ firstBytes: 2 * KIB, ...pool });
  const store = new Store({
    name: 'memory',
    uri: 'memory:',
    driver: new MemoryDriver({ goodBytes }),
    buffers,
  });
  return { store, buffers };
}

const plans = fc.array(
  fc.record({
    size: fc.oneof(fc.integer({ min: 0, max: 4 * KIB }), fc.integer({ min: 0, max: 400 * KIB })),
    chunkBytes: fc.integer({ min: 500, max: 40 * KIB }),
    declared: fc.boolean(),
    restsAt: fc.integer({ min: 0, max: 400 * KIB }),
    restMs: fc.constantFrom(0, 0, 1, 20),
  }),
  { minLength: 20, maxLength: 60 },
);

test('bodies that go on never wait for each other for ever, however little memory there is', {
  timeout: 300_000,
}, async () => {
  const run = fc.asyncProperty(plans, async (some) => {
    const { store, buffers } = smallStore(64 * KIB, { budgetBytes: 128 * KIB, slabBytes: 8 * KIB });
    let most = 0;
    const watching = setInterval(() => (most = Math.max(most, buffers.usedBytes)), 1);
    const sent = some.map(contentOf);
    const ends = await Promise.all(some.map((plan, n) => put(store, `b${n}`, sent[n]!, plan)));
    clearInterval(watching);
    expect(ends).toEqual(some.map(() => 'published'));
    for (const [n, bytes] of sent.entries()) expect((await bytesAt(store, `b${n}`)).equals(bytes)).toBe(true);
    expect(buffers.usedBytes).toBe(0);
    expect(most).toBeLessThanOrEqual(1.375 * buffers.budgetBytes);
  });
  await fc.assert(run, { numRuns: scaled(200), endOnFailure: true });
});

test('a body that stands still while others wait has sent what it could, and goes on whole later', {
  timeout: 60_000,
}, async () => {
  const pool = { budgetBytes: 24 * MIB, slabBytes: MIB, idleMs: 100, firstBytes: 64 * KIB };
  const { store, buffers } = smallStore(8 * MIB, pool);
  // 6 MiB of the second part, which may be sent from 5 MiB on
  const slow = { size: 20 * MIB, chunkBytes: 64 * KIB, declared: true, restsAt: 14 * MIB, restMs: LONG_MS };
  const sent = Array.from({ length: 4 }, (_, n) => contentOf(slow, n));
  let done = 0;
  const slowEnds = sent.map(async (bytes, n) => {
    const end = await put(store, `slow${n}`, bytes, slow);
    done++;
    return end;
  });
  await sleep(300);
  const good = { size: 20 * MIB, chunkBytes: MIB, declared: true, restsAt: 0, restMs: 0 };
  for (let n = 0; n < 4; n++)
    expect(await put(store, `good${n}`, contentOf(good, n), good)).toBe('published');
  expect(done).toBe(0);
  const ends = await Promise.all(slowEnds);
  for (const [n, end] of ends.entries()) {
    expect(end).toBe('published');
    expect((await bytesAt(store, `slow${n}`)).equals(sent[n]!)).toBe(true);
  }
  expect(buffers.usedBytes).toBe(0);
});

test('where the store takes no part so small, it is refused as busy, and those that go on are served', {
  timeout: 60_000,
}, async () => {
  const pool = { budgetBytes: 16 * MIB, slabBytes: MIB, idleMs: 100, firstBytes: 64 * KIB };
  const { store, buffers } = smallStore(8 * MIB, pool);
  const slow = { size: 20 * MIB, chunkBytes: 64 * KIB, declared: true, restsAt: 3 * MIB, restMs: LONG_MS };
  const slowEnds = Array.from({ length: 6 }, (_, n) => put(store, `slow${n}`, contentOf(slow, n), slow));
  await sleep(300);
  const good = { size: 20 * MIB, chunkBytes: MIB, declared: true, restsAt: 0, restMs: 0 };
  const bytes = contentOf(good, 1);
  expect(await put(store, 'good', bytes, good)).toBe('published');
  expect((await bytesAt(store, 'good')).equals(bytes)).toBe(true);
  const ends = await Promise.all(slowEnds);
  expect(new Set(ends)).toEqual(new Set(['published', 'busy']));
  expect(buffers.usedBytes).toBe(0);
});
