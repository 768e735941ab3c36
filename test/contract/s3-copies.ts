/** What S3's copies must do beyond the contract of every store. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { GetObjectTaggingCommand, HeadObjectCommand, PutObjectTaggingCommand } from '@aws-sdk/client-s3';
import { describe, expect, it } from 'vitest';
import { parsePath } from '../../lib/path.ts';
import { S3Driver } from '../../lib/stores/drivers/s3.ts';
import type { S3Settings } from '../../lib/stores/drivers/s3-config.ts';
import { NAMES } from '../hidden.ts';
import type { S3Server } from '../servers/s3.ts';
import {
  BUCKET,
  bodyOf,
  bytesOf,
  clientOf,
  driverOn,
  MiB,
  settingsFor,
  signal,
  uploadInParts,
  writeCall,
} from './s3.ts';

/** Of an object of `driver`, for a copy. */
async function sourceOf(driver: S3Driver, name: string) {
  const path = parsePath(name);
  const { etag, size } = await driver.head(path, { signal });
  return { source: driver.serverCopy.source(path), etag, size };
}

export function s3Copies(server: () => S3Server): void {
  describe('copies on the server', () => {
    it("carry the target's content type, metadata and tags, and none of the source's", async () => {
      const { driver: from, prefix: source } = driverOn(server(), { extraArgs: { Metadata: { old: '1' } } });
      const extraArgs = { Metadata: { team: 'vision' }, CacheControl: 'no-store' };
      const { driver, prefix } = driverOn(server(), { extraArgs });
      const client = clientOf(server());
      await from.write(parsePath('x'), bodyOf(Buffer.from('copied')), writeCall({ mediaType: 'text/x-old' }));
      const Tagging = { TagSet: [{ Key: 'old', Value: '1' }] };
      await client.send(new PutObjectTaggingCommand({ Bucket: BUCKET, Key: `${source}/x`, Tagging }));
      const call = writeCall({ mediaType: 'application/x-model' });
      await driver.serverCopy.copy(await sourceOf(from, 'x'), parsePath('whole'), call);
      await driver.serverCopy.copy(await sourceOf(from, 'x'), parsePath('parts'), {
        ...call,
        mode: 'create',
      });
      for (const name of ['whole', 'parts']) {
        const target = { Bucket: BUCKET, Key: `${prefix}/${name}` };
        const head = await client.send(new HeadObjectCommand(target));
        expect(head).toMatchObject({
          ContentType: 'application/x-model',
          CacheControl: 'no-store',
          Metadata: { team: 'vision', 'longshore-token': expect.stringContaining(call.token) },
        });
        expect(head.Metadata).not.toHaveProperty('old');
        expect((await client.send(new GetObjectTaggingCommand(target))).TagSet).toEqual([]);
      }
      client.destroy();
      await Promise.all([from.close(), driver.close()]);
    });

    it('are possible between stores of one server and key, and only those', async () => {
      const realm = (settings: Partial<S3Settings>) => {
        const { driver } = driverOn(server(), settings);
        return driver.serverCopy.realm;
      };
      const other = async () => ({ accessKeyId: 'other', secretAccessKey: 'key' });
      const realms = [
        realm({}),
        realm({ endpoint: 'http://127.0.0.1:1' }),
        realm({ signature: 'unsigned' }),
        realm({ credentials: other }),
        realm({ expectedBucketOwner: '123456789012' }),
        realm({ extraArgs: { SSECustomerAlgorithm: 'AES256', SSECustomerKey: 'k'.repeat(32) } }),
      ];
      expect(new Set(realms).size).toBe(realms.length);
      expect(realm({})).toBe(realms[0]);
      expect(realm({ extraArgs: { Metadata: { team: 'vision' } } })).toBe(realms[0]);
    });

    it('are made of objects that were sent in parts, and go on as any other upload, also elsewhere', async () => {
      const { driver: from } = driverOn(server());
      const { driver, prefix } = driverOn(server());
      const pieces = [randomBytes(6 * MiB), randomBytes(5 * MiB + 1)];
      const sent = writeCall();
      await uploadInParts(from, await from.multipart.begin(parsePath('x'), sent), pieces, sent);
      const source = await sourceOf(from, 'x');
      const call = writeCall();
      // a first upload, so that this driver knows what the server grants to other uploads
      await uploadInParts(driver, await driver.multipart.begin(parsePath('y'), call), pieces, call);
      const upload = await driver.serverCopy.begin(parsePath('z'), call);
      const elsewhere = new S3Driver({ bucket: BUCKET, prefix }, settingsFor(server()), NAMES);
      const [half, end] = [5 * MiB, source.size];
      const receipts = [
        await driver.serverCopy.part(source, { start: 0, end: half }, upload, { number: 1 }, call),
        await elsewhere.serverCopy.part(source, { start: half, end }, upload, { number: 2 }, call),
      ];
      const entry = await elsewhere.multipart.finish(upload, receipts, { size: end, crc32: 7 }, call);
      expect(entry.size).toBe(end);
      const read = await driver.read(parsePath('z'), undefined, { signal });
      expect((await bytesOf(read.bytes)).equals(Buffer.concat(pieces))).toBe(true);
      await Promise.all([from.close(), driver.close(), elsewhere.close()]);
    });

    it('that fail after the answer has begun as a success are failures', async () => {
      const told = [
        '<Error><Code>SlowDown</Code><Message>slow down</Message></Error>',
        '<Error><Code>InternalError</Code><Message>later</Message></Error>\n',
        '',
      ];
      let answer = '';
      const scripted = createServer((_, response) => {
        response.setHeader('content-type', 'application/xml');
        response.end(answer && `<?xml version="1.0" encoding="UTF-8"?>\n${answer}`);
      }).listen(0, '127.0.0.1');
      await once(scripted, 'listening');
      const endpoint = `http://127.0.0.1:${(scripted.address() as AddressInfo).port}`;
      const { driver } = driverOn(server(), { endpoint });
      const from = { source: 'b/x', etag: 'e', size: 100 };
      const upload = { path: parsePath('x'), id: 'u' };
      const kinds: string[] = [];
      for (answer of told)
        for (const copy of [
          () => driver.serverCopy.copy(from, parsePath('x'), writeCall()),
          () => driver.serverCopy.part(from, { start: 0, end: 100 }, upload, { number: 1 }, writeCall()),
        ])
          kinds.push(
            await copy().then(
              () => 'ok',
              (error: unknown) => driver.classify(error).kind,
            ),
          );
      expect(kinds).toEqual(['busy', 'busy', ...Array(4).fill('unavailable')]);
      await driver.close();
      scripted.close();
    });
  });
}

/** On a server with TLS: others take no key of a customer. */
export function s3SealedCopies(server: () => S3Server): void {
  it("copies what a customer's key encrypts, whole and in parts", async () => {
    const extraArgs = { SSECustomerAlgorithm: 'AES256', SSECustomerKey: 'k'.repeat(32) };
    const { driver: from } = driverOn(server(), { extraArgs });
    const { driver } = driverOn(server(), { extraArgs });
    await from.write(parsePath('x'), bodyOf(Buffer.from('sealed')), writeCall());
    const source = await sourceOf(from, 'x');
    await driver.serverCopy.copy(source, parsePath('whole'), writeCall());
    await driver.serverCopy.copy(source, parsePath('parts'), writeCall({ mode: 'create' }));
    for (const name of ['whole', 'parts']) {
      const read = await driver.read(parsePath(name), undefined, { signal });
      expect((await bytesOf(read.bytes)).toString()).toBe('sealed');
    }
    await Promise.all([from.close(), driver.close()]);
  });
}
