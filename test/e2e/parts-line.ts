/** A line to an S3 server that keeps the books of parts: which were sent, how far, and which were copied there. */
import { once } from 'node:events';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Transform } from 'node:stream';

export interface SentPart {
  readonly number: number;
  /** Of the body, so far. */
  bytes: number;
  /** The server said yes. */
  taken: boolean;
}

export interface PartsLine {
  readonly url: string;
  /** Tries to send a part, in order. */
  readonly sent: SentPart[];
  /** Parts, or whole objects (0), that the server was asked to copy itself. */
  readonly copied: number[];
  /** Bytes of objects that were read. */
  readonly read: { bytes: number };
  /** The second half of the bodies of these parts waits, until they are not named again. */
  hold(numbers: readonly number[]): void;
  close(): Promise<void>;
}

export async function partsLine(port: number): Promise<PartsLine> {
  const sent: SentPart[] = [];
  const copied: number[] = [];
  const read = { bytes: 0 };
  let held: readonly number[] = [];
  let released: (() => void)[] = [];
  const server = createServer((req, res) => {
    const { method, url, headers } = req;
    const query = new URL(url ?? '/', 'http://line').searchParams;
    const number = Number(query.get('partNumber') ?? 0);
    const isCopy = headers['x-amz-copy-source'] !== undefined;
    if (isCopy) copied.push(number);
    const part = method === 'PUT' && number > 0 && !isCopy ? { number, bytes: 0, taken: false } : undefined;
    if (part) sent.push(part);
    const half = Number(headers['content-length'] ?? 0) / 2;
    const counted = new Transform({
      transform(chunk: Buffer, _encoding, done) {
        if (part) part.bytes += chunk.length;
        const waits = part !== undefined && part.bytes > half && held.includes(part.number);
        if (waits) released.push(() => done(null, chunk));
        else done(null, chunk);
      },
    });
    const onward = request({ host: '127.0.0.1', port, method, path: url, headers, setHost: false });
    const cut = (): void => {
      req.destroy();
      res.destroy();
      onward.destroy();
    };
    onward.on('error', cut).on('response', (answer) => {
      if (part && answer.statusCode === 200) part.taken = true;
      const isObject = method === 'GET' && query.get('x-id') === 'GetObject';
      if (isObject)
        answer.on('data', (chunk: Buffer) => {
          read.bytes += chunk.length;
        });
      res.sendDate = false;
      res.writeHead(answer.statusCode ?? 500, answer.headers);
      answer.on('error', cut).pipe(res);
    });
    res.on('close', () => onward.destroy());
    req.on('error', cut).pipe(counted).pipe(onward);
  });
  server.on('clientError', (_error, socket) => socket.destroy());
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const hold = (numbers: readonly number[]): void => {
    held = numbers;
    const go = released;
    released = [];
    for (const release of go) release();
  };
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    sent,
    copied,
    read,
    hold,
    async close() {
      hold([]);
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}
