import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { MOST_DEATHS } from '../../workers/deaths.ts';
import { openQuay, type Quay } from '../e2e/quay.ts';
import { cleanEnvironment, watch } from '../servers/process.ts';
import { type RedisServer, startRedis } from '../servers/redis.ts';
import { requireServer } from '../servers/require.ts';

const CHILD = new URL('./poison-child.ts', import.meta.url).pathname;
/** As `poison-child.ts` has it. */
const ENOUGH = 6;
const OTHERS = 20;
const PATIENCE_MS = 120_000;

/** As `up` keeps its workers: one that died is started again. */
class Crew {
  deaths = 0;
  #closing = false;
  readonly #settings: string;
  readonly #children = new Set<ChildProcess>();

  constructor(quay: Quay, size: number) {
    const { dataFolder, redisUrl, redisPrefix } = quay.deps.config;
    this.#settings = JSON.stringify({ dataFolder, redisUrl, redisPrefix, logLevel: 'silent', graceMs: 3000 });
    for (let n = 0; n < size; n++) this.#hire();
  }

  #hire(): void {
    const child = spawn(process.execPath, [CHILD, this.#settings], {
      env: cleanEnvironment(),
      stdio: ['pipe', 'ignore', 'inherit'],
      detached: true,
    });
    watch(child);
    this.#children.add(child);
    child.once('exit', (_code, signal) => {
      this.#children.delete(child);
      if (this.#closing) return;
      if (signal === 'SIGKILL') this.deaths++;
      if (this.deaths <= 3 * ENOUGH) this.#hire();
    });
  }

  async close(): Promise<void> {
    this.#closing = true;
    const ended = [...this.#children].map((child) => once(child, 'exit'));
    for (const child of this.#children) child.stdin?.end();
    await Promise.all(ended);
  }
}

requireServer('redis')('a transfer that kills its workers', () => {
  let redis: RedisServer;
  let quay: Quay;
  let crew: Crew | undefined;
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterEach(async () => {
    await crew?.close();
    await quay.close();
  });
  afterAll(() => redis.stop());

  test('is ended for it with the reason, and what ran beside it goes on', {
    timeout: PATIENCE_MS * 2,
  }, async () => {
    quay = await openQuay({ redisUrl: redis.url });
    const poison = await quay.submit({ kind: 'upload', to: quay.place('poison/w.bin') }, Buffer.from('x'));
    crew = new Crew(quay, 2);
    const sent = Array.from({ length: OTHERS }, () => randomBytes(1 + Math.floor(Math.random() * 2 ** 20)));
    const others = await Promise.all(
      sent.map((bytes, n) => quay.submit({ kind: 'upload', to: quay.place(`good/${n}`) }, bytes)),
    );
    const { state, failure, attempts } = await quay.ended(poison.id, PATIENCE_MS);
    expect({ state, kind: failure?.kind, attempts }).toEqual({ state: 'failed', kind: 'bug', attempts: 1 });
    expect(failure?.message).toContain(`${ENOUGH} workers died`);
    expect(crew.deaths).toBe(ENOUGH);
    for (const [n, { id }] of others.entries()) {
      expect((await quay.ended(id, PATIENCE_MS)).state).toBe('succeeded');
      expect(quay.bytesAt(`good/${n}`).equals(sent[n]!)).toBe(true);
    }
    const later = await quay.submit({ kind: 'upload', to: quay.place('later') }, Buffer.from('y'));
    expect((await quay.ended(later.id, PATIENCE_MS)).state).toBe('succeeded');
  });

  test('has succeeded when the last of them had published it', { timeout: PATIENCE_MS * 2 }, async () => {
    quay = await openQuay({ redisUrl: redis.url });
    const late = await quay.submit({ kind: 'upload', to: quay.place('late/late.bin') }, Buffer.from('late'));
    crew = new Crew(quay, 2);
    expect((await quay.ended(late.id, PATIENCE_MS)).state).toBe('succeeded');
    expect(crew.deaths).toBe(ENOUGH);
    expect(quay.bytesAt('late/late.bin').toString()).toBe('late');
  });

  test('is given as many tries as a busy machine may need', () => {
    expect(MOST_DEATHS).toBeGreaterThanOrEqual(10);
    expect(MOST_DEATHS).toBeLessThanOrEqual(25);
  });
});
