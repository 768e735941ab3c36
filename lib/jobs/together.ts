/** What is asked for one by one while Redis is at the last of it goes to Redis together. */
import { setImmediate as turn } from 'node:timers/promises';

interface Waiting<T> {
  readonly item: T;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class Together<T> {
  readonly #most: number;
  readonly #send: (items: readonly T[]) => Promise<unknown>;
  #waiting: Waiting<T>[] = [];
  #sending: Promise<void> | undefined;

  /** `send` gets at most so many, in the order in which they came, and is never called again before it has answered. */
  constructor(most: number, send: (items: readonly T[]) => Promise<unknown>) {
    this.#most = most;
    this.#send = send;
  }

  /**
   * Resolves when it was sent. Rejects as `send` does, also where that was for those before it: whoever is away is not
   * waited for by one lot after the other.
   */
  add(item: T): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ item, resolve, reject });
      this.#sending ??= this.#sendAll();
    });
  }

  /** Resolves when nothing is left to send. */
  async settled(): Promise<void> {
    await this.#sending;
  }

  async #sendAll(): Promise<void> {
    await turn(); // whatever else this turn of the event loop asks for comes along
    while (this.#waiting.length > 0) {
      const lot = this.#waiting.splice(0, this.#most);
      try {
        await this.#send(lot.map(({ item }) => item));
        for (const { resolve } of lot) resolve();
      } catch (error) {
        for (const { reject } of [...lot, ...this.#waiting.splice(0)]) reject(error);
      }
    }
    this.#sending = undefined;
  }
}
