import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Api, rawExchange, startApi, startApiProcess } from './api.ts';

const STALL_MS = 700;
const MIB = 1024 * 1024;

let api: Api;
beforeAll(async () => {
  api = await startApi({ stallMs: STALL_MS });
});
afterAll(() => api.close());

const target = (path: string): string => new URL(api.artifacts + path).pathname;
const head = (path: string, ...headers: string[]): string =>
  [`PUT ${target(path)} HTTP/1.1`, 'Host: localhost', ...headers, '', ''].join('\r\n');

/** A connection on which `head` was sent and the server has begun to take the body. */
async function begun(text: string): Promise<Socket> {
  const socket = connect(api.port, '127.0.0.1');
  await once(socket, 'connect');
  socket.on('error', () => {});
  socket.write(text);
  return socket;
}

/** Nothing at the target, and no hidden sibling left, once the server is done with the request. */
async function nothingStored(dir: string): Promise<void> {
  await expect
    .poll(() => (existsSync(join(api.root, dir)) ? readdirSync(join(api.root, dir)) : []))
    .toEqual([]);
}

describe('bodies that lie', () => {
  for (const [size, bytes] of [
    ['small', 1000],
    ['large', 20 * MIB],
  ] as const) {
    test(`a ${size} body that is cut publishes nothing and leaves what was there`, async () => {
      const dir = `cut-${size}`;
      const socket = await begun(head(`${dir}/x`, `Content-Length: ${bytes * 2}`) + 'a'.repeat(bytes));
      await sleep(100);
      socket.destroy();
      await nothingStored(dir);
    });

    test(`a ${size} chunked body that is cut publishes nothing`, async () => {
      const dir = `cut-chunked-${size}`;
      const chunk = `${bytes.toString(16)}\r\n${'a'.repeat(bytes)}\r\n`;
      const socket = await begun(head(`${dir}/x`, 'Transfer-Encoding: chunked') + chunk);
      await sleep(100);
      socket.destroy();
      await nothingStored(dir);
    });

    test(`a ${size} body that stalls is answered 408 and publishes nothing`, async () => {
      const dir = `stalled-${size}`;
      const answer = await rawExchange(
        api.port,
        head(`${dir}/x`, `Content-Length: ${bytes + 1}`) + 'a'.repeat(bytes),
        STALL_MS * 20,
      );
      expect(answer).toMatch(/^HTTP\/1\.1 408 /);
      expect(answer).toContain('DEADLINE_EXCEEDED');
      expect(answer.toLowerCase()).toContain('connection: close');
      await nothingStored(dir);
    });
  }

  test('a body that is slow but never still is taken however long it lasts', async () => {
    const socket = await begun(head('slow/x', 'Content-Length: 8', 'Connection: close'));
    let answer = '';
    socket.on('data', (chunk) => (answer += chunk));
    const closed = once(socket, 'close');
    for (const byte of 'slowness') {
      socket.write(byte);
      await sleep(STALL_MS / 3);
    }
    await closed;
    expect(answer).toMatch(/^HTTP\/1\.1 200 /);
    expect(readFileSync(join(api.root, 'slow/x'), 'utf8')).toBe('slowness');
  });

  test('a body that is longer than it said publishes nothing', async () => {
    const answer = await rawExchange(
      api.port,
      `${head('long/x', 'Content-Length: 5')}hello and more that is no request\r\n`,
    );
    expect(answer).toMatch(/^HTTP\/1\.1 400 /);
    expect(answer).toContain('longer than its Content-Length');
    expect(answer.match(/HTTP\/1\.1/g)).toHaveLength(1);
    await nothingStored('long');
  });

  test('a second request on the same connection, sent early, is no excess', async () => {
    writeFileSync(join(api.root, 'first'), 'first');
    const second = `GET ${target('first')} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`;
    const answer = await rawExchange(api.port, `${head('early/x', 'Content-Length: 5')}hello${second}`);
    expect(answer.match(/HTTP\/1\.1 200/g)).toHaveLength(2);
    expect(answer.endsWith('first')).toBe(true);
    expect(readFileSync(join(api.root, 'early/x'), 'utf8')).toBe('hello');
  });

  test('a broken chunk publishes nothing', async () => {
    const answer = await rawExchange(
      api.port,
      `${head('chunk/x', 'Transfer-Encoding: chunked')}5\r\nhello\r\nZZ\r\n`,
    );
    expect(answer).toMatch(/^HTTP\/1\.1 400 /);
    await nothingStored('chunk');
  });

  test.each([
    'Content-Length: -1',
    'Content-Length: x',
    'Content-Length: 5\r\nContent-Length: 6',
    'Content-Length: 5\r\nTransfer-Encoding: chunked',
  ])('a request with %j is refused', async (header) => {
    const answer = await rawExchange(api.port, `${head('length/x', header)}hello`, 1500);
    expect(answer).toMatch(/^HTTP\/1\.1 4\d\d /);
    await nothingStored('length');
  });
});

describe('Expect: 100-continue', () => {
  const expecting = (path: string, ...headers: string[]): string =>
    head(path, 'Content-Length: 5', 'Expect: 100-continue', ...headers);

  test('a body that will be taken is asked for', async () => {
    const socket = await begun(expecting('continue/x', 'Connection: close'));
    const [first] = (await once(socket, 'data')) as [Buffer];
    expect(first.toString()).toBe('HTTP/1.1 100 Continue\r\n\r\n');
    socket.write('hello');
    const [answer] = (await once(socket, 'data')) as [Buffer];
    expect(answer.toString()).toMatch(/^HTTP\/1\.1 200 /);
    expect(readFileSync(join(api.root, 'continue/x'), 'utf8')).toBe('hello');
    socket.destroy();
  });

  test('a body that would be refused is not', async () => {
    writeFileSync(join(api.root, 'there'), 'x');
    for (const request of [
      expecting('a%2F..%2Fx'),
      expecting('dir/'),
      expecting('there', 'If-None-Match: *'),
      expecting('y', 'Content-Digest: sha-256=x'),
    ]) {
      const answer = await rawExchange(api.port, request);
      expect(answer).toMatch(/^HTTP\/1\.1 4\d\d /);
      expect(answer).not.toContain('100 Continue');
    }
  });
});

test('a client that is still sending a refused body gets to read why', async () => {
  const answer = await fetch(`${api.artifacts}dir/`, { method: 'PUT', body: Buffer.alloc(8 * MIB) });
  expect(answer.status).toBe(400);
  expect((await answer.json()) as object).toMatchObject({ error_code: 'INVALID_PARAMETER_VALUE' });
});

test('a reader that polls throughout sees the old object or the new one, never half of one', async () => {
  const url = `${api.artifacts}polled.bin`;
  const bodies = Array.from({ length: 8 }, (_, n) => randomBytes(n % 2 === 0 ? 100_000 : 3 * MIB));
  const known = new Set(bodies.map((body) => createHash('sha256').update(body).digest('base64')));
  await fetch(url, { method: 'PUT', body: bodies[0]! });
  let writing = true;
  let reads = 0;
  const reading = (async () => {
    while (writing) {
      const got = await fetch(url);
      expect(got.status).toBe(200);
      const bytes = new Uint8Array(await got.arrayBuffer());
      const digest = createHash('sha256').update(bytes).digest('base64');
      expect(known.has(digest)).toBe(true);
      const told = got.headers.get('repr-digest');
      if (told !== null) expect(told).toBe(`sha-256=:${digest}:`);
      reads++;
    }
  })();
  for (const body of bodies) expect((await fetch(url, { method: 'PUT', body })).status).toBe(200);
  writing = false;
  await reading;
  expect(reads).toBeGreaterThan(0);
});

test('a reader that goes away in the middle leaves nothing open', async () => {
  await fetch(`${api.artifacts}left.bin`, { method: 'PUT', body: Buffer.alloc(20 * MIB) });
  const open = (): number => readdirSync('/proc/self/fd').length;
  const before = open();
  for (let n = 0; n < 10; n++) {
    const socket = connect(api.port, '127.0.0.1');
    socket.write(`GET ${target('left.bin')} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
    await once(socket, 'data');
    socket.destroy();
  }
  await expect.poll(open, { timeout: 10_000 }).toBeLessThanOrEqual(before + 2);
});

test('300 MiB go in and out, byte for byte, and the memory of the API stays flat', {
  timeout: 180_000,
}, async () => {
  const alone = await startApiProcess();
  try {
    const SIZE = 300 * MIB;
    const piece = randomBytes(MIB);
    const url = `${alone.artifacts}big/${encodeURIComponent('größe.bin')}`;
    const rss = (): number =>
      Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${alone.pid}/status`, 'utf8'))![1]) * 1024;
    const idle = rss();
    let peak = 0;
    const watching = setInterval(() => (peak = Math.max(peak, rss())), 20);

    const sent = createHash('sha256');
    const pieces = function* () {
      for (let n = 0; n < SIZE / MIB; n++) {
        piece.writeUInt32LE(n);
        sent.update(piece);
        yield Buffer.from(piece);
      }
    };
    const request = httpRequest(url, { method: 'PUT', headers: { 'content-length': SIZE } });
    const answered = once(request, 'response');
    Readable.from(pieces()).pipe(request);
    const [response] = (await answered) as [import('node:http').IncomingMessage];
    response.resume();
    expect(response.statusCode).toBe(200);

    const got = createHash('sha256');
    let size = 0;
    for await (const chunk of (await fetch(url)).body!) {
      got.update(chunk);
      size += chunk.length;
    }
    clearInterval(watching);
    expect(size).toBe(SIZE);
    expect(got.digest('hex')).toBe(sent.digest('hex'));
    expect(peak - idle).toBeLessThan(128 * MIB); // the buffer pool is half of that
  } finally {
    await alone.close();
  }
});
