/**
 * Copies that S3 makes on its own side, from one object of a server to another: whole objects of up to 5 GiB by one
 * request, larger ones as parts of an upload. A source is pinned to its version by `x-amz-copy-source-if-match`, which
 * MinIO and versitygw obey; conditions on the target of a copy they ignore, so a conditional copy goes through an upload
 * of one part. Needs GetObject on the source's bucket.
 */
import { createHash, randomUUID } from 'node:crypto';
import { CopyObjectCommand, UploadPartCopyCommand } from '@aws-sdk/client-s3';
import { Failure } from '../../errors.ts';
import type { StorePath } from '../../path.ts';
import type {
  ByteRange,
  Call,
  CopySource,
  Driver,
  FileEntry,
  Receipt,
  ServerCopy,
  Upload,
  UploadJournal,
  WholeSource,
  WriteCall,
} from '../driver.ts';
import { asTaken, withKept } from './s3-attributes.ts';
import { type Copying, provesCarrying } from './s3-carries.ts';
import { bareTag, crcOf, quotedTag, refusalOf, type S3Connection } from './s3-client.ts';
import type { S3Settings } from './s3-config.ts';
import { S3Error } from './s3-errors.ts';
import { escapeText, LONG_ANSWER_MS } from './s3-http.ts';
import type { S3Multipart } from './s3-multipart.ts';
import { assertWritable } from './s3-names.ts';

const GiB = 1024 ** 3;
const PROOF_MS = 60_000;

export class S3Copy implements ServerCopy {
  readonly realm: string;
  readonly maxBytes = 5 * GiB;
  #carries: Promise<boolean> | undefined;
  readonly #s3: S3Connection;
  readonly #multipart: S3Multipart;
  readonly #driver: Pick<Driver, 'head' | 'write' | 'remove'>;

  /** `driver`: calls of the driver's own. */
  constructor(
    s3: S3Connection,
    settings: S3Settings,
    multipart: S3Multipart,
    driver: Pick<Driver, 'head' | 'write' | 'remove'>,
  ) {
    this.realm = realmOf(settings);
    this.#s3 = s3;
    this.#multipart = multipart;
    this.#driver = driver;
  }

  /** What the settings say of every object would be left out. */
  async carries(): Promise<boolean> {
    if (!this.#s3.saysNothing) return false;
    const copying: Copying = {
      ...this.#driver,
      source: (path) => this.source(path),
      copy: (from, path, by) => this.copy(from, path, by),
    };
    // for all who ask meanwhile: none of them stops it for the others
    const signal = AbortSignal.timeout(PROOF_MS);
    this.#carries ??= provesCarrying(this.#s3, copying, { signal }).catch((error: unknown) => {
      this.#carries = undefined;
      throw error;
    });
    return this.#carries;
  }

  /** As `x-amz-copy-source` wants it: bucket and key, each segment percent-encoded. */
  source(path: StorePath): string {
    const { place } = this.#s3;
    return `${place.bucket}/${this.#s3.keyOf(path)}`.split('/').map(escapeText).join('/');
  }

  async copy(
    from: WholeSource,
    path: StorePath,
    call: WriteCall & { readonly journal?: UploadJournal },
  ): Promise<FileEntry> {
    if (call.mode === 'create' || call.ifMatch !== undefined) return this.#throughUpload(from, path, call);
    const s3 = this.#s3;
    await assertWritable(s3, path, call);
    const made = await asTaken(wantedOf(from, call), s3.settled, (headers) =>
      this.#copied(from, path, call, headers),
    ).catch((error: unknown) => {
      throw refusalOf(error, { mode: 'replace', ifMatch: from.etag });
    });
    const { copied, tagsLost } = made.answer;
    const taken = tagsLost ? { ...made, notKept: [...made.notKept, 'tags' as const] } : made;
    if (!copied?.ETag) throw noResult();
    const entry: FileEntry = {
      kind: 'file',
      path,
      size: from.size,
      etag: bareTag(copied.ETag),
      modifiedMs: copied.LastModified?.getTime() ?? Math.floor(Date.now() / 1000) * 1000,
      ...(from.carries ? {} : { token: call.token }),
    };
    const kept = (there: FileEntry) => withKept(there, taken, s3.facts.keeps, this.#driver.head, call);
    const told = copied.ChecksumType === 'COMPOSITE' ? undefined : crcOf(copied.ChecksumCRC32);
    if (told !== undefined) return kept({ ...entry, crc32: told });
    // MinIO takes a CRC32 and tells it only to who asks for the object; a size is told nowhere else
    const there = await this.#driver.head(path, call);
    return kept(there.etag === entry.etag ? there : entry);
  }

  async #copied(
    from: WholeSource,
    path: StorePath,
    call: WriteCall,
    headers: Readonly<Record<string, string>>,
  ) {
    const s3 = this.#s3;
    const { Metadata, ContentType, ...args } = s3.objectArgs(path, call, headers);
    const made = from.carries ? args : { ...args, Metadata, ...(ContentType && { ContentType }) };
    const copy = async (TaggingDirective: 'COPY' | 'REPLACE') => {
      const command = new CopyObjectCommand({
        ...made,
        ...s3.common,
        ...this.#from(from),
        Key: s3.keyOf(path),
        MetadataDirective: from.carries ? 'COPY' : 'REPLACE',
        TaggingDirective,
        ChecksumAlgorithm: 'CRC32',
      });
      const answer = await s3.call(
        call.signal,
        (client, options) => client.send(command, options),
        LONG_ANSWER_MS,
      );
      return answer.CopyObjectResult;
    };
    if (!from.carries) return { copied: await copy('REPLACE'), tagsLost: false };
    try {
      return { copied: await copy('COPY'), tagsLost: false };
    } catch (error) {
      // to read the source's tags, and to give some, are rights of their own
      if (!(error instanceof S3Error) || error.code !== 'AccessDenied') throw error;
      return { copied: await copy('REPLACE'), tagsLost: true };
    }
  }

  begin(path: StorePath, call: WriteCall): Promise<Upload> {
    return this.#multipart.beginUnchecked(path, call);
  }

  part(
    from: CopySource,
    range: ByteRange,
    upload: Upload,
    part: { readonly number: number },
    call: Call,
  ): Promise<Receipt> {
    return this.#part(from, { size: range.end - range.start, range }, upload, part.number, call);
  }

  /** Without a range it is the whole: Amazon takes ranges of objects above 5 MiB only. */
  async #part(
    from: CopySource,
    { size, range }: { readonly size: number; readonly range?: ByteRange },
    upload: Upload,
    number: number,
    call: Call,
  ): Promise<Receipt> {
    const s3 = this.#s3;
    const { CopyPartResult: copied } = await s3
      .call(
        call.signal,
        (client, options) =>
          client.send(
            new UploadPartCopyCommand({
              ...s3.common,
              ...s3.sseCustomer,
              ...this.#from(from),
              Key: s3.keyOf(upload.path),
              UploadId: upload.id,
              PartNumber: number,
              ...(range && { CopySourceRange: `bytes=${range.start}-${range.end - 1}` }),
            }),
            options,
          ),
        LONG_ANSWER_MS,
      )
      .catch((error: unknown) => {
        throw refusalOf(error, { mode: 'replace', ifMatch: from.etag });
      });
    if (!copied?.ETag) throw noResult();
    // no CRC32, should there be one: of a part versitygw tells that of the whole source
    return { number, size, etag: bareTag(copied.ETag) };
  }

  async #throughUpload(
    from: WholeSource,
    path: StorePath,
    call: WriteCall & { readonly journal?: UploadJournal },
  ): Promise<FileEntry> {
    const { journal } = call;
    const journalId = await journal?.intend(path);
    const upload = await this.#multipart.beginUnchecked(path, call);
    const ended = async (): Promise<void> => {
      // gc closes an entry that stays
      if (journalId !== undefined) await journal?.ended(journalId).catch(() => undefined);
    };
    try {
      if (journalId !== undefined) await journal?.begun(journalId, upload);
      const receipt =
        from.size === 0 // an empty part cannot be copied, and all empty objects are alike
          ? await this.#multipart.part(upload, { number: 1 }, { size: 0, open: () => [] }, call)
          : await this.#part(from, { size: from.size }, upload, 1, call);
      const entry = await this.#multipart.finish(upload, [receipt], { size: from.size }, call);
      await ended();
      return entry;
    } catch (error) {
      // what is left where this fails as well, gc finds by the journal
      await this.#multipart.abandon(upload, call).then(ended, () => undefined);
      throw error;
    }
  }

  #from({ source, etag }: CopySource) {
    const { common, sseCustomer } = this.#s3;
    const { SSECustomerAlgorithm, SSECustomerKey, SSECustomerKeyMD5 } = sseCustomer;
    return {
      CopySource: source,
      CopySourceIfMatch: quotedTag(etag),
      ...(common.ExpectedBucketOwner && { ExpectedSourceBucketOwner: common.ExpectedBucketOwner }),
      ...(SSECustomerAlgorithm && { CopySourceSSECustomerAlgorithm: SSECustomerAlgorithm }),
      ...(SSECustomerKey && { CopySourceSSECustomerKey: SSECustomerKey }),
      ...(SSECustomerKeyMD5 && { CopySourceSSECustomerKeyMD5: SSECustomerKeyMD5 }),
    };
  }
}

/** Of one that carries, all but the class goes along by itself. */
function wantedOf({ carries }: WholeSource, { attributes }: WriteCall): WriteCall['attributes'] {
  const storageClass = attributes?.storageClass;
  if (!carries) return attributes;
  return storageClass === undefined ? {} : { storageClass };
}

/** One server, one identity, one customer's key and owner: then what one may read, the other may copy. */
function realmOf({ endpoint, signature, credentials, expectedBucketOwner, extraArgs }: S3Settings): string {
  const { SSECustomerAlgorithm, SSECustomerKey, ExpectedBucketOwner, RequestPayer } = extraArgs;
  const whoWeAre =
    signature === 'unsigned'
      ? 'anonymous'
      : credentials === undefined
        ? 'chain' // one process has one of it
        : (credentials.identity ?? randomUUID());
  const facts = [
    endpoint ?? 'amazon',
    whoWeAre,
    expectedBucketOwner ?? ExpectedBucketOwner ?? '',
    RequestPayer ?? '',
    SSECustomerAlgorithm ?? '',
    SSECustomerKey ?? '',
  ];
  return `s3-${createHash('sha256').update(JSON.stringify(facts)).digest('hex').slice(0, 32)}`;
}

/** An answer that began as a success and then told of none (Amazon keeps a long copy's line busy that way). */
const noResult = (): Failure =>
  new Failure('unavailable', 'the server answered a copy without saying what it made');
