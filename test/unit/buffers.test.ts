import { describe, expect, test } from 'vitest';
import { Failure } from '../../lib/errors.ts';
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
});
