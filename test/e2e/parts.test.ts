import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, renameSync, unlinkSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { Failure } from '../../lib/errors.ts';
import { pushCancel } from '../../lib/jobs/control.ts';
import { hearProgress, readProgress } from '../../lib/jobs/progress.ts';
import { WORKER_GONE } from '../../lib/ledger/transfer.ts';
import { Outbox } from '../../lib/transfer/outbox.ts';
import { requireServer } from '../servers/require.ts';
import { redisForAll } from '../servers/shared.ts';
import { PartsTap } from './around-parts.ts';
import { eventually, openQuay, type Quay, type QuayOptions } from './quay.ts';

const MIB = 1024 * 1024;
/** Three parts: two of 16 MiB and a small one. */
const BYTES = randomBytes(33 * MIB + 17);
const OTHER_BYTES = randomBytes(BYTES.length);
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

requireServer('redis')('a transfer in parts', () => {
  const redis = redisForAll();
  let quay: Quay;
  let taps: Record<'artifacts' | 'other' | 'staging', PartsTap>;
  const open = async (options: Omit<QuayOptions, 'redisUrl'> = {}): Promise<Quay> => {
    taps = { artifacts: new PartsTap(), other: new PartsTap(), staging: new PartsTap() };
    return (quay = await openQuay({
      redisUrl: redis.url,
      around: (name, driver) => taps[name as keyof typeof taps].around(driver),
      ...options,
      config: { partThresholdBytes: MIB, attempts: 2, ...options.config },
    }));
  };
  const put = (path: string, bytes: Uint8Array, store: string): void => {
    const file = quay.fileOf(path, store);
    mkdirSync(dirname(file), { recursive: true });
    // as other programs replace a file: at once
    writeFileSync(`${file}.new`, bytes);
    renameSync(`${file}.new`, file);
  };
  const hidden = (store = 'artifacts'): string[] =>
    readdirSync(quay.fileOf('', store), { recursive: true })
      .map(String)
      .filter((name) => name.includes('.longshore-'));
  /** Whatever the test's queues and parts still have in Redis. */
  const leftInRedis = async (): Promise<string[]> => {
    const keys = await quay.queue.redis.keys(`${quay.queue.prefix}*`);
    return keys.filter((key) => /:(parts|gave-up|progress):/.test(key) || /:t[a-z0-9]{20,}/.test(key));
  };
  const nothingLeft = async (): Promise<void> => {
    await eventually(async () => (await quay.ledger.uploads.open(Date.now() + 60_000, 10)).length === 0);
    await expect.poll(leftInRedis, { timeout: 10_000 }).toEqual([]);
    for (const store of ['artifacts', 'other', 'staging']) expect(hidden(store)).toEqual([]);
  };
  const upload = (path = 'm/w.bin') => quay.submit({ kind: 'upload', to: quay.place(path) }, BYTES);
  const copy = () =>
    quay.submit({ kind: 'copy', from: quay.place('s.bin', 'other'), to: quay.place('m/w.bin') });

  afterEach(() => quay.close());

  test('lands whole and verified, from staging, from another store and in staging', async () => {
    await open();
    await quay.work();
    const up = await quay.ended((await upload()).id);
    expect(up).toMatchObject({
      state: 'succeeded',
      attempts: 0,
      starts: 2,
      result: { outcome: 'published', size: BYTES.length, sha256: sha256(BYTES) },
    });
    expect(up.result?.verified).toEqual([
      { check: 'crc32', by: 'staging' },
      { check: 'size', by: 'store' },
    ]);
    expect(taps.artifacts.taken.toSorted()).toEqual([1, 2, 3]);
    expect(quay.bytesAt('m/w.bin').equals(BYTES)).toBe(true);

    const from = quay.place('m/w.bin');
    const over = await quay.submit({ kind: 'copy', from, to: quay.place('c.bin', 'other') });
    const copied = await quay.ended(over.id);
    expect(copied).toMatchObject({ state: 'succeeded', starts: 2, result: { sha256: sha256(BYTES) } });
    expect(copied.result?.verified).toContainEqual({ check: 'crc32', by: 'ledger' });
    expect(quay.bytesAt('c.bin', 'other').equals(BYTES)).toBe(true);

    const down = await quay.submit({ kind: 'download', from: quay.place('c.bin', 'other') });
    expect(await quay.ended(down.id)).toMatchObject({
      state: 'succeeded',
      starts: 2,
      result: { outcome: 'ready', size: BYTES.length, sha256: sha256(BYTES) },
    });
    expect(quay.stagedBytes(down.id).equals(BYTES)).toBe(true);
    await nothingLeft();
  });

  test('of an object that nobody knows has no digest, and is the same bytes', async () => {
    await open();
    await quay.work();
    put('s.bin', BYTES, 'other');
    const ended = await quay.ended((await copy()).id);
    expect(ended.state).toBe('succeeded');
    expect(ended.result?.sha256).toBeUndefined();
    expect(ended.result?.verified).toEqual([{ check: 'size', by: 'store' }]);
    expect(quay.bytesAt('m/w.bin').equals(BYTES)).toBe(true);
  });

  test('that must have a digest which only one pass can prove goes in one', async () => {
    await open();
    await quay.work();
    put('s.bin', BYTES, 'other');
    const to = quay.place('m/w.bin');
    const from = quay.place('s.bin', 'other');
    const right = await quay.submit({ kind: 'copy', from, to, expected: { sha256: sha256(BYTES) } });
    expect(await quay.ended(right.id)).toMatchObject({ state: 'succeeded', starts: 1 });
    const wrong = await quay.submit({ kind: 'copy', from, to, expected: { sha256: sha256(OTHER_BYTES) } });
    expect(await quay.ended(wrong.id)).toMatchObject({ state: 'failed', failure: { kind: 'invalid' } });
  });

  test('tries a part that fails again on its own', async () => {
    await open();
    await quay.work();
    taps.artifacts.failure = (number, nth) =>
      number === 2 && nth === 1 ? new Failure('unavailable', 'no luck') : undefined;
    const { id } = await upload();
    expect(await quay.ended(id)).toMatchObject({ state: 'succeeded', attempts: 0, starts: 2 });
    expect(taps.artifacts.tried.toSorted()).toEqual([1, 2, 2, 3]);
    expect(quay.bytesAt('m/w.bin').equals(BYTES)).toBe(true);
    await nothingLeft();
  });

  test('fails with the part that could not be sent and why, and leaves nothing behind', async () => {
    await open();
    await quay.work();
    taps.artifacts.failure = (number) => (number === 2 ? new Failure('unavailable', 'no luck') : undefined);
    const { id } = await upload();
    const ended = await quay.ended(id);
    expect(ended).toMatchObject({ state: 'failed', attempts: 2, failure: { kind: 'unavailable' } });
    expect(ended.failure?.message).toMatch(/^part 2 \(bytes 16777216 to 33554431 of 34603025\).*no luck/);
    // two tries in each of two attempts; the others were there after the first one
    expect(taps.artifacts.tried.filter((number) => number === 2)).toHaveLength(4);
    expect(taps.artifacts.taken.toSorted()).toEqual([1, 3]);
    await nothingLeft();
    // its bytes stay for a retry, which begins another upload
    taps.artifacts.failure = () => undefined;
    const again = await quay.ledger.transfers.retry(id);
    await quay.queue.submit(again as typeof ended);
    expect((await quay.ended(id)).state).toBe('succeeded');
    expect(quay.bytesAt('m/w.bin').equals(BYTES)).toBe(true);
  });

  test('does not fail for Redis not answering for a moment', async () => {
    await open();
    const { redis: client } = quay.queue;
    for (const name of ['getdel', 'exists'] as const) {
      let troubles = 1;
      const asked = client[name].bind(client) as (...args: unknown[]) => Promise<never>;
      const troubled = (...args: unknown[]) =>
        troubles-- > 0 ? Promise.reject(new Error('Connection is closed.')) : asked(...args);
      Object.assign(client, { [name]: troubled });
    }
    await quay.work();
    expect(await quay.ended((await upload()).id)).toMatchObject({ state: 'succeeded' });
    await nothingLeft();
  });

  test('does not send the other parts in vain when one can never be sent', async () => {
    await open({ config: { partConcurrency: 1 } });
    await quay.work();
    taps.artifacts.failure = (number) => (number === 1 ? new Failure('denied', 'not you') : undefined);
    const { id } = await upload();
    expect(await quay.ended(id)).toMatchObject({ state: 'failed', attempts: 1, failure: { kind: 'denied' } });
    expect(taps.artifacts.tried).toEqual([1]);
    await nothingLeft();
  });

  test('notices a bit that flipped in what was staged', async () => {
    await open();
    await quay.work();
    let left = 1;
    taps.staging.damages = (offset) => offset === 20 * MIB && left-- > 0;
    const once = await upload();
    expect(await quay.ended(once.id)).toMatchObject({ state: 'succeeded', attempts: 0 });
    expect(quay.bytesAt('m/w.bin').equals(BYTES)).toBe(true);
    taps.staging.damages = (offset) => offset === 20 * MIB;
    const always = await upload('m/x.bin');
    expect(await quay.ended(always.id)).toMatchObject({ state: 'failed', failure: { kind: 'corrupt' } });
    await nothingLeft();
    expect(readdirSync(quay.fileOf('m'))).toEqual(['w.bin']);
  });

  test('notices a bit that flipped in what was read from a store, and starts over', async () => {
    await open();
    await quay.work();
    const first = await quay.submit({ kind: 'upload', to: quay.place('s.bin', 'other') }, BYTES);
    await quay.ended(first.id);
    let left = 1;
    taps.other.damages = (offset) => offset === 20 * MIB && left-- > 0;
    expect(await quay.ended((await copy()).id)).toMatchObject({ state: 'succeeded', attempts: 1 });
    expect(quay.bytesAt('m/w.bin').equals(BYTES)).toBe(true);
    taps.other.damages = (offset) => offset === 20 * MIB;
    const down = await quay.submit({ kind: 'download', from: quay.place('s.bin', 'other') });
    expect(await quay.ended(down.id)).toMatchObject({ state: 'failed', failure: { kind: 'corrupt' } });
    await nothingLeft();
  });

  test('whose source is replaced midway starts over, and mixes nothing', async () => {
    await open();
    await quay.work();
    put('s.bin', BYTES, 'other');
    for (const run of [copy, () => quay.submit({ kind: 'download', from: quay.place('s.bin', 'other') })]) {
      const [was, is] = quay.bytesAt('s.bin', 'other').equals(BYTES)
        ? [BYTES, OTHER_BYTES]
        : [OTHER_BYTES, BYTES];
      const tap = run === copy ? taps.artifacts : taps.staging;
      let replaced = false;
      tap.holds = (number) => number > 1 && !replaced;
      const { id } = await run();
      await eventually(() => tap.waiting === 2 && tap.taken.includes(1));
      put('s.bin', is, 'other');
      replaced = true;
      const ended = await quay.ended(id);
      expect(ended).toMatchObject({ state: 'succeeded' });
      const there = run === copy ? quay.bytesAt('m/w.bin') : quay.stagedBytes(id);
      expect(there.equals(is)).toBe(true);
      expect(was.equals(is)).toBe(false);
    }
    await nothingLeft();
  });

  test('whose upload the store has lost begins another one', async () => {
    await open();
    await quay.work();
    let lost = false;
    taps.artifacts.holds = (number) => number > 1 && !lost;
    const { id } = await upload();
    await eventually(() => taps.artifacts.waiting === 2 && taps.artifacts.taken.length === 1);
    for (const name of hidden()) unlinkSync(quay.fileOf(name));
    lost = true;
    expect(await quay.ended(id)).toMatchObject({ state: 'succeeded', attempts: 1 });
    expect(taps.artifacts.begun).toBe(2);
    expect(quay.bytesAt('m/w.bin').equals(BYTES)).toBe(true);
    await nothingLeft();
  });

  test('does not trip over what it has published itself without being told so', async () => {
    await open();
    await quay.work();
    put('s.bin', BYTES, 'other');
    taps.artifacts.lostReplies = 1;
    const { id } = await quay.submit({
      kind: 'copy',
      from: quay.place('s.bin', 'other'),
      to: quay.place('m/w.bin'),
      onExists: 'fail',
    });
    expect(await quay.ended(id)).toMatchObject({ state: 'succeeded', result: { outcome: 'published' } });
    expect(quay.bytesAt('m/w.bin').equals(BYTES)).toBe(true);
    await nothingLeft();
  });

  test('fetches nothing again once it was there, should it not be able to say so', async () => {
    await open();
    await quay.work();
    put('s.bin', BYTES, 'other');
    const { transfers } = quay.ledger;
    const { end } = transfers;
    let troubles = 1;
    const troubled: typeof end = async (...args) => {
      if (troubles-- > 0) throw new Failure('unavailable', 'no ledger today');
      return end(...args);
    };
    Object.assign(transfers, { end: troubled });
    const { id } = await quay.submit({ kind: 'download', from: quay.place('s.bin', 'other') });
    expect(await quay.ended(id)).toMatchObject({ state: 'succeeded', attempts: 1 });
    expect(taps.staging.taken.toSorted()).toEqual([1, 2, 3]);
    expect(quay.stagedBytes(id).equals(BYTES)).toBe(true);
    await nothingLeft();
  });

  test('that is cancelled while parts are on their way leaves nothing', async () => {
    await open();
    await quay.work();
    taps.artifacts.holds = (number) => number > 1;
    const { id } = await upload();
    await eventually(() => taps.artifacts.waiting === 2 && taps.artifacts.taken.length === 1);
    expect(await quay.ledger.transfers.cancel(id)).toBe('cancelled');
    await pushCancel(quay.queue, id);
    await eventually(() => taps.artifacts.waiting === 0);
    await nothingLeft();
  });

  test('that is cancelled while a part waits for its next try, or has lost its jobs, leaves nothing for long', async () => {
    await open({ config: { attempts: 8 } });
    const pool = await quay.work();
    const troubled = new Failure('busy', 'later', { retryAfterMs: 600_000 });
    taps.artifacts.failure = (number) => (number === 2 ? troubled : undefined);
    const waits = await upload();
    await eventually(async () => (await quay.queue.counts())['multipart-part'].delayed === 1);
    await eventually(() => taps.artifacts.taken.length === 2);
    await quay.ledger.transfers.cancel(waits.id);
    const outbox = new Outbox(quay.deps);
    await outbox.reconcile();
    await nothingLeft();

    const loses = await upload();
    await eventually(async () => (await quay.queue.counts())['multipart-part'].delayed === 1);
    await eventually(() => taps.artifacts.taken.length === 4);
    await pool.close();
    const { redis: client, prefix } = quay.queue;
    await client.del(...(await client.keys(`${prefix}*`)));
    await quay.ledger.transfers.cancel(loses.id);
    await outbox.reconcile();
    await nothingLeft();
  });

  test('whose time is over while parts are on their way fails, and leaves nothing', async () => {
    await open({ config: { lifetimeMs: 3000 } });
    await quay.work();
    taps.artifacts.holds = (number) => number > 1;
    const { id } = await upload();
    const ended = await quay.ended(id);
    expect(ended).toMatchObject({ state: 'failed', failure: { kind: 'timeout' } });
    await nothingLeft();
  });

  test('ends with a part that kills its workers again and again', async () => {
    await open({ config: { partConcurrency: 1 } });
    await quay.work();
    let over = false;
    taps.artifacts.holds = () => !over;
    const { id } = await upload();
    await eventually(() => taps.artifacts.waiting === 1);
    const [second] = await quay.queue.redis.keys(`${quay.queue.prefix}:multipart-part:${id}*-p2`);
    // as BullMQ counts workers that were not heard of again
    await quay.queue.redis.hset(second!, 'stc', 20);
    over = true;
    const ended = await quay.ended(id);
    expect(ended).toMatchObject({ state: 'failed', failure: { kind: 'bug' } });
    expect(ended.failure?.message).toContain('20 workers died while they had part 2');
    expect(taps.artifacts.tried).not.toContain(2);
    await nothingLeft();
  });

  test('is handed back by a worker that shuts down, and goes on with the parts that are missing', async () => {
    await open();
    const first = await quay.work();
    let over = false;
    taps.artifacts.holds = (number) => number > 1 && !over;
    const { id } = await upload();
    await eventually(() => taps.artifacts.waiting === 2 && taps.artifacts.taken.length === 1);
    await first.close();
    const counts = await quay.queue.counts();
    expect(counts['multipart-part']).toMatchObject({ waiting: 2, active: 0 });
    expect(counts.upload).toMatchObject({ 'waiting-children': 1 });
    over = true;
    await quay.work({ name: 'second' });
    expect(await quay.ended(id)).toMatchObject({ state: 'succeeded', attempts: 0, starts: 2 });
    expect(taps.artifacts.taken.toSorted()).toEqual([1, 2, 3]);
    const attempts = await quay.ledger.transfers.attemptsOf(id);
    expect(attempts.some(({ failure }) => failure?.message === WORKER_GONE)).toBe(false);
    await nothingLeft();
  });

  test('whose parts Redis has lost is given a new job, which sends the missing ones', async () => {
    await open({ clock: () => Date.now() - 20_000 });
    const pool = await quay.work();
    let over = false;
    taps.artifacts.holds = (number) => number > 1 && !over;
    const transfer = await upload();
    await eventually(() => taps.artifacts.waiting === 2 && taps.artifacts.taken.length === 1);
    const outbox = new Outbox(quay.deps);
    expect(await outbox.reconcile()).toBe(0);
    await pool.close();
    const { redis: client, prefix } = quay.queue;
    const parts = await client.keys(`${prefix}:multipart-part:${transfer.id}*`);
    await client.del(...parts, `${prefix}:multipart-part:prioritized`);
    expect(await outbox.reconcile()).toBe(1);
    over = true;
    await quay.work({ name: 'second' });
    expect(await quay.ended(transfer.id)).toMatchObject({ state: 'succeeded', epoch: 2, attempts: 0 });
    expect(taps.artifacts.begun).toBe(1);
    expect(taps.artifacts.taken.toSorted()).toEqual([1, 2, 3]);
    await nothingLeft();
  });

  test('given to two workers at once ends once, whole', async () => {
    await open();
    const apart = quay.queuesApart();
    await Promise.all([quay.work({ name: 'one' }), quay.work({ name: 'two', apart })]);
    const transfer = await quay.accept({ kind: 'upload', to: quay.place('m/w.bin') }, BYTES);
    await Promise.all([quay.queue.submit(transfer), apart.submit(transfer)]);
    expect(await quay.ended(transfer.id)).toMatchObject({ state: 'succeeded' });
    expect(quay.bytesAt('m/w.bin').equals(BYTES)).toBe(true);
    await eventually(
      async () =>
        (await quay.queue.lacking([transfer])).length === 1 && (await apart.lacking([transfer])).length === 1,
      20_000,
    );
    await nothingLeft();
  });

  test('tells how far all parts are together, and never runs backward', async () => {
    await open();
    await quay.work();
    const told: number[] = [];
    const ears = hearProgress(quay.queue, quay.deps.log, ({ done, total }) => {
      expect(total).toBe(BYTES.length);
      told.push(done);
    });
    let open2 = false;
    let open3 = false;
    taps.artifacts.failure = (number, nth) =>
      number === 2 && nth === 1 ? new Failure('unavailable', 'no luck') : undefined;
    taps.artifacts.holds = (number) => (number === 2 && !open2) || (number === 3 && !open3);
    const { id } = await upload();
    await eventually(() => told.at(-1) === 16 * MIB);
    await new Promise((resolve) => setTimeout(resolve, 1100));
    open2 = true;
    await eventually(() => told.at(-1) === 32 * MIB);
    expect((await readProgress(quay.queue, [id])).get(id)).toMatchObject({ done: 32 * MIB, epoch: 1 });
    open3 = true;
    await quay.ended(id);
    ears.close();
    expect(told).toEqual(told.toSorted((a, b) => a - b));
    expect(told.at(-1)).toBeLessThanOrEqual(BYTES.length);
    await nothingLeft();
  });
});
