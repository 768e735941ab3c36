/** A client that knows what it was promised, and asks again when nobody answered. */
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, request } from 'undici';
import type { Random, Source } from './sources.ts';

const AGAIN_MS = 100;
const PATIENCE_MS = 120_000;

export class Client {
  readonly #url: () => string;
  readonly #agent = new Agent({ connections: 16 });
  /** Sent again because nobody answered, or because they were told to come back. */
  repeats = 0;

  constructor(url: () => string) {
    this.#url = url;
  }

  /** Resolves with the transfer's id: it was accepted. */
  async upload(source: Source, key: string): Promise<string> {
    const text = await this.#put(`/api/v1/uploads/${source.path}`, source, 202, { 'idempotency-key': key });
    return (JSON.parse(text) as { id: string }).id;
  }

  /** Resolves when it was told that the artifact is there. */
  async put(source: Source): Promise<void> {
    await this.#put(`/api/2.0/mlflow-artifacts/artifacts/${source.path}`, source, 200, {});
  }

  async #put(path: string, source: Source, status: number, headers: Record<string, string>): Promise<string> {
    return this.#ask('PUT', path, status, {
      headers: { ...headers, 'content-length': String(source.size) },
      body: () => (source.size === 0 ? null : Readable.from(source.chunks())),
    });
  }

  async #ask(
    method: 'PUT' | 'POST',
    path: string,
    status: number,
    asked: { readonly headers: Record<string, string>; body(): Readable | string | null },
  ): Promise<string> {
    for (const untilMs = Date.now() + PATIENCE_MS; ; this.repeats++) {
      let answer: { status: number; text: string };
      try {
        const { statusCode, body } = await request(this.#url() + path, {
          method,
          headers: asked.headers,
          body: asked.body(),
          dispatcher: this.#agent,
        });
        answer = { status: statusCode, text: await body.text() };
      } catch (error) {
        answer = { status: 0, text: String(error) };
      }
      if (answer.status === status) return answer.text;
      if (![0, 503].includes(answer.status) || Date.now() > untilMs)
        throw new Error(`${method} ${path} was answered ${answer.status}: ${answer.text}`);
      await sleep(AGAIN_MS);
    }
  }

  /** Resolves with the transfer's id: it was accepted. */
  async submit(body: object, key: string): Promise<string> {
    const text = await this.#ask('POST', '/api/v1/transfers', 202, {
      headers: { 'idempotency-key': key, 'content-type': 'application/json' },
      body: () => JSON.stringify(body),
    });
    return (JSON.parse(text) as { id: string }).id;
  }

  /** The whole body, where it came whole; `absent`; undefined: nobody answered, or not to the end. */
  async get(path: string): Promise<Buffer | 'absent' | undefined> {
    try {
      const { statusCode, headers, body } = await request(this.#url() + path, { dispatcher: this.#agent });
      const bytes = Buffer.from(await body.arrayBuffer());
      if (statusCode === 404) return 'absent';
      if (statusCode !== 200) return undefined;
      const { 'content-length': length } = headers;
      if (length !== undefined && Number(length) !== bytes.length) return undefined;
      return bytes;
    } catch {
      return undefined;
    }
  }

  async close(): Promise<void> {
    await this.#agent.destroy();
  }
}

/** Watches while others work: whatever it sees must be whole. */
export class Reader {
  /** What it saw and must not have seen. */
  readonly seen: string[] = [];
  looks = 0;
  readonly #stop = new AbortController();
  #done: Promise<void> = Promise.resolve();

  /** `look` answers what was wrong. */
  start(look: () => Promise<string | undefined>): void {
    this.#done = this.#loop(look);
  }

  async #loop(look: () => Promise<string | undefined>): Promise<void> {
    while (!this.#stop.signal.aborted) {
      const wrong = await look().catch(String);
      this.looks++;
      if (wrong !== undefined) this.seen.push(wrong);
      await sleep(5);
    }
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#done;
  }
}

export const pick = <T>(items: readonly T[], random: Random): T | undefined =>
  items[Math.floor(random() * items.length)];
