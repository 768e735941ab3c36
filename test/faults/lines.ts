/** Lines that toxiproxy has no toxic for: one that flips bits of what it carries, and one whose connections can go deaf for good. */
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import {
  type AddressInfo,
  connect,
  createServer as createTcpServer,
  type Server,
  type Socket,
} from 'node:net';
import { Transform } from 'node:stream';
import { httpLine } from './http-line.ts';

export interface Line {
  readonly port: number;
  close(): Promise<void>;
}

export interface FlippingLine extends Line {
  /** How many bodies had one bit flipped so far. */
  readonly flipped: { requests: number; answers: number };
}

/** Carries HTTP to `port`; flips one bit, anywhere, of the first and then each `every`th body of a request, and of an answer that says yes. */
export async function flippingLine(
  port: number,
  { every, random }: { readonly every: number; readonly random: () => number },
): Promise<FlippingLine> {
  const flipped = { requests: 0, answers: 0 };
  const seen = { requests: 0, answers: 0 };
  const through = (message: IncomingMessage, which: keyof typeof flipped): Transform => {
    const { 'content-length': told, 'transfer-encoding': encoding } = message.headers;
    const length = Number(told ?? (encoding === undefined ? 0 : 1));
    const at = length > 0 && seen[which]++ % every === 0 ? Math.floor(random() * length) : -1;
    return flip(at, 1 << Math.floor(random() * 8), () => void flipped[which]++);
  };
  const line = await httpLine(port, (req) => ({
    up: through(req, 'requests'),
    down(answer) {
      const saysNo = (answer.statusCode ?? 500) >= 400;
      return saysNo || req.method === 'HEAD' ? undefined : through(answer, 'answers');
    },
  }));
  return { ...line, flipped };
}

function flip(at: number, mask: number, onFlip: () => void): Transform {
  let passed = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      const here = at - passed;
      passed += chunk.length;
      if (here < 0 || here >= chunk.length) return done(null, chunk);
      const other = Buffer.from(chunk);
      other[here]! ^= mask;
      onFlip();
      done(null, other);
    },
  });
}

export interface DeafLine extends Line {
  /** From now on nothing passes on the connections that are open, and nobody is told; new ones are good. */
  deafen(): void;
}

export async function deafLine(port: number): Promise<DeafLine> {
  const open = new Set<Socket>();
  let pairs: (readonly [Socket, Socket])[] = [];
  const server = createTcpServer((near) => {
    const far = connect(port, '127.0.0.1');
    for (const socket of [near, far]) {
      open.add(socket);
      socket.on('error', () => undefined).on('close', () => open.delete(socket));
    }
    near.on('close', () => far.destroy());
    far.on('close', () => near.destroy());
    near.pipe(far);
    far.pipe(near);
    pairs.push([near, far]);
  });
  return {
    ...(await listening(server)),
    deafen() {
      for (const [near, far] of pairs) {
        near.unpipe(far).pause();
        far.unpipe(near).pause();
      }
      pairs = [];
    },
    async close() {
      server.close();
      for (const socket of open) socket.destroy();
    },
  };
}

async function listening(server: Server): Promise<{ readonly port: number }> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { port: (server.address() as AddressInfo).port };
}
