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
import type { Body, Call, Multipart, PendingUpload, Receipt, Upload, WriteCall } from '../driver.ts';
import { bareTag, crcOf, decodeKey, quotedTag, refusalOf, type S3Connection } from './s3-client.ts';
import { conditionsFor, etagOf, reasonBehind } from './s3-conditions.ts';
import { S3Error } from './s3-errors.ts';
import { crcText, sendable } from './s3-http.ts';

const MiB = 1024 * 1024;
/** ms; a server may put thousands of parts together before it answers. */
const FINISH_ANSWER_MS = 900_000;
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
  readonly limits = {
    minBytes: 5 * MiB,
    maxBytes: 5 * 1024 * MiB,
    maxParts: 10_000,
    goodBytes: 16 * MiB,
    order: 'any',
  } as const;
  readonly #s3: S3Connection;

  constructor(s3: S3Connection) {
    this.#s3 = s3;
  }

  /** Asks for the strongest checksum that the server was not yet seen to refuse. */
  async begin(path: StorePath, call: WriteCall): Promise<Upload> {
    const s3 = this.#s3;
    let refusal: unknown;
    for (const level of CHECKSUMS.slice(CHECKSUMS.indexOf(s3.facts.partChecksums ?? 'whole'))) {
      try {
        const begun = await s3.call(call.signal, (client, options) =>
          client.send(
            new CreateMultipartUploadCommand({
              ...s3.objectArgs(call),
              ...s3.common,
              Key: s3.keyOf(path),
              ...ASKING[level],
            }),
            options,
          ),
        );
        if (begun.UploadId === undefined)
          throw new Failure('unavailable', 'the server began an upload without an id');
        s3.facts.partChecksums = level === 'none' ? 'none' : granted(begun);
        return { path, id: begun.UploadId };
      } catch (error) {
        if (!isRefusal(error)) throw error;
        refusal ??= error;
      }
    }
    throw refusal;
  }

  async part(upload: Upload, part: { readonly number: number }, body: Body, call: Call): Promise<Receipt> {
    const s3 = this.#s3;
    const checked = (await this.#checksums(upload, call)) === 'none' ? 'unchecked' : 'checked';
    const sent = await s3
      .call(call.signal, (client, options) =>
        client.send(
          new UploadPartCommand({
            ...this.#target(upload),
            ...s3.sseCustomer,
            PartNumber: part.number,
            ...sendable(body, checked),
          }),
          options,
        ),
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
      const page = await this.#listParts(upload, call, after);
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
  ) {
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
        FINISH_ANSWER_MS,
      )
      .catch((error: unknown) => {
        throw refusalOf(error, call);
      });
    const etag = bareTag(published.ETag);
    const crcTold = ofWhole && published.ChecksumCRC32 !== undefined;
    if (!crcTold) await this.#really(upload, etag, call);
    return {
      kind: 'file' as const,
      path: upload.path,
      size: whole.size,
      etag,
      modifiedMs: Math.floor(Date.now() / 1000) * 1000, // the answer does not say; S3 counts in seconds
      ...(crcTold ? { crc32: whole.crc32! } : {}),
    };
  }

  /** versitygw says yes to finishing an upload that it does not know, as long as there is any object at its key. */
  async #really(upload: Upload, etag: string, call: Call): Promise<void> {
    if ((await etagOf(this.#s3, upload.path, call)) === etag) return;
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

  #listParts(upload: Upload, call: Call, after?: string) {
    return this.#s3.call(call.signal, (client, options) =>
      client.send(
        new ListPartsCommand({
          ...this.#target(upload),
          ...this.#s3.sseCustomer,
          ...(after === undefined ? {} : { PartNumberMarker: after }),
        }),
        options,
      ),
    );
  }

  /** A process that did not begin the upload asks the server what was agreed. */
  async #checksums(upload: Upload, call: Call): Promise<Checksums> {
    return (this.#s3.facts.partChecksums ??= granted(await this.#listParts(upload, call)));
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
