/**
 * Keys that some servers take for others.
 *
 * With an empty segment (`a//b`): some servers keep keys as paths of a file system, where that is `a/b`: such a key would reach
 * another object. So nothing is asked of such a key before a canary has shown that the server keeps the two apart.
 *
 * With a character that XML cannot carry: a server that does not encode keys in its listings, as it is asked to, tells
 * another name there. What is written under such a name could not be found again, so it is not written.
 */
import { randomUUID } from 'node:crypto';
import {
  DeleteObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
} from '@aws-sdk/client-s3';
import { Failure } from '../../errors.ts';
import { ROOT, type StorePath } from '../../path.ts';
import type { Call } from '../driver.ts';
import type { S3Connection } from './s3-client.ts';
import { classifyS3, S3Error } from './s3-errors.ts';

const EMPTY_SEGMENT = /^\/|\/\//;
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this looks for
const NOT_IN_XML = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/;

/** @throws Failure `invalid`: the server keeps no key with an empty segment, and this is one */
export async function assertKept(s3: S3Connection, path: StorePath, call: Call): Promise<void> {
  if (await isKept(s3, path, call)) return;
  throw new Failure(
    'invalid',
    'Invalid path: it has an empty segment, and this server takes it for the name without that',
    { path },
  );
}

/** As `assertKept`, before an object is made. @throws Failure `invalid`: the server could not tell its name */
export async function assertWritable(s3: S3Connection, path: StorePath, call: Call): Promise<void> {
  await assertKept(s3, path, call);
  if (!NOT_IN_XML.test(path)) return;
  s3.facts.encodesKeys ??= await encodes(s3, call);
  if (s3.facts.encodesKeys) return;
  throw new Failure(
    'invalid',
    'Invalid path: it has a character that the listings of this server cannot tell',
    { path },
  );
}

/** Who may not list has no use for listings: then it does not matter. */
async function encodes(s3: S3Connection, call: Call): Promise<boolean> {
  try {
    const page = await s3.call(call.signal, (client, options) =>
      client.send(
        new ListObjectsV2Command({
          ...s3.common,
          Prefix: s3.prefixOf(ROOT),
          EncodingType: 'url',
          MaxKeys: 1,
        }),
        options,
      ),
    );
    return page.EncodingType === 'url';
  } catch (error) {
    if (error instanceof S3Error && classifyS3(error).kind === 'denied') return true;
    throw error;
  }
}

/** Whether the server can hold an object of exactly this name, as far as empty segments go. */
export async function isKept(s3: S3Connection, path: StorePath, call: Call): Promise<boolean> {
  if (!EMPTY_SEGMENT.test(s3.keyOf(path))) return true;
  s3.facts.emptySegments ??= await prove(s3, call);
  return s3.facts.emptySegments;
}

/** Writes an empty hidden object below an empty segment, looks whether it is to be seen without that, and removes it. */
async function prove(s3: S3Connection, call: Call): Promise<boolean> {
  const name = s3.hidden.nameIn(ROOT, `canary-${randomUUID()}`) as StorePath;
  const [Key, collapsed] = [`${s3.prefixOf(ROOT)}/${name}`, s3.keyOf(name)];
  const send = <T>(work: Parameters<typeof s3.call<T>>[1]): Promise<T> => s3.call(call.signal, work);
  const remove = (key: string): Promise<unknown> =>
    send((client, options) =>
      client.send(new DeleteObjectCommand({ ...s3.common, Key: key }), options),
    ).catch(() => undefined); // without the right to delete, one empty object stays behind
  try {
    const args = s3.objectArgs(name, { ...call, mode: 'replace', token: 'canary' });
    const empty = { Body: new Uint8Array(), ContentLength: 0 };
    await send((client, options) =>
      client.send(new PutObjectCommand({ ...args, ...s3.common, Key, ...empty }), options),
    );
  } catch (error) {
    // MinIO refuses such a key by itself; who may not write here has nothing to fear but reading the other object
    if (error instanceof S3Error && classifyS3(error).kind === 'denied') return true;
    if (error instanceof S3Error && error.status === 400) return false;
    throw error;
  }
  try {
    await send((client, options) =>
      client.send(new HeadObjectCommand({ ...s3.common, ...s3.sseCustomer, Key: collapsed }), options),
    );
    return false;
  } catch (error) {
    if (error instanceof S3Error && error.status === 404) return true;
    throw error;
  } finally {
    await remove(Key);
  }
}
