/** Hostile paths as places of transfers that workers carry: whatever is accepted stays within the stores. */
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { scaled } from '../scale.ts';
import { startRedis } from '../servers/redis.ts';
import { requireServer } from '../servers/require.ts';
import { hostilePath } from './path-arbitraries.ts';
import { Service } from './service.ts';

const CANARY = 'canary: whoever reads this is outside of every store';
const COUNT = scaled(100_000, 100);
const BATCH = 100;
const AT_ONCE = 16;
const PATIENCE_MS = 180_000;

/** By path, what is in each file below `dir`; links are what they say. */
function contentsOf(dir: string, without: readonly string[] = []): Map<string, string> {
  const found = new Map<string, string>();
  const walk = (at: Buffer): void => {
    for (const entry of readdirSync(at, { withFileTypes: true, encoding: 'buffer' })) {
      const path = Buffer.concat([at, Buffer.from('/'), entry.name]);
      if (without.includes(path.toString())) continue;
      if (entry.isDirectory()) walk(path);
      else if (entry.isFile()) found.set(path.toString('latin1'), readFileSync(path, 'latin1'));
      else found.set(path.toString('latin1'), 'a link');
    }
  };
  walk(Buffer.from(dir));
  return found;
}

requireServer('redis')(`${COUNT} transfers between hostile places`, () => {
  let service: Service;
  let watched: string;
  let root: string;
  let attic: string;
  let outside: Map<string, string>;
  beforeAll(async () => {
    const redis = await startRedis();
    // only for its folder, which goes when it is closed
    const home = new Service(redis, {});
    watched = join(home.folder, 'watched');
    root = join(watched, 'a/b/c/root');
    attic = join(watched, 'a/b/attic');
    for (const dir of [root, attic]) mkdirSync(join(dir, 'd'), { recursive: true });
    for (const dir of ['', 'a', 'a/b', 'a/b/c'])
      for (const name of ['canary', 'x', 'etc']) writeFileSync(join(watched, dir, name), CANARY);
    for (const dir of [root, attic]) {
      for (const name of ['inside', 'd/file']) writeFileSync(join(dir, name), 'inside');
      const links = { 'link-dir': '../', 'link-file': '../canary', 'd/up': '../..', 'd/abs': watched };
      for (const [name, to] of Object.entries(links)) symlinkSync(to, join(dir, name));
    }
    outside = contentsOf(watched, [root, attic]);
    service = new Service(redis, { artifactsDestination: root, stores: { attic } });
    await service.startApi();
    await service.startWorker();
  });
  afterAll(() => service.close());

  const place = fc
    .tuple(fc.constantFrom('artifacts', 'attic', '..', 'nowhere'), hostilePath)
    .chain(
      ([store, path]): fc.Arbitrary<unknown> =>
        fc.constantFrom<unknown>(
          path,
          { store, path },
          { store, path, encoding: 'percent' },
          { path: path.replaceAll('%', '%25'), encoding: 'percent' },
          `file://${root}/${path}`,
          `file://${attic}/${path}`,
          `file:///${path}`,
        ),
    );
  const submission = fc.record(
    {
      kind: fc.constantFrom('copy', 'copy', 'upload', 'download', 'delete'),
      from: place,
      to: place,
      tree: fc.boolean(),
      links: fc.constantFrom('follow', 'skip', 'refuse'),
      onUnsupported: fc.constantFrom('skip', 'fail'),
    },
    { requiredKeys: ['kind', 'from', 'to'] },
  );
  const seen = new Map<number, number>();
  /** What its kind has no use for goes, so that most get as far as their places. */
  async function submit({ kind, from, to, links, ...rest }: Record<string, unknown>): Promise<void> {
    const answer = await service.submit({
      kind,
      ...rest,
      ...(kind !== 'delete' && { from }),
      ...(kind !== 'download' && { to }),
      ...(kind !== 'delete' && links !== undefined && { links }),
    });
    const text = await answer.text();
    const what = `${JSON.stringify({ kind, from, to })} answered ${answer.status} ${text.slice(0, 300)}`;
    seen.set(answer.status, (seen.get(answer.status) ?? 0) + 1);
    expect([202, 400, 409, 422], what).toContain(answer.status);
    if (answer.status !== 202) expect(text, what).toContain('"error_code"');
    expect(text, what).not.toMatch(/\bat .*\.ts:\d+/);
  }

  async function ended(): Promise<number> {
    const told = [service.fetch('/metrics'), fetch(`${service.workerUrl}/metrics`)];
    const texts = await Promise.all((await Promise.all(told)).map((one) => one.text()));
    const lines = texts.flatMap((text) => text.match(/^longshore_transfers_ended_total\{.*\} \d+$/gm) ?? []);
    return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0);
  }
  /** @throws where none ends for long, and some have not */
  async function allEnded(): Promise<void> {
    for (let [most, sinceMs] = [-1, Date.now()]; ; ) {
      const states = ['accepted', 'running', 'publishing'].map((state) =>
        service.fetch(`/api/v1/transfers?state=${state}&limit=1`),
      );
      const pages = await Promise.all((await Promise.all(states)).map((one) => one.json()));
      const open = (pages as { transfers: unknown[] }[]).flatMap(({ transfers }) => transfers);
      if (open.length === 0) return;
      const now = await ended();
      if (now > most) [most, sinceMs] = [now, Date.now()];
      const stands = Date.now() - sinceMs > PATIENCE_MS;
      expect(stands, `none has ended for long, and these have not: ${JSON.stringify(open)}`).toBe(false);
      await sleep(200);
    }
  }

  test('read, write and remove nothing outside of the stores, and each ends', {
    timeout: 3_600_000,
  }, async () => {
    const batch = async (submissions: readonly Record<string, unknown>[]): Promise<void> => {
      const queue = submissions.values();
      const lane = async (): Promise<void> => {
        for (const one of queue) await submit(one);
      };
      await Promise.all(Array.from({ length: AT_ONCE }, lane));
    };
    const batches = fc.array(submission, { minLength: BATCH, maxLength: BATCH });
    const numRuns = Math.ceil(COUNT / BATCH);
    const run = await fc.check(fc.asyncProperty(batches, batch), { numRuns, endOnFailure: true });
    if (run.failed) throw new Error(`seed ${run.seed}: ${String(run.errorInstance).slice(0, 2000)}`);
    for (const status of [202, 400]) expect(seen.get(status) ?? 0, `${status}`).toBeGreaterThan(COUNT / 50);
    await allEnded();
    expect(contentsOf(watched, [root, attic])).toEqual(outside);
    for (const dir of [root, attic, service.staging])
      for (const [path, content] of contentsOf(dir)) expect(content.includes(CANARY), path).toBe(false);
    expect((await service.fetch('/health')).status).toBe(200);
  });
});
