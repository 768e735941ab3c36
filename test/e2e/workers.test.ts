import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { pushCancel } from '../../lib/jobs/control.ts';
import { startRedis } from '../servers/redis.ts';
import { requireServer } from '../servers/require.ts';
import { redisForAll } from '../servers/shared.ts';
import { Gate, Trouble } from './around.ts';
import { eventually, openQuay, type Quay, type QuayOptions, TIMINGS } from './quay.ts';

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

requireServer('redis')('a transfer', () => {
  const redis = redisForAll();
  let quay: Quay;
  const open = async (options: Omit<QuayOptions, 'redisUrl'> = {}): Promise<Quay> =>
    (quay = await openQuay({ redisUrl: redis.url, ...options }));
  const put = (path: string, bytes: Uint8Array | string, store = 'artifacts'): void => {
    mkdirSync(dirname(quay.fileOf(path, store)), { recursive: true });
    writeFileSync(quay.fileOf(path, store), bytes);
  };
  afterEach(() => quay.close());

  test('of staged bytes lands whole, verified, and frees staging', async () => {
    await open();
    await quay.work();
    const bytes = randomBytes(3_000_001);
    const { id } = await quay.submit({ kind: 'upload', to: quay.place('models/7/w.bin') }, bytes);
    const ended = await quay.ended(id);
    expect(ended).toMatchObject({
      state: 'succeeded',
      attempts: 0,
      result: { outcome: 'published', size: 3_000_001, sha256: sha256(bytes) },
    });
    expect(ended.result?.verified).toContainEqual({ check: 'sha256', by: 'staging' });
    expect(quay.bytesAt('models/7/w.bin').equals(bytes)).toBe(true);
    await eventually(() => readdirSync(quay.fileOf('', 'staging')).length === 0);
    await eventually(async () => (await quay.queue.lacking([ended])).length === 1);
    expect((await quay.ledger.objects.known(quay.place('models/7/w.bin'), ended.result!.etag!))?.sha256).toBe(
      sha256(bytes),
    );
  });

  test('copies an object from one store to another', async () => {
    await open();
    put('in/data.bin', randomBytes(100_000), 'other');
    await quay.work();
    const { id } = await quay.submit({
      kind: 'copy',
      from: quay.place('in/data.bin', 'other'),
      to: quay.place('data.bin'),
    });
    expect(await quay.ended(id)).toMatchObject({
      state: 'succeeded',
      result: { outcome: 'published', size: 100_000 },
    });
    expect(quay.bytesAt('data.bin').equals(quay.bytesAt('in/data.bin', 'other'))).toBe(true);
  });

  test('of an object that is not there fails at once, without another attempt', async () => {
    await open();
    await quay.work();
    const { id } = await quay.submit({
      kind: 'copy',
      from: quay.place('no', 'other'),
      to: quay.place('out.bin'),
    });
    expect(await quay.ended(id)).toMatchObject({
      state: 'failed',
      attempts: 1,
      failure: { kind: 'not-found' },
    });
  });

  test('downloads into staging and stays there for its lease', async () => {
    await open();
    const bytes = randomBytes(70_000);
    put('slow.bin', bytes, 'other');
    await quay.work();
    const { id } = await quay.submit({ kind: 'download', from: quay.place('slow.bin', 'other') });
    const ended = await quay.ended(id);
    expect(ended).toMatchObject({
      state: 'succeeded',
      result: { outcome: 'ready', size: 70_000, sha256: sha256(bytes) },
    });
    expect(ended.stagedUntilMs).toBeGreaterThan(Date.now() + 23 * 3600_000);
    const reading = await quay.deps.staging.open(id, { start: 10, end: 20 }, AbortSignal.timeout(5000));
    const chunks = [];
    for await (const chunk of reading.bytes) chunks.push(Buffer.from(chunk));
    expect(Buffer.concat(chunks).equals(bytes.subarray(10, 20))).toBe(true);
  });

  test('deletes exactly one object', async () => {
    await open();
    put('a/one', '1');
    put('a/two', '2');
    await quay.work();
    const { id } = await quay.submit({ kind: 'delete', to: quay.place('a/one') });
    expect(await quay.ended(id)).toMatchObject({ state: 'succeeded', result: { outcome: 'removed' } });
    expect(existsSync(quay.fileOf('a/one'))).toBe(false);
    expect(quay.bytesAt('a/two').toString()).toBe('2');
    const again = await quay.submit({ kind: 'delete', to: quay.place('a/one') });
    expect((await quay.ended(again.id)).state).toBe('succeeded');
  });

  test('does with what is there already what the request says', async () => {
    await open();
    put('there', 'old');
    await quay.work();
    const to = quay.place('there');
    const run = async (onExists: 'replace' | 'skip' | 'skip-if-same' | 'fail', bytes: string) => {
      const { id } = await quay.submit({ kind: 'upload', to, onExists }, Buffer.from(bytes));
      const { state, failure, result } = await quay.ended(id);
      return { state, how: failure?.kind ?? result?.outcome, there: quay.bytesAt('there').toString() };
    };
    expect(await run('skip', 'new')).toEqual({ state: 'succeeded', how: 'skipped', there: 'old' });
    expect(await run('fail', 'new')).toEqual({ state: 'failed', how: 'already-exists', there: 'old' });
    expect(await run('skip-if-same', 'old')).toEqual({ state: 'succeeded', how: 'skipped', there: 'old' });
    expect(await run('skip-if-same', 'new')).toEqual({ state: 'succeeded', how: 'published', there: 'new' });
    expect(await run('replace', 'newer')).toEqual({ state: 'succeeded', how: 'published', there: 'newer' });
    const { id } = await quay.submit(
      { kind: 'upload', to: quay.place('fresh'), onExists: 'fail' },
      Buffer.from('x'),
    );
    expect((await quay.ended(id)).result?.outcome).toBe('published');
  });

  test('is cancelled within a second wherever it is, and leaves nothing behind', async () => {
    const gate = new Gate();
    await open({ around: (name, driver) => (name === 'other' ? gate.around(driver) : driver) });
    put('big', randomBytes(200_000), 'other');
    await quay.work();
    for (const push of [true, false]) {
      const { id } = await quay.submit({
        kind: 'copy',
        from: quay.place('big', 'other'),
        to: quay.place('out/big'),
      });
      await eventually(() => gate.waiting === 1);
      const askedMs = Date.now();
      expect(await quay.ledger.transfers.cancel(id)).toBe('cancelled');
      if (push) await pushCancel(quay.queue, id);
      await eventually(() => gate.waiting === 0);
      expect(Date.now() - askedMs).toBeLessThan(1000);
      expect((await quay.get(id)).state).toBe('cancelled');
    }
    await eventually(async () => (await quay.queue.counts()).upload.active === 0);
    expect(existsSync(quay.fileOf('out/big'))).toBe(false);
    expect(readdirSync(quay.fileOf('')).flatMap((name) => readdirSync(quay.fileOf(name)))).toEqual([]);
  });

  test('goes back into the queue at shutdown without an attempt spent, and another worker finishes it', async () => {
    const gate = new Gate();
    await open({ around: (name, driver) => (name === 'staging' ? gate.around(driver) : driver) });
    const first = await quay.work({ name: 'first' });
    const { id } = await quay.submit({ kind: 'upload', to: quay.place('w') }, randomBytes(200_000));
    await eventually(() => gate.waiting === 1);
    const closingMs = Date.now();
    await first.close();
    expect(Date.now() - closingMs).toBeLessThan(3000);
    expect((await quay.queue.counts()).upload).toMatchObject({ waiting: 1, active: 0 });
    gate.open();
    await quay.work({ name: 'second' });
    expect(await quay.ended(id)).toMatchObject({ state: 'succeeded', attempts: 0 });
    const attempts = await quay.ledger.transfers.attemptsOf(id);
    expect(attempts.map(({ worker, failure }) => [worker, failure?.kind])).toEqual([
      ['first', 'interrupted'],
      ['second', undefined],
    ]);
  });

  test('is tried again after failures that may pass, each spending an attempt', async () => {
    const trouble = new Trouble();
    trouble.failures.push({ kind: 'unavailable' }, { kind: 'timeout' });
    await open({ around: (name, driver) => (name === 'artifacts' ? trouble.around(driver) : driver) });
    await quay.work();
    const { id } = await quay.submit({ kind: 'upload', to: quay.place('w') }, Buffer.from('bytes'));
    expect(await quay.ended(id)).toMatchObject({ state: 'succeeded', attempts: 2 });
    const attempts = await quay.ledger.transfers.attemptsOf(id);
    expect(attempts.map(({ failure }) => failure?.kind)).toEqual(['unavailable', 'timeout', undefined]);
  });

  test('fails when all its attempts are spent, and keeps its bytes', async () => {
    const trouble = new Trouble();
    trouble.failures.push({ kind: 'unavailable' }, { kind: 'unavailable' });
    await open({
      config: { attempts: 2 },
      around: (name, driver) => (name === 'artifacts' ? trouble.around(driver) : driver),
    });
    await quay.work();
    const { id } = await quay.submit({ kind: 'upload', to: quay.place('w') }, Buffer.from('bytes'));
    const failed = await quay.ended(id);
    expect(failed).toMatchObject({ state: 'failed', attempts: 2, failure: { kind: 'unavailable' } });
    expect(failed.stagedUntilMs).toBeGreaterThan(Date.now() + 6 * 24 * 3600_000);
    const again = await quay.ledger.transfers.retry(id);
    if (typeof again !== 'object') throw new Error(`not retried: ${again}`);
    await quay.queue.submit(again);
    expect(await quay.ended(id)).toMatchObject({ state: 'succeeded' });
    expect(quay.bytesAt('w').toString()).toBe('bytes');
  });

  test('to a busy store comes back later without an attempt spent and without holding up the others', async () => {
    const trouble = new Trouble();
    for (let n = 0; n < 3; n++) trouble.failures.push({ kind: 'busy', retryAfterMs: 200 });
    await open({
      config: { uploadConcurrency: 1 },
      around: (name, driver) => (name === 'other' ? trouble.around(driver) : driver),
    });
    await quay.work();
    const throttled = await quay.submit(
      { kind: 'upload', to: quay.place('w', 'other'), priority: 1 },
      Buffer.from('a'),
    );
    await eventually(() => trouble.writes > 0);
    const free = await quay.submit({ kind: 'upload', to: quay.place('w') }, Buffer.from('b'));
    expect((await quay.ended(free.id)).state).toBe('succeeded');
    expect((await quay.get(throttled.id)).state).not.toBe('succeeded');
    expect(await quay.ended(throttled.id)).toMatchObject({ state: 'succeeded', attempts: 0 });
    expect(trouble.writes).toBe(4);
  });

  test('without a byte of progress is given up and tried again', async () => {
    const gate = new Gate();
    await open({
      config: { stallMs: 300 },
      around: (name, driver) => (name === 'staging' ? gate.around(driver) : driver),
    });
    await quay.work();
    const { id } = await quay.submit({ kind: 'upload', to: quay.place('w') }, randomBytes(100_000));
    await quay.until(id, ({ attempts }) => attempts > 0);
    gate.open();
    expect((await quay.ended(id)).state).toBe('succeeded');
    const [first] = await quay.ledger.transfers.attemptsOf(id);
    expect(first?.failure).toMatchObject({ kind: 'timeout' });
    expect(first?.failure?.message).toContain('nothing moved');
  });

  test('ends as timeout at its deadline, running or waiting', async () => {
    const gate = new Gate();
    await open({ around: (name, driver) => (name === 'staging' ? gate.around(driver) : driver) });
    const waiting = await quay.submit(
      { kind: 'upload', to: quay.place('v'), deadlineMs: Date.now() + 50 },
      Buffer.from('x'),
    );
    await quay.until(waiting.id, ({ deadlineMs }) => deadlineMs! < Date.now());
    await quay.work();
    const running = await quay.submit(
      { kind: 'upload', to: quay.place('w'), deadlineMs: Date.now() + 600 },
      randomBytes(1000),
    );
    for (const { id } of [waiting, running])
      expect(await quay.ended(id)).toMatchObject({ state: 'failed', failure: { kind: 'timeout' } });
    expect(existsSync(quay.fileOf('w'))).toBe(false);
  });

  test('that no worker took in time, or whose lifetime is over, fails as timeout', async () => {
    for (const [limit, why] of [
      [{ queueWaitMs: 1 }, /add workers|no worker took it/],
      [{ lifetimeMs: 1 }, /lifetime|no worker took it/],
    ] as const) {
      await open({ config: limit });
      const { id } = await quay.submit({ kind: 'upload', to: quay.place('w') }, Buffer.from('x'));
      await quay.until(id, ({ createdMs }) => Date.now() > createdMs + 1);
      await quay.work();
      const { failure } = await quay.until(id, ({ state }) => state === 'failed');
      expect(failure?.kind).toBe('timeout');
      expect(failure?.message).toMatch(why);
      expect(existsSync(quay.fileOf('w'))).toBe(false);
      if ('queueWaitMs' in limit) await quay.close();
    }
  });

  test('whose attempt takes too long, though it moves, is tried again with an attempt spent', async () => {
    const gate = new Gate();
    await open({
      config: { attemptTimeoutMs: 300, stallMs: 60_000 },
      around: (name, driver) => (name === 'staging' ? gate.around(driver) : driver),
    });
    await quay.work();
    const { id } = await quay.submit({ kind: 'upload', to: quay.place('w') }, randomBytes(100_000));
    await quay.until(id, ({ attempts }) => attempts > 0);
    gate.open();
    expect((await quay.ended(id)).state).toBe('succeeded');
    const [first] = await quay.ledger.transfers.attemptsOf(id);
    expect(first?.failure).toMatchObject({ kind: 'timeout' });
    expect(first?.failure?.message).toContain('longer than the attempt timeout');
  });

  test('given to two workers at once ends once, with the whole object', async () => {
    await open();
    const apart = quay.queuesApart();
    await Promise.all([quay.work({ name: 'one' }), quay.work({ name: 'two', apart })]);
    const bytes = randomBytes(2_000_000);
    for (let n = 0; n < 5; n++) {
      const transfer = await quay.accept(
        { kind: 'upload', to: quay.place(`w${n}`), onExists: 'fail' },
        bytes,
      );
      await Promise.all([quay.queue.submit(transfer), apart.submit(transfer)]);
      expect(await quay.ended(transfer.id)).toMatchObject({ state: 'succeeded' });
      await eventually(async () =>
        (await Promise.all([quay.queue, apart].map((q) => q.lacking([transfer])))).every(
          (l) => l.length === 1,
        ),
      );
      const events = await quay.ledger.events.after(0, 1000, transfer.id);
      expect(events.filter(({ state }) => state === 'succeeded' || state === 'failed')).toHaveLength(1);
      expect(quay.bytesAt(`w${n}`).equals(bytes)).toBe(true);
    }
    // the slower of the two gives its bytes up after the other has ended
    const hidden = () => readdirSync(quay.fileOf('')).filter((name) => name.startsWith('.'));
    await expect.poll(hidden, { timeout: 20_000 }).toEqual([]);
  });

  test('that was accepted before another never replaces what that one put there', async () => {
    const gate = new Gate();
    await open({ around: (name, driver) => (name === 'other' ? gate.around(driver) : driver) });
    put('slow', 'the older bytes', 'other');
    await quay.work();
    const older = await quay.submit({ kind: 'copy', from: quay.place('slow', 'other'), to: quay.place('w') });
    await eventually(() => gate.waiting === 1);
    const newer = await quay.submit({ kind: 'upload', to: quay.place('w') }, Buffer.from('the newer bytes'));
    expect((await quay.ended(newer.id)).state).toBe('succeeded');
    gate.open();
    expect((await quay.ended(older.id)).state).toBe('superseded');
    expect(quay.bytesAt('w').toString()).toBe('the newer bytes');
  });

  test('whose worker died after publishing is found published, and not sent again', async () => {
    await open();
    const bytes = randomBytes(50_000);
    const transfer = await quay.accept({ kind: 'upload', to: quay.place('w'), onExists: 'fail' }, bytes);
    const { transfers } = quay.ledger;
    await transfers.start(transfer.id, 1, 'dead');
    expect(await transfers.publishing(transfer.id, 1)).toBe('ok');
    put('w', bytes);
    const { mtimeNs } = statSync(quay.fileOf('w'), { bigint: true });
    await quay.work();
    await quay.queue.submit(transfer);
    expect(await quay.ended(transfer.id)).toMatchObject({
      state: 'succeeded',
      result: { outcome: 'published' },
    });
    expect(statSync(quay.fileOf('w'), { bigint: true }).mtimeNs).toBe(mtimeNs);
  });

  test('whose worker died before publishing is sent again', async () => {
    await open();
    put('w', 'what was there before');
    const bytes = randomBytes(50_000);
    const transfer = await quay.accept({ kind: 'upload', to: quay.place('w') }, bytes);
    await quay.ledger.transfers.start(transfer.id, 1, 'dead');
    await quay.ledger.transfers.publishing(transfer.id, 1);
    await quay.work();
    await quay.queue.submit(transfer);
    expect((await quay.ended(transfer.id)).state).toBe('succeeded');
    expect(quay.bytesAt('w').equals(bytes)).toBe(true);
  });

  test('that Redis forgot, running or waiting, is given a new job', async () => {
    const gate = new Gate();
    await open({
      config: { uploadConcurrency: 1 },
      around: (name, driver) => (name === 'staging' ? gate.around(driver) : driver),
    });
    await quay.work();
    const running = await quay.submit({ kind: 'upload', to: quay.place('v') }, randomBytes(1000));
    await eventually(() => gate.waiting === 1);
    const waiting = await quay.submit({ kind: 'upload', to: quay.place('w') }, randomBytes(1000));
    await quay.queue.redis.flushall();
    await eventually(() => gate.waiting === 0); // its lock is gone: it stops by itself
    gate.open();
    for (const { id } of [running, waiting])
      expect(await quay.ended(id, 40_000)).toMatchObject({ state: 'succeeded', attempts: 0, epoch: 2 });
    expect(await quay.deps.metrics.text()).toContain('longshore_lock_losses_total{queue="upload"} 1');
  });

  test('whose job carries an old epoch, or that has ended, is left alone', async () => {
    await open();
    await quay.work();
    const transfer = await quay.accept({ kind: 'upload', to: quay.place('w') }, Buffer.from('x'));
    expect(await quay.ledger.transfers.requeue(transfer.id, 1)).toBe(2);
    await quay.queue.submit(transfer);
    await eventually(async () => (await quay.queue.lacking([transfer])).length === 1);
    expect((await quay.get(transfer.id)).state).toBe('accepted');
    await quay.queue.submit({ ...transfer, epoch: 2 });
    expect((await quay.ended(transfer.id)).state).toBe('succeeded');
  });

  test('is stopped when Redis hangs, before another worker could have it, and goes on when Redis answers', async () => {
    const own = await startRedis();
    const gate = new Gate();
    quay = await openQuay({
      redisUrl: own.url,
      config: { graceMs: 3000 },
      around: (name, driver) => (name === 'staging' ? gate.around(driver) : driver),
    });
    await quay.work();
    const { id } = await quay.submit({ kind: 'upload', to: quay.place('w') }, randomBytes(1000));
    await eventually(() => gate.waiting === 1);
    process.kill(own.pid, 'SIGSTOP');
    const hungMs = Date.now();
    await eventually(() => gate.waiting === 0);
    expect(Date.now() - hungMs).toBeLessThan(TIMINGS.lockMs);
    process.kill(own.pid, 'SIGCONT');
    gate.open();
    expect(await quay.ended(id, 30_000)).toMatchObject({ state: 'succeeded', attempts: 0 });
    await own.kill();
    const closingMs = Date.now();
    await quay.close();
    expect(Date.now() - closingMs).toBeLessThan(8000);
    await own.stop();
    await open();
  });
});
