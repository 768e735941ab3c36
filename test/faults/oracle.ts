/** Looks for itself: reads folders, buckets, Redis and the ledger's file with none of the product's code. */
import { createHash, createHmac } from 'node:crypto';
import { createReadStream, existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { Readable } from 'node:stream';
import {
  type _Object,
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import { Redis } from 'ioredis';
import type { S3Server } from '../servers/s3.ts';

export interface Found {
  readonly size: number;
  readonly sha256: string;
}
/** What really lies in a store. */
export interface Shelf {
  /** What a reader gets who reads it all; undefined: nothing is there. */
  read(path: string): Promise<Found | undefined>;
  /** Bytes, as a reader is told them before it reads. */
  sizeOf(path: string): Promise<number | undefined>;
  /** As another program puts it there. */
  put(path: string, bytes: Uint8Array): Promise<void>;
  /** Every object that can be seen. */
  paths(): Promise<string[]>;
  /** What nobody is meant to see: hidden files, multipart uploads of `paths`. */
  hidden(paths: readonly string[]): Promise<string[]>;
  close(): void;
}

async function digestOf(bytes: Readable): Promise<Found> {
  const hash = createHash('sha256');
  let size = 0;
  for await (const chunk of bytes as AsyncIterable<Uint8Array>) {
    hash.update(chunk);
    size += chunk.length;
  }
  return { size, sha256: hash.digest('hex') };
}

/** Every file below, hidden ones too. */
export function filesIn(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)));
}

const isHidden = (path: string): boolean => path.split('/').some((name) => name.startsWith('.'));

const isAbsent = (error: unknown): boolean =>
  /^(ENOENT|ENOTDIR)$/.test((error as NodeJS.ErrnoException).code ?? '');

export function folderShelf(root: string): Shelf {
  return {
    async read(path) {
      try {
        return await digestOf(createReadStream(join(root, path)));
      } catch (error) {
        if (isAbsent(error)) return undefined;
        throw error;
      }
    },
    sizeOf: async (path) => statSync(join(root, path), { throwIfNoEntry: false })?.size,
    async put(path, bytes) {
      mkdirSync(dirname(join(root, path)), { recursive: true });
      writeFileSync(join(root, path), bytes);
    },
    paths: async () => filesIn(root).filter((path) => !isHidden(path)),
    hidden: async () => filesIn(root).filter(isHidden),
    close() {},
  };
}

const clientOf = (server: S3Server): S3Client =>
  new S3Client({
    endpoint: server.url,
    region: server.region,
    forcePathStyle: true,
    credentials: { accessKeyId: server.accessKey, secretAccessKey: server.secretKey },
  });

async function* objectsIn(s3: S3Client, bucket: string): AsyncGenerator<_Object> {
  for (let token: string | undefined, first = true; first || token !== undefined; first = false) {
    const page = await s3.send(
      new ListObjectsV2Command({ Bucket: bucket, ...(token !== undefined && { ContinuationToken: token }) }),
    );
    yield* page.Contents ?? [];
    token = page.NextContinuationToken;
  }
}

/** By key: size and ETag, which is the MD5 of what was put in one request. */
export async function etagsIn(server: S3Server, bucket: string): Promise<Map<string, string>> {
  const s3 = clientOf(server);
  try {
    const found = new Map<string, string>();
    for await (const { Key, Size, ETag } of objectsIn(s3, bucket))
      found.set(Key!, `${Size} ${ETag?.replaceAll('"', '')}`);
    return found;
  } finally {
    s3.destroy();
  }
}

export function bucketShelf(server: S3Server, bucket: string): Shelf {
  const s3 = clientOf(server);
  return {
    async read(path) {
      try {
        const { Body } = await s3.send(new GetObjectCommand({ Bucket: bucket, Key: path }));
        return await digestOf(Body as Readable);
      } catch (error) {
        if ((error as Error).name === 'NoSuchKey') return undefined;
        throw error;
      }
    },
    async sizeOf(path) {
      try {
        return (await s3.send(new HeadObjectCommand({ Bucket: bucket, Key: path }))).ContentLength;
      } catch (error) {
        if ((error as Error).name === 'NotFound') return undefined;
        throw error;
      }
    },
    async put(path, bytes) {
      await s3.send(new PutObjectCommand({ Bucket: bucket, Key: path, Body: bytes }));
    },
    async paths() {
      const paths: string[] = [];
      for await (const { Key } of objectsIn(s3, bucket)) paths.push(Key!);
      return paths;
    },
    // MinIO lists uploads of exactly one key only
    async hidden(paths) {
      const found = await Promise.all(
        paths.map(async (path) => {
          const { Uploads = [] } = await s3.send(
            new ListMultipartUploadsCommand({ Bucket: bucket, Prefix: path }),
          );
          return Uploads.map(({ Key, UploadId }) => `upload ${UploadId} of ${Key}`);
        }),
      );
      return found.flat();
    },
    close: () => s3.destroy(),
  };
}

export interface LedgerRow {
  readonly id: string;
  readonly state: string;
  readonly path: string;
  readonly starts: number;
  readonly epoch: number;
  readonly failure: string | null;
  readonly staged: number | null;
  /** Events that say that it has ended. */
  readonly endings: number;
}

/** The ledger's rows by a connection of our own. */
export function rowsIn(ledgerFile: string): LedgerRow[] {
  const db = new DatabaseSync(ledgerFile, { readOnly: true, timeout: 5000 });
  try {
    return db
      .prepare(
        `SELECT id, state, to_path AS path, starts, epoch, failure_kind AS failure, staged_until_ms AS staged,
           (SELECT count(*) FROM events WHERE transfer_id = id
             AND events.state IN ('succeeded', 'failed', 'cancelled', 'superseded')) AS endings
         FROM transfers`,
      )
      .all() as unknown as LedgerRow[];
  } finally {
    db.close();
  }
}

export const hasEnded = ({ state }: Pick<LedgerRow, 'state'>): boolean =>
  /^(succeeded|failed|cancelled|superseded)$/.test(state);

/** Rows that the ledger has: multipart uploads that are open, pages of trees, turns of their files on targets. */
export function countIn(ledgerFile: string, table: 'uploads' | 'tree_pages' | 'tree_claims'): number {
  const db = new DatabaseSync(ledgerFile, { readOnly: true, timeout: 5000 });
  try {
    return Number(db.prepare(`SELECT count(*) AS count FROM ${table}`).get()?.count);
  } finally {
    db.close();
  }
}

/** What names of files that are ours are proved with. */
export function installationKeyIn(ledgerFile: string): Uint8Array {
  const db = new DatabaseSync(ledgerFile, { readOnly: true, timeout: 5000 });
  try {
    return db.prepare('SELECT key FROM installation').get()?.key as Uint8Array;
  } finally {
    db.close();
  }
}

/** Keys of transfers' jobs, and lists that still name one. */
export async function jobKeysIn(url: string): Promise<string[]> {
  const redis = new Redis(url, { replyMapping: 'legacy', maxRetriesPerRequest: 1 });
  redis.on('error', () => {});
  try {
    const keys = await redis.keys('*');
    const jobs = keys.filter((key) => /:(upload|download):t[0-9a-z]{25}-\d+$/.test(key));
    const lists = keys.filter((key) =>
      /:(upload|download):(wait|active|paused|delayed|prioritized)$/.test(key),
    );
    return [...jobs, ...lists]; // Redis removes a list that is empty
  } finally {
    redis.disconnect();
  }
}

/** Every key that Redis has. */
export async function keysIn(url: string): Promise<string[]> {
  const redis = new Redis(url, { replyMapping: 'legacy', maxRetriesPerRequest: 1 });
  redis.on('error', () => {});
  try {
    return (await redis.keys('*')).sort();
  } finally {
    redis.disconnect();
  }
}

/** Bytes of requests that a MinIO has taken since it was started, by its own count. */
export async function receivedBy({ url, accessKey, secretKey }: S3Server): Promise<number> {
  const coded = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const exp = Math.floor(Date.now() / 1000) + 3600;
  const head = `${coded({ alg: 'HS512', typ: 'JWT' })}.${coded({ exp, sub: accessKey, iss: 'prometheus' })}`;
  const token = `${head}.${createHmac('sha512', secretKey).update(head).digest('base64url')}`;
  const answer = await fetch(`${url}/minio/v2/metrics/cluster`, {
    headers: { authorization: `Bearer ${token}` },
  });
  const found = /^minio_s3_traffic_received_bytes\{.*\} (\S+)$/m.exec(await answer.text());
  if (!found) throw new Error(`MinIO did not say what it has received (${answer.status})`);
  return Number(found[1]);
}
