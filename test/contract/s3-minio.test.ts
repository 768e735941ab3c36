import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { crc32 } from 'node:zlib';
import { PutBucketPolicyCommand } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parsePath } from '../../lib/path.ts';
import { S3Driver } from '../../lib/stores/drivers/s3.ts';
import { NAMES } from '../hidden.ts';
import { startMinio } from '../servers/minio.ts';
import { requireServer } from '../servers/require.ts';
import type { S3Server } from '../servers/s3.ts';
import { KNOWN } from './known.ts';
import {
  all,
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
import { s3Copies, s3SealedCopies } from './s3-copies.ts';
import { s3Objects } from './s3-objects.ts';
import { s3Parts } from './s3-parts.ts';
import { s3Settings } from './s3-settings.ts';
import { openedOn, s3Stores } from './s3-stores.ts';
import { storeContract } from './store.ts';

requireServer('minio')('S3 on MinIO', () => {
  let minio: S3Server;
  beforeAll(async () => {
    minio = await startMinio();
    await minio.makeBucket(BUCKET);
  });
  afterAll(() => minio?.stop());

  storeContract({ name: 'MinIO', open: () => openedOn(minio), known: KNOWN.minio });
  s3Objects(() => minio);
  s3Settings(() => minio);
  s3Stores(() => minio);
  s3Copies(() => minio);
  s3Parts(() => minio);

  describe('a server that knows less', () => {
    let open: Relay;
    const bucket = 'longshore-open';
    const root = () => ({ bucket, prefix: `t/${randomUUID()}` });

    beforeAll(async () => {
      await minio.makeBucket(bucket);
      const client = clientOf(minio);
      const Policy = JSON.stringify({
        Version: '2012-10-17',
        Statement: [
          {
            Effect: 'Allow',
            Principal: '*',
            Action: ['s3:*'],
            Resource: [`arn:aws:s3:::${bucket}`, `arn:aws:s3:::${bucket}/*`],
          },
        ],
      });
      await client.send(new PutBucketPolicyCommand({ Bucket: bucket, Policy }));
      client.destroy();
    });
    afterAll(() => open?.close());
    const driverThrough = async (hidden: RegExp, place = root()) => {
      open?.close();
      open = await Relay.open(minio.port, hidden);
      return new S3Driver(place, settingsFor(minio, { endpoint: open.url, signature: 'unsigned' }), NAMES);
    };

    it('is anonymous where it may be', async () => {
      const driver = new S3Driver(root(), settingsFor(minio, { signature: 'unsigned' }), NAMES);
      await driver.write(parsePath('x'), bodyOf(Buffer.from('public')), writeCall());
      const read = await driver.read(parsePath('x'), undefined, { signal });
      expect((await bytesOf(read.bytes)).toString()).toBe('public');
      await driver.close();
    });

    it('that ignores conditions is found out, and what is there is looked at first', async () => {
      const driver = await driverThrough(/^if-(none-)?match:/i);
      const path = parsePath('x');
      const { etag } = await driver.write(path, bodyOf(Buffer.from('1')), writeCall({ mode: 'create' }));
      expect(driver.traits).toMatchObject({ createOnly: false, conditionalWrite: false });
      const kindOf = (work: Promise<unknown>) =>
        work.then(
          () => 'ok',
          (error: unknown) => driver.classify(error).kind,
        );
      expect(await kindOf(driver.write(path, bodyOf(Buffer.from('2')), writeCall({ mode: 'create' })))).toBe(
        'already-exists',
      );
      expect(await kindOf(driver.write(path, bodyOf(Buffer.from('2')), writeCall({ ifMatch: 'no' })))).toBe(
        'precondition',
      );
      expect(await kindOf(driver.write(path, bodyOf(Buffer.from('2')), writeCall({ ifMatch: etag })))).toBe(
        'ok',
      );
      expect(
        (await all(driver.list(parsePath(''), { signal, deep: true }))).map((entry) => entry.path),
      ).toEqual(['x']);
      await driver.close();
    });

    it.each([
      ['checksums of the whole', /^x-amz-checksum-type:/i],
      ['any checksums', /^x-amz-(sdk-)?checksum-/i],
    ])('that does not know %s takes multipart uploads all the same', async (_, hidden) => {
      const place = root();
      const driver = await driverThrough(hidden, place);
      const elsewhere = new S3Driver(
        place,
        settingsFor(minio, { endpoint: open.url, signature: 'unsigned' }),
        NAMES,
      );
      const parts = [Buffer.alloc(5 * MiB, 'a'), Buffer.from('tail')] as const;
      const call = writeCall();
      const upload = await driver.multipart.begin(parsePath('big'), call);
      const receipts = [
        await driver.multipart.part(upload, { number: 1 }, bodyOf(parts[0]), call),
        await elsewhere.multipart.part(upload, { number: 2 }, bodyOf(parts[1]), call),
      ];
      const whole = { size: 5 * MiB + 4, crc32: crc32(Buffer.concat(parts)) };
      expect((await elsewhere.multipart.finish(upload, receipts, whole, call)).size).toBe(whole.size);
      const head = await driver.head(parsePath('big'), { signal });
      expect(head).toMatchObject({ size: whole.size, token: call.token });
      expect(head.crc32).toBeUndefined();
      await Promise.all([driver.close(), elsewhere.close()]);
    });
  });

  it('the bucket owner that is expected is named in every request', async () => {
    const relay = await Relay.open(minio.port);
    const settings = settingsFor(minio, { endpoint: relay.url, expectedBucketOwner: '123456789012' });
    const driver = new S3Driver({ bucket: BUCKET, prefix: `t/${randomUUID()}` }, settings, NAMES);
    const call = writeCall({ mode: 'create' });
    await uploadInParts(driver, await driver.multipart.begin(parsePath('x'), call), [Buffer.from('x')], call);
    await driver.write(parsePath('y'), bodyOf(Buffer.from('y')), call);
    await driver.head(parsePath('x'), { signal });
    await bytesOf((await driver.read(parsePath('x'), { start: 0, end: 1 }, { signal })).bytes);
    await all(driver.list(parsePath(''), { signal, deep: true }));
    const upload = await driver.multipart.begin(parsePath('z'), call);
    await all(driver.multipart.parts(upload, { signal }));
    await all(driver.multipart.pending(parsePath('z'), { signal }));
    await driver.multipart.abandon(upload, { signal });
    await driver.remove([parsePath('x')], { signal });
    await driver.remove([parsePath('x'), parsePath('y')], { signal });
    expect(relay.heads.length).toBeGreaterThan(12);
    for (const head of relay.heads) expect(head).toMatch(/^x-amz-expected-bucket-owner: 123456789012$/im);
    await driver.close();
    relay.close();
  });

  describe('a connection that breaks', () => {
    it('in the middle of an answer fails the reading, and says so', async () => {
      const { driver, prefix } = driverOn(minio);
      await driver.write(parsePath('x'), bodyOf(Buffer.alloc(8 * MiB, 1)), writeCall());
      const relay = await Relay.open(minio.port, /^$/, MiB);
      const broken = new S3Driver(
        { bucket: BUCKET, prefix },
        settingsFor(minio, { endpoint: relay.url }),
        NAMES,
      );
      const read = await broken.read(parsePath('x'), undefined, { signal });
      const error = await bytesOf(read.bytes).catch((thrown: unknown) => thrown);
      expect(broken.classify(error).kind).toBe('unavailable');
      relay.close();
      await Promise.all([driver.close(), broken.close()]);
    });

    it('is let go of by a reader that has seen enough, and by an abort', async () => {
      const { driver } = driverOn(minio);
      await driver.write(parsePath('x'), bodyOf(Buffer.alloc(8 * MiB, 1)), writeCall());
      for (let n = 0; n < 40; n++) {
        const read = await driver.read(parsePath('x'), undefined, { signal });
        for await (const _ of read.bytes) break;
      }
      const stop = new AbortController();
      const read = await driver.read(parsePath('x'), undefined, { signal: stop.signal });
      const reason = new Error('enough');
      const rest = (async () => {
        for await (const _ of read.bytes) stop.abort(reason);
      })();
      await expect(rest).rejects.toBe(reason);
      await driver.close();
    });
  });

  describe('TLS', () => {
    let secure: S3Server;
    beforeAll(async () => {
      secure = await startMinio({ tls: true });
      const { driver } = driverOn(secure);
      await secure.makeBucket(BUCKET);
      await driver.close();
    });
    afterAll(() => secure?.stop());

    s3SealedCopies(() => secure);

    it('works with the authority that AWS_CA_BUNDLE names, or unchecked, and is refused else', async () => {
      const kinds = [];
      for (const tls of [{ verify: true, caFile: secure.caFile! }, { verify: false }, { verify: true }]) {
        const { driver } = driverOn(secure, { tls });
        const answer = await driver.write(parsePath('x'), bodyOf(Buffer.from('x')), writeCall()).then(
          () => ({ kind: 'ok', message: '' }),
          (error: unknown) => driver.classify(error),
        );
        kinds.push(answer.kind);
        if (answer.kind !== 'ok') expect(answer.message).toContain('AWS_CA_BUNDLE');
        await driver.close();
      }
      expect(kinds).toEqual(['ok', 'ok', 'invalid']);
    });

    it('names a CA bundle that cannot be read', () => {
      expect(() => driverOn(secure, { tls: { verify: true, caFile: '/nonexistent/ca.pem' } })).toThrow(
        /AWS_CA_BUNDLE.*ENOENT/,
      );
    });

    it('a plain endpoint for a TLS server fails without a retry', async () => {
      const { driver } = driverOn(secure, { endpoint: secure.url.replace('https:', 'http:') });
      const error = await driver.head(parsePath('x'), { signal }).catch((thrown: unknown) => thrown);
      expect(driver.classify(error).kind).toBe('invalid');
      await driver.close();
    });

    it("encrypts with a customer's key at once and in parts, and gives nothing away without it", async () => {
      const extraArgs = { SSECustomerAlgorithm: 'AES256', SSECustomerKey: 'k'.repeat(32) };
      const { driver, prefix } = driverOn(secure, { extraArgs });
      const call = writeCall();
      await driver.write(parsePath('single'), bodyOf(Buffer.from('sealed')), call);
      const upload = await driver.multipart.begin(parsePath('parts'), call);
      const receipt = await driver.multipart.part(upload, { number: 1 }, bodyOf(Buffer.from('sealed')), call);
      await driver.multipart.finish(
        upload,
        [receipt],
        { size: 6, crc32: crc32(Buffer.from('sealed')) },
        call,
      );
      const keyless = new S3Driver({ bucket: BUCKET, prefix }, settingsFor(secure), NAMES);
      for (const name of ['single', 'parts']) {
        expect((await driver.head(parsePath(name), { signal })).size).toBe(6);
        const read = await driver.read(parsePath(name), { start: 1, end: 4 }, { signal });
        expect((await bytesOf(read.bytes)).toString()).toBe('eal');
        await expect(keyless.read(parsePath(name), undefined, { signal })).rejects.toThrow();
      }
      await Promise.all([driver.close(), keyless.close()]);
    });
  });
});

/** Passes bytes on to a server on loopback; leaves out header lines of requests, or cuts after so many bytes of answers. */
class Relay {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  /** Of requests, without what was left out. */
  readonly heads: readonly string[];
  private constructor(server: Server, heads: readonly string[]) {
    this.heads = heads;
    this.#server = server;
    server.on('connection', (socket) => this.#sockets.add(socket));
  }

  static async open(port: number, hidden = /^$/, cutAfter = Infinity): Promise<Relay> {
    const heads: string[] = [];
    const server = createServer((socket) => {
      const upstream = connect(port, '127.0.0.1');
      let answered = 0;
      socket.on('data', (chunk) => upstream.write(withoutHeaders(chunk, hidden, heads)));
      upstream.on('data', (chunk) => {
        answered += chunk.length;
        if (answered > cutAfter) socket.destroy();
        else socket.write(chunk);
      });
      for (const [one, other] of [
        [socket, upstream],
        [upstream, socket],
      ] as const) {
        one.on('error', () => other.destroy());
        one.on('close', () => other.destroy());
      }
    });
    const relay = new Relay(server, heads);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return relay;
  }

  get url(): string {
    const address = this.#server.address();
    return `http://127.0.0.1:${typeof address === 'object' ? address?.port : 0}`;
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}

/** Requests of these tests have their head in one chunk, and no body that looks like one. */
function withoutHeaders(chunk: Buffer, hidden: RegExp, heads: string[]): Buffer {
  const end = chunk.indexOf('\r\n\r\n');
  if (end < 0 || !/^[A-Z]+ \//.test(chunk.toString('latin1', 0, 20))) return chunk;
  const lines = chunk
    .toString('latin1', 0, end)
    .split('\r\n')
    .filter((line) => !hidden.test(line));
  heads.push(lines.join('\n'));
  return Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1'), chunk.subarray(end + 4)]);
}
