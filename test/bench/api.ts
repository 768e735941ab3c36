/** The bench's client of the transfers' API: it submits, and waits for endings. It costs the service as little as it can. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Pool } from 'undici';

const CONNECTIONS = 16;
/** Between two looks at what has not ended; a look costs the service less than a ms. */
const LOOK_MS = 50;
const UNENDED = ['accepted', 'running', 'publishing'];

export interface Submission {
  readonly kind: 'copy';
  readonly from: string;
  readonly to: string;
  /** Everything at and below `from`. */
  readonly tree?: true;
}

interface View {
  readonly id: string;
  readonly state: string;
  readonly failure?: { readonly message: string };
}

export class ApiClient {
  readonly #pool: Pool;

  constructor(origin: string) {
    this.#pool = new Pool(origin, { connections: CONNECTIONS });
  }

  /** Answers when all are accepted. */
  async submit(all: readonly Submission[]): Promise<string[]> {
    const ids: string[] = [];
    let next = 0;
    const one = async (): Promise<void> => {
      for (let at = next++; at < all.length; at = next++) {
        const { status, view } = await this.#ask('POST', '/api/v1/transfers', JSON.stringify(all[at]));
        if (status !== 202) throw new Error(`a submit was answered ${status}: ${JSON.stringify(view)}`);
        ids.push((view as View).id);
      }
    };
    await Promise.all(Array.from({ length: Math.min(CONNECTIONS, all.length) }, one));
    return ids;
  }

  /** Resolves when this one has succeeded. */
  async succeeded(id: string): Promise<void> {
    for (;;) {
      const view = (await this.#ask('GET', `/api/v1/transfers/${id}`)).view as View;
      if (view.state === 'succeeded') return;
      if (!UNENDED.includes(view.state))
        throw new Error(`transfer ${id} is ${view.state}: ${view.failure?.message}`);
      await sleep(LOOK_MS);
    }
  }

  /** Resolves when all that were ever submitted have succeeded. */
  async allSucceeded(): Promise<void> {
    // a retry moves back: all of them must be empty in one pass
    for (let at = 0; at < UNENDED.length; at++)
      if (await this.#anyIn(UNENDED[at]!)) {
        await sleep(LOOK_MS);
        at = -1;
      }
    const failed = await this.#anyIn('failed');
    if (failed) throw new Error(`transfer ${failed.id} failed: ${failed.failure?.message}`);
  }

  async #anyIn(state: string): Promise<View | undefined> {
    const { view } = await this.#ask('GET', `/api/v1/transfers?state=${state}&limit=1`);
    return (view as { transfers: View[] }).transfers[0];
  }

  async #ask(method: 'GET' | 'POST', path: string, body?: string) {
    const headers = body === undefined ? {} : { 'content-type': 'application/json' };
    const answer = await this.#pool.request({ method, path, headers, body: body ?? null });
    return { status: answer.statusCode, view: await answer.body.json() };
  }

  close(): Promise<void> {
    return this.#pool.close();
  }
}
