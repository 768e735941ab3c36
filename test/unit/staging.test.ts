import { expect, test, vi } from 'vitest';
import { createLog } from '../../lib/log.ts';
import { BufferPool } from '../../lib/stores/buffers.ts';
import type { Bytes } from '../../lib/stores/driver.ts';
import { MemoryDriver } from '../../lib/stores/drivers/memory.ts';
import { chaos, type Fault } from '../../lib/stores/layers/chaos.ts';
import { Store } from '../../lib/stores/store.ts';
import { Staging } from '../../lib/transfer/staging.ts';
import { NAMES } from '../hidden.ts';

const MIB = 1024 * 1024;
const signal = (): AbortSignal => AbortSignal.timeout(20_000);

interface Given {
  readonly accepted?: { bytes: number };
  readonly slowMs?: number;
  /** Told of what is gone. */
  readonly gone?: string[];
  readonly faults?: readonly Fault[];
}

function open(limitBytes: number, { accepted, slowMs, gone, faults = [] }: Given = {}): Staging {
  const buffers = new BufferPool({ budgetBytes: 64 * MIB, slabBytes: MIB });
  const driver = chaos(new MemoryDriver(), faults);
  return new Staging({
    store: new Store({ name: 'staging', uri: 'memory:', driver, buffers }),
    limitBytes,
    transfers: {
      stagedBytes: async () => accepted?.bytes ?? 0,
      stagedGone: async (ids) => void gone?.push(...ids),
    },
    log: createLog({ level: 'silent', format: 'json', process: 'test' }),
    hidden: NAMES,
    ...(slowMs !== undefined && { slowMs }),
  });
}

async function* body(...sizes: number[]): Bytes {
  for (const size of sizes) yield new Uint8Array(size);
}
async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}
const names = async (staging: Staging): Promise<string[]> =>
  (await all(staging.names(signal()))).flat().map(({ id }) => id);

test('what nobody needs any more is freed soon, and the ledger is told once it is gone', async () => {
  const gone: string[] = [];
  const staging = open(16 * MIB, { gone });
  const ids = Array.from({ length: 120 }, (_, n) => `t${n}`);
  for (const id of [...ids, 'wanted']) await staging.stage(id, body(10), { signal: signal() });
  for (const id of ids) staging.freeSoon(id);
  await vi.waitFor(() => expect(gone.length).toBe(120), { timeout: 10_000 });
  expect(new Set(gone)).toEqual(new Set(ids));
  expect(await names(staging)).toEqual(['wanted']);
  staging.freeSoon('wanted');
  await staging.close();
  expect(gone.at(-1)).toBe('wanted');
  expect(await names(staging)).toEqual([]);
});

test('the ledger is not told of staged bytes that could not be removed', async () => {
  const gone: string[] = [];
  const staging = open(16 * MIB, {
    gone,
    faults: [{ op: 'remove', nth: 1, what: { kind: 'fail', as: 'unavailable' } }],
  });
  await staging.stage('ta', body(10), { signal: signal() });
  staging.freeSoon('ta');
  await staging.close();
  expect(gone).toEqual([]);
});

test('staged bytes are there whole until they are freed, twice is fine', async () => {
  const staging = open(MIB);
  const digests = await staging.stage('ta', body(10, 20), { signal: signal() });
  expect(digests.size).toBe(30);
  expect(await names(staging)).toEqual(['ta']);
  const reading = await staging.open('ta', { start: 5, end: 12 }, signal());
  const read = await all(reading.bytes);
  expect(read.reduce((sum, chunk) => sum + chunk.length, 0)).toBe(7);
  await staging.free('ta', signal());
  await staging.free('ta', signal());
  await expect(staging.open('ta', undefined, signal())).rejects.toMatchObject({ kind: 'not-found' });
});

test('what never fits is refused for good, before a byte is read', async () => {
  const staging = open(1000);
  let asked = false;
  const bytes = (async function* (): Bytes {
    asked = true;
    yield new Uint8Array(2000);
  })();
  await expect(staging.stage('ta', bytes, { size: 2000, signal: signal() })).rejects.toMatchObject({
    kind: 'no-space',
  });
  expect(asked).toBe(false);
  const job = { size: 2000, tooLarge: 'invalid', signal: signal() } as const;
  await expect(staging.stage('ta', bytes, job)).rejects.toMatchObject({ kind: 'invalid' });
  await expect(staging.makeRoom('td', 2000)).rejects.toMatchObject({ kind: 'invalid' });
});

test('what fits when transfers have ended is refused for now', async () => {
  const accepted = { bytes: 800 };
  const staging = open(1000, { accepted });
  await expect(staging.stage('ta', body(300), { size: 300, signal: signal() })).rejects.toMatchObject({
    kind: 'busy',
    facts: { retryAfterMs: 10_000 },
  });
  await staging.stage('tb', body(200), { size: 200, signal: signal() });
  expect(await names(staging)).toEqual(['tb']);
});

test('what the ledger accounts for counts once', async () => {
  let asked = 0;
  const accepted = {
    get bytes() {
      return asked++ === 0 ? 0 : 600;
    },
  };
  const staging = open(1000, { accepted });
  await staging.stage('ta', body(600), { size: 600, signal: signal() });
  staging.accounted('ta');
  const asksAgain = async () => {
    expect(await staging.usedBytes()).toBe(600);
    return asked;
  };
  await expect.poll(asksAgain, { timeout: 4000 }).toBe(2);
  await staging.stage('tb', body(400), { size: 400, signal: signal() });
  expect(await staging.usedBytes()).toBe(1000);
});

test('what was freed without being accepted gives its room back at once', async () => {
  const staging = open(1000);
  await staging.stage('ta', body(600), { size: 600, signal: signal() });
  await staging.free('ta', signal());
  expect(await staging.usedBytes()).toBe(0);
});

test('bodies in flight see the room that each other has taken', async () => {
  const staging = open(1000);
  const outcomes = await Promise.allSettled(
    Array.from({ length: 8 }, (_, n) => staging.stage(`t${n}`, body(300), { size: 300, signal: signal() })),
  );
  expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(3);
  expect(await staging.usedBytes()).toBe(900);
});

test('a body that hardly moves keeps only the room that it fills once others need it, and may take more later', async () => {
  const staging = open(1000, { slowMs: 0 });
  const { promise: rest, resolve: goOn } = Promise.withResolvers<void>();
  const { promise: begun, resolve: hasBegun } = Promise.withResolvers<void>();
  const slow = (async function* (): Bytes {
    yield new Uint8Array(100);
    hasBegun();
    await rest;
    yield new Uint8Array(700);
  })();
  const slowly = staging.stage('ts', slow, { size: 800, signal: signal() });
  await begun;
  expect(await staging.usedBytes()).toBe(800);
  await staging.stage('ta', body(200), { size: 200, signal: signal() });
  await expect(staging.stage('tb', body(701), { size: 701, signal: signal() })).rejects.toMatchObject({
    kind: 'busy',
  });
  expect(await staging.usedBytes()).toBe(300);
  goOn();
  expect((await slowly).size).toBe(800);
  expect(await staging.usedBytes()).toBe(1000);
});

test('a body of unknown length takes room as it comes, and leaves nothing when there is none left', async () => {
  const staging = open(1000);
  expect((await staging.stage('ta', body(400, 400), { signal: signal() })).size).toBe(800);
  await expect(staging.stage('tb', body(150, 150), { signal: signal() })).rejects.toMatchObject({
    kind: 'busy',
  });
  await expect(staging.stage('tc', body(900, 200), { signal: signal() })).rejects.toMatchObject({
    kind: 'busy',
  });
  expect(await names(staging)).toEqual(['ta']);
  expect(await staging.usedBytes()).toBe(800);
});

test('a body that is not what was declared leaves nothing and gives its room back', async () => {
  const staging = open(1000);
  const wrong = { size: 500, signal: signal() };
  await expect(staging.stage('ta', body(400), wrong)).rejects.toMatchObject({ kind: 'invalid' });
  await expect(staging.stage('tb', body(600), wrong)).rejects.toMatchObject({ kind: 'invalid' });
  const expected = { sha256: '00'.repeat(32) };
  await expect(
    staging.stage('tc', body(10), { expected, mismatch: () => 'corrupt', signal: signal() }),
  ).rejects.toMatchObject({
    kind: 'corrupt',
  });
  expect(await names(staging)).toEqual([]);
  expect(await staging.usedBytes()).toBe(0);
});
