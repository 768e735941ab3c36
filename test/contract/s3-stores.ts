/** S3 from an address to a store: `openStore`, its layers, `checkStore`, and the credential chain of a real process. */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { PutObjectCommand } from '@aws-sdk/client-s3';
import { describe, expect, it } from 'vitest';
import type { Failure } from '../../lib/errors.ts';
import { createLog } from '../../lib/log.ts';
import { createMetrics } from '../../lib/metrics.ts';
import { parsePath } from '../../lib/path.ts';
import { BufferPool } from '../../lib/stores/buffers.ts';
import { S3Driver } from '../../lib/stores/drivers/s3.ts';
import { type Check, checkStore, openStore } from '../../lib/stores/open.ts';
import type { Store } from '../../lib/stores/store.ts';
import { NAMES } from '../hidden.ts';
import { cleanEnvironment } from '../servers/process.ts';
import type { S3Server } from '../servers/s3.ts';
import { BUCKET, bytesOf, clientOf, settingsFor, signal } from './s3.ts';
import type { Opened } from './store.ts';

const STALL_MS = 20_000;
const run = promisify(execFile);

/** A layered store over a fresh prefix. */
export async function storeOn(
  server: S3Server,
  uri = `s3://${BUCKET}/t/${randomUUID()}`,
  more = {},
): Promise<Store> {
  const metrics = createMetrics('worker', { stores: ['s3'], version: 'test' });
  const buffers = new BufferPool({ budgetBytes: 64 * 1024 * 1024 });
  const log = createLog({ level: 'silent', format: 'json', process: 'test' });
  try {
    return await openStore(
      's3',
      uri,
      { s3: settingsFor(server, more), stallMs: STALL_MS },
      { buffers, hidden: NAMES, log, metrics },
    );
  } finally {
    metrics.close();
  }
}

/** What the contract suite works on. */
export async function openedOn(server: S3Server): Promise<Opened> {
  const bucket = `contract-${randomUUID().slice(0, 8)}`;
  await server.makeBucket(bucket);
  const prefix = 'some/prefix';
  const store = await storeOn(server, `s3://${bucket}/${prefix}`);
  const driver = new S3Driver({ bucket, prefix }, settingsFor(server), NAMES);
  const neighbour = new S3Driver({ bucket: `${bucket}-b`, prefix: 'é +%/b' }, settingsFor(server), NAMES);
  await server.makeBucket(`${bucket}-b`);
  const client = clientOf(server);
  return {
    store,
    driver,
    neighbour,
    makeDir: async (path) => {
      const marker = { Bucket: bucket, Key: `${prefix}/${path}/`, Body: Buffer.alloc(0), ContentLength: 0 };
      await client.send(new PutObjectCommand(marker));
    },
    cleanup: async () => {
      client.destroy();
      await Promise.all([store.close(), driver.close(), neighbour.close()]);
    },
  };
}

async function* twice(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
  yield bytes;
}

export function s3Stores(server: () => S3Server): void {
  describe('an opened store', () => {
    it('publishes a stream of unknown length in parts, verified by the server, and removes it with its tree', async () => {
      const store = await storeOn(server());
      const path = parsePath('7/model/w.bin');
      const half = Buffer.alloc(12 * 1024 * 1024, 'longshore');
      const draft = await store.prepare(path, twice(half), { signal, token: 'transfer-1' });
      const { entry, verified } = await draft.publish({ signal });
      expect(entry.size).toBe(2 * half.length);
      expect(verified).toContainEqual({ check: 'crc32', by: 'store' });
      const read = await store.read(path, {
        range: { start: half.length - 3, end: half.length + 3 },
        signal,
      });
      expect(
        (await bytesOf(read.bytes)).equals(Buffer.concat([half.subarray(-3), half.subarray(0, 3)])),
      ).toBe(true);
      expect(await store.removeTree(parsePath('7'), signal)).toEqual({ removed: 1 });
      await store.close();
    });

    it('passes a check of writing, reading, listing and deleting, and keeps nothing of it', async () => {
      const store = await storeOn(server());
      const steps: Check[] = [];
      await checkStore(store, NAMES, signal, (step) => steps.push(step));
      expect(steps).toEqual(['write', 'read', 'list', 'delete']);
      for await (const page of store.list(parsePath(''), { deep: true, signal })) expect(page).toEqual([]);
      await store.close();
    });

    it('fails a check by the step and the reason', async () => {
      const store = await storeOn(server(), 's3://longshore-no-such/x');
      const failure = (await checkStore(store, NAMES, signal).catch((error: unknown) => error)) as Failure;
      expect(failure).toMatchObject({ kind: 'not-found', facts: { op: 'write', store: 's3' } });
      expect(failure.message).toMatch(/^write failed: .*bucket does not exist/);
      await store.close();
    });
  });

  it('keys come from a profile where the environment has none', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'longshore-profile-'));
    const keys = `aws_access_key_id = ${server().accessKey}\naws_secret_access_key = ${server().secretKey}\n`;
    writeFileSync(join(dir, 'credentials'), `[models]\n${keys}`);
    writeFileSync(join(dir, 'config'), '[profile models]\nregion = us-east-1\n');
    const source = new URL('../../lib/stores/drivers/', import.meta.url);
    const script = `
      const { S3Driver } = await import('${source}s3.ts');
      const { s3SettingsFromEnv } = await import('${source}s3-config.ts');
      const names = { kindOf: () => undefined }; // of whom nothing is asked here
      const driver = new S3Driver({ bucket: '${BUCKET}', prefix: '' }, s3SettingsFromEnv(process.env), names);
      for await (const _ of driver.list('', { deep: false, signal: AbortSignal.timeout(20000) })) break;
      console.log('listed');
      await driver.close();`;
    const child = (env: Record<string, string>) =>
      run(process.execPath, ['--input-type=module', '-e', script], {
        env: cleanEnvironment({
          MLFLOW_S3_ENDPOINT_URL: server().url,
          AWS_SHARED_CREDENTIALS_FILE: join(dir, 'credentials'),
          AWS_CONFIG_FILE: join(dir, 'config'),
          AWS_EC2_METADATA_DISABLED: 'true',
          ...env,
        }),
        timeout: 30_000,
      });
    expect((await child({ AWS_PROFILE: 'models' })).stdout).toContain('listed');
    await expect(child({})).rejects.toMatchObject({
      stderr: expect.stringContaining('CredentialsProviderError'),
    });
    rmSync(dir, { recursive: true, force: true });
  });
}
