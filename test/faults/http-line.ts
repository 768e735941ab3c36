/** A line that carries HTTP to a server, for those that keep books of what passes or do something to it. */
import { once } from 'node:events';
import { Agent, createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Transform } from 'node:stream';
import type { Line } from './lines.ts';

/** What happens to one request on its way. */
export interface Passage {
  /** Its body goes through this. */
  readonly up?: Transform;
  /** Hears of the answer before any of it is sent on; the answer's body goes through what it returns. */
  down?(answer: IncomingMessage): Transform | undefined;
}

/** `pass` is asked for each request; `undefined`: it has answered the request itself. */
export async function httpLine(
  port: number,
  pass: (req: IncomingMessage, res: ServerResponse) => Passage | undefined,
): Promise<Line> {
  const agent = new Agent({ keepAlive: true });
  const server = createServer((req, res) => {
    const passage = pass(req, res);
    if (!passage) return;
    const { method, url: path, headers } = req;
    const onward = request({ host: '127.0.0.1', port, method, path, headers, setHost: false, agent });
    const cut = (): void => {
      req.destroy();
      res.destroy();
    };
    onward.on('error', cut).on('response', (answer) => {
      const through = passage.down?.(answer);
      res.sendDate = false;
      res.writeHead(answer.statusCode ?? 500, answer.headers);
      answer.on('error', cut);
      (through ? answer.pipe(through) : answer).pipe(res);
    });
    res.on('close', () => onward.destroy());
    req.on('error', () => onward.destroy());
    (passage.up ? req.pipe(passage.up) : req).pipe(onward);
  });
  server.on('clientError', (_error, socket) => socket.destroy());
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    async close() {
      server.close();
      server.closeAllConnections();
      agent.destroy();
    },
  };
}
