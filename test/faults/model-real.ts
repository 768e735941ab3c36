/** The real thing behind the model: a service, with what it takes to shake it and to look at it past its own API. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { configOf } from '../../lib/config.ts';
import { type OpenDeps, openDeps } from '../../lib/deps.ts';
import { COLLECT } from '../../lib/transfer/gc.ts';
import { Outbox } from '../../lib/transfer/outbox.ts';
import { TIMINGS } from '../e2e/quay.ts';
import { Service } from '../e2e/service.ts';
import { cleanEnvironment, watch } from '../servers/process.ts';
import type { Content, Model } from './model.ts';

const CHILD = new URL('../e2e/worker-child.ts', import.meta.url).pathname;
const PATIENCE_MS = 40_000;
const DAY_MS = 24 * 3600 * 1000;
const TRANSFERS = '/api/v1/transfers';
const ARTIFACTS = '/api/2.0/mlflow-artifacts/artifacts';

export class Real {
  readonly service: Service;
  /** Those of one process more. */
  readonly #deps: OpenDeps;
  readonly #outbox: Outbox;
  readonly #sql: DatabaseSync;
  readonly #redis: Redis;
  readonly #settings: object;
  #dir = 0;

  private constructor(service: Service, deps: OpenDeps, settings: object) {
    this.service = service;
    this.#deps = deps;
    this.#settings = settings;
    this.#outbox = new Outbox(deps);
    this.#sql = new DatabaseSync(join(service.folder, 'ledger.db'), { timeout: 5000 });
    this.#redis = new Redis(service.redis.url);
  }

  static async open(): Promise<Real> {
    const service = await Service.start({}, { worker: false });
    const settings = {
      dataFolder: service.folder,
      artifactsDestination: service.root,
      stagingUri: service.staging,
      redisUrl: service.redis.url,
      logLevel: 'silent',
    };
    await service.startWorker(TIMINGS);
    return new Real(service, await openDeps(configOf(settings), 'worker'), settings);
  }

  async close(): Promise<void> {
    this.#sql.close();
    this.#redis.disconnect();
    await this.#deps.close();
    await this.service.close();
  }

  /** A directory of its own for the next sequence. */
  fresh(): void {
    this.#dir++;
  }

  at(path: string): string {
    return `s${this.#dir}/${path}`;
  }

  artifact(path: string, init?: RequestInit): Promise<Response> {
    return this.service.fetch(`${ARTIFACTS}/${this.at(path)}`, init);
  }

  transfer(id: string, init?: RequestInit, more = ''): Promise<Response> {
    return this.service.fetch(`${TRANSFERS}/${id}${more}`, init);
  }

  /** By file, past everything. */
  content(path: string): Content {
    const file = join(this.service.root, this.at(path));
    return existsSync(file) ? sha256Of(readFileSync(file)) : undefined;
  }

  async startWorker(model: Model): Promise<void> {
    if (!model.worker) await this.service.startWorker(TIMINGS);
    model.worker = true;
  }

  async stopWorker(model: Model): Promise<void> {
    if (model.worker) await this.service.stopWorker();
    model.worker = false;
  }

  async wipeRedis(): Promise<void> {
    await this.#redis.flushall();
  }

  /** Collects what gc would in eight days: the bytes of all that has ended. */
  expire(): Promise<void> {
    return this.collect(8 * DAY_MS);
  }

  /**
   * What gc may remove by then: also the bytes of those whose worker was killed between their ending and freeing them.
   * After a day it takes files without a row, too: the worker may have died just before it removed one.
   */
  async collect(aheadMs = DAY_MS + 60_000): Promise<void> {
    const opts = { signal: AbortSignal.timeout(10_000), dryRun: false, historyMs: 365 * DAY_MS };
    const { failed } = await COLLECT.staging(this.#deps, { ...opts, nowMs: Date.now() + aheadMs });
    if (failed > 0) throw new Error(`${failed} staged files could not be removed`);
  }

  /** Runs a worker in a process of its own while `work` is done, and kills it `ms` later. */
  async killed(ms: number, work: () => Promise<void>): Promise<void> {
    const child = spawn(process.execPath, [CHILD, JSON.stringify(this.#settings)], {
      env: cleanEnvironment(),
      stdio: ['pipe', 'pipe', 'inherit'],
      detached: true,
    });
    watch(child);
    const ended = once(child, 'exit');
    await Promise.race([once(createInterface({ input: child.stdout }), 'line'), ended]);
    await work();
    await sleep(ms);
    process.kill(child.pid!, 'SIGKILL');
    await ended;
  }

  /** Sees to it that a worker runs, waits until everything has ended, and tells the model how. */
  async settle(model: Model): Promise<void> {
    await this.startWorker(model);
    const unended = this.#sql.prepare('select count(*) as n from transfers where ended_ms is null');
    const startedMs = Date.now();
    for (let round = 0; unended.get()!.n !== 0; round++) {
      // every half a second, what Redis has forgotten is found, as it would be some seconds later
      if (model.shaken && round % 25 === 0) await this.#reconcile();
      if (Date.now() - startedMs > PATIENCE_MS) throw new Error(`it hangs: ${this.#unended()}`);
      await sleep(20);
    }
    model.shaken = false;
    await this.resolve(model);
  }

  /** Tells the model of what has ended. */
  async resolve(model: Model): Promise<void> {
    for (const op of model.transfers.filter(({ state }) => state === 'open')) {
      const view = (await (await this.transfer(op.id)).json()) as {
        state: string;
        failure?: { kind: string };
      };
      if (view.state === 'cancelled') throw new Error(`${op.id} was cancelled by nobody`);
      if (view.state === 'failed' && view.failure?.kind !== 'already-exists')
        throw new Error(`${op.id} failed: ${JSON.stringify(view)}`);
      if (view.state === 'succeeded') op.state = 'landed';
      else if (view.state === 'failed' || view.state === 'superseded') op.state = view.state;
      op.kept = op.state === 'failed' && op.content !== undefined;
    }
  }

  async #reconcile(): Promise<void> {
    this.#sql.exec('update transfers set queued_ms = queued_ms - 60000 where ended_ms is null');
    await this.#outbox.reconcile();
  }

  #unended(): string {
    return JSON.stringify(
      this.#sql.prepare('select id, state, epoch, starts from transfers where ended_ms is null').all(),
    );
  }

  /** Ids of the files that wait there, once they are exactly `expected`, or after a while. */
  async staged(expected: readonly string[]): Promise<string[]> {
    for (let tries = 0; ; tries++) {
      const found = this.service.staged().toSorted();
      if (tries > 100 || found.join() === expected.toSorted().join()) return found;
      await sleep(20);
    }
  }
}

export const sha256Of = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
