/** Keys of MinIO that may do what a policy says and nothing else, for an hour (AssumeRole of its STS). */
import { createHash, createHmac } from 'node:crypto';
import type { S3Server } from './s3.ts';

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
const hmac = (key: string | Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest();
const ARN = 'arn:aws:s3:::';

/** The environment of who has `rights` on `bucket` and the objects in it. @throws where MinIO refuses the policy */
export async function envWithRights(
  server: S3Server,
  bucket: string,
  rights: readonly string[],
): Promise<Record<string, string>> {
  // a policy with no action is refused; where a bucket lies is nothing that anybody asks for here
  const Action = rights.length > 0 ? rights : ['s3:GetBucketLocation'];
  const Statement = [{ Effect: 'Allow', Action, Resource: [ARN + bucket, `${ARN}${bucket}/*`] }];
  const body = new URLSearchParams({
    Action: 'AssumeRole',
    Version: '2011-06-15',
    DurationSeconds: '3600',
    Policy: JSON.stringify({ Version: '2012-10-17', Statement }),
  }).toString();
  const answer = await fetch(server.url, { method: 'POST', body, headers: signed(server, body) });
  const xml = await answer.text();
  if (!answer.ok) throw new Error(`MinIO gave no keys: ${xml}`);
  const text = (tag: string): string => new RegExp(`<${tag}>([^<]+)</${tag}>`).exec(xml)![1]!;
  return {
    ...server.env,
    AWS_ACCESS_KEY_ID: text('AccessKeyId'),
    AWS_SECRET_ACCESS_KEY: text('SecretAccessKey'),
    AWS_SESSION_TOKEN: text('SessionToken'),
  };
}

/** Signature version 4 of a form that is posted to STS. */
function signed(server: S3Server, body: string): Record<string, string> {
  const time = new Date().toISOString().replace(/[-:]|\.\d{3}/g, '');
  const scope = [time.slice(0, 8), server.region, 'sts', 'aws4_request'];
  const headers = {
    'content-type': 'application/x-www-form-urlencoded',
    host: new URL(server.url).host,
    'x-amz-date': time,
  };
  const names = Object.keys(headers).join(';');
  const lines = Object.entries(headers).map(([name, value]) => `${name}:${value}`);
  const canonical = ['POST', '/', '', ...lines, '', names, sha256(body)].join('\n');
  const toSign = ['AWS4-HMAC-SHA256', time, scope.join('/'), sha256(canonical)].join('\n');
  const key = scope.reduce<string | Buffer>(hmac, `AWS4${server.secretKey}`);
  const signature = createHmac('sha256', key).update(toSign).digest('hex');
  const credential = `${server.accessKey}/${scope.join('/')}`;
  return {
    ...headers,
    authorization: `AWS4-HMAC-SHA256 Credential=${credential}, SignedHeaders=${names}, Signature=${signature}`,
  };
}
