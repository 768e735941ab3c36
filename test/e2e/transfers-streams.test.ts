import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { EventHub, type Known } from '../../apps/api/event-hub.ts';
import { EventStream } from '../../apps/api/event-stream.ts';
import { newTransferId } from '../../lib/ledger/ids.ts';
import { Ledger } from '../../lib/ledger/ledger.ts';
import { createLog } from '../../lib/log.ts';
import { parsePath } from '../../lib/path.ts';

const log = createLog({ level: 'silent', format: 'json', process: 'test' });
const KNOWN: Known = {
  id: 't-1',
  kind: 'upload',
  owner: 'ann',
  from: undefined,
  to: { store: 'artifacts', path: parsePath('x') },
};
const MIB = 1024 * 1024;

let folder: string;
let ledger: Ledger;
let hub: EventHub;
/** Those who hear of progress at the moment. */
let hearing = 0;
const closing: (() => void)[] = [];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'longshore-streams-'));
  ledger = await Ledger.open({ path: join(folder, 'ledger.db'), log });
  const hear = () => {
    hearing++;
    return { close: () => void hearing-- };
  };
  hub = new EventHub(ledger, hear, log);
});
afterEach(async () => {
  hub.close();
  for (const close of closing.splice(0)) close();
  await ledger.close();
  rmSync(folder, { recursive: true, force: true });
});

interface Open {
  readonly stream: EventStream;
  readonly res: ServerResponse;
  readonly client: Socket;
  readonly ended: Promise<void>;
}

/** A stream over a real connection. */
async function open(opts: { readonly heartbeatMs?: number; readonly after?: number } = {}): Promise<Open> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1');
  closing.push(
    () => client.destroy(),
    () => server.close(),
  );
  client.on('error', () => {});
  client.write('GET / HTTP/1.1\r\nhost: localhost\r\n\r\n');
  const [, res] = (await once(server, 'request')) as [unknown, ServerResponse];
  res.writeHead(200, { 'content-type': 'text/event-stream' });
  const stream = new EventStream(res, {
    hub,
    events: ledger.events,
    mayHear: () => true,
    heartbeatMs: opts.heartbeatMs ?? 60_000,
  });
  return { stream, res, client, ended: stream.run(opts.after) };
}

const accept = async (): Promise<string> => {
  const id = newTransferId();
  const to = { store: 'artifacts', path: parsePath(`x/${id}`) };
  await ledger.transfers.accept({
    id,
    kind: 'delete',
    to,
    onExists: 'replace',
    tree: false,
    priority: 1,
    labels: {},
    owner: 'ann',
  });
  return id;
};

test('a silent stream says now and then that it is still there', async () => {
  const { client } = await open({ heartbeatMs: 20 });
  let text = '';
  client.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  await expect.poll(() => text.split(': still here\n\n').length).toBeGreaterThan(3);
});

test('a client that reads nothing is cut off before it costs much memory, and its progress is dropped long before', async () => {
  const { stream, res, ended } = await open();
  await expect.poll(() => hub.listeners).toBe(1);
  await new Promise((resolve) => setTimeout(resolve, 300)); // the replay is over
  const progress = { transfer: 't-1', epoch: 1, done: 1, total: 2, bytesPerSecond: 1, atMs: 1 };
  for (let n = 0; n < 100_000; n++) stream.onProgress(progress, KNOWN);
  const afterProgress = res.writableLength;
  let most = 0;
  for (let seq = 1; seq < 200_000 && !res.destroyed; seq++) {
    stream.onState({ seq, transferId: 't-1', state: 'running', atMs: 1 }, KNOWN);
    most = Math.max(most, res.writableLength);
    if (seq % 1000 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  expect(afterProgress).toBeLessThan(MIB / 8);
  expect(res.destroyed).toBe(true);
  expect(most).toBeLessThan(1.1 * MIB);
  await ended;
  expect(hub.listeners).toBe(0);
});

test('what happens while a long history is replayed is told once, after it, in order', async () => {
  for (let round = 0; round < 20; round++) await Promise.all(Array.from({ length: 100 }, accept));
  const { client } = await open({ after: 0 });
  const late: string[] = [];
  const writing = (async () => {
    for (let n = 0; n < 30; n++) late.push(await accept());
  })();
  let text = '';
  client.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  await writing;
  await expect.poll(() => late.every((id) => text.includes(id)), { timeout: 20_000 }).toBe(true);
  const seqs = [...text.matchAll(/^id: (\d+)$/gm)].map(([, seq]) => Number(seq));
  expect(seqs).toEqual(Array.from({ length: 2030 }, (_, n) => n + 1));
});

test('nobody asks the ledger or Redis when nobody listens', async () => {
  const first = await open();
  await expect.poll(() => hearing).toBe(1);
  const second = await open();
  await expect.poll(() => hub.listeners).toBe(2);
  expect(hearing).toBe(1);
  for (const { client, ended } of [first, second]) {
    client.destroy();
    await ended;
  }
  expect([hearing, hub.listeners]).toEqual([0, 0]);
});
