/** What tests get of an S3 server, and the little they need to prepare one. */

import { get } from 'node:http';
import { Agent, get as getTls } from 'node:https';
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import type { Certificates } from './certs.ts';
import type { Running } from './process.ts';

export interface S3Server extends Running {
  readonly name: 'minio' | 'versitygw' | 'moto';
  readonly url: string;
  readonly port: number;
  readonly accessKey: string;
  readonly secretKey: string;
  readonly region: string;
  /** PEM file of the CA to trust, when it was started with `tls`. */
  readonly caFile?: string;
  /** What points an S3 client, MLflow's included, at it. */
  readonly env: Readonly<Record<string, string>>;
  makeBucket(name: string): Promise<void>;
}

export interface S3Options {
  readonly tls?: boolean;
  /** Of a server that was killed: start again on the same data and address. */
  readonly again?: S3Server;
}

export const ROOT = { accessKey: 'lab', secretKey: 'labsecret123', region: 'us-east-1' } as const;

/** One GET on a health route. */
export function healthy(url: string, ca: string | undefined): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const request = ca === undefined ? get(url, { agent: false }) : getTls(url, { ca, agent: false });
    request.setTimeout(2000, () => request.destroy(new Error('no answer')));
    request.once('error', reject);
    request.once('response', (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
  });
}

export function s3Server(
  name: S3Server['name'],
  running: Running & { readonly ports: readonly number[] },
  certificates: Certificates | undefined,
): S3Server {
  const port = running.ports[0]!;
  const url = `${certificates ? 'https' : 'http'}://127.0.0.1:${port}`;
  return {
    ...running,
    ...ROOT,
    name,
    url,
    port,
    ...(certificates ? { caFile: certificates.caFile } : {}),
    env: {
      AWS_ACCESS_KEY_ID: ROOT.accessKey,
      AWS_SECRET_ACCESS_KEY: ROOT.secretKey,
      AWS_DEFAULT_REGION: ROOT.region,
      MLFLOW_S3_ENDPOINT_URL: url,
      ...(certificates ? { AWS_CA_BUNDLE: certificates.caFile } : {}),
    },
    async makeBucket(bucket) {
      const client = new S3Client({
        endpoint: url,
        region: ROOT.region,
        forcePathStyle: true,
        credentials: { accessKeyId: ROOT.accessKey, secretAccessKey: ROOT.secretKey },
        ...(certificates ? { requestHandler: { httpsAgent: new Agent({ ca: certificates.ca }) } } : {}),
      });
      try {
        await client.send(new CreateBucketCommand({ Bucket: bucket }));
      } finally {
        client.destroy();
      }
    },
  };
}
