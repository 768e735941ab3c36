/** What tests of the S3 driver share. */
import { randomUUID } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { S3Client } from '@aws-sdk/client-s3';
import type { Body, Entry, Upload, WriteCall } from '../../lib/stores/driver.ts';
import { S3Driver } from '../../lib/stores/drivers/s3.ts';
import { type S3Settings, s3SettingsFromEnv } from '../../lib/stores/drivers/s3-config.ts';
import { NAMES } from '../hidden.ts';
import type { S3Server } from '../servers/s3.ts';

export const BUCKET = 'longshore-tests';
export const MiB = 1024 * 1024;
export const { signal } = new AbortController();

export const settingsFor = (server: S3Server, more: Partial<S3Settings> = {}): S3Settings => ({
  ...s3SettingsFromEnv(server.env),
  ...more,
});

/** A driver on a prefix of its own. */
export function driverOn(server: S3Server, more: Partial<S3Settings> = {}, bucket = BUCKET) {
  const prefix = `t/${randomUUID()}`;
  return { driver: new S3Driver({ bucket, prefix }, settingsFor(server, more), NAMES), prefix };
}

/** The vendor's own client, for what only it can tell. */
export const clientOf = (server: S3Server): S3Client =>
  new S3Client({
    endpoint: server.url,
    region: server.region,
    forcePathStyle: true,
    credentials: { accessKeyId: server.accessKey, secretAccessKey: server.secretKey },
  });

export const bodyOf = (bytes: Uint8Array): Body => ({
  size: bytes.length,
  crc32: crc32(bytes),
  open: () => [bytes],
});
export const writeCall = (more: Partial<WriteCall> = {}): WriteCall => ({
  signal,
  mode: 'replace',
  token: `t-${randomUUID()}`,
  ...more,
});

export async function all<T>(pages: AsyncIterable<readonly T[]>): Promise<T[]> {
  const items: T[] = [];
  for await (const page of pages) items.push(...page);
  return items;
}
export async function bytesOf(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const kept: Buffer[] = [];
  for await (const chunk of chunks) kept.push(Buffer.from(chunk));
  return Buffer.concat(kept);
}
export const pathsOf = (entries: readonly Entry[]): string[] => entries.map((entry) => entry.path).sort();

/** Sends parts of the given bytes and finishes. */
export async function uploadInParts(
  driver: S3Driver,
  upload: Upload,
  parts: readonly Uint8Array[],
  call: WriteCall,
) {
  let offset = 0;
  const receipts = [];
  for (const [index, part] of parts.entries()) {
    receipts.push(await driver.multipart.part(upload, { number: index + 1 }, bodyOf(part), call));
    offset += part.length;
  }
  return driver.multipart.finish(
    upload,
    receipts,
    { size: offset, crc32: crc32(Buffer.concat(parts)) },
    call,
  );
}
