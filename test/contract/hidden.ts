/** Cases: names that are, or look like, those of files on their way, put there by others. */
import { expect, it } from 'vitest';
import { ROOT, type StorePath } from '../../lib/path.ts';
import { BufferPool } from '../../lib/stores/buffers.ts';
import type { Driver } from '../../lib/stores/driver.ts';
import { checkStore } from '../../lib/stores/open.ts';
import { Store } from '../../lib/stores/store.ts';
import { NAMES, OTHERS } from '../hidden.ts';
import { failure, kindOf } from './data.ts';

export interface HiddenGround {
  readonly driver: Driver;
  /** Past the driver, by its whole path. */
  put(path: string): Promise<void>;
  /** Every path, past the driver. */
  paths(): Promise<string[]>;
}

const signal = AbortSignal.timeout(120_000);
const BUFFERS = new BufferPool({ budgetBytes: 16 * 1024 * 1024 });

/** Names of others, which nobody touches; names that are like any other. */
const RESERVED = [
  OTHERS.nameIn('d', 't-1'),
  `${OTHERS.nameIn('d', 't-1')}.parts`,
  NAMES.nameIn('elsewhere', 't-1'), // a copy that somebody has made
  '.artifact.uploading.abcd_123',
].map((name) => `d/${name}`);
const ORDINARY = [
  '.longshore-notes.md',
  '.longshore-t0123-1-89abcdef',
  '.longshore-t0123-1-89abcdef.parts',
  '.longshore-canary-0123',
  '.artifact.uploading.report.csv',
  `${NAMES.nameIn('d', 't-1')}.bak`,
].map((name) => `d/${name}`);

export function hiddenNames(open: () => Promise<HiddenGround>): void {
  it('hidden names of others are told as reserved, refused to all who ask, and stay', async () => {
    const { driver, put, paths } = await open();
    const store = new Store({ name: 'store', uri: '', driver, buffers: BUFFERS });
    for (const path of [...RESERVED, ...ORDINARY]) await put(path);
    const told = new Map<string, string>();
    for (const deep of [true, false])
      for await (const page of driver.list((deep ? '' : 'd') as StorePath, { deep, signal }))
        for (const entry of page) told.set(entry.path, entry.kind === 'other' ? entry.is : entry.kind);
    expect(Object.fromEntries(told)).toEqual(
      Object.fromEntries([
        ...RESERVED.map((path) => [path, 'reserved']),
        ...ORDINARY.map((path) => [path, 'file']),
      ]),
    );
    for (const path of RESERVED as StorePath[]) {
      const token = 't-1';
      const attempts = [
        store.head(path, signal),
        store.read(path, { signal }),
        store.prepare(path, Buffer.from('mine now'), { signal, token }),
        store.multipart!.begin(path, { signal, mode: 'replace', token }),
      ];
      for (const attempt of attempts) expect((await failure(attempt)).kind).toBe('invalid');
    }
    for (const path of ORDINARY as StorePath[]) expect((await store.head(path, signal)).path).toBe(path);
    const left: string[] = [];
    for await (const page of store.leftovers(signal)) left.push(...page.map(({ path }) => path));
    expect(left).toEqual([]);
    await driver.removeLeftovers!([...RESERVED, ...ORDINARY] as StorePath[], { signal });
    expect((await paths()).toSorted()).toEqual([...RESERVED, ...ORDINARY].toSorted());
    const removal = await failure(store.removeTree('d' as StorePath, signal));
    expect(removal.message).toContain(`removed ${ORDINARY.length} and left ${RESERVED.length}`);
    expect((await paths()).toSorted()).toEqual(RESERVED.toSorted());
  });

  it('hidden names of ours are in no listing and of no use to others; what is left of them is told, and goes', async () => {
    const { driver, put, paths } = await open();
    const store = new Store({ name: 'store', uri: '', driver, buffers: BUFFERS });
    const left = NAMES.nameIn('', 'canary-1') as StorePath;
    await put(left);
    await put('x');
    const seen: string[] = [];
    for await (const page of driver.list(ROOT, { deep: true, signal }))
      seen.push(...page.map(({ path }) => path));
    expect(seen).toEqual(['x']);
    expect(await kindOf(driver, store.read(left, { signal }))).toBe('invalid');
    const steps: string[] = [];
    await checkStore(store, NAMES, signal, (step) => steps.push(step));
    expect(steps).toEqual(['write', 'read', 'list', 'delete']);
    const told: StorePath[] = [];
    for await (const page of store.leftovers(signal)) told.push(...page.map(({ path }) => path));
    expect(told).toEqual([left]);
    await store.removeLeftover(left, signal);
    await store.removeLeftover(left, signal);
    expect(await paths()).toEqual(['x']);
  });
}
