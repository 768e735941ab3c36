/**
 * Digests of a body in flight. A small one is digested where it is; a long one by a thread, which reads the pool's
 * shared memory while this thread goes on receiving: SHA-256 alone would cost it more time than all the rest.
 */
import { Worker } from 'node:worker_threads';
import { Digester, type DigestsTaken, type ExpectedDigests } from '../digests.ts';
import { Failure } from '../errors.ts';

/** Takes a body's bytes in order. What was given to `update` must stay as it is until the next answer. */
export interface Hasher {
  update(bytes: Uint8Array): void;
  /** CRC32 of the bytes since this was last asked. */
  partCrc(): Promise<number>;
  end(): Promise<DigestsTaken>;
  /** The body was given up. */
  drop(): void;
}

export class InlineHasher implements Hasher {
  readonly #digester: Digester;

  constructor(expected: ExpectedDigests) {
    this.#digester = new Digester(expected);
  }

  update(bytes: Uint8Array): void {
    this.#digester.update(bytes);
  }
  async partCrc(): Promise<number> {
    return this.#digester.takePartCrc();
  }
  async end(): Promise<DigestsTaken> {
    return this.#digester.end();
  }
  drop(): void {}
}

/** To the thread: a body's next bytes, or a question. */
export type HashRequest = { readonly body: number } & (
  | { readonly ask: 'begin'; readonly expected: ExpectedDigests }
  | { readonly ask: 'update'; readonly bytes: Uint8Array }
  | { readonly ask: 'part' | 'end' | 'drop' }
);
/** From the thread: the answer to the oldest open question about that body. */
export interface HashReply {
  readonly body: number;
  readonly answer: number | DigestsTaken;
}

interface Question {
  readonly resolve: (answer: number | DigestsTaken) => void;
  readonly reject: (failure: Failure) => void;
}

/** One thread for all bodies of a process, started when the first long one comes, which keeps no process alive. */
export class HashThread {
  #worker: Worker | undefined;
  readonly #questions = new Map<number, Question[]>();
  #bodies = 0;

  open(expected: ExpectedDigests): Hasher {
    const body = ++this.#bodies;
    const say = (request: HashRequest): void => this.#running().postMessage(request);
    const ask = (question: 'part' | 'end'): Promise<number | DigestsTaken> =>
      new Promise((resolve, reject) => {
        const open = this.#questions.get(body) ?? [];
        this.#questions.set(body, [...open, { resolve, reject }]);
        say({ body, ask: question });
      });
    say({ body, ask: 'begin', expected });
    return {
      // memory that is not shared would be copied whole, with all that lies around it
      update: (bytes) => say({ body, ask: 'update', bytes: isShared(bytes) ? bytes : bytes.slice() }),
      partCrc: () => ask('part') as Promise<number>,
      end: () => ask('end') as Promise<DigestsTaken>,
      drop: () => say({ body, ask: 'drop' }),
    };
  }

  #running(): Worker {
    if (this.#worker) return this.#worker;
    const worker = new Worker(new URL('hashing-thread.ts', import.meta.url));
    this.#worker = worker;
    worker.unref();
    worker.on('message', ({ body, answer }: HashReply) => {
      const [question, ...later] = this.#questions.get(body) ?? [];
      if (later.length > 0) this.#questions.set(body, later);
      else this.#questions.delete(body);
      question?.resolve(answer);
    });
    const lost = (error?: unknown): void => {
      if (this.#worker === worker) this.#worker = undefined;
      const failure = new Failure(
        'unavailable',
        'the digest thread ended; send it again',
        {},
        { cause: error },
      );
      for (const questions of this.#questions.values()) for (const { reject } of questions) reject(failure);
      this.#questions.clear();
    };
    worker.on('error', lost);
    worker.on('exit', () => lost());
    return worker;
  }
}

const isShared = (bytes: Uint8Array): boolean => bytes.buffer instanceof SharedArrayBuffer;
