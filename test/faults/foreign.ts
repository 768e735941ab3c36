/** Two installations on one folder, one bucket and one staging folder, and what others have put there. */
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import {
  CreateMultipartUploadCommand,
  GetObjectCommand,
  ListMultipartUploadsCommand,
  ListPartsCommand,
  PutObjectCommand,
  S3Client,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { HiddenNames } from '../../lib/stores/hidden.ts';
import { OTHERS } from '../hidden.ts';
import { startMinio } from '../servers/minio.ts';
import type { S3Server } from '../servers/s3.ts';
import { filesIn } from './oracle.ts';
import { Service } from './service.ts';

export const SHARED = 'shared';
const DAY_S = 24 * 3600;

/** What is on its way or planted: bytes by name. */
export type Snapshot = ReadonlyMap<string, string>;

export class Shore {
  readonly minio: S3Server;
  readonly s3: S3Client;
  readonly base = mkdtempSync(join(tmpdir(), 'longshore-foreign-'));
  readonly folder = join(this.base, 'folder');
  readonly staging = join(this.base, 'staging');
  /** What both copy trees from. */
  readonly trees = join(this.base, 'trees');
  readonly sides: Service[] = [];
  /** Files of others by their whole path, keys and uploads of others. */
  readonly files = new Map<string, string>();
  readonly keys = new Map<string, string>();
  readonly uploads = new Map<string, { readonly Key: string; readonly etag: string }>();

  private constructor(minio: S3Server) {
    this.minio = minio;
    this.s3 = new S3Client({
      endpoint: minio.url,
      region: minio.region,
      forcePathStyle: true,
      credentials: { accessKeyId: minio.accessKey, secretAccessKey: minio.secretKey },
    });
    for (const folder of [this.folder, this.staging, this.trees]) mkdirSync(folder);
  }

  /** One has the folder as its artifact root and the bucket as the store `other`, the other one has it the other way. */
  static async open(workers: number): Promise<Shore> {
    const minio = await startMinio();
    await minio.makeBucket(SHARED);
    const shore = new Shore(minio);
    const bucket = `s3://${SHARED}/pre`;
    for (const [root, other] of [
      [shore.folder, bucket],
      [bucket, shore.folder],
    ])
      shore.sides.push(
        await Service.start('folder', workers, {
          env: minio.env,
          settings: {
            artifactsDestination: root,
            stores: { other, trees: shore.trees },
            stagingUri: shore.staging,
            partThresholdBytes: 17 * 1024 * 1024,
          },
        }),
      );
    return shore;
  }

  /** Names as a person, another tool, or another Longshore may have made them, two days ago. */
  plantFiles(count: number, dirs: readonly string[]): void {
    for (let n = 0; n < count; n++) {
      const dir = dirs[n % dirs.length]!;
      this.#plant(join(this.folder, dir, `${lookAlike(n, dir)}`));
      if (n % 4 === 0)
        this.#plant(
          join(this.staging, n % 8 === 0 ? `t${randomBytes(12).toString('hex')}` : lookAlike(n, '')),
        );
    }
  }

  #plant(path: string): void {
    const bytes = `${path} is not yours`;
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, bytes);
    const thenS = Date.now() / 1000 - 2 * DAY_S;
    utimesSync(path, thenS, thenS);
    this.files.set(path, bytes);
  }

  async plantKeys(count: number, dirs: readonly string[]): Promise<void> {
    for (let n = 0; n < count; n++) {
      const dir = n % 5 === 0 ? '' : dirs[n % dirs.length]!;
      const Key = join('pre', dir, lookAlike(n, dir));
      await this.s3.send(new PutObjectCommand({ Bucket: SHARED, Key, Body: `${Key} is not yours` }));
      this.keys.set(Key, `${Key} is not yours`);
    }
  }

  /** Begun by another tool, some of them on the very keys of ours, with a part each. */
  async plantUploads(keys: readonly string[]): Promise<void> {
    for (const name of keys) {
      const at = { Bucket: SHARED, Key: `pre/${name}` };
      const { UploadId } = await this.s3.send(new CreateMultipartUploadCommand(at));
      const part = { ...at, UploadId, PartNumber: 1, Body: 'a part of somebody' };
      const { ETag } = await this.s3.send(new UploadPartCommand(part));
      this.uploads.set(UploadId!, { Key: at.Key, etag: ETag! });
    }
  }

  /** As processes that were killed leave them: proved by their names, and in no row. */
  leaveOwn(dirs: readonly string[], sides: readonly Service[] = this.sides): void {
    for (const side of sides) {
      const names = namesOf(side);
      for (const dir of dirs) {
        mkdirSync(join(this.folder, dir), { recursive: true });
        const name = names.nameIn(dir, 'left-1');
        for (const suffix of ['', '.parts', '.joined'])
          writeFileSync(join(this.folder, dir, name + suffix), 'half');
      }
      for (const id of ['tleft', 'tleft-plan-3'])
        writeFileSync(join(this.staging, names.stagedName(id)), 'half');
    }
  }

  /** What of others is not there any more, or not as it was. */
  async missing(): Promise<string[]> {
    const wrong: string[] = [];
    for (const [path, bytes] of this.files) if (readIfThere(path) !== bytes) wrong.push(path);
    for (const [Key, bytes] of this.keys) {
      const found = await this.s3
        .send(new GetObjectCommand({ Bucket: SHARED, Key }))
        .then(({ Body }) => Body!.transformToString())
        .catch(() => undefined);
      if (found !== bytes) wrong.push(Key);
    }
    for (const [UploadId, { Key, etag }] of this.uploads) {
      const { Parts = [] } = await this.s3
        .send(new ListPartsCommand({ Bucket: SHARED, Key, UploadId }))
        .catch(() => ({ Parts: [] }));
      if (Parts.length !== 1 || Parts[0]!.ETag !== etag) wrong.push(`upload ${UploadId} of ${Key}`);
    }
    return wrong;
  }

  /** Files on their way or staged in the shared folders, and uploads with their parts: not what was planted, nor what is `but`'s. */
  async onTheirWay(but?: Service): Promise<Snapshot> {
    const found = new Map<string, string>();
    const [id, uploads] = but ? [idOf(but), uploadsOf(but)] : [undefined, new Set<unknown>()];
    for (const root of [this.folder, this.staging])
      for (const name of filesIn(root)) {
        const path = join(root, name);
        const isOnTheWay = root === this.staging || /(^|\/)\.longshore-/.test(name);
        if (isOnTheWay && !this.files.has(path) && !(id && name.includes(id)))
          found.set(path, String(readIfThere(path)?.length));
      }
    for (const { Key, UploadId } of await this.pending()) {
      if (this.uploads.has(UploadId) || uploads.has(UploadId)) continue;
      const { Parts = [] } = await this.s3
        .send(new ListPartsCommand({ Bucket: SHARED, Key, UploadId }))
        .catch(() => ({ Parts: [] }));
      found.set(
        `upload ${UploadId} of ${Key}`,
        Parts.map(({ PartNumber, ETag }) => `${PartNumber} ${ETag}`).join(),
      );
    }
    return found;
  }

  async pending(): Promise<{ readonly Key: string; readonly UploadId: string }[]> {
    const { Uploads = [], IsTruncated } = await this.s3.send(
      new ListMultipartUploadsCommand({ Bucket: SHARED }),
    );
    if (IsTruncated) throw new Error('more uploads than a page has');
    return Uploads.map(({ Key, UploadId }) => ({ Key: Key!, UploadId: UploadId! }));
  }

  async close(): Promise<void> {
    await Promise.all(this.sides.map((side) => side.close()));
    this.s3.destroy();
    await this.minio.stop();
    rmSync(this.base, { recursive: true, force: true });
  }
}

/** What its ledger has, read past the product. */
function rowsOf({ ledger }: Service, sql: string): Record<string, unknown>[] {
  const db = new DatabaseSync(ledger, { readOnly: true, timeout: 5000 });
  try {
    return db.prepare(sql).all();
  } finally {
    db.close();
  }
}
const installationOf = (side: Service) =>
  rowsOf(side, 'SELECT id, key FROM installation')[0] as { id: string; key: Uint8Array };
const idOf = (side: Service): string => installationOf(side).id;
const namesOf = (side: Service): HiddenNames => new HiddenNames(installationOf(side));
const uploadsOf = (side: Service): Set<unknown> =>
  new Set(rowsOf(side, 'SELECT upload_id FROM uploads').map((row) => row.upload_id));

const hex = (bytes: number): string => randomBytes(bytes).toString('hex');
function lookAlike(n: number, dir: string): string {
  const forms = [
    () => `.longshore-notes-${n}.md`,
    () => `.longshore-t${hex(12)}-1-${hex(4)}`,
    () => `.longshore-t${hex(12)}-1-${hex(4)}.parts`,
    () => `.longshore-canary-${hex(16)}`,
    () => OTHERS.nameIn(dir, `t${n}-1`),
    () => `${OTHERS.nameIn(dir, `t${n}-1`)}.parts`,
    () => `.longshore-${hex(8)}-t${n}-1-${hex(4)}-${hex(16)}`,
    () => `.artifact.uploading.${hex(4)}`,
    () => `.artifact.uploading.report-${n}.csv`,
    () => OTHERS.stagedName(`t${n}`),
  ];
  return forms[n % forms.length]!();
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return undefined;
  }
}
