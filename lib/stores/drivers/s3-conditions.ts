/**
 * Conditions of a write. Servers that do not know `If-None-Match` or `If-Match` on a write ignore them and overwrite,
 * so they are relied on only where a canary has shown that they are obeyed; elsewhere we look just before.
 */

import { randomUUID } from 'node:crypto';
import {
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  PutObjectCommand,
} from '@aws-sdk/client-s3';
import { ROOT, type StorePath } from '../../path.ts';
import type { Call, WriteCall } from '../driver.ts';
import { bareTag, changed, letGo, occupied, quotedTag, type S3Connection } from './s3-client.ts';
import { BROKEN, S3Error } from './s3-errors.ts';

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
  const there = (await lookAt(s3, path, call))?.etag;
  if (call.ifMatch !== undefined && there !== call.ifMatch) throw changed();
  if (call.ifMatch === undefined && there !== undefined) throw occupied();
  return {};
}

/**
 * Writes an empty hidden object, whose name nobody else can have, then twice over it under conditions that cannot hold,
 * and removes it.
 */
async function prove(s3: S3Connection, call: Call): Promise<{ create: boolean; match: boolean }> {
  const Key = s3.keyOf(s3.hidden.nameIn(ROOT, `canary-${randomUUID()}`) as StorePath);
  const put = (conditions: Conditions) =>
    s3.call(call.signal, (client, options) =>
      client.send(
        new PutObjectCommand({
          ...s3.objectArgs('' as StorePath, { ...call, mode: 'replace', token: 'canary' }),
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
  const remove = () =>
    s3.call(call.signal, (client, options) =>
      client.send(new DeleteObjectCommand({ ...s3.common, Key }), options),
    );
  await remove(); // who may not remove it must not write it: it would stay for good
  await put({});
  try {
    return {
      create: await obeys({ IfNoneMatch: '*' }),
      match: await obeys({ IfMatch: quotedTag('0'.repeat(32)) }),
    };
  } finally {
    // where this fails one empty hidden object stays behind, which gc removes if anybody may
    await remove().catch(() => undefined);
  }
}

/**
 * A server that refuses a body before it has read it may close the connection over its own answer (versitygw does), so
 * that a refusal looks like a broken line. Asks for the same thing without a body, which answers.
 */
export async function reasonBehind(error: unknown, ask: () => Promise<unknown>): Promise<unknown> {
  if (!(error instanceof S3Error) || !BROKEN.has(error.code)) return error;
  try {
    return (await ask()) ?? error;
  } catch (reason) {
    return reason instanceof S3Error && reason.status === undefined ? error : reason;
  }
}

/** The refusal that a write meets at `path`, if it is one that can be seen from what is there. */
export async function refusalAt(s3: S3Connection, path: StorePath, call: WriteCall): Promise<unknown> {
  const { mode, ifMatch } = call;
  try {
    const { ETag, Metadata, Body } = await s3.call(call.signal, (client, options) =>
      client.send(new GetObjectCommand({ ...s3.common, ...s3.sseCustomer, Key: s3.keyOf(path) }), options),
    );
    letGo(Body);
    const ours = s3.tokenOf(path, Metadata) === call.token; // then it was the answer that was lost
    if (!ours && ifMatch !== undefined && bareTag(ETag) !== ifMatch) return changed();
    if (!ours && ifMatch === undefined && mode === 'create') return occupied();
    return undefined;
  } catch (error) {
    if (error instanceof S3Error && error.code === 'NoSuchKey')
      return ifMatch === undefined ? undefined : changed();
    throw error;
  }
}

/** Undefined where nothing is. */
export async function lookAt(
  s3: S3Connection,
  path: StorePath,
  call: Call,
): Promise<{ readonly etag: string; readonly size: number } | undefined> {
  try {
    const found = await s3.call(call.signal, (client, options) =>
      client.send(new HeadObjectCommand({ ...s3.common, ...s3.sseCustomer, Key: s3.keyOf(path) }), options),
    );
    return { etag: bareTag(found.ETag), size: found.ContentLength ?? 0 };
  } catch (error) {
    if (error instanceof S3Error && error.status === 404) return undefined;
    throw error;
  }
}
