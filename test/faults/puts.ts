/** A line to an S3 server that keeps the books of whole objects: how often each was put there, and how often lists were asked for. */
import { once } from 'node:events';
import { Agent, createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Line } from './lines.ts';

export interface PutsLine extends Line {
  /** By path, bucket included, decoded: how often the server said yes. */
  readonly puts: ReadonlyMap<string, number>;
  /** Pages of lists of objects. */
  readonly lists: { readonly pages: number };
}

export async function putsLine(port: number): Promise<PutsLine> {
  const puts = new Map<string, number>();
  const lists = { pages: 0 };
  const agent = new Agent({ keepAlive: true });
  const server = createServer((req, res) => {
    const { method, url = '/', headers } = req;
    const { pathname, searchParams } = new URL(url, 'http://line');
    if (method === 'GET' && searchParams.has('list-type')) lists.pages++;
    const isPut = method === 'PUT' && !searchParams.has('partNumber');
    const onward = request({ host: '127.0.0.1', port, method, path: url, headers, setHost: false, agent });
    const cut = (): void => {
      req.destroy();
      res.destroy();
    };
    onward.on('error', cut).on('response', (answer) => {
      const path = decodeURIComponent(pathname);
      if (isPut && answer.statusCode === 200) puts.set(path, (puts.get(path) ?? 0) + 1);
      res.sendDate = false;
      res.writeHead(answer.statusCode ?? 500, answer.headers);
      answer.on('error', cut).pipe(res);
    });
    res.on('close', () => onward.destroy());
    req.on('error', () => onward.destroy()).pipe(onward);
  });
  server.on('clientError', (_error, socket) => socket.destroy());
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    puts,
    lists,
    async close() {
      server.close();
      server.closeAllConnections();
      agent.destroy();
    },
  };
}
