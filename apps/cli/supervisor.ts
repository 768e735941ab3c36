/** Keeps processes alive: starts one, starts it again when it ends by itself, stops it in the end. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { type Config, childEnvironment } from '../../lib/config.ts';
import { Failure, failureOf } from '../../lib/errors.ts';
import { type Report, settingsOf } from './role.ts';
import { oneLine, type Say } from './say.ts';

/** A process that is ready. */
export interface Instance {
  readonly pid: number;
  readonly url: string;
  /** Resolves, with how, when it ends for whatever reason. */
  readonly ended: Promise<string>;
  /** Asks it to end and waits, making it end when it takes too long. */
  stop(): Promise<void>;
  kill(): void;
}

/** Makes an instance that is ready, or throws; gives up and leaves nothing behind when its signal is aborted. */
export type StartInstance = (signal: AbortSignal) => Promise<Instance>;

const FIRST_PAUSE_MS = 500;
const MAX_PAUSE_MS = 30_000;
/** Having lived this long, it starts again at once. */
const HEALTHY_MS = 60_000;

export class Keeper {
  readonly name: string;
  readonly #start: StartInstance;
  readonly #say: Say;
  readonly #given = new AbortController();
  #instance: Instance | undefined;
  #starting: Promise<unknown> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;
  #pauseMs = FIRST_PAUSE_MS;
  #stopping = false;

  constructor(name: string, start: StartInstance, say: Say) {
    this.name = name;
    this.#start = start;
    this.#say = say;
  }

  /** The first start: one that fails is not tried again. */
  async start(): Promise<Instance> {
    const starting = this.#start(this.#given.signal);
    this.#starting = starting.catch(() => {});
    const instance = await starting;
    this.#keep(instance);
    return instance;
  }

  #keep(instance: Instance): void {
    this.#instance = instance;
    const sinceMs = performance.now();
    void instance.ended.then((how) => {
      this.#instance = undefined;
      if (this.#stopping) return;
      if (performance.now() - sinceMs > HEALTHY_MS) this.#pauseMs = FIRST_PAUSE_MS;
      this.#again(`${this.name} (process ${instance.pid}): ${how}`);
    });
  }

  #again(what: string): void {
    const pauseMs = this.#pauseMs;
    this.#pauseMs = Math.min(MAX_PAUSE_MS, pauseMs * 2);
    this.#say(`${what}; starting it again in ${pauseMs / 1000} s`);
    this.#timer = setTimeout(() => {
      this.#starting = this.#restart();
    }, pauseMs);
  }

  async #restart(): Promise<void> {
    try {
      const instance = await this.#start(this.#given.signal);
      if (!this.#stopping) this.#say(`${this.name} runs again (process ${instance.pid})`);
      this.#keep(instance);
    } catch (error) {
      if (!this.#stopping) this.#again(`${this.name}: ${oneLine(failureOf(error))}`);
    }
  }

  /** Orderly; whatever state it is in. */
  async stop(): Promise<void> {
    this.#stopping = true;
    clearTimeout(this.#timer);
    await this.#starting;
    await this.#instance?.stop();
  }

  /** At once. */
  kill(): void {
    this.#stopping = true;
    clearTimeout(this.#timer);
    this.#given.abort();
    this.#instance?.kill();
  }
}

const MAIN = fileURLToPath(new URL('main.ts', import.meta.url));
/** MiB. The bytes of transfers are outside of V8's heap: a large young generation would only be memory that is never given back. */
const SMALL_YOUNG_GENERATION = '--max-semi-space-size=4';
/** Beyond the grace period, before a role that does not end is made to. */
const STOP_MARGIN_MS = 10_000;

/** @throws Failure: what the child said kept it from starting, or that it just ended */
export async function spawnRole(
  role: 'api' | 'worker',
  config: Config,
  name: string,
  signal: AbortSignal,
): Promise<Instance> {
  const child = spawn(
    process.execPath,
    [...process.execArgv, SMALL_YOUNG_GENERATION, MAIN, role, '--supervised'],
    {
      env: childEnvironment(config),
      // out of the terminal's reach: Ctrl-C is for the parent, which stops its children in order
      detached: true,
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    },
  );
  const ended = endOf(child);
  const kill = (): void => void child.kill('SIGKILL');
  signal.addEventListener('abort', kill, { once: true });
  child.on('error', () => {}); // a message to a child that just ended; `ended` tells
  child.send(settingsOf(config), () => {});
  const report = await Promise.race([once(child, 'message').then(([said]) => said as Report), ended]);
  if (typeof report === 'string') throw new Failure('unavailable', `could not start ${name}: ${report}`);
  if (!report.ready) {
    await ended;
    throw new Failure(report.kind, report.message);
  }
  return {
    pid: child.pid!,
    url: report.url,
    ended,
    kill,
    async stop() {
      const timer = setTimeout(kill, config.graceMs + STOP_MARGIN_MS);
      child.kill('SIGTERM');
      await ended;
      clearTimeout(timer);
    },
  };
}

async function endOf(child: ChildProcess): Promise<string> {
  try {
    const [code, signal] = await once(child, 'exit');
    return signal === null ? `ended with exit code ${code}` : `ended with ${signal}`;
  } catch (error) {
    return `could not be run: ${(error as Error).message}`;
  }
}
