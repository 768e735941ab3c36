/** HTTP as bytes over one kept connection: request targets go out exactly as given, which no HTTP client does. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

export interface RawAnswer {
  /** 0: the connection was closed without an answer. */
  readonly status: number;
  readonly body: string;
}

const ANSWER_MS = 20_000;

export class RawClient {
  readonly #port: number;
  #socket: Socket | undefined;

  constructor(port: number) {
    this.#port = port;
  }

  async request(method: string, target: Uint8Array, body?: Uint8Array, headers = ''): Promise<RawAnswer> {
    const socket = await this.#open();
    const length = body === undefined ? '' : `Content-Length: ${body.length}\r\n`;
    const head = Buffer.from(` HTTP/1.1\r\nHost: localhost\r\n${length}${headers}\r\n`);
    socket.write(Buffer.concat([Buffer.from(`${method} `), target, head, body ?? Buffer.alloc(0)]));
    const answer = await this.#answer(socket, method);
    if (answer.closed) {
      socket.destroy();
      this.#socket = undefined;
    }
    return answer;
  }

  close(): void {
    this.#socket?.destroy();
  }

  async #open(): Promise<Socket> {
    if (this.#socket && !this.#socket.destroyed && this.#socket.readyState === 'open') return this.#socket;
    const socket = connect(this.#port, '127.0.0.1');
    socket.setNoDelay(true).on('error', () => {});
    await once(socket, 'connect');
    this.#socket = socket;
    return socket;
  }

  #answer(socket: Socket, method: string): Promise<RawAnswer & { closed: boolean }> {
    return new Promise((resolve, reject) => {
      let text = '';
      const timer = setTimeout(() => done(new Error(`no answer in ${ANSWER_MS} ms`)), ANSWER_MS);
      const onData = (chunk: Buffer): void => {
        text += chunk.toString('latin1');
        const answer = parse(text, method);
        if (answer) done(answer);
      };
      const onClose = (): void => done(parse(text, method, true) ?? { status: 0, body: text, closed: true });
      const done = (result: (RawAnswer & { closed: boolean }) | Error): void => {
        clearTimeout(timer);
        socket.off('data', onData).off('close', onClose);
        if (result instanceof Error) reject(result);
        else resolve(result);
      };
      socket.on('data', onData).on('close', onClose);
    });
  }
}

/** The answer, once `text` has all of it. */
function parse(text: string, method: string, ended = false): (RawAnswer & { closed: boolean }) | undefined {
  const headEnd = text.indexOf('\r\n\r\n');
  if (headEnd < 0) return undefined;
  const head = text.slice(0, headEnd).toLowerCase();
  const body = text.slice(headEnd + 4);
  const status = Number(head.slice(9, 12));
  const closed = ended || head.includes('\r\nconnection: close');
  const length = /\r\ncontent-length: (\d+)/.exec(head)?.[1];
  const without = method === 'HEAD' || status === 204 || status === 304;
  const complete =
    without || (length === undefined ? body.endsWith('0\r\n\r\n') : body.length >= Number(length)) || ended;
  return complete ? { status, body, closed } : undefined;
}
