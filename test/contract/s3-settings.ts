/** What an operator's settings do to objects and errors. */
import { inspect } from 'node:util';
import { GetObjectTaggingCommand, HeadObjectCommand } from '@aws-sdk/client-s3';
import { describe, expect, it } from 'vitest';
import { parsePath } from '../../lib/path.ts';
import type { S3Driver } from '../../lib/stores/drivers/s3.ts';
import type { S3Server } from '../servers/s3.ts';
import { all, BUCKET, bodyOf, clientOf, driverOn, MiB, signal, uploadInParts, writeCall } from './s3.ts';

export function s3Settings(server: () => S3Server): void {
  describe('extra arguments', () => {
    it('are on every object, written at once or in parts', async () => {
      const extraArgs = {
        Metadata: { team: 'vision' },
        CacheControl: 'no-store',
        ContentDisposition: 'attachment',
        ContentLanguage: 'nb',
        Tagging: 'project=longshore',
      };
      const { driver, prefix } = driverOn(server(), { extraArgs });
      const client = clientOf(server());
      const call = writeCall({ mediaType: 'application/x-model' });
      await driver.write(parsePath('single'), bodyOf(Buffer.from('x')), call);
      await uploadInParts(
        driver,
        await driver.multipart.begin(parsePath('parts'), call),
        [Buffer.from('x')],
        call,
      );
      for (const name of ['single', 'parts']) {
        const target = { Bucket: BUCKET, Key: `${prefix}/${name}` };
        expect(await client.send(new HeadObjectCommand(target))).toMatchObject({
          Metadata: { team: 'vision', 'longshore-token': expect.stringContaining(call.token) },
          CacheControl: 'no-store',
          ContentDisposition: 'attachment',
          ContentLanguage: 'nb',
          ContentType: 'application/x-model',
        });
        expect((await client.send(new GetObjectTaggingCommand(target))).TagSet).toEqual([
          { Key: 'project', Value: 'longshore' },
        ]);
      }
      client.destroy();
      await driver.close();
    });

    it("decide over the caller's content type", async () => {
      const { driver, prefix } = driverOn(server(), { extraArgs: { ContentType: 'text/x-forced' } });
      const client = clientOf(server());
      await driver.write(parsePath('f'), bodyOf(Buffer.from('x')), writeCall({ mediaType: 'image/png' }));
      const head = await client.send(new HeadObjectCommand({ Bucket: BUCKET, Key: `${prefix}/f` }));
      expect(head.ContentType).toBe('text/x-forced');
      client.destroy();
      await driver.close();
    });
  });

  describe('settings that do not fit', () => {
    const big = () => bodyOf(Buffer.alloc(16 * MiB));
    /** Every call, so that each says the same. */
    const calls = (driver: S3Driver): [string, () => Promise<unknown>][] => [
      ['head', () => driver.head(parsePath('x'), { signal })],
      ['read', () => driver.read(parsePath('x'), undefined, { signal })],
      ['list', () => all(driver.list(parsePath(''), { signal, deep: true }))],
      ['write', () => driver.write(parsePath('x'), big(), writeCall())],
      ['begin', () => driver.multipart.begin(parsePath('x'), writeCall())],
      [
        'remove',
        async () => {
          const [failed] = await driver.remove([parsePath('x'), parsePath('y')], { signal });
          throw failed?.error;
        },
      ],
    ];
    const told = async (driver: S3Driver) => {
      const answers = [];
      for (const [op, call] of calls(driver)) {
        const error = await call().then(
          () => undefined,
          (thrown: unknown) => thrown,
        );
        answers.push({ op, error, ...driver.classify(error) });
      }
      await driver.close();
      return answers;
    };

    it('wrong credentials are named, and appear nowhere', async () => {
      const secretAccessKey = 'a-wrong-and-secret-key';
      const credentials = async () => ({ accessKeyId: server().accessKey, secretAccessKey });
      for (const { op, kind, message, error } of await told(driverOn(server(), { credentials }).driver)) {
        expect({ op, kind }).toEqual({ op, kind: 'unauthenticated' });
        expect(message).toContain('AWS_SECRET_ACCESS_KEY');
        expect(inspect(error, { depth: 9, showHidden: true })).not.toMatch(
          /a-wrong-and|StringToSign|Signature=|authorization/i,
        );
      }
      const unknown = async () => ({ accessKeyId: 'nobody', secretAccessKey });
      for (const { op, kind } of await told(driverOn(server(), { credentials: unknown }).driver))
        expect({ op, kind }).toEqual({ op, kind: 'unauthenticated' });
    });

    it('a missing bucket is not found', async () => {
      for (const { op, kind, message } of await told(driverOn(server(), {}, 'longshore-no-such').driver)) {
        expect({ op, kind }).toEqual({ op, kind: 'not-found' });
        expect(message).toContain('bucket');
      }
    });

    it('an endpoint where nothing answers is unavailable', async () => {
      for (const { op, kind, message } of await told(
        driverOn(server(), { endpoint: 'http://127.0.0.1:1' }).driver,
      )) {
        expect({ op, kind }).toEqual({ op, kind: 'unavailable' });
        expect(message).toContain('MLFLOW_S3_ENDPOINT_URL');
      }
    });

    it('an endpoint that does not speak TLS is invalid', async () => {
      const endpoint = server().url.replace('http://', 'https://');
      for (const { op, kind } of await told(driverOn(server(), { endpoint }).driver))
        expect({ op, kind }).toEqual({ op, kind: 'invalid' });
    });

    it('without a signature nothing is allowed', async () => {
      for (const { op, kind } of await told(driverOn(server(), { signature: 'unsigned' }).driver))
        expect({ op, kind }).toEqual({ op, kind: 'denied' });
    });
  });
}
