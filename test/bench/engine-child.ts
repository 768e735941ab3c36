/** One upload of a file to S3 by one engine, in a process of its own so that its CPU and memory can be told apart. */
import { createReadStream } from 'node:fs';
import { S3Client } from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import { parsePath } from '../../lib/path.ts';
import { BufferPool } from '../../lib/stores/buffers.ts';
import { S3Driver } from '../../lib/stores/drivers/s3.ts';
import { s3SettingsFromEnv } from '../../lib/stores/drivers/s3-config.ts';
import { Store } from '../../lib/stores/store.ts';
import { NAMES } from '../hidden.ts';

const [engine, bucket, key, file] = process.argv.slice(2) as [string, string, string, string];
const PART_BYTES = 16 * 1024 * 1024;
const PARTS_IN_FLIGHT = 4;
const source = createReadStream(file, { highWaterMark: 1024 * 1024 });

/** What a PUT does: SHA-256 of the whole, CRC32 of each part, checked by the server. */
async function ours(): Promise<void> {
  const driver = new S3Driver({ bucket, prefix: '' }, s3SettingsFromEnv(process.env), NAMES);
  const buffers = new BufferPool({ budgetBytes: PART_BYTES * PARTS_IN_FLIGHT });
  const store = new Store({ name: 'bench', uri: `s3://${bucket}`, driver, buffers });
  const signal = new AbortController().signal;
  const draft = await store.prepare(parsePath(key), source, { signal, token: 'bench' });
  await draft.publish({ signal });
  await store.close();
}

async function libStorage(): Promise<void> {
  const client = new S3Client({
    endpoint: process.env.MLFLOW_S3_ENDPOINT_URL!,
    region: 'us-east-1',
    forcePathStyle: true,
  });
  const params = { Bucket: bucket, Key: key, Body: source };
  await new Upload({ client, params, partSize: PART_BYTES, queueSize: PARTS_IN_FLIGHT }).done();
  client.destroy();
}

const began = performance.now();
await (engine === 'longshore' ? ours() : libStorage());
console.log(
  JSON.stringify({
    seconds: (performance.now() - began) / 1000,
    peakBytes: process.resourceUsage().maxRSS * 1024,
  }),
);
