/** A whole Longshore for one test file, through its HTTP: real Redis, an API and a worker in this process, folders as stores. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runApi } from '../../apps/api/main.ts';
import { type TransferView, transferView } from '../../apps/api/schemas.ts';
import { type Config, configOf } from '../../lib/config.ts';
import { runWorker } from '../../workers/main.ts';
import type { Timings } from '../../workers/pool.ts';
import { type RedisServer, startRedis } from '../servers/redis.ts';

export type Given = Partial<{ -readonly [K in keyof Config]: unknown }>;

/** How long anything that was submitted may take to end. */
const PATIENCE_MS = 40_000;

export class Service {
  redis: RedisServer;
  readonly folder: string;
  /** The artifact root, and the further store `attic`. */
  readonly root: string;
  readonly attic: string;
  readonly staging: string;
  readonly #config: Given;
  readonly #env: Readonly<Record<string, string | undefined>>;
  #api: Awaited<ReturnType<typeof runApi>> | undefined;
  #worker: Awaited<ReturnType<typeof runWorker>> | undefined;

  /** `env`: what S3 stores are reached with; default this process's environment. */
  constructor(redis: RedisServer, given: Given, env?: Readonly<Record<string, string>>) {
    this.redis = redis;
    this.#env = env ?? process.env;
    this.folder = mkdtempSync(join(tmpdir(), 'longshore-service-'));
    this.root = join(this.folder, 'artifacts');
    this.attic = join(this.folder, 'attic');
    this.staging = join(this.folder, 'staging');
    for (const folder of [this.root, this.attic, this.staging]) mkdirSync(folder);
    this.#config = {
      port: 0,
      dataFolder: this.folder,
      artifactsDestination: this.root,
      stagingUri: this.staging,
      ledgerPath: join(this.folder, 'ledger.db'),
      redisUrl: redis.url,
      stores: { attic: this.attic },
      logLevel: 'silent',
      graceMs: 3000,
      ...given,
    };
  }

  /** `worker: false`: what is submitted waits until `startWorker`. */
  static async start(given: Given = {}, opts: { readonly worker?: boolean } = {}): Promise<Service> {
    const service = new Service(await startRedis(), given);
    await service.startApi();
    if (opts.worker !== false) await service.startWorker();
    return service;
  }

  get url(): string {
    if (!this.#api) throw new Error('no API is running');
    return this.#api.url;
  }

  /** As its processes are started with. */
  get settings(): Given {
    return this.#config;
  }

  /** Of the worker: its metrics. */
  get workerUrl(): string {
    if (!this.#worker) throw new Error('no worker is running');
    return this.#worker.url;
  }

  async startApi(): Promise<void> {
    this.#api = await runApi(configOf(this.#config, this.#env));
  }

  async stopApi(): Promise<void> {
    await this.#api?.close();
    this.#api = undefined;
  }

  async startWorker(timings?: Timings): Promise<void> {
    this.#worker = await runWorker(configOf(this.#config, this.#env), timings);
  }

  async stopWorker(): Promise<void> {
    await this.#worker?.close();
    this.#worker = undefined;
  }

  /** After it was killed: on the same data and port. */
  async restartRedis(): Promise<void> {
    this.redis = await startRedis({ again: this.redis });
  }

  async close(): Promise<void> {
    await this.stopWorker();
    await this.stopApi();
    await this.redis.stop();
    rmSync(this.folder, { recursive: true, force: true });
  }

  fetch(path: string, init?: RequestInit): Promise<Response> {
    return fetch(`${this.url}${path}`, init);
  }

  put(
    path: string,
    body: string | Uint8Array<ArrayBuffer>,
    headers: Record<string, string> = {},
    query = '',
  ): Promise<Response> {
    return this.fetch(`/api/v1/uploads/${path}${query}`, { method: 'PUT', body, headers });
  }

  submit(body: unknown, headers: Record<string, string> = {}): Promise<Response> {
    return this.fetch('/api/v1/transfers', {
      method: 'POST',
      body: typeof body === 'string' ? body : JSON.stringify(body),
      headers: { 'content-type': 'application/json', ...headers },
    });
  }

  async transfer(id: string): Promise<TransferView> {
    return viewIn(await this.fetch(`/api/v1/transfers/${id}`), 200);
  }

  /** The transfer once it has ended. */
  async ended(id: string): Promise<TransferView> {
    for await (const event of this.events(`/api/v1/transfers/${id}/events`, AbortSignal.timeout(PATIENCE_MS)))
      void event;
    return this.transfer(id);
  }

  /** Submits, waits, and answers the transfer as it ended. */
  async carry(body: unknown): Promise<TransferView> {
    return this.ended((await viewIn(await this.submit(body), 202)).id);
  }

  /** Files in staging by their ids, and our own hidden ones. */
  staged(): string[] {
    return readdirSync(this.staging, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => stagedId(entry.name));
  }

  /** The staged file of an id. */
  stagedFile(id: string): string | undefined {
    const name = readdirSync(this.staging).find((one) => stagedId(one) === id);
    return name === undefined ? undefined : join(this.staging, name);
  }

  /** Until the stream ends, or `signal` does. */
  async *events(
    path: string,
    signal: AbortSignal,
    headers: Record<string, string> = {},
  ): AsyncGenerator<SentEvent> {
    const response = await this.fetch(path, { signal, headers });
    if (response.status !== 200) throw new Error(`answered ${response.status}: ${await response.text()}`);
    yield* sentEvents(response);
  }
}

/** Whose staged file it is, by its name. */
const stagedId = (name: string): string => name.replace(/(?<!^\..*)-[0-9a-f]{16}-[0-9a-f]{32}$/, '');

export interface SentEvent {
  readonly id?: number;
  readonly name: string;
  readonly data: { readonly transfer: string; readonly state: string } & Record<string, unknown>;
}

/** Events of a stream until it ends; comments and `retry` are passed over. */
export async function* sentEvents(response: Response): AsyncGenerator<SentEvent> {
  let text = '';
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    for (let at = text.indexOf('\n\n'); at >= 0; at = text.indexOf('\n\n')) {
      const event = parse(text.slice(0, at));
      text = text.slice(at + 2);
      if (event) yield event;
    }
  }
}

function parse(block: string): SentEvent | undefined {
  const lines = block.split('\n').map((line): [string, string] => {
    const colon = line.indexOf(':');
    return [line.slice(0, colon), line.slice(colon + 2)];
  });
  const fields = new Map(lines);
  const [name, data, id] = [fields.get('event'), fields.get('data'), fields.get('id')];
  if (name === undefined || data === undefined) return undefined;
  return { name, data: JSON.parse(data) as SentEvent['data'], ...(id !== undefined && { id: Number(id) }) };
}

/** The transfer in an answer, after checking that status and body are what the document promises. */
export async function viewIn(response: Response, status: number): Promise<TransferView> {
  const text = await response.text();
  if (response.status !== status) throw new Error(`answered ${response.status}: ${text}`);
  return transferView.strict().parse(JSON.parse(text));
}
