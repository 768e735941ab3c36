/**
 * S3 and what speaks it. Tested on MinIO (2026-02) and versitygw 1.8.
 *
 * Rights: `s3-rights.ts` has them by operation; kms:Decrypt and kms:GenerateDataKey where objects are encrypted so.
 * Creates objects at `<prefix>/<path>` with the metadata `longshore-token`, multipart uploads on their way to one, and
 * on the first conditional write of a process one empty `<prefix>/.longshore-…`, removed at once.
 * Leaves behind: multipart uploads that nobody finished (gc aborts those whose ids are in the ledger: nothing else tells
 * whose one is); versions, where the bucket keeps them.
 *
 * Known differences: MinIO takes names of at most 255 bytes and lists only `a` where `a` and `a/b` are both objects;
 * versitygw keeps objects in folders and refuses the second of the two.
 */
import {
  DeleteObjectCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  GetObjectTaggingCommand,
  HeadObjectCommand,
  PutObjectCommand,
} from '@aws-sdk/client-s3';
import { FAILURES, Failure } from '../../errors.ts';
import type { StorePath } from '../../path.ts';
import { once } from '../bytes.ts';
import type {
  Body,
  ByteRange,
  Bytes,
  Call,
  Driver,
  Entry,
  FileEntry,
  Leftover,
  ListCall,
  OtherEntry,
  ReadCall,
  Reading,
  RemoveFailure,
  Traits,
  WriteCall,
} from '../driver.ts';
import type { Gate } from '../gate.ts';
import { type HiddenNames, refusedAsHidden, WHY_RESERVED } from '../hidden.ts';
import {
  asTaken,
  attributesOf,
  KEPT,
  type ObjectHeaders,
  storageClassOf,
  withKept,
} from './s3-attributes.ts';
import { endedEarly, nothing, wholeBody } from './s3-body.ts';
import {
  bareTag,
  changed,
  crcOf,
  decodeKey,
  letGo,
  quotedTag,
  refusalOf,
  S3Connection,
  type S3Place,
} from './s3-client.ts';
import { conditionsFor, reasonBehind, refusalAt } from './s3-conditions.ts';
import type { S3Settings } from './s3-config.ts';
import { S3Copy } from './s3-copy.ts';
import { classifyS3, S3Error } from './s3-errors.ts';
import { sendable } from './s3-http.ts';
import { leftoversAt, listPages, rightlyTold } from './s3-list.ts';
import { S3Multipart } from './s3-multipart.ts';
import { assertKept, assertWritable, isKept } from './s3-names.ts';

const DELETE_PAGE = 1000;
const MAX_KEY_BYTES = 1024;

export class S3Driver implements Driver {
  readonly traits: Traits;
  readonly multipart: S3Multipart;
  readonly serverCopy: S3Copy;
  readonly #s3: S3Connection;

  /** Opens no connection. @throws Failure `invalid` for settings that cannot work */
  constructor(place: S3Place, settings: S3Settings, hidden: HiddenNames, gate?: Gate) {
    const s3 = new S3Connection(place, settings, hidden, gate);
    this.#s3 = s3;
    this.multipart = new S3Multipart(s3, (path, call) => this.head(path, call));
    this.serverCopy = new S3Copy(s3, settings, this.multipart, {
      head: (path, call) => this.head(path, call),
      write: (path, body, call) => this.write(path, body, call),
      remove: (paths, call) => this.remove(paths, call),
    });
    this.traits = {
      replace: 'atomic',
      // what S3 promises, until this server is seen to do otherwise; a write never relies on it before that
      get createOnly() {
        return s3.facts.conditions?.create ?? true;
      },
      get conditionalWrite() {
        return s3.facts.conditions?.match ?? true;
      },
      get checksWrites() {
        return s3.facts.checksWrites ?? true;
      },
      rangedRead: true,
      namespace: 'flat',
      fileAndDir: true,
      lateParts: 'refused',
      keeps: KEPT,
      maxPathBytes: MAX_KEY_BYTES - Buffer.byteLength(s3.prefixOf('' as StorePath)),
      maxNameBytes: MAX_KEY_BYTES,
      connections: 32,
    };
  }

  refuses(path: StorePath): string | undefined {
    if (!path.isWellFormed()) return 'a key is Unicode, and this name has bytes that are no UTF-8';
    // clients and servers resolve these on the way, and the request would reach another object
    const dots = path.split('/').find((name) => name === '.' || name === '..');
    if (dots !== undefined)
      return `it contains the segment '${dots}', which servers take for a way up or nowhere`;
    return refusedAsHidden(path);
  }

  async head(path: StorePath, call: Call): Promise<FileEntry> {
    if (path === '') throw new Failure('not-found', 'the root is a directory');
    const s3 = this.#s3;
    await assertKept(s3, path, call);
    const target = { ...s3.common, ...s3.sseCustomer, Key: s3.keyOf(path) };
    try {
      const found = await s3.direct(
        call.signal,
        { command: 'HeadObject', key: target.Key, headers: { 'x-amz-checksum-mode': 'ENABLED' } },
        (client, options) =>
          client.send(new HeadObjectCommand({ ...target, ChecksumMode: 'ENABLED' }), options),
      );
      const crc32 = found.ChecksumType === 'COMPOSITE' ? undefined : crcOf(found.ChecksumCRC32);
      return {
        ...this.#found(path, found.ContentLength ?? 0, found),
        ...(crc32 === undefined ? {} : { crc32 }),
      };
    } catch (error) {
      if (!(error instanceof S3Error) || error.code !== '' || ![301, 400, 403].includes(error.status ?? 0))
        throw error;
      // an answer to HEAD cannot say why: the same question as a GET can
      const read = await s3.call(call.signal, (client, options) =>
        client.send(new GetObjectCommand({ ...target, Range: 'bytes=0-0' }), options),
      );
      letGo(read.Body);
      throw error;
    }
  }

  async read(path: StorePath, range: ByteRange | undefined, call: ReadCall): Promise<Reading> {
    if (path === '') throw new Failure('not-found', 'the root is a directory');
    if (range !== undefined && range.end <= range.start) return this.#readNothing(path, range, call);
    const s3 = this.#s3;
    await assertKept(s3, path, call);
    const Key = s3.keyOf(path);
    const Range = range && `bytes=${range.start}-${range.end - 1}`;
    const IfMatch = call.ifMatch === undefined ? undefined : quotedTag(call.ifMatch);
    const got = await s3
      .direct(
        call.signal,
        { command: 'GetObject', key: Key, headers: { range: Range, 'if-match': IfMatch } },
        (client, options) =>
          client.send(
            new GetObjectCommand({
              ...s3.common,
              ...s3.sseCustomer,
              Key,
              ...(Range && { Range }),
              ...(IfMatch && { IfMatch }),
            }),
            options,
          ),
      )
      .catch((error: unknown) => {
        throw refusalOf(error, {
          mode: 'replace',
          ...(call.ifMatch === undefined ? {} : { ifMatch: call.ifMatch }),
        });
      });
    const length = got.ContentLength ?? 0;
    const answered = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(got.ContentRange ?? '');
    if (range !== undefined && (answered === null || Number(answered[1]) !== range.start)) {
      letGo(got.Body);
      throw new Failure('unsupported', 'the server answered another range of bytes than it was asked for');
    }
    const start = range?.start ?? 0;
    const reading = {
      entry: this.#found(path, answered === null ? length : Number(answered[3]), got),
      range: { start, end: start + length },
    };
    if (!(got.Body instanceof Uint8Array))
      return { ...reading, bytes: wholeBody(got.Body as unknown as Bytes, length, call.signal) };
    if (got.Body.length !== length) throw endedEarly(got.Body.length, length);
    return { ...reading, content: got.Body, bytes: once(got.Body) };
  }

  /** HTTP has no empty range. */
  async #readNothing(path: StorePath, range: ByteRange, call: ReadCall): Promise<Reading> {
    const entry = await this.head(path, call);
    if (call.ifMatch !== undefined && call.ifMatch !== entry.etag) throw changed();
    const start = Math.min(range.start, entry.size);
    return { entry, range: { start, end: start }, bytes: nothing() };
  }

  async tags(path: StorePath, call: Call): Promise<Readonly<Record<string, string>>> {
    const s3 = this.#s3;
    const { TagSet = [] } = await s3.call(call.signal, (client, options) =>
      client.send(new GetObjectTaggingCommand({ ...s3.common, Key: s3.keyOf(path) }), options),
    );
    return Object.fromEntries(TagSet.map(({ Key = '', Value = '' }) => [Key, Value]));
  }

  async write(path: StorePath, body: Body, call: WriteCall): Promise<FileEntry> {
    const s3 = this.#s3;
    await assertWritable(s3, path, call);
    const conditions = await conditionsFor(s3, path, call);
    const taken = await asTaken(call.attributes, s3.settled, async (headers) => {
      const args = {
        ...s3.objectArgs(path, call, headers),
        ...s3.common,
        ...conditions,
        Key: s3.keyOf(path),
        ...sendable(body, 'checked'),
      };
      return s3.sendBytes('PutObject', args, call.signal, (client, options) =>
        client.send(new PutObjectCommand(args), options),
      );
    }).catch(async (error: unknown) => {
      throw refusalOf(await reasonBehind(error, () => refusalAt(s3, path, call)), call);
    });
    const written = taken.answer;
    const crc32 = crcOf(written.ChecksumCRC32);
    s3.facts.checksWrites = crc32 !== undefined;
    const entry: FileEntry = {
      kind: 'file',
      path,
      size: body.size,
      etag: bareTag(written.ETag),
      modifiedMs: Math.floor(Date.now() / 1000) * 1000, // the answer does not say; S3 counts in seconds
      token: call.token,
      ...(crc32 === undefined ? {} : { crc32 }),
    };
    return withKept(entry, taken, s3.facts.keeps, (at, by) => this.head(at, by), call);
  }

  async *list(dir: StorePath, call: ListCall): AsyncGenerator<readonly Entry[]> {
    const s3 = this.#s3;
    for await (const page of listPages(s3, s3.prefixOf(dir), call)) {
      const entries: Entry[] = [];
      for (const { Prefix } of page.CommonPrefixes ?? []) {
        const path = s3.pathOf(decodeKey(Prefix ?? '', page.EncodingType).replace(/\/$/, ''));
        if (path !== undefined) entries.push({ kind: 'dir', path });
      }
      for (const object of page.Contents ?? []) {
        const key = decodeKey(object.Key ?? '', page.EncodingType);
        // the marker of the very directory that is listed
        if (!call.deep && key === s3.prefixOf(dir)) continue;
        const entry = this.#entryOf(key, object);
        if (entry) entries.push(await rightlyTold(page, entry, (path) => this.head(path, call)));
      }
      if (entries.length > 0) yield entries;
    }
  }

  /** Of an answer that speaks of one object. */
  #found(path: StorePath, size: number, found: Facts & ObjectHeaders): FileEntry {
    const token = this.#s3.tokenOf(path, found.Metadata);
    return { ...entryOf(path, size, found), ...attributesOf(found), ...(token !== undefined && { token }) };
  }

  #entryOf(key: string, object: ListedObject): Entry | undefined {
    const s3 = this.#s3;
    const path = s3.pathOf(key);
    if (path === undefined) return undefined;
    const size = object.Size ?? 0;
    const hidden = s3.hidden.kindOf(path);
    if (hidden === 'ours') return undefined;
    if (path === '' && size === 0) return undefined; // the marker of the store itself
    const other = (is: OtherEntry['is'], why: string): Entry => ({ kind: 'other', path, size, is, why });
    if (key.endsWith('/') && size === 0) {
      const dir = path.slice(0, -1) as StorePath;
      return s3.prefixOf(dir) === key
        ? { kind: 'dir', path: dir }
        : other('name', 'it is the marker of a directory without a name');
    }
    if (path === '') return other('name', 'its key is that of the store itself, and it is no marker');
    if (hidden !== undefined) return other('reserved', WHY_RESERVED[hidden]);
    const why = this.refuses(path);
    if (why !== undefined) return other('name', why);
    const storageClass = storageClassOf(object.StorageClass);
    const entry = entryOf(path, size, object);
    return storageClass === undefined ? entry : { ...entry, attributes: { storageClass } };
  }

  leftovers(call: Call): AsyncIterable<readonly Leftover[]> {
    return leftoversAt(this.#s3, call);
  }

  async removeLeftovers(paths: readonly StorePath[], call: Call): Promise<readonly RemoveFailure[]> {
    const ours = paths.filter((path) => this.#s3.hidden.kindOf(path) === 'ours');
    return this.remove(ours, call);
  }

  async remove(paths: readonly StorePath[], call: Call): Promise<readonly RemoveFailure[]> {
    const s3 = this.#s3;
    const keys = new Map<string, StorePath>();
    // what the server cannot hold is not there, and to name it would remove something else
    for (const path of paths) if (await isKept(s3, path, call)) keys.set(s3.keyOf(path), path);
    return this.#removeKeys(keys, call);
  }

  /** A marker, as other tools make it: an empty object whose key ends in a slash. */
  async makeDirectory(dir: StorePath, call: Call): Promise<void> {
    const s3 = this.#s3;
    const Key = s3.prefixOf(dir);
    if (Key === '') return;
    await assertWritable(s3, dir, call);
    await s3.call(call.signal, (client, options) =>
      client.send(
        new PutObjectCommand({
          ...s3.objectArgs(dir, { ...call, mode: 'replace', token: 'directory' }),
          ...s3.common,
          Key,
          Body: new Uint8Array(),
          ContentLength: 0,
        }),
        options,
      ),
    );
  }

  /** Throws what is worth another try, answers what is not. */
  async #removeKeys(keys: ReadonlyMap<string, StorePath>, call: Call): Promise<RemoveFailure[]> {
    const failures: RemoveFailure[] = [];
    // a URL with such a segment would be resolved on its way, and another object would go
    const onlyInXml = (key: string): boolean => /(^|\/)\.\.?(\/|$)/.test(key);
    const together = [...keys.keys()].filter((key) => IN_XML.test(key) && (keys.size > 1 || onlyInXml(key)));
    for (let at = 0; at < together.length; at += DELETE_PAGE) {
      const page = together.slice(at, at + DELETE_PAGE);
      for (const { Key, Code, Message } of await this.#removePage(page, call)) {
        const path = keys.get(Key ?? '');
        const error = new S3Error({
          code: Code ?? '',
          message: Message ?? 'the server gave no reason',
          command: 'DeleteObjects',
        });
        if (path === undefined) throw error; // one of them is still there, and the server does not say which
        if (!isAbsent(error, Key ?? '')) failures.push({ path, error });
      }
    }
    const sent = new Set(together);
    for (const [key, path] of keys) {
      if (sent.has(key)) continue;
      const error = onlyInXml(key) ? unaddressable(key) : await this.#removeOne(key, call);
      if (error !== undefined) failures.push({ path, error });
    }
    return failures;
  }

  async #removeOne(Key: string, call: Call): Promise<S3Error | undefined> {
    const { common } = this.#s3;
    try {
      await this.#s3.call(call.signal, (client, options) =>
        client.send(new DeleteObjectCommand({ ...common, Key }), options),
      );
      return undefined;
    } catch (error) {
      if (!(error instanceof S3Error) || FAILURES[classifyS3(error).kind].retry !== 'never') throw error;
      return isAbsent(error, Key) ? undefined : error;
    }
  }

  async #removePage(keys: readonly string[], call: Call) {
    const { common } = this.#s3;
    const answer = await this.#s3.call(call.signal, (client, options) =>
      client.send(
        new DeleteObjectsCommand({
          ...common,
          Delete: { Quiet: true, Objects: keys.map((Key) => ({ Key })) },
        }),
        options,
      ),
    );
    return answer.Errors ?? [];
  }

  classify(error: unknown) {
    return classifyS3(error);
  }

  async close(): Promise<void> {
    await this.#s3.close();
  }
}

interface Facts {
  readonly ETag?: string | undefined;
  readonly LastModified?: Date | undefined;
}
/** An object of a listing. */
interface ListedObject extends Facts {
  readonly Size?: number | undefined;
  readonly StorageClass?: string | undefined;
}

/** versitygw keeps keys as files: the marker of a directory that is not empty is that directory, and stays. */
const isAbsent = ({ code }: S3Error, key: string): boolean =>
  code === 'NoSuchKey' || (code === 'ErrDirectoryNotEmpty' && key.endsWith('/'));

const unaddressable = (key: string): Failure =>
  new Failure(
    'unsupported',
    `neither a URL nor XML can carry the key ${JSON.stringify(key)}: remove it with a tool that can`,
  );

/** Keys that XML can carry; others are removed one by one, by URL. */
const IN_XML = /^[\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]+$/u;

const entryOf = (path: StorePath, size: number, { ETag, LastModified }: Facts): FileEntry => ({
  kind: 'file',
  path,
  size,
  etag: bareTag(ETag),
  modifiedMs: LastModified?.getTime() ?? 0,
});
