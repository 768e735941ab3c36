import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { type Api, startApiProcess } from '../e2e/api.ts';
import { eventually } from '../e2e/quay.ts';
import { Service, viewIn } from '../e2e/service.ts';
import { scaled } from '../scale.ts';
import { isInstalled } from '../servers/installed.ts';
import { startMinio } from '../servers/minio.ts';
import { requireServer } from '../servers/require.ts';
import { compare } from './loris.ts';

const MIB = 1024 * 1024;
const LORIS = 500;
const GOOD = 20;
/** No promise of ours: what a machine that does much else at once stays below. */
const GENEROUS = 20;
const TARGETS = isInstalled('minio') ? (['a folder', 'MinIO'] as const) : (['a folder'] as const);

requireServer('redis')('more than can be carried', () => {
  let service: Service;
  afterEach(() => service.close());

  test('is answered 503 with Retry-After once staging is full, and goes on afterwards', {
    timeout: 120_000,
  }, async () => {
    service = await Service.start({ stagingLimitBytes: 2 * MIB }, { worker: false });
    const bytes = randomBytes(300 * 1024);
    const accepted: string[] = [];
    let refused: Response | undefined;
    while (!refused && accepted.length <= (2 * MIB) / bytes.length) {
      const answer = await service.put(`n/${accepted.length}`, bytes);
      if (answer.status === 202) accepted.push((await viewIn(answer, 202)).id);
      else refused = answer;
    }
    expect(accepted.length).toBeGreaterThan(1);
    expect(refused?.status).toBe(503);
    expect(Number(refused?.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
    expect(await refused?.json()).toMatchObject({ kind: 'busy' });
    expect(service.staged().length).toBe(accepted.length);
    expect((await service.put('never', Buffer.alloc(3 * MIB))).status).toBe(507);
    await service.startWorker();
    for (const id of accepted) expect((await service.ended(id)).state).toBe('succeeded');
    await eventually(async () => (await service.put('again', bytes)).status === 202, 30_000);
  });
});

describe('a client', () => {
  let api: Api & { readonly pid: number };
  const sockets: Socket[] = [];
  afterEach(async () => {
    for (const socket of sockets.splice(0)) socket.destroy();
    await api.close();
  });

  async function open(head: string): Promise<Socket> {
    const socket = connect(api.port, '127.0.0.1');
    socket.on('error', () => {});
    sockets.push(socket);
    await once(socket, 'connect');
    socket.write(head);
    return socket;
  }

  /** A few uploads and downloads; throws where one of them is not answered as it should be. */
  async function goodClients(name: string): Promise<void> {
    const bytes = randomBytes(256 * 1024);
    for (let n = 0; n < GOOD; n++) {
      const url = `${api.artifacts}${name}/${n}`;
      const signal = AbortSignal.timeout(30_000);
      expect((await fetch(url, { method: 'PUT', body: bytes, signal })).status).toBe(200);
      const got = Buffer.from(await (await fetch(url, { signal })).arrayBuffer());
      expect(got.equals(bytes)).toBe(true);
    }
    const large = randomBytes(24 * MIB);
    const signal = AbortSignal.timeout(30_000);
    const put = await fetch(`${api.artifacts}${name}/large`, { method: 'PUT', body: large, signal });
    expect(put.status).toBe(200);
    expect(readFileSync(join(api.root, name, 'large')).equals(large)).toBe(true);
  }

  test.for([...TARGETS])(
    `that never gets on, ${LORIS} times, does not stop those that do: %s`,
    { timeout: 180_000 },
    async (target) => {
      const minio = target === 'MinIO' ? await startMinio() : undefined;
      try {
        await minio?.makeBucket('bench');
        api = await startApiProcess(minio && { artifactsDestination: 's3://bench' }, minio?.env);
        const { aloneMs, amidMs, ratios } = await compare(api.artifacts.slice(0, -1), {
          rounds: scaled(10),
          phaseMs: 1500,
          count: LORIS,
        });
        console.log(
          `medians of good clients, ${target}: ${aloneMs.toFixed(1)} ms alone, ${amidMs.toFixed(1)} ms amid ${LORIS} slow ones; ratios ${ratios.map((ratio) => ratio.toFixed(2)).join(', ')}`,
        );
        expect(amidMs).toBeLessThan(Math.max(GENEROUS * aloneMs, 5000));
      } finally {
        await minio?.stop();
      }
    },
  );

  test('that stops reading costs a bounded buffer, and is dropped after the stall time', {
    timeout: 120_000,
  }, async () => {
    api = await startApiProcess({ stallMs: 2000 });
    await goodClients('warm');
    writeFileSync(join(api.root, 'huge'), '');
    truncateSync(join(api.root, 'huge'), 512 * MIB);
    const connections = connectionsOf(api.pid);
    const rss = rssOf(api.pid);
    const clients: Socket[] = [];
    for (let n = 0; n < 20; n++) {
      const socket = await open(
        'GET /api/2.0/mlflow-artifacts/artifacts/huge HTTP/1.1\r\nHost: localhost\r\n\r\n',
      );
      clients.push(socket.pause());
    }
    let most = 0;
    const lastMs = Date.now() + 1500;
    while (Date.now() < lastMs) {
      most = Math.max(most, rssOf(api.pid) - rss);
      await sleep(50);
    }
    console.log(`20 clients that do not read: ${Math.round(most / MIB)} MiB more`);
    expect(most).toBeLessThan(128 * MIB);
    await eventually(() => connectionsOf(api.pid) <= connections, 30_000);
    await goodClients('after');
  });
});

const rssOf = (pid: number): number =>
  Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024;

function connectionsOf(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).filter((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith('socket:');
    } catch {
      return false;
    }
  }).length;
}
