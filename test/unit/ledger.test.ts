import { mkdirSync, writeFileSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';
import { CompiledQuery } from 'kysely';
import { describe, expect, onTestFinished, test } from 'vitest';
import type { Engine } from '../../lib/ledger/engine.ts';
import { newTransferId } from '../../lib/ledger/ids.ts';
import { Ledger } from '../../lib/ledger/ledger.ts';
import { migrate } from '../../lib/ledger/migrations/index.ts';
import { openSqlite } from '../../lib/ledger/sqlite.ts';
import { Writer } from '../../lib/ledger/writer.ts';
import { accepted, anUpload, at, HOUR_MS, ledgerPath, openLedger, SILENT } from './ledger-setup.ts';

const KEY = { scope: 'ada', key: 'monday', requestHash: 'hash' };

describe('ids', () => {
  test('sort by the time they were made, start with a letter and are lowercase letters and digits', () => {
    const ids = [0, 1, 999, 2 ** 41, 2 ** 41 + 1, 2 ** 45].map((ms) => newTransferId(ms));
    expect([...ids].sort()).toEqual(ids);
    for (const id of ids) expect(id).toMatch(/^t[0-9a-z]{25}$/);
  });

  test('made in the same millisecond differ', () => {
    expect(new Set(Array.from({ length: 10_000 }, () => newTransferId(1))).size).toBe(10_000);
  });
});

describe('accepting', () => {
  test('keeps every field, also for a process that opens the ledger later', async () => {
    const path = ledgerPath();
    const first = await openLedger(path);
    const asked = anUpload('models/ü 7/w.bin', {
      kind: 'copy',
      from: at('in/w.bin', 'lake'),
      digests: { size: 2 ** 43, sha256: 'cd'.repeat(32), blockCrcs: Uint32Array.of(0, 1, 0xffffffff) },
      expected: { md5: '00'.repeat(16) },
      onExists: 'skip-if-same',
      priority: 7,
      labels: { run: 'a', 'stage"': "it's" },
      deadlineMs: Date.now() + HOUR_MS,
      owner: 'ada',
    });
    const { transfer, replayed } = await first.transfers.accept(asked, undefined, Date.now() + HOUR_MS);
    expect(replayed).toBe(false);
    expect(transfer).toMatchObject({
      ...asked,
      state: 'accepted',
      epoch: 1,
      attempts: 0,
      starts: 0,
      synchronous: false,
    });
    await first.close();
    expect(await (await openLedger(path)).transfers.get(asked.id)).toEqual(transfer);
  });

  test('numbers transfers in the order of acceptance, and an event carries the number', async () => {
    const ledger = await openLedger();
    const one = await accepted(ledger);
    const two = await accepted(ledger);
    expect(two.seq).toBeGreaterThan(one.seq);
    const events = await ledger.events.after(one.seq, 10);
    expect(events).toEqual([{ seq: two.seq, transferId: two.id, state: 'accepted', atMs: two.createdMs }]);
    expect(await ledger.events.last()).toBe(two.seq);
  });

  test('the same key and request answer the first transfer, also after a restart', async () => {
    const path = ledgerPath();
    const before = await openLedger(path);
    const { transfer } = await before.transfers.accept(anUpload(), KEY);
    await before.close();
    const ledger = await openLedger(path);
    expect(await ledger.transfers.accept(anUpload(), KEY)).toEqual({ transfer, replayed: true });
    expect(await ledger.transfers.findByKey('ada', 'monday')).toEqual({ transfer, requestHash: 'hash' });
    expect(await ledger.transfers.findByKey('bob', 'monday')).toBeUndefined();
  });

  test('the same key with another request is unprocessable and leaves nothing behind', async () => {
    const ledger = await openLedger();
    await ledger.transfers.accept(anUpload(), KEY);
    const other = anUpload();
    await expect(ledger.transfers.accept(other, { ...KEY, requestHash: 'other' })).rejects.toMatchObject({
      kind: 'unprocessable',
    });
    expect(await ledger.transfers.get(other.id)).toBeUndefined();
    const elsewhere = await ledger.transfers.accept(other, { ...KEY, scope: 'bob', requestHash: 'other' });
    expect(elsewhere.replayed).toBe(false);
  });

  test('64 requests at once with one key, over two connections, make one transfer', async () => {
    const path = ledgerPath();
    const ledgers = [await openLedger(path), await openLedger(path)];
    const answers = await Promise.all(
      Array.from({ length: 64 }, (_, n) => ledgers[n % 2]!.transfers.accept(anUpload(), KEY)),
    );
    expect(new Set(answers.map((answer) => answer.transfer.id)).size).toBe(1);
    expect(answers.filter((answer) => !answer.replayed)).toHaveLength(1);
    expect(await ledgers[0]!.transfers.counts()).toMatchObject({ accepted: 1 });
  });
});

describe('the writer', () => {
  test('commits what is asked for together in few transactions, and a write that fails is undone alone', async () => {
    const ledger = await openLedger();
    const { id } = await accepted(ledger);
    const before = ledger.writes;
    const outcomes = await Promise.allSettled(
      Array.from({ length: 100 }, (_, n) =>
        ledger.transfers.accept(anUpload(`p${n}`, n === 50 ? { id, labels: { lost: 'yes' } } : {})),
      ),
    );
    const rejected = outcomes.flatMap((outcome, n) => (outcome.status === 'rejected' ? [n] : []));
    expect(rejected).toEqual([50]);
    // On a busy machine a group ends when it has taken long enough, however few are in it.
    expect(ledger.writes.groups - before.groups).toBeLessThan(30);
    expect(await ledger.events.after(0, 1000)).toHaveLength(100);
  });

  test('commits before it closes, and refuses writes and reads after', async () => {
    const path = ledgerPath();
    const ledger = await openLedger(path);
    const pending = accepted(ledger);
    await ledger.close();
    const { id } = await pending;
    await expect(accepted(ledger)).rejects.toMatchObject({ kind: 'unavailable' });
    await expect(ledger.ping()).rejects.toMatchObject({ kind: 'unavailable' });
    expect(await (await openLedger(path)).transfers.get(id)).toBeDefined();
  });

  test('waits for a lock that somebody else holds without stopping the process', async () => {
    const path = ledgerPath();
    const ledger = await openLedger(path);
    const other = new DatabaseSync(path);
    onTestFinished(() => other.close());
    other.exec('begin immediate');
    const writing = accepted(ledger);
    let turns = 0;
    for (const untilMs = performance.now() + 200; performance.now() < untilMs; turns++)
      await new Promise((resolve) => setTimeout(resolve, 1));
    expect(turns).toBeGreaterThan(5);
    expect(await ledger.transfers.counts()).toMatchObject({ accepted: 0 });
    other.exec('commit');
    await writing;
    expect(ledger.writes.busy).toBeGreaterThan(0);
  });

  const openEngine = async (path: string): Promise<Engine> => {
    const engine = openSqlite(path);
    onTestFinished(() => engine.close());
    await migrate(engine);
    return engine;
  };

  test('gives up as unavailable when the lock is held beyond its patience', async () => {
    const path = ledgerPath();
    const writer = new Writer(await openEngine(path), 50);
    const other = new DatabaseSync(path);
    onTestFinished(() => other.close());
    other.exec('begin immediate');
    const failed = expect(writer.run(async () => 1)).rejects.toMatchObject({ kind: 'unavailable' });
    await failed;
    other.exec('rollback');
    expect(await writer.run(async () => 2)).toBe(2);
  });

  test('a full disk fails what was being written as no-space and nothing after it', async () => {
    const engine = await openEngine(ledgerPath());
    const writer = new Writer(engine, 1000);
    const limit = (pages: number) =>
      engine.writing.executeQuery(CompiledQuery.raw(`pragma max_page_count = ${pages}`));
    const event = (state: string) =>
      writer.run((db) =>
        db
          .insertInto('events')
          .values({ transfer_id: state.repeat(100_000), state: 'accepted', at_ms: 0 })
          .execute(),
      );
    await limit(1); // no fewer than there are
    const outcomes = await Promise.allSettled([event('a'), event('b')]);
    for (const outcome of outcomes) expect(outcome).toMatchObject({ reason: { kind: 'no-space' } });
    expect(await engine.reading.selectFrom('events').selectAll().execute()).toEqual([]);
    await limit(1_000_000);
    await event('c');
    expect(await engine.reading.selectFrom('events').selectAll().execute()).toHaveLength(1);
  });
});

describe('opening', () => {
  test('by several at once makes one ledger', async () => {
    const path = ledgerPath();
    const ledgers = await Promise.all(Array.from({ length: 4 }, () => openLedger(path)));
    await Promise.all(ledgers.map((ledger) => accepted(ledger)));
    expect(await ledgers[0]!.transfers.counts()).toMatchObject({ accepted: 4 });
    // and one installation
    const [first, ...others] = await Promise.all(ledgers.map((ledger) => ledger.installation()));
    expect([first!.id, first!.key.length]).toEqual([expect.stringMatching(/^[0-9a-f]{16}$/), 32]);
    for (const other of others) expect(other).toEqual(first);
    expect(await (await openLedger(path)).installation()).toEqual(first);
    expect((await (await openLedger()).installation()).id).not.toBe(first!.id);
  });

  test('refuses a file that is no ledger, and one that a newer version made', async () => {
    const open = (path: string) => Ledger.open({ path, log: SILENT });
    const foreign = ledgerPath();
    writeFileSync(foreign, 'something else entirely'.repeat(1000));
    await expect(open(foreign)).rejects.toMatchObject({ kind: 'invalid' });

    const newer = ledgerPath();
    await (await openLedger(newer)).close();
    const database = new DatabaseSync(newer);
    database.exec("insert into kysely_migration values ('9999-later', '2099-01-01')");
    database.close();
    await expect(open(newer)).rejects.toMatchObject({
      kind: 'invalid',
      message: expect.stringContaining('9999-later'),
    });
  });

  test('says what is wrong where the file cannot be', async () => {
    const path = ledgerPath();
    mkdirSync(path);
    await expect(Ledger.open({ path, log: SILENT })).rejects.toMatchObject({
      kind: 'unavailable',
      message: expect.stringContaining(path),
    });
  });
});
