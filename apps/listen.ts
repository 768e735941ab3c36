/** Whether a port can be had, and what to say when it cannot. */
import { once } from 'node:events';
import { createServer } from 'node:net';
import { Failure } from '../lib/errors.ts';

/** The port that would be listened on, the real one where `port` is 0; it is free again when this resolves. @throws Failure `invalid` */
export async function tryPort(host: string, port: number): Promise<number> {
  const server = createServer();
  try {
    server.listen(port, unbracketed(host));
    await once(server, 'listening');
    const address = server.address();
    return typeof address === 'object' && address !== null ? address.port : port;
  } catch (error) {
    throw cannotListen(host, port, error);
  } finally {
    server.close();
  }
}

/** `[::1]` as sockets take it. */
export const unbracketed = (host: string): string => host.replace(/^\[(.*)\]$/, '$1');

export function cannotListen(host: string, port: number, error: unknown): Failure {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  const why =
    code === 'EADDRINUSE'
      ? 'the port is in use: stop what uses it, or choose another with --port'
      : code === 'EACCES'
        ? 'this user may not listen there: choose a port above 1023 with --port'
        : code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND'
          ? 'this machine does not have that address: choose another with --host'
          : error instanceof Error
            ? error.message
            : String(error);
  return new Failure(
    'invalid',
    `could not listen on ${host}:${port}: ${why}`,
    { op: 'listen' },
    { cause: error },
  );
}
