import { createHash } from 'node:crypto';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { afterEach, expect, test } from 'vitest';
import { requireServer } from '../servers/require.ts';
import { redisForAll } from '../servers/shared.ts';
import { openQuay, type Quay, type QuayOptions } from './quay.ts';

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

requireServer('redis')('a transfer with a digest', () => {
  const redis = redisForAll();
  let quay: Quay;
  const open = async (options: Omit<QuayOptions, 'redisUrl'> = {}): Promise<void> => {
    quay = await openQuay({ redisUrl: redis.url, ...options });
    writeFileSync(quay.fileOf('in.bin', 'other'), 'this');
    await quay.work();
  };
  /** The ledger knows the source, rightly or not. */
  const record = async (digest: string): Promise<void> => {
    const from = quay.place('in.bin', 'other');
    const { etag, size } = await quay.deps.stores.get('other')!.head(from.path, AbortSignal.timeout(5000));
    await quay.ledger.objects.record(from, { etag, size, sha256: digest });
  };
  afterEach(() => quay.close());

  test('that the caller declared and the object does not have fails at once and publishes nothing', async () => {
    await open();
    const from = quay.place('in.bin', 'other');
    const to = quay.place('out.bin');
    const wrong = [{ sha256: sha256('that') }, { md5: '0'.repeat(32) }, { crc32: '00000000' }];
    for (const known of [false, true]) {
      if (known) await record(sha256('this'));
      for (const expected of wrong)
        for (const asked of [{ kind: 'copy', from, to } as const, { kind: 'download', from } as const]) {
          const { id } = await quay.submit({ ...asked, expected });
          expect(await quay.ended(id)).toMatchObject({
            state: 'failed',
            attempts: 1,
            failure: { kind: 'invalid', message: expect.stringContaining('as was declared') },
          });
        }
    }
    expect(existsSync(quay.fileOf('out.bin'))).toBe(false);
    expect(readdirSync(quay.fileOf('', 'staging'))).toEqual([]);
  });

  test('that the ledger knows and the store does not give back is tried again, and publishes nothing', async () => {
    await open({ config: { attempts: 2 } });
    await record(sha256('that'));
    const from = quay.place('in.bin', 'other');
    const { id } = await quay.submit({ kind: 'copy', from, to: quay.place('out.bin') });
    const { state, attempts, failure } = await quay.ended(id);
    expect([state, attempts, failure?.kind]).toEqual(['failed', 2, 'corrupt']);
    expect(existsSync(quay.fileOf('out.bin'))).toBe(false);
  });
});
