import { describe, expect, test } from 'vitest';
import { Coalesced } from '../../lib/coalesced.ts';

describe('coalesced work', () => {
  const opened = () => {
    const runs: { end: () => void; fail: (why: Error) => void }[] = [];
    const work = new Coalesced(
      () => new Promise<void>((resolve, reject) => runs.push({ end: resolve, fail: reject })),
    );
    return { runs, work };
  };
  const started = async (runs: readonly unknown[], count: number): Promise<void> => {
    for (let turns = 0; runs.length < count && turns < 100; turns++) await Promise.resolve();
    expect(runs).toHaveLength(count);
  };

  test('serves all who ask while it runs with one more run', async () => {
    const { runs, work } = opened();
    const first = work.run();
    await started(runs, 1);
    const others = [work.run(), work.run(), work.run()];
    runs[0]!.end();
    await first;
    await started(runs, 2);
    runs[1]!.end();
    await Promise.all(others);
    expect(runs).toHaveLength(2);
  });

  test('tells of a failure only those whom that run was for', async () => {
    const { runs, work } = opened();
    const first = work.run();
    await started(runs, 1);
    const second = work.run();
    runs[0]!.fail(new Error('no disk'));
    await expect(first).rejects.toThrow('no disk');
    await started(runs, 2);
    runs[1]!.fail(new Error('still none'));
    await work.settled();
    await expect(second).rejects.toThrow('still none');
  });
});
