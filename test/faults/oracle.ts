/** Looks for itself: reads folders, buckets, Redis and the ledger's file with none of the product's code. */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, readdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { Readable } from 'node:stream';
import {
  GetObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
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

export function folderShelf(root: string): Shelf {
  return {
    async read(path) {
      try {
        return await digestOf(createReadStream(join(root, path)));
      } catch (error) {
        if (/^(ENOENT|ENOTDIR)$/.test((error as NodeJS.ErrnoException).code ?? '')) return undefined;
        throw error;
      }
    },
    paths: async () => filesIn(root).filter((path) => !isHidden(path)),
    hidden: async () => filesIn(root).filter(isHidden),
    close() {},
  };
}

export function bucketShelf(server: S3Server, bucket: string): Shelf {
  const s3 = new S3Client({
    endpoint: server.url,
    region: server.region,
    forcePathStyle: true,
    credentials: { accessKeyId: server.accessKey, secretAccessKey: server.secretKey },
  });
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
    async paths() {
      const paths: string[] = [];
      for (let token: string | undefined, first = true; first || token !== undefined; first = false) {
        const page = await s3.send(
          new ListObjectsV2Command({
            Bucket: bucket,
            ...(token !== undefined && { ContinuationToken: token }),
          }),
        );
        paths.push(...(page.Contents ?? []).map(({ Key }) => Key!));
        token = page.NextContinuationToken;
      }
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

/** Multipart uploads that the ledger still has open. */
export function openUploadsIn(ledgerFile: string): number {
  const db = new DatabaseSync(ledgerFile, { readOnly: true, timeout: 5000 });
  try {
    return Number(db.prepare('SELECT count(*) AS count FROM uploads').get()?.count);
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
