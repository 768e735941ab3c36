/** A whole Longshore that is not root, whoever runs the tests: to a folder of mode 000 it is as much a stranger as anyone. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, closeSync, mkdirSync, mkdtempSync, openSync, readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import type { z } from 'zod';
import { fileList, type TransferView } from '../../apps/api/schemas.ts';
import { hasEnded } from '../../lib/ledger/transfer.ts';
import { viewIn } from '../e2e/service.ts';
import { cleanEnvironment, watch } from '../servers/process.ts';
import { type RedisServer, startRedis } from '../servers/redis.ts';
import type { S3Server } from '../servers/s3.ts';

const CHILD = join(import.meta.dirname, 'humble-child.ts');
/** `nobody` on every Linux. */
const NOBODY = 65534;
const PATIENCE_MS = 60_000;

export type ListedFile = z.output<typeof fileList>['files'][number];

/** Who the service is, where that is not who runs the tests. */
export const HUMBLE_UID: number | undefined = process.getuid?.() === 0 ? NOBODY : undefined;

/** Gives what was made to the service. */
export function giveAway(path: string | Buffer): void {
  if (HUMBLE_UID !== undefined) chownSync(path, HUMBLE_UID, HUMBLE_UID);
}

export class Humble {
  readonly folder: string;
  readonly #redis: RedisServer;
  readonly #child: ChildProcess;
  readonly #url: string;

  private constructor(folder: string, redis: RedisServer, child: ChildProcess, url: string) {
    this.folder = folder;
    this.#redis = redis;
    this.#child = child;
    this.#url = url;
  }

  /** The stores `artifacts` and `attic` are folders of these names; with `minio` there are `more`, say buckets. */
  static async start(
    more: Readonly<Record<string, string>> = {},
    minio?: S3Server,
    settings: Readonly<Record<string, unknown>> = {},
  ): Promise<Humble> {
    const redis = await startRedis();
    const folder = mkdtempSync(join(tmpdir(), 'longshore-humble-'));
    for (const name of ['artifacts', 'attic', 'staging']) {
      mkdirSync(join(folder, name));
      giveAway(join(folder, name));
    }
    giveAway(folder);
    const given = {
      port: 0,
      dataFolder: folder,
      artifactsDestination: join(folder, 'artifacts'),
      stores: { attic: join(folder, 'attic'), ...more },
      stagingUri: join(folder, 'staging'),
      ledgerPath: join(folder, 'ledger.db'),
      redisUrl: redis.url,
      logLevel: 'warn',
      logFormat: 'json',
      graceMs: 3000,
      ...settings,
    };
    const log = openSync(join(folder, 'log'), 'a');
    const child = spawn(
      process.execPath,
      [CHILD, JSON.stringify(given), ...(HUMBLE_UID === undefined ? [] : [String(HUMBLE_UID)])],
      { env: cleanEnvironment(minio?.env), stdio: ['pipe', 'pipe', log], detached: true },
    );
    closeSync(log);
    watch(child);
    const ended = once(child, 'exit').then(() => {
      throw new Error(`it ended before it listened: ${readFileSync(join(folder, 'log'), 'utf8')}`);
    });
    const [url] = (await Promise.race([once(createInterface({ input: child.stdout! }), 'line'), ended])) as [
      string,
    ];
    ended.catch(() => undefined); // later it may end
    return new Humble(folder, redis, child, url);
  }

  /** What its process had to say. */
  get log(): string {
    return readFileSync(join(this.folder, 'log'), 'utf8');
  }

  fetch(path: string, init?: RequestInit): Promise<Response> {
    return fetch(`${this.#url}${path}`, init);
  }

  submit(body: object): Promise<Response> {
    return this.fetch('/api/v1/transfers', {
      method: 'POST',
      body: JSON.stringify(body),
      headers: { 'content-type': 'application/json' },
    });
  }

  async ended(id: string): Promise<TransferView> {
    const untilMs = Date.now() + PATIENCE_MS;
    for (;;) {
      const view = await viewIn(await this.fetch(`/api/v1/transfers/${id}`), 200);
      if (hasEnded(view.state)) return view;
      if (Date.now() > untilMs) throw new Error(`it does not end: ${JSON.stringify(view)}`);
      await sleep(20);
    }
  }

  async carry(body: object): Promise<TransferView> {
    return this.ended((await viewIn(await this.submit(body), 202)).id);
  }

  async retry(id: string): Promise<TransferView> {
    await viewIn(await this.fetch(`/api/v1/transfers/${id}/retry`, { method: 'POST' }), 202);
    return this.ended(id);
  }

  /** All of them, by small pages. */
  async files(id: string, state?: ListedFile['state']): Promise<ListedFile[]> {
    const found: ListedFile[] = [];
    for (let cursor: string | undefined, pages = 0; pages < 1000; pages++) {
      const query = new URLSearchParams({ limit: '37', ...(state && { state }), ...(cursor && { cursor }) });
      const answer = await this.fetch(`/api/v1/transfers/${id}/files?${query}`);
      if (answer.status !== 200) throw new Error(`answered ${answer.status}: ${await answer.text()}`);
      const page = fileList.strict().parse(await answer.json());
      found.push(...page.files);
      cursor = page.nextCursor;
      if (cursor === undefined) return found;
    }
    throw new Error('its list of files does not end');
  }

  async close(): Promise<void> {
    const ended = once(this.#child, 'exit');
    this.#child.stdin?.end();
    await ended;
    await this.#redis.stop();
    await rm(this.folder, { recursive: true, force: true });
  }
}
