import { afterAll, beforeAll, expect, it } from 'vitest';
import { parsePath } from '../../lib/path.ts';
import { requireServer } from '../servers/require.ts';
import type { S3Server } from '../servers/s3.ts';
import { startVersitygw } from '../servers/versitygw.ts';
import { KNOWN } from './known.ts';
import { BUCKET, bodyOf, driverOn, writeCall } from './s3.ts';
import { s3Copies } from './s3-copies.ts';
import { s3Objects } from './s3-objects.ts';
import { s3Parts } from './s3-parts.ts';
import { s3Settings } from './s3-settings.ts';
import { openedOn, s3Stores } from './s3-stores.ts';
import { storeContract } from './store.ts';

requireServer('versitygw')('S3 on versitygw', () => {
  let versitygw: S3Server;
  beforeAll(async () => {
    versitygw = await startVersitygw();
    await versitygw.makeBucket(BUCKET);
  });
  afterAll(() => versitygw?.stop());

  storeContract({ name: 'versitygw', open: () => openedOn(versitygw), known: KNOWN.versitygw });
  s3Objects(() => versitygw);
  s3Settings(() => versitygw);
  s3Stores(() => versitygw);
  s3Copies(() => versitygw);
  s3Parts(() => versitygw);

  it('a file below a file is refused as invalid, with the reason', async () => {
    const { driver } = driverOn(versitygw);
    await driver.write(parsePath('a'), bodyOf(Buffer.from('x')), writeCall());
    const error = await driver
      .write(parsePath('a/b'), bodyOf(Buffer.from('x')), writeCall())
      .catch((thrown: unknown) => thrown);
    expect(driver.classify(error)).toMatchObject({ kind: 'invalid' });
    expect(driver.classify(error).message).toContain('cannot be a file and hold files');
    await driver.close();
  });
});
