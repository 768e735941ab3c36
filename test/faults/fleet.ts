/** Workers as processes of their own, beside an API in this process: to be killed, stopped and continued one by one. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { cleanEnvironment, watch } from '../servers/process.ts';

const CHILD = join(import.meta.dirname, 'role-child.ts');

export class Fleet {
  readonly #folder: string;
  readonly #settings: Readonly<Record<string, unknown>>;
  readonly #env: Readonly<Record<string, string>>;
  readonly #workers = new Map<number, ChildProcess>();

  /** `settings` as the API has them. */
  constructor(
    folder: string,
    settings: Readonly<Record<string, unknown>>,
    env: Readonly<Record<string, string>>,
  ) {
    this.#folder = folder;
    this.#settings = settings;
    this.#env = env;
  }

  get pids(): readonly number[] {
    return [...this.#workers.keys()];
  }

  /** What the workers had to say. */
  get log(): string {
    return readFileSync(join(this.#folder, 'fleet.log'), 'utf8');
  }

  /** Resolves when so many more are taking jobs. */
  async start(count: number): Promise<void> {
    await Promise.all(Array.from({ length: count }, () => this.#start()));
  }

  async #start(): Promise<void> {
    const log = openSync(join(this.#folder, 'fleet.log'), 'a');
    const child = spawn(process.execPath, [CHILD, 'worker', JSON.stringify(this.#settings)], {
      env: cleanEnvironment({ ...this.#env, NODE_COMPILE_CACHE: join(this.#folder, 'compiled') }),
      stdio: ['pipe', 'pipe', log],
      detached: true,
    });
    closeSync(log);
    watch(child);
    this.#workers.set(child.pid!, child);
    await once(createInterface({ input: child.stdout! }), 'line');
  }

  async kill(pid: number): Promise<void> {
    const child = this.#workers.get(pid)!;
    this.#workers.delete(pid);
    const ended = once(child, 'exit');
    process.kill(pid, 'SIGKILL');
    await ended;
  }

  async close(): Promise<void> {
    await Promise.all(
      [...this.#workers.values()].map(async (child) => {
        const ended = once(child, 'exit');
        child.stdin?.end();
        await ended;
      }),
    );
  }
}
