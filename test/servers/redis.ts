/** A Redis as an operator would run it for Longshore: append-only file, `noeviction`, loopback. */
import { mkdirSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { serverFile } from './installed.ts';
import { launch, type Running } from './process.ts';

export interface RedisServer extends Running {
  /** `redis://127.0.0.1:<port>`, with the password when there is one. */
  readonly url: string;
  readonly port: number;
  readonly password?: string;
}

export interface RedisOptions {
  readonly password?: string;
  /** Default `everysec`, as the embedded one has it. */
  readonly appendfsync?: 'always' | 'everysec' | 'no';
  /** Default `noeviction`; another to see it refused. */
  readonly maxmemoryPolicy?: string;
  /** Of a server that was killed: start again on the same data and address. */
  readonly again?: RedisServer;
}

export async function startRedis(options: RedisOptions = {}): Promise<RedisServer> {
  const {
    again,
    password = again?.password,
    appendfsync = 'everysec',
    maxmemoryPolicy = 'noeviction',
  } = options;
  const running = await launch({
    name: 'redis',
    dir: again?.dir,
    ports: again ? [again.port] : 1,
    command([port], dir) {
      mkdirSync(join(dir, 'data'), { recursive: true });
      const settings = {
        port: String(port),
        bind: '127.0.0.1',
        dir: join(dir, 'data'),
        daemonize: 'no',
        save: '',
        appendonly: 'yes',
        appendfsync,
        'maxmemory-policy': maxmemoryPolicy,
        ...(password === undefined ? {} : { requirepass: password }),
      };
      const args = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, value]);
      return { file: serverFile('redis'), args };
    },
    ready: ([port]) => answers(port!),
  });
  const port = running.ports[0]!;
  const user = password === undefined ? '' : `:${encodeURIComponent(password)}@`;
  return {
    ...running,
    url: `redis://${user}127.0.0.1:${port}`,
    port,
    ...(password === undefined ? {} : { password }),
  };
}

/** `LOADING` is not ready; asking for a password is. */
function answers(port: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write('PING\r\n'));
    socket.setTimeout(1000, () => socket.destroy(new Error('no answer')));
    socket.once('error', reject);
    socket.once('data', (reply) => {
      socket.destroy();
      resolve(/^(\+PONG|-NOAUTH)/.test(reply.toString()));
    });
  });
}
