/** Two workers that have the same transfer in parts: one publishes what the other one has looked for before. */
import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, renameSync, unlinkSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { Failure } from '../../lib/errors.ts';
import type { Place, Transfer } from '../../lib/ledger/transfer.ts';
import { runAttempt } from '../../lib/transfer/copy.ts';
import { sendPart } from '../../lib/transfer/part.ts';
import { type PartJobs, releaseParts } from '../../lib/transfer/parts.ts';
import { BatchFacts } from '../../lib/transfer/tree-facts.ts';
import { carryFile } from '../../lib/transfer/tree-file.ts';
import { requireServer } from '../servers/require.ts';
import { redisForAll } from '../servers/shared.ts';
import { PartsTap } from './around-parts.ts';
import { openQuay, type Quay } from './quay.ts';

const MIB = 1024 * 1024;
/** Two parts. */
const BYTES = randomBytes(17 * MIB);
const OTHER_BYTES = randomBytes(BYTES.length);
const { signal } = new AbortController();
const nothing = (): void => {};

const WAYS = ['upload', 'copy', 'download', 'file of a tree'] as const;
type Way = (typeof WAYS)[number];

requireServer('redis')('of two workers with one transfer in parts', () => {
  const redis = redisForAll();
  let quay: Quay;
  let tap: PartsTap;
  afterEach(() => quay.close());

  /** As other programs replace a file: at once. */
  const put = ({ store, path }: Place, bytes: Uint8Array): void => {
    const file = quay.fileOf(path, store);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(`${file}.new`, bytes);
    renameSync(`${file}.new`, file);
  };
  const hidden = (store: string): string[] =>
    readdirSync(quay.fileOf('', store), { recursive: true })
      .map(String)
      .filter((name) => name.includes('.longshore-'));

  /** What comes in between: when it was taken up, or later, when the upload is known and was not asked for its parts. */
  type Between = Partial<Record<'taken' | 'known', () => Promise<Failure | undefined>>>;
  interface Shared {
    readonly id: string;
    readonly target: Place;
    /** Takes it up, and carries it as far as one run goes. */
    run(between?: Between): Promise<unknown>;
  }

  async function share(way: Way): Promise<Shared> {
    tap = new PartsTap();
    const tapped = way === 'download' ? 'staging' : 'artifacts';
    quay = await openQuay({
      redisUrl: redis.url,
      around: (name, driver) => (name === tapped ? tap.around(driver) : driver),
    });
    const { deps, ledger } = quay;
    const from = quay.place('s.bin', 'other');
    const to = quay.place('m/w.bin');
    if (way !== 'upload') put(from, BYTES);
    const accepted =
      way === 'upload'
        ? await quay.accept({ kind: 'upload', to }, BYTES)
        : way === 'download'
          ? await quay.accept({ kind: 'download', from })
          : await quay.accept({ kind: 'copy', from, to, tree: way !== 'copy' });
    const { id } = accepted;
    const target = way === 'download' ? { store: 'staging', path: quay.deps.staging.pathOf(id) } : to;
    const jobs = (row: Transfer, { known }: Between): PartJobs => ({
      thresholdBytes: MIB,
      gaveUp: async () => known?.(),
      handOut: async ({ upload, missing }) => {
        const digests = upload.from ? undefined : row.digests;
        for (const number of missing)
          await sendPart(deps, upload, number, { signal, digests, onProgress: nothing, onRest: nothing });
      },
    });
    const silent = { signal, onProgress: nothing, onMove: nothing, onRest: nothing, onPublish: nothing };
    let runs = 0;
    return {
      id,
      target,
      async run(between = {}) {
        const row = (await ledger.transfers.start(id, 1, `worker ${++runs}`))!;
        await between.taken?.();
        const parts = jobs(row, between);
        if (way !== 'file of a tree') return runAttempt(deps, row, { ...silent, leaseMs: 60_000, parts });
        const { etag, size } = await deps.stores.get('other')!.head(from.path, signal);
        const file = { below: '', size, etag };
        const facts = await BatchFacts.of(ledger.objects, 'other', [{ path: from.path, etag }]);
        const page = { facts, again: runs > 1, onBytes: nothing, parts: { jobs: parts, owner: `${id}.1` } };
        const end = await carryFile({ deps, row, ...silent, ...page }, file, from, to);
        return end === 'handed-out' ? end : end.state;
      },
    };
  }

  /** All of it by another worker, which is not heard of any more before it could tell the ledger. */
  async function publishElsewhere({ id, target, run }: Shared): Promise<void> {
    const { transfers } = quay.ledger;
    const { end } = transfers;
    const silent = new Failure('unavailable', 'not heard of any more');
    Object.assign(transfers, { end: () => Promise.reject(silent) });
    await run().catch((error: unknown) => expect(error).toBe(silent));
    Object.assign(transfers, { end });
    expect(quay.bytesAt(target.path, target.store).equals(BYTES)).toBe(true);
    expect((await quay.get(id)).state).not.toBe('succeeded');
    put(target, BYTES); // this process does not know who wrote it: it was another one
  }

  async function landedOnce({ id, target }: Shared): Promise<void> {
    expect(quay.bytesAt(target.path, target.store).equals(BYTES)).toBe(true);
    expect(tap.begun).toBe(1);
    expect(tap.taken.toSorted()).toEqual([1, 2]);
    await releaseParts(quay.deps, id);
    expect(await quay.ledger.uploads.open(Date.now() + 60_000, 10)).toEqual([]);
    for (const store of ['artifacts', 'staging']) expect(hidden(store)).toEqual([]);
  }
  const GOOD = ['succeeded', 'done'];

  for (const way of WAYS) {
    test(`one that takes up what the other one has just published sends nothing again (${way})`, async () => {
      const shared = await share(way);
      expect(await shared.run()).toBe('handed-out');
      await publishElsewhere(shared);
      expect(GOOD).toContain(await shared.run());
      await landedOnce(shared);
    });

    for (const when of ['taken', 'known'] as const)
      test(`one that has ${when === 'taken' ? 'taken it up' : 'looked'} before the other one published sends nothing again (${way})`, async () => {
        const shared = await share(way);
        expect(await shared.run()).toBe('handed-out');
        const publish = async () => {
          await publishElsewhere(shared);
          // a part that it sent once more came too late
          return new Failure('unavailable', 'part 2 was given up: there is no such upload');
        };
        expect(GOOD).toContain(await shared.run({ [when]: publish }));
        await landedOnce(shared);
      });

    test(`one that was about to publish as well ends as well (${way})`, async () => {
      const shared = await share(way);
      expect(await shared.run()).toBe('handed-out');
      tap.beforeFinish = async () => {
        tap.beforeFinish = async () => {};
        await publishElsewhere(shared);
      };
      expect(GOOD).toContain(await shared.run());
      await landedOnce(shared);
    });

    test(`one whose upload is gone begins anew where something else is there (${way})`, async () => {
      const shared = await share(way);
      const { target } = shared;
      expect(await shared.run()).toBe('handed-out');
      for (const name of hidden(target.store)) unlinkSync(quay.fileOf(name, target.store));
      if (way !== 'download') put(target, OTHER_BYTES);
      expect(await shared.run()).toBe('handed-out');
      expect(GOOD).toContain(await shared.run());
      expect(quay.bytesAt(target.path, target.store).equals(BYTES)).toBe(true);
      expect(tap.begun).toBe(2);
    });
  }
});
