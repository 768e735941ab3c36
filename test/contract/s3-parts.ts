/** Uploads of many parts, in the hands of processes that did not begin them; and calls past the SDK. */
import { once } from 'node:events';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { describe, expect, it } from 'vitest';
import { parsePath, ROOT } from '../../lib/path.ts';
import { S3Driver } from '../../lib/stores/drivers/s3.ts';
import { NAMES } from '../hidden.ts';
import type { S3Server } from '../servers/s3.ts';
import { all, BUCKET, bodyOf, bytesOf, driverOn, settingsFor, signal, writeCall } from './s3.ts';

const PARTS = 1030;

export function s3Parts(server: () => S3Server): void {
  it('more than a thousand parts are told to, and abandoned by, a process that did not begin their upload', async () => {
    const { driver, prefix } = driverOn(server());
    const upload = await driver.multipart.begin(parsePath('d/é +x'), writeCall());
    const numbers = Array.from({ length: PARTS }, (_, i) => i + 1);
    const rest = [...numbers];
    const send = async (): Promise<void> => {
      for (let number = rest.pop(); number; number = rest.pop())
        await driver.multipart.part(upload, { number }, bodyOf(Buffer.from(`part ${number}`)), { signal });
    };
    await Promise.all(Array.from({ length: 16 }, send));
    const other = new S3Driver({ bucket: BUCKET, prefix }, settingsFor(server()), NAMES);
    const told = await all(other.multipart.parts(upload, { signal }));
    expect(told.map(({ number }) => number)).toEqual(numbers);
    expect(told.every(({ number, size }) => size === `part ${number}`.length)).toBe(true);
    const pending = await all(other.multipart.pending(ROOT, { signal }));
    expect(pending).toEqual([expect.objectContaining(upload)]);
    await other.multipart.abandon(upload, { signal });
    expect(await all(driver.multipart.pending(ROOT, { signal }))).toEqual([]);
    const late = driver.multipart.part(upload, { number: 1 }, bodyOf(Buffer.from('late')), { signal });
    expect(await late.catch((error: unknown) => driver.classify(error).kind)).toBe('not-found');
    await Promise.all([driver.close(), other.close()]);
  });

  it('a part of other bytes than were declared is refused also where the server is not asked to check it', async () => {
    const { driver } = driverOn(server());
    const upload = await driver.serverCopy.begin(parsePath('x'), writeCall());
    const bytes = Buffer.alloc(5 * 1024 * 1024, 1);
    const damaged = Buffer.from(bytes);
    damaged[77] = 0;
    const body = { ...bodyOf(bytes), open: () => [damaged.subarray(0, 1000), damaged.subarray(1000)] };
    const sending = driver.multipart.part(upload, { number: 1 }, body, { signal });
    expect(await sending.catch((error: unknown) => driver.classify(error).kind)).toBe('corrupt');
    expect(await all(driver.multipart.parts(upload, { signal }))).toEqual([]);
    await driver.multipart.part(upload, { number: 1 }, bodyOf(bytes), { signal });
    expect(await all(driver.multipart.parts(upload, { signal }))).toMatchObject([{ size: bytes.length }]);
    await driver.multipart.abandon(upload, { signal });
    await driver.close();
  });

  describe('calls past the SDK', () => {
    it('are as good as its own, and are given up for good where a server refuses their signature', async () => {
      const refused: string[] = [];
      let mind = '';
      const relay = createServer((incoming, answer) => {
        const bySdk = incoming.headers['amz-sdk-invocation-id'] !== undefined;
        if (!bySdk && mind) {
          refused.push(`${incoming.method} ${mind}`);
          incoming.resume();
          answer.writeHead(403).end(`<Error><Code>${mind}</Code><Message>no</Message></Error>`);
          return;
        }
        const { method, url, headers } = incoming;
        const passed = request(server().url + url, { method: method!, headers }, (got) => {
          answer.writeHead(got.statusCode!, got.headers);
          got.pipe(answer);
        });
        incoming.pipe(passed);
      }).listen(0, '127.0.0.1');
      await once(relay, 'listening');
      const endpoint = `http://127.0.0.1:${(relay.address() as AddressInfo).port}`;
      const { driver } = driverOn(server(), { endpoint });
      const round = async (text: string): Promise<void> => {
        const body = bodyOf(Buffer.from(text));
        const { etag } = await driver.write(parsePath('é +x'), body, writeCall());
        expect(await driver.head(parsePath('é +x'), { signal })).toMatchObject({
          etag,
          size: text.length,
          crc32: body.crc32,
        });
        const read = await driver.read(parsePath('é +x'), { start: 1, end: 3 }, { signal, ifMatch: etag });
        expect((await bytesOf(read.bytes)).toString()).toBe(text.slice(1, 3));
      };
      await round('by the SDK');
      await round('past it');
      mind = 'TemporaryRedirect';
      await round('by the SDK again');
      expect(refused).toEqual(['PUT TemporaryRedirect']);
      mind = 'SignatureDoesNotMatch';
      for (const text of ['one', 'two', 'three']) await round(text);
      expect(refused).toEqual(['PUT TemporaryRedirect', 'PUT SignatureDoesNotMatch']);
      await driver.close();
      relay.closeAllConnections();
      relay.close();
    });
  });
}
