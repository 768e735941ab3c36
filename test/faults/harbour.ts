/** Transfers over a line that is in trouble, and what has become of them: looked at in the stores themselves, past the line. */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { GetObjectCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import type { TransferView } from '../../apps/api/schemas.ts';
import { ENDED_STATES } from '../../lib/ledger/transfer.ts';
import { TIMINGS } from '../e2e/quay.ts';
import { type Given, Service, viewIn } from '../e2e/service.ts';
import type { RedisServer } from '../servers/redis.ts';
import type { S3Server } from '../servers/s3.ts';
import { bytesOf } from './seed.ts';

export const BUCKET = 'harbour';
/** Nothing may stand still for longer, and nothing may take longer than all that may be tried after that. */
const STALL_MS = 2000;
const ATTEMPTS = 2;
const HANG_MS = 150_000;
const MIB = 1024 * 1024;
/** Two parts on S3. */
const BIG_BYTES = 17 * MIB;

/** `send` goes from the folder to the store, `bring` comes from there, `fetch` is a download into staging. */
const KINDS = ['upload', 'fetch', 'send', 'bring', 'delete'] as const;
type Kind = (typeof KINDS)[number];

export interface Ended {
  readonly what: string;
  readonly view: TransferView;
  /** Something is where it should have gone, and it isn't exactly what was sent. */
  readonly damaged: boolean;
  /** Exactly what was sent is there (or, for a delete, nothing). */
  readonly done: boolean;
}

/** `artifacts` is a folder in the bucket, reached over `storePort`; `attic` is a folder. */
export class Harbour {
  readonly service: Service;
  readonly #prefix: string;
  readonly #direct: S3Client;
  readonly #random: () => number;

  private constructor(service: Service, prefix: string, direct: S3Client, random: () => number) {
    this.service = service;
    this.#prefix = prefix;
    this.#direct = direct;
    this.#random = random;
  }

  static async open(opts: {
    readonly name: string;
    readonly minio: S3Server;
    readonly redis: RedisServer;
    readonly random: () => number;
    readonly storePort?: number;
    readonly redisPort?: number;
    readonly lockMs?: number;
  }): Promise<Harbour> {
    const { name, minio, redis, random } = opts;
    const endpoint = `http://127.0.0.1:${opts.storePort ?? minio.port}`;
    const given: Given = {
      artifactsDestination: `s3://${BUCKET}/${name}`,
      redisPrefix: `{${name}}`,
      redisUrl: `redis://127.0.0.1:${opts.redisPort ?? redis.port}`,
      ...(opts.storePort !== undefined && { stallMs: STALL_MS }),
      attempts: ATTEMPTS,
    };
    const shared = { ...redis, stop: async () => undefined };
    const service = new Service(shared, given, { ...minio.env, MLFLOW_S3_ENDPOINT_URL: endpoint });
    await service.startApi();
    await service.startWorker({ ...TIMINGS, lockMs: opts.lockMs ?? TIMINGS.lockMs });
    const { accessKey: accessKeyId, secretKey: secretAccessKey, region, url } = minio;
    const credentials = { accessKeyId, secretAccessKey };
    const direct = new S3Client({ endpoint: url, region, forcePathStyle: true, credentials });
    return new Harbour(service, name, direct, random);
  }

  /** One of each kind in turn; every sixth is large. Resolves when it has ended; throws when it hangs. */
  async carry(nth: number): Promise<Ended> {
    const kind = KINDS[nth % KINDS.length]!;
    const size = nth % 6 === 1 ? BIG_BYTES + nth : Math.floor(this.#random() ** 3 * 300_000);
    const bytes = bytesOf(size, this.#random);
    const path = `${kind}-${nth}.bin`;
    const view = await this.#ended(await this.#submit(kind, path, bytes));
    const found = kind === 'fetch' ? await this.#fetched(view) : await this.#lookAt(kind, path);
    const gone = kind === 'delete';
    return {
      what: `${kind} of ${size} bytes (${nth})`,
      view,
      done: gone ? found === undefined : found === sha256Of(bytes),
      damaged: found !== undefined && found !== sha256Of(bytes),
    };
  }

  async #submit(kind: Kind, path: string, bytes: Buffer<ArrayBuffer>): Promise<TransferView> {
    const file = join(this.service.attic, path);
    if (kind === 'upload') return viewIn(await this.service.put(path, bytes), 202);
    if (kind === 'send') writeFileSync(file, bytes);
    else await this.#store(path, bytes);
    const bodies = {
      fetch: { kind: 'download', from: path },
      send: { kind: 'copy', from: `file://${file}`, to: path },
      bring: { kind: 'copy', from: path, to: `file://${file}` },
      delete: { kind: 'delete', to: path },
    };
    return viewIn(await this.service.submit(bodies[kind]), 202);
  }

  async #ended({ id }: TransferView): Promise<TransferView> {
    for (const lastMs = Date.now() + HANG_MS; ; ) {
      const view = await this.service.transfer(id);
      if ((ENDED_STATES as readonly string[]).includes(view.state)) return view;
      if (Date.now() > lastMs) throw new Error(`it hangs: ${JSON.stringify(view)}`);
      await sleep(100);
    }
  }

  async #fetched(view: TransferView): Promise<string | undefined> {
    if (view.state !== 'succeeded') return undefined;
    const answer = await this.service.fetch(view.content ?? '');
    return sha256Of(Buffer.from(await answer.arrayBuffer()));
  }

  /** SHA-256 of what is where it should have gone. */
  async #lookAt(kind: string, path: string): Promise<string | undefined> {
    if (kind === 'bring') {
      const file = join(this.service.attic, path);
      return existsSync(file) ? sha256Of(readFileSync(file)) : undefined;
    }
    try {
      const { Body } = await this.#direct.send(
        new GetObjectCommand({ Bucket: BUCKET, Key: this.#key(path) }),
      );
      return sha256Of(await Body!.transformToByteArray());
    } catch (error) {
      if (error instanceof Error && error.name === 'NoSuchKey') return undefined;
      throw error;
    }
  }

  async #store(path: string, bytes: Buffer): Promise<void> {
    await this.#direct.send(new PutObjectCommand({ Bucket: BUCKET, Key: this.#key(path), Body: bytes }));
  }

  #key(path: string): string {
    return `${this.#prefix}/${path}`;
  }

  async close(): Promise<void> {
    this.#direct.destroy();
    await this.service.close();
  }
}

export const sha256Of = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
