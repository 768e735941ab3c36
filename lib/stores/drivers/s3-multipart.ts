/** S3's multipart uploads: addressed by key and upload id, parts in any order and from any process. */
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  ListMultipartUploadsCommand,
  type ListMultipartUploadsCommandOutput,
  ListPartsCommand,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { pause } from '../../deadline.ts';
import { Failure } from '../../errors.ts';
import type { StorePath } from '../../path.ts';
import type {
  Body,
  Call,
  FileEntry,
  Multipart,
  PendingUpload,
  Receipt,
  Upload,
  WriteCall,
} from '../driver.ts';
import { asTaken, withKept } from './s3-attributes.ts';
import { bareTag, crcOf, decodeKey, quotedTag, refusalOf, type S3Connection } from './s3-client.ts';
import { conditionsFor, lookAt, reasonBehind } from './s3-conditions.ts';
import { S3Error } from './s3-errors.ts';
import { crcText, LONG_ANSWER_MS, sendable } from './s3-http.ts';
import { assertWritable } from './s3-names.ts';

const MiB = 1024 * 1024;
/** Uploads whose checksums are kept in mind. */
const REMEMBERED = 1000;
/** So often, and so far apart, an upload is aborted that a late part keeps alive. */
const ABORTS = 5;
const LATE_PART_MS = 200;

type Checksums = 'whole' | 'parts' | 'none';
const CHECKSUMS: readonly Checksums[] = ['whole', 'parts', 'none'];
const ASKING: Record<Checksums, { ChecksumAlgorithm?: 'CRC32'; ChecksumType?: 'FULL_OBJECT' }> = {
  whole: { ChecksumAlgorithm: 'CRC32', ChecksumType: 'FULL_OBJECT' },
  parts: { ChecksumAlgorithm: 'CRC32' },
  none: {},
};

interface Markers {
  readonly KeyMarker?: string;
  readonly UploadIdMarker?: string;
}

export class S3Multipart implements Multipart {
  readonly provesOwner = false;
  readonly limits = {
    minBytes: 5 * MiB,
    maxBytes: 5 * 1024 * MiB,
    maxParts: 10_000,
    goodBytes: 16 * MiB,
    order: 'any',
  } as const;
  readonly #s3: S3Connection;
  /** What was agreed when an upload was begun, here or elsewhere. */
  readonly #agreed = new Map<string, Checksums>();

  readonly #head: (path: StorePath, call: Call) => Promise<FileEntry>;

  /** `head` is the driver's own. */
  constructor(s3: S3Connection, head: (path: StorePath, call: Call) => Promise<FileEntry>) {
    this.#s3 = s3;
    this.#head = head;
  }

  /** Asks for the strongest checksum that the server was not yet seen to refuse. */
  async begin(path: StorePath, call: WriteCall): Promise<Upload> {
    const { facts } = this.#s3;
    let refusal: unknown;
    for (const level of CHECKSUMS.slice(CHECKSUMS.indexOf(facts.partChecksums ?? 'whole'))) {
      try {
        const { upload, checksums } = await this.#begin(path, level, call);
        facts.partChecksums = checksums;
        return upload;
      } catch (error) {
        if (!isRefusal(error)) throw error;
        refusal ??= error;
      }
    }
    throw refusal;
  }

  /**
   * For parts that the server copies. Of those MinIO makes no checksum, and then refuses them in an upload that asks for
   * one; versitygw takes the whole source's for the part's.
   */
  async beginUnchecked(path: StorePath, call: WriteCall): Promise<Upload> {
    return (await this.#begin(path, 'none', call)).upload;
  }

  async #begin(path: StorePath, level: Checksums, call: WriteCall) {
    const s3 = this.#s3;
    await assertWritable(s3, path, call);
    const { answer: begun, notKept } = await asTaken(call.attributes, s3.settled, (headers) =>
      s3.call(call.signal, (client, options) =>
        client.send(
          new CreateMultipartUploadCommand({
            ...s3.objectArgs(path, call, headers),
            ...s3.common,
            Key: s3.keyOf(path),
            ...ASKING[level],
          }),
          options,
        ),
      ),
    );
    if (begun.UploadId === undefined)
      throw new Failure('unavailable', 'the server began an upload without an id');
    const checksums = level === 'none' ? 'none' : granted(begun);
    this.#remember(begun.UploadId, checksums);
    return { upload: { path, id: begun.UploadId, ...(notKept.length > 0 && { notKept }) }, checksums };
  }

  async part(upload: Upload, part: { readonly number: number }, body: Body, call: Call): Promise<Receipt> {
    const s3 = this.#s3;
    const checked = (await this.#checksums(upload, call)) === 'none' ? 'unchecked' : 'checked';
    const args = {
      ...this.#target(upload),
      ...s3.sseCustomer,
      PartNumber: part.number,
      ...sendable(body, checked),
    };
    const sent = await s3
      .sendBytes('UploadPart', args, call.signal, (client, options) =>
        client.send(new UploadPartCommand(args), options),
      )
      .catch(async (error: unknown) => {
        throw await reasonBehind(error, async () => void (await this.#listParts(upload, call)));
      });
    const stored = crcOf(sent.ChecksumCRC32);
    return {
      number: part.number,
      size: body.size,
      etag: bareTag(sent.ETag),
      ...(stored === undefined ? {} : { crc32: stored }),
    };
  }

  async *parts(upload: Upload, call: Call): AsyncGenerator<readonly Receipt[]> {
    let after: string | undefined;
    do {
      const page = await this.#listParts(
        upload,
        call,
        after === undefined ? {} : { PartNumberMarker: after },
      );
      const receipts = (page.Parts ?? []).map((part): Receipt => {
        const crc = crcOf(part.ChecksumCRC32);
        return {
          number: part.PartNumber ?? 0,
          size: part.Size ?? 0,
          etag: bareTag(part.ETag),
          ...(crc === undefined ? {} : { crc32: crc }),
        };
      });
      if (receipts.length > 0) yield receipts;
      const next = page.IsTruncated ? page.NextPartNumberMarker : undefined;
      if (page.IsTruncated && (next === undefined || next === after)) throw endlessList();
      after = next;
    } while (after !== undefined);
  }

  async finish(
    upload: Upload,
    receipts: readonly Receipt[],
    whole: { readonly size: number; readonly crc32?: number },
    call: WriteCall,
  ): Promise<FileEntry> {
    const s3 = this.#s3;
    const sum = receipts.reduce((size, receipt) => size + receipt.size, 0);
    if (sum !== whole.size)
      throw new Failure('corrupt', `the parts hold ${sum} bytes together, the whole has ${whole.size}`);
    const conditions = await conditionsFor(s3, upload.path, call);
    const checksums = await this.#checksums(upload, call);
    const ofWhole = checksums === 'whole' && whole.crc32 !== undefined;
    const published = await s3
      .call(
        call.signal,
        (client, options) =>
          client.send(
            new CompleteMultipartUploadCommand({
              ...this.#target(upload),
              ...s3.sseCustomer,
              ...conditions,
              ...(ofWhole ? { ChecksumType: 'FULL_OBJECT', ChecksumCRC32: crcText(whole.crc32!) } : {}),
              MultipartUpload: {
                Parts: receipts.map((receipt) => ({
                  PartNumber: receipt.number,
                  ETag: quotedTag(receipt.etag),
                  ...(receipt.crc32 === undefined || checksums === 'none'
                    ? {}
                    : { ChecksumCRC32: crcText(receipt.crc32) }),
                })),
              },
            }),
            options,
          ),
        LONG_ANSWER_MS,
      )
      .catch((error: unknown) => {
        throw refusalOf(error, call);
      });
    if (!published.ETag)
      // an answer that began as a success and then told of none
      throw new Failure('unavailable', 'the server answered without saying what it published');
    const etag = bareTag(published.ETag);
    const crcTold = ofWhole && published.ChecksumCRC32 !== undefined;
    const entry: FileEntry = {
      kind: 'file',
      path: upload.path,
      size: crcTold ? whole.size : await this.#sizeOf(upload, etag, call),
      etag,
      modifiedMs: Math.floor(Date.now() / 1000) * 1000, // the answer does not say; S3 counts in seconds
      ...(crcTold ? { crc32: whole.crc32! } : {}),
    };
    // they were sent when it was begun, perhaps by another process, to which the server may have refused some
    const taken = { sent: call.attributes ?? {}, notKept: [] };
    return withKept(entry, taken, s3.facts.keeps, this.#head, call);
  }

  /** versitygw says yes to finishing an upload that it does not know, as long as there is any object at its key. */
  async #sizeOf(upload: Upload, etag: string, call: Call): Promise<number> {
    const there = await lookAt(this.#s3, upload.path, call);
    if (there?.etag === etag) return there.size;
    throw new S3Error({ code: 'NoSuchUpload', message: 'the server has another object there', status: 404 });
  }

  /** A part that is still being stored may outlive the abort, and its upload with it (S3 says so): looked for, aborted again. */
  async abandon(upload: Upload, call: Call): Promise<void> {
    for (let tries = 0; tries < ABORTS; tries++) {
      try {
        await this.#s3.call(call.signal, (client, options) =>
          client.send(new AbortMultipartUploadCommand(this.#target(upload)), options),
        );
        await this.#listParts(upload, call);
      } catch (error) {
        if (error instanceof S3Error && error.code === 'NoSuchUpload') return;
        throw error;
      }
      await pause(LATE_PART_MS, call.signal);
    }
    throw new Failure('unavailable', `the upload is still there after it was aborted ${ABORTS} times`);
  }

  /** MinIO lists uploads by exact key or all of them, never by a prefix: so the whole bucket's are asked for and ours picked. */
  async *pending(path: StorePath, call: Call): AsyncGenerator<readonly PendingUpload[]> {
    const s3 = this.#s3;
    let markers: Markers = {};
    for (;;) {
      const asked: Markers = markers;
      const page: ListMultipartUploadsCommandOutput = await s3.call(call.signal, (client, options) =>
        client.send(
          new ListMultipartUploadsCommand({
            ...s3.common,
            ...(path === '' ? {} : { Prefix: s3.keyOf(path) }),
            EncodingType: 'url',
            ...asked,
          }),
          options,
        ),
      );
      const uploads = (page.Uploads ?? []).flatMap((upload): PendingUpload[] => {
        const found = s3.pathOf(decodeKey(upload.Key ?? '', page.EncodingType));
        if (found === undefined || upload.UploadId === undefined || (path !== '' && found !== path))
          return [];
        return [{ path: found, id: upload.UploadId, begunMs: upload.Initiated?.getTime() ?? 0 }];
      });
      if (uploads.length > 0) yield uploads;
      if (!page.IsTruncated) return;
      markers = {
        ...(page.NextKeyMarker ? { KeyMarker: decodeKey(page.NextKeyMarker, page.EncodingType) } : {}),
        ...(page.NextUploadIdMarker ? { UploadIdMarker: page.NextUploadIdMarker } : {}),
      };
      if (markers.KeyMarker === asked.KeyMarker && markers.UploadIdMarker === asked.UploadIdMarker)
        throw endlessList();
    }
  }

  #target(upload: Upload) {
    return { ...this.#s3.common, Key: this.#s3.keyOf(upload.path), UploadId: upload.id };
  }

  async #listParts(upload: Upload, call: Call, more: { PartNumberMarker?: string; MaxParts?: number } = {}) {
    const listed = await this.#s3.call(call.signal, (client, options) =>
      client.send(
        new ListPartsCommand({ ...this.#target(upload), ...this.#s3.sseCustomer, ...more }),
        options,
      ),
    );
    this.#remember(upload.id, granted(listed));
    return listed;
  }

  /** A process that did not begin the upload asks the server what was agreed. */
  async #checksums(upload: Upload, call: Call): Promise<Checksums> {
    const known = this.#agreed.get(upload.id);
    if (known !== undefined) return known;
    await this.#listParts(upload, call, { MaxParts: 1 });
    return this.#agreed.get(upload.id) ?? 'none';
  }

  #remember(uploadId: string, checksums: Checksums): void {
    this.#agreed.set(uploadId, checksums);
    if (this.#agreed.size <= REMEMBERED) return;
    const [oldest] = this.#agreed.keys();
    this.#agreed.delete(oldest!);
  }
}

const granted = (answer: {
  ChecksumAlgorithm?: string | undefined;
  ChecksumType?: string | undefined;
}): Checksums =>
  answer.ChecksumAlgorithm !== 'CRC32' ? 'none' : answer.ChecksumType === 'FULL_OBJECT' ? 'whole' : 'parts';

/** A server that does not know what it was asked for, as opposed to one that cannot be reached or does not let us. */
const isRefusal = (error: unknown): boolean =>
  error instanceof S3Error && (error.status === 400 || error.status === 501);

const endlessList = (): Failure =>
  new Failure('unavailable', 'the server says that a list goes on, but not where');
