/** Clients that never get on, and what they do to those that do. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, request } from 'undici';
import { median } from '../bench/statistics.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const DRIP_MS = 1000;
/** More than sockets hold, so that a reader that stops does stop the one that sends. */
const LARGE_BYTES = 64 * MIB;
const SETTLE_MOST_MS = 90_000;
const BYTES_SERIES = 'longshore_store_bytes_total';
const GOOD_CLIENTS = 4;
const GOOD_BYTES = 256 * KIB;

/** In turns: a head that does not end; a body of which little comes, then drips; one of which 32 KiB come; a reader. */
const KINDS = ['head', 'body', 'begun body', 'reader'] as const;

export class Loris {
  readonly #sockets: Socket[] = [];
  readonly #drips: (() => void)[] = [];
  #timer: NodeJS.Timeout | undefined;

  /** `large`: path of an object of some size below `artifacts`. */
  static async open(artifacts: string, large: string, count: number): Promise<Loris> {
    const flock = new Loris();
    for (let n = 0; n < count; n++) await flock.#add(new URL(artifacts), large, KINDS[n % KINDS.length]!, n);
    flock.#timer = setInterval(() => {
      for (const drip of flock.#drips) drip();
    }, DRIP_MS);
    return flock;
  }

  get alive(): number {
    return this.#sockets.filter((socket) => !socket.destroyed).length;
  }

  async #add(url: URL, large: string, kind: (typeof KINDS)[number], n: number): Promise<void> {
    const socket = connect(Number(url.port), url.hostname);
    socket.on('error', () => {});
    this.#sockets.push(socket);
    await once(socket, 'connect');
    const head = (method: string, path: string, more: string): string =>
      `${method} ${url.pathname}/${path} HTTP/1.1\r\nHost: ${url.host}\r\n${more}`;
    if (kind === 'reader') {
      socket.pause().write(head('GET', large, '\r\n'));
      this.#drips.push(() => socket.read(100));
      return;
    }
    if (kind === 'head') socket.write(head('GET', 'none', 'X-Slow: '));
    else {
      socket.write(head('PUT', `slow/${n}`, `Content-Length: ${100 * MIB}\r\n\r\n`));
      socket.write(kind === 'body' ? 'first' : Buffer.alloc(32 * KIB));
    }
    this.#drips.push(() => socket.write('drip'));
  }

  close(): void {
    clearInterval(this.#timer);
    for (const socket of this.#sockets) socket.destroy();
  }
}

/** ms of each upload with the download that follows it, by a few clients at once; throws where one goes wrong. */
async function goodClients(artifacts: string, forMs: number): Promise<number[]> {
  const agent = new Agent({ connections: GOOD_CLIENTS });
  const times: number[] = [];
  const bytes = randomBytes(GOOD_BYTES);
  const untilMs = performance.now() + forMs;
  const client = async (n: number): Promise<void> => {
    do {
      const startedMs = performance.now();
      const on = { dispatcher: agent, headersTimeout: 30_000, bodyTimeout: 30_000 };
      const url = `${artifacts}/good/${n}`;
      const put = await request(url, { ...on, method: 'PUT', body: bytes });
      const said = await put.body.text();
      const get = await request(url, on);
      const got = Buffer.from(await get.body.arrayBuffer());
      times.push(performance.now() - startedMs);
      if (put.statusCode !== 200 || !got.equals(bytes))
        throw new Error(`a good client was answered ${put.statusCode} ${said}, then ${get.statusCode}`);
    } while (performance.now() < untilMs);
  };
  try {
    await Promise.all(Array.from({ length: GOOD_CLIENTS }, (_, n) => client(n)));
  } finally {
    await agent.destroy();
  }
  return times;
}

export interface Compared {
  /** Medians of the rounds' medians; ms. */
  readonly aloneMs: number;
  readonly amidMs: number;
  /** How much longer it took amid the slow ones, of each round. */
  readonly ratios: readonly number[];
}

/** What readers have room for is sent to them at first, as to anybody: until that is over. */
async function standStill(origin: string): Promise<void> {
  const untilMs = Date.now() + SETTLE_MOST_MS;
  for (let same = 0, before = ''; same < 3; ) {
    await sleep(DRIP_MS / 2);
    const metrics = await (await request(`${origin}/metrics`)).body.text();
    const now = metrics
      .split('\n')
      .filter((line) => line.startsWith(BYTES_SERIES))
      .join();
    same = now === before ? same + 1 : 0;
    before = now;
    if (Date.now() > untilMs) throw new Error('what the slow ones asked for does not come to rest');
  }
}

export interface CompareOptions {
  readonly rounds: number;
  /** Of good clients, alone and then amid the others. */
  readonly phaseMs: number;
  readonly count: number;
}

/**
 * Good clients alternately alone and amid `count` slow ones, in one run: what else the machine does hits both.
 * @param artifacts route of the artifacts, without a trailing slash
 */
export async function compare(
  artifacts: string,
  { rounds, phaseMs, count }: CompareOptions,
): Promise<Compared> {
  const body = randomBytes(LARGE_BYTES);
  const put = await request(`${artifacts}/large.bin`, { method: 'PUT', body });
  if (put.statusCode !== 200) throw new Error(await put.body.text());
  await put.body.dump();
  await goodClients(artifacts, phaseMs); // warms up
  const alone: number[] = [];
  const amid: number[] = [];
  for (let round = 0; round < rounds; round++) {
    alone.push(median(await goodClients(artifacts, phaseMs)));
    const flock = await Loris.open(artifacts, 'large.bin', count);
    try {
      await standStill(new URL(artifacts).origin);
      amid.push(median(await goodClients(artifacts, phaseMs)));
      if (flock.alive < count) throw new Error(`${count - flock.alive} of the slow ones were cut off`);
    } finally {
      flock.close();
    }
    await sleep(DRIP_MS); // until the service has noticed
  }
  const ratios = amid.map((ms, round) => ms / alone[round]!);
  return { aloneMs: median(alone), amidMs: median(amid), ratios };
}
