/**
 * Conditions of a write. Servers that do not know `If-None-Match` or `If-Match` on a write ignore them and overwrite,
 * so they are relied on only where a canary has shown that they are obeyed; elsewhere we look just before.
 */

import { randomUUID } from 'node:crypto';
import { DeleteObjectCommand, HeadObjectCommand, PutObjectCommand } from '@aws-sdk/client-s3';
import { Failure } from '../../errors.ts';
import { HIDDEN_PREFIX, type StorePath } from '../../path.ts';
import type { Call, WriteCall } from '../driver.ts';
import { bareTag, quotedTag, type S3Connection } from './s3-client.ts';
import { S3Error } from './s3-errors.ts';

interface Conditions {
  readonly IfNoneMatch?: '*';
  readonly IfMatch?: string;
}

/** What to send with a write. @throws Failure `already-exists` or `precondition` where the look before already shows it */
export async function conditionsFor(s3: S3Connection, path: StorePath, call: WriteCall): Promise<Conditions> {
  if (call.mode !== 'create' && call.ifMatch === undefined) return {};
  s3.facts.conditions ??= await prove(s3, call);
  const { create, match } = s3.facts.conditions;
  if (call.ifMatch !== undefined && match) return { IfMatch: quotedTag(call.ifMatch) };
  if (call.ifMatch === undefined && create) return { IfNoneMatch: '*' };
  const there = await etagOf(s3, s3.keyOf(path), call);
  if (call.ifMatch !== undefined && there !== call.ifMatch)
    throw new Failure('precondition', 'the object is not the version that was asked for');
  if (call.ifMatch === undefined && there !== undefined)
    throw new Failure('already-exists', 'something is there already');
  return {};
}

/** Writes an empty hidden object, then twice over it under conditions that cannot hold, and removes it. */
async function prove(s3: S3Connection, call: Call): Promise<{ create: boolean; match: boolean }> {
  const Key = `${s3.prefixOf('' as StorePath)}${HIDDEN_PREFIX}canary-${randomUUID()}`;
  const put = (conditions: Conditions) =>
    s3.call(call.signal, (client, options) =>
      client.send(
        new PutObjectCommand({
          ...s3.objectArgs({ ...call, mode: 'replace', token: 'canary' }),
          ...s3.common,
          Key,
          Body: new Uint8Array(),
          ContentLength: 0,
          ...conditions,
        }),
        options,
      ),
    );
  const obeys = (conditions: Conditions): Promise<boolean> =>
    put(conditions).then(
      () => false,
      (error: unknown) => {
        if (error instanceof S3Error && error.status === 412) return true;
        if (error instanceof S3Error && (error.status === 501 || error.status === 400)) return false;
        throw error;
      },
    );
  await put({});
  try {
    return {
      create: await obeys({ IfNoneMatch: '*' }),
      match: await obeys({ IfMatch: quotedTag('0'.repeat(32)) }),
    };
  } finally {
    // without the right to delete, one empty hidden object stays behind
    await s3
      .call(call.signal, (client, options) =>
        client.send(new DeleteObjectCommand({ ...s3.common, Key }), options),
      )
      .catch(() => undefined);
  }
}

async function etagOf(s3: S3Connection, Key: string, call: Call): Promise<string | undefined> {
  try {
    const found = await s3.call(call.signal, (client, options) =>
      client.send(new HeadObjectCommand({ ...s3.common, ...s3.sseCustomer, Key }), options),
    );
    return bareTag(found.ETag);
  } catch (error) {
    if (error instanceof S3Error && error.status === 404) return undefined;
    throw error;
  }
}
