import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { expect, test } from 'vitest';
import { UndiciHandler } from '../../lib/stores/drivers/s3-http.ts';

test('a request that is given up before there is a connection ends at once', async () => {
  const sockets: Socket[] = [];
  const server = createServer((socket) => sockets.push(socket)).listen(0, '127.0.0.1'); // answers no TLS hello
  await once(server, 'listening');
  const handler = new UndiciHandler({ verify: false });
  const stop = new AbortController();
  const { port } = server.address() as AddressInfo;
  const request = { protocol: 'https:', hostname: '127.0.0.1', port, method: 'GET', path: '/', headers: {} };
  try {
    const answer = handler.handle(request, { abortSignal: stop.signal });
    await once(server, 'connection');
    stop.abort(new Error('given up'));
    await expect(answer).rejects.toThrow('given up');
    await expect(handler.handle(request, { abortSignal: stop.signal })).rejects.toThrow('given up');
  } finally {
    await handler.close();
    for (const socket of sockets) socket.destroy();
    server.close();
  }
});
