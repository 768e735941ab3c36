import { describe, expect, test } from 'vitest';
import { Failure } from '../../lib/errors.ts';
import type { BufferLease } from '../../lib/stores/buffer-lease.ts';
import { BufferPool } from '../../lib/stores/buffers.ts';

const KIB = 1024;
const { signal } = new AbortController();
const pool = (): BufferPool => new BufferPool({ budgetBytes: 64 * KIB, slabBytes: 8 * KIB });

/** Whether `promise` has settled by the time everything that can run has run. */
async function isWaiting(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  promise.then(
    () => (settled = true),
    () => (settled = true),
  );
  await new Promise(setImmediate);
  return !settled;
}

describe('the buffer pool', () => {
  test('hands out memory that holds what is appended, over slabs', async () => {
    const lease = await pool().reserve(20 * KIB, signal);
    const bytes = Buffer.from(Array.from({ length: 20 * KIB }, (_, i) => i % 251));
    for (let at = 0; at < bytes.length; at += 3000) lease.append(bytes.subarray(at, at + 3000));
    expect(lease.filled).toBe(20 * KIB);
    expect(lease.room).toBe(0);
    expect(Buffer.concat(lease.chunks()).equals(bytes)).toBe(true);
    lease.release();
  });

  test('counts what is lent, in slabs, and small bodies with their size only', async () => {
    const buffers = pool();
    const small = await buffers.reserve(100, signal);
    expect(buffers.usedBytes).toBe(100);
    const large = await buffers.reserve(9 * KIB, signal);
    expect(buffers.usedBytes).toBe(100 + 16 * KIB);
    small.release();
    small.release();
    large.release();
    expect(buffers.usedBytes).toBe(0);
  });

  test('lets nobody have more than the budget, and serves who waits in order of arrival', async () => {
    const buffers = pool();
    const first = await buffers.reserve(40 * KIB, signal);
    const order: string[] = [];
    const [big, little] = [buffers.reserve(48 * KIB, signal), buffers.reserve(8 * KIB, signal)];
    void big.then(() => order.push('big'));
    void little.then(() => order.push('little'));
    expect(await isWaiting(little)).toBe(true);
    first.release();
    const leases = await Promise.all([big, little]);
    expect(order).toEqual(['big', 'little']);
    expect(buffers.usedBytes).toBe(56 * KIB);
    for (const lease of leases) lease.release();
    expect(buffers.usedBytes).toBe(0);
  });

  test('lets who waits leave, and does not keep the others behind them', async () => {
    const buffers = pool();
    const first = await buffers.reserve(40 * KIB, signal);
    const stop = new AbortController();
    const leaving = buffers.reserve(64 * KIB, stop.signal);
    const staying = buffers.reserve(8 * KIB, signal);
    expect(await isWaiting(staying)).toBe(true);
    stop.abort(new Failure('cancelled', 'the client went away'));
    await expect(leaving).rejects.toMatchObject({ kind: 'cancelled' });
    (await staying).release();
    first.release();
    expect(buffers.usedBytes).toBe(0);
  });

  test('uses the same slabs again', async () => {
    const buffers = pool();
    const memory = new Set<ArrayBufferLike>();
    for (let i = 0; i < 50; i++) {
      const lease = await buffers.reserve(16 * KIB, signal);
      lease.append(Buffer.alloc(16 * KIB, i));
      for (const chunk of lease.chunks()) memory.add(chunk.buffer);
      lease.release();
    }
    expect(memory.size).toBe(2);
  });

  test('never uses memory again that somebody may still read', async () => {
    const buffers = pool();
    const lease = await buffers.reserve(16 * KIB, signal);
    lease.append(Buffer.alloc(16 * KIB, 7));
    const chunks = lease.chunks();
    lease.release('lent');
    expect(buffers.usedBytes).toBe(0);
    const next = await buffers.reserve(64 * KIB, signal);
    next.append(Buffer.alloc(64 * KIB, 9));
    next.release();
    expect(Buffer.concat(chunks).equals(Buffer.alloc(16 * KIB, 7))).toBe(true);
  });

  test('keeps no spare slabs where small bodies need the memory', async () => {
    const buffers = pool();
    const slabs = async (): Promise<ArrayBufferLike[]> => {
      const lease = await buffers.reserve(64 * KIB, signal);
      lease.append(Buffer.alloc(64 * KIB));
      const memory = lease.chunks().map((chunk) => chunk.buffer);
      lease.release();
      return memory;
    };
    const before = await slabs();
    const small = await Promise.all(Array.from({ length: 10 }, () => buffers.reserve(4 * KIB, signal)));
    for (const lease of small) lease.release();
    const after = new Set(await slabs());
    expect(before.filter((memory) => after.has(memory))).toHaveLength(3);
  });

  test('never waits for ever for a lease larger than the budget', async () => {
    const buffers = pool();
    const lease = await buffers.reserve(640 * KIB, signal);
    expect(buffers.usedBytes).toBe(64 * KIB);
    lease.release();
    expect(buffers.usedBytes).toBe(0);
  });

  test('lends a body no more than it has bytes for', async () => {
    const buffers = new BufferPool({ budgetBytes: 64 * KIB, slabBytes: 8 * KIB, firstBytes: KIB });
    const lease = await buffers.open(16 * KIB + KIB, signal);
    expect([lease.room, buffers.usedBytes]).toEqual([KIB, KIB]);
    lease.append(Buffer.alloc(KIB, 1));
    expect(lease.room).toBe(0);
    await lease.grow(signal);
    expect([lease.room, buffers.usedBytes]).toEqual([8 * KIB, 9 * KIB]);
    lease.append(Buffer.alloc(8 * KIB, 2));
    await lease.grow(signal);
    lease.append(Buffer.alloc(8 * KIB, 3));
    expect([lease.room, lease.filled, lease.bytes]).toEqual([0, 17 * KIB, 17 * KIB]);
    const expected = [Buffer.alloc(KIB, 1), Buffer.alloc(8 * KIB, 2), Buffer.alloc(8 * KIB, 3)];
    expect(Buffer.concat(lease.chunks()).equals(Buffer.concat(expected))).toBe(true);
    lease.release();
    expect(buffers.usedBytes).toBe(0);
  });

  test('keeps no small body waiting behind large ones', async () => {
    const buffers = new BufferPool({ budgetBytes: 64 * KIB, slabBytes: 8 * KIB, firstBytes: KIB });
    const all = await buffers.reserve(64 * KIB, signal);
    const large = await buffers.open(16 * KIB, signal);
    large.append(Buffer.alloc(KIB));
    const growing = large.grow(signal);
    expect(await isWaiting(growing)).toBe(true);
    const small = await Promise.all(Array.from({ length: 8 }, () => buffers.open(KIB, signal)));
    for (const lease of [all, ...small]) lease.release();
    await growing;
    large.release();
    expect(buffers.usedBytes).toBe(0);
  });

  test('lends nothing with which those who have some could wait for each other', async () => {
    const buffers = new BufferPool({ budgetBytes: 32 * KIB, slabBytes: 8 * KIB, firstBytes: 16 });
    const leases = await Promise.all(Array.from({ length: 3 }, () => buffers.open(24 * KIB, signal)));
    for (const lease of leases) lease.append(Buffer.alloc(16));
    const [one, two, three] = leases as [BufferLease, BufferLease, BufferLease];
    await one.grow(signal);
    const grown = [two.grow(signal), three.grow(signal)];
    expect(await isWaiting(grown[0]!)).toBe(false); // one can still have its other two
    expect(await isWaiting(grown[1]!)).toBe(true);
    await one.grow(signal);
    await one.grow(signal);
    const more = two.grow(signal);
    expect(await isWaiting(more)).toBe(true);
    one.seal();
    one.release();
    await Promise.all([more, two.grow(signal)]);
    expect(await isWaiting(grown[1]!)).toBe(false);
    two.release();
    three.release();
    expect(buffers.usedBytes).toBe(0);
  });

  test('tells those that stand still, longest first, only while others wait, and no more than it takes', async () => {
    const buffers = new BufferPool({ budgetBytes: 32 * KIB, slabBytes: 8 * KIB, firstBytes: 16, idleMs: 0 });
    const told: number[] = [];
    const held: BufferLease[] = [];
    for (let n = 0; n < 3; n++) {
      const lease = await buffers.open(8 * KIB + 16, signal, () => {
        told.push(n);
        lease.release();
      });
      lease.append(Buffer.alloc(16));
      await lease.grow(signal);
      held.push(lease);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    const busy = await buffers.reserve(8 * KIB, signal);
    await new Promise((resolve) => setTimeout(resolve, 1200)); // it looks twice in that time
    expect(told).toEqual([]);
    const waits = await buffers.reserve(16 * KIB, signal);
    expect(told).toEqual([0, 1]);
    for (const lease of [busy, waits, held[2]!]) lease.release();
    expect(buffers.usedBytes).toBe(0);
  });
});
