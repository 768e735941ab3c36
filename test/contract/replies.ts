/** Cases: the store did what it was asked, and the answer was lost on the way back. */
import { expect } from 'vitest';
import type { StorePath } from '../../lib/path.ts';
import { BufferPool } from '../../lib/stores/buffers.ts';
import type { UploadJournal } from '../../lib/stores/driver.ts';
import { chaos, type Fault } from '../../lib/stores/layers/chaos.ts';
import { retry } from '../../lib/stores/layers/retry.ts';
import { Store } from '../../lib/stores/store.ts';
import {
  bytesOf,
  expectNothing,
  expectNothingLeft,
  failure,
  get,
  partSizes,
  prepare,
  put,
  stream,
} from './data.ts';
import type { Case, Ground } from './store.ts';

const QUICK = { tries: 3, firstMs: 1, capMs: 5 };
const lost = (op: Fault['op']): Fault => ({ op, nth: 1, what: { kind: 'lose-reply', as: 'unavailable' } });
const refused = (op: Fault['op']): Fault => ({ op, nth: 1, what: { kind: 'fail', as: 'unavailable' } });

/** The case's store, suffering `faults`; with the retry layer above them or without. */
function suffering(on: Ground, faults: readonly Fault[], retried: boolean): Ground {
  const poor = chaos(on.driver, faults);
  const driver = retried ? retry(poor, QUICK) : poor;
  const buffers = new BufferPool({ budgetBytes: 128 * 1024 * 1024 });
  return { ...on, driver, store: new Store({ name: 'suffering', uri: 'test:', driver, buffers }) };
}

class Lines implements UploadJournal {
  readonly told: string[] = [];
  async intend(path: StorePath): Promise<string> {
    this.told.push(`intend ${path}`);
    return '1';
  }
  async begun(): Promise<void> {
    this.told.push('begun');
  }
  async ended(): Promise<void> {
    this.told.push('ended');
  }
}

export function replyCases(test: Case): void {
  for (const retried of [false, true])
    for (const mode of ['replace', 'create'] as const)
      for (const size of ['small', 'big'] as const)
        test(`a ${size} publish (${mode}${retried ? ', tried again' : ''}) whose reply was lost is found to be ours, once`, async (on) => {
          const poor = suffering(
            on,
            [lost(size === 'big' && on.driver.multipart ? 'finish' : 'write')],
            retried,
          );
          const bytes = bytesOf(partSizes(on.driver)[size], 3);
          const journal = new Lines();
          if (mode === 'replace') await put(on, on.at('x'), bytesOf(10, 1));
          const draft = await prepare(poor, on.at('x'), stream(bytes), { mode, journal });
          const { entry } = await draft.publish({ signal: on.signal });
          const there = await on.driver.head(on.at('x'), { signal: on.signal });
          expect(entry).toMatchObject({ size: bytes.length, etag: there.etag });
          expect((await get(on, on.at('x'))).equals(bytes)).toBe(true);
          await draft.discard();
          expect(journal.told.slice(1)).toEqual(journal.told.length > 1 ? ['begun', 'ended'] : []);
          expect((await on.driver.head(on.at('x'), { signal: on.signal })).etag).toBe(there.etag);
          await expectNothingLeft(on);
        });

  test('the very same bytes of somebody else are not ours where we asked to create', async (on) => {
    const bytes = bytesOf(1000);
    for (const faults of [[], [refused('write')]]) {
      const poor = suffering(on, faults, false);
      const draft = await prepare(poor, on.at('x'), stream(bytes), { mode: 'create' });
      const { etag } = await put(on, on.at('x'), bytes);
      expect(['already-exists', 'unavailable']).toContain(
        (await failure(draft.publish({ signal: on.signal }))).kind,
      );
      await draft.discard();
      expect((await on.driver.head(on.at('x'), { signal: on.signal })).etag).toBe(etag);
    }
  });

  test('other bytes of somebody else are never taken for ours', async (on) => {
    const { small, big } = partSizes(on.driver);
    for (const size of [small, big]) {
      const publishing = size === big && on.driver.multipart ? 'finish' : 'write';
      const draft = await prepare(
        suffering(on, [refused(publishing)], false),
        on.at('x'),
        stream(bytesOf(size, 1)),
      );
      const others = await prepare(on, on.at('x'), stream(bytesOf(size, 2)));
      const { etag } = (await others.publish({ signal: on.signal })).entry;
      expect((await failure(draft.publish({ signal: on.signal }))).kind).toBe('unavailable');
      await draft.discard();
      expect((await on.driver.head(on.at('x'), { signal: on.signal })).etag).toBe(etag);
    }
    await expectNothingLeft(on);
  });

  test('an upload whose begin was not answered stays written down, for gc to find', async (on) => {
    if (!on.driver.multipart) return;
    const journal = new Lines();
    const bytes = bytesOf(partSizes(on.driver).big);
    const poor = suffering(on, [lost('begin')], true);
    expect((await failure(prepare(poor, on.at('x'), stream(bytes), { journal }))).kind).toBe('unavailable');
    expect(journal.told).toEqual([`intend ${on.at('x')}`]);
    for await (const page of on.store.pending(on.at('x'), on.signal)) {
      expect(page).toHaveLength(1);
      await on.store.abandon(page[0]!, on.signal);
    }
    await expectNothing(on, on.at('x'));
  });

  test('parts whose replies were lost or that failed are sent again, and the whole is what was sent', async (on) => {
    if (!on.driver.multipart) return;
    const bytes = bytesOf(on.driver.multipart.limits.goodBytes * 3 + 77, 5);
    const faults: Fault[] = [
      { op: 'part', nth: 1, what: { kind: 'lose-reply', as: 'timeout' } },
      { op: 'part', nth: 3, what: { kind: 'fail', as: 'unavailable' } },
    ];
    const poor = suffering(on, faults, true);
    const draft = await prepare(poor, on.at('x'), stream(bytes));
    await draft.publish({ signal: on.signal });
    expect((await get(on, on.at('x'))).equals(bytes)).toBe(true);
    await expectNothingLeft(on);
  });

  test('a bit that flips on the way to a store that checks is noticed, and sent again', async (on) => {
    if (!on.driver.traits.checksWrites) return;
    const { small, big } = partSizes(on.driver);
    for (const size of [small, big])
      for (const retried of [true, false]) {
        const op = size === big && on.driver.multipart ? 'part' : 'write';
        const poor = suffering(
          on,
          [{ op, nth: 1, what: { kind: 'flip', byte: size === big ? 300 : 3 } }],
          retried,
        );
        const path = on.at(`d/${size}-${retried}`);
        const publish = async (): Promise<void> => {
          const draft = await prepare(poor, path, stream(bytesOf(size, 6)));
          await draft.publish({ signal: on.signal }).catch(async (error: unknown) => {
            await draft.discard();
            throw error;
          });
        };
        if (retried) {
          await publish();
          expect((await get(on, path)).equals(bytesOf(size, 6))).toBe(true);
        } else {
          // a stack that tries again by itself may have been refused for another reason the last time
          expect(['corrupt', 'busy']).toContain((await failure(publish())).kind);
          await expectNothing(on, path);
        }
      }
  });
}
