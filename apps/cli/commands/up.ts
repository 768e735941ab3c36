/** `longshore up`: Redis (where none is configured), the workers and the API on one data folder, until told to stop. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Config, refuseExposed } from '../../../lib/config.ts';
import { Failure } from '../../../lib/errors.ts';
import { startEmbeddedRedis } from '../../../lib/jobs/embedded-redis.ts';
import { tryPort } from '../../listen.ts';
import { ownDataFolder } from '../data-folder.ts';
import { type Say, say } from '../say.ts';
import { listenForSignals, type Presses } from '../signals.ts';
import { type Instance, Keeper, type StartInstance, spawnRole } from '../supervisor.ts';
import { welcome } from '../welcome.ts';

/** How long the children of an `up` that was killed may keep its port. */
const PORT_HANDOVER_MS = 5000;
const READY_MS = 10_000;
const LOOK_MS = 50;

/** Resolves with the exit code. @throws Failure when it cannot start; by then everything is stopped again */
export async function up(config: Config): Promise<number> {
  refuseExposed(config);
  using presses = listenForSignals();
  const folder = await ownDataFolder(config.dataFolder);
  try {
    if (folder.recovered) say('the last run did not stop in order; going on from where it was');
    const port = await freePort(config, folder.recovered);
    return await new Service({ ...config, port }).run(presses);
  } finally {
    await folder.release();
  }
}

async function freePort(config: Config, wait: boolean): Promise<number> {
  const deadline = Date.now() + PORT_HANDOVER_MS;
  for (;;) {
    try {
      return await tryPort(config.host, config.port);
    } catch (error) {
      if (!wait || Date.now() > deadline) throw error;
      await sleep(LOOK_MS);
    }
  }
}

type Part = 'redis' | 'workers' | 'api';

class Service {
  readonly #config: Config;
  readonly #keepers: { readonly part: Part; readonly keeper: Keeper }[] = [];
  #stopping = false;

  constructor(config: Config) {
    this.#config = config;
  }

  async run(presses: Presses): Promise<number> {
    const started = this.#start();
    const pressed = presses.first.then(() => 'pressed' as const);
    try {
      const outcome = await Promise.race([started, pressed]);
      if (outcome !== 'pressed') process.stdout.write(welcome(this.#config, outcome));
    } catch (error) {
      // why it could not start is all there is to say
      await this.#stop(presses, () => {});
      throw error;
    }
    await pressed;
    started.catch(() => {}); // stopped on the way up: what failed by that is of no interest
    return this.#stop(presses);
  }

  /** Resolves with the API's URL. */
  async #start(): Promise<string> {
    let config = this.#config;
    if (config.redisUrl === undefined) {
      const { url } = await this.#keep('redis', 'Redis', () =>
        startEmbeddedRedis(join(config.dataFolder, 'redis')),
      );
      config = { ...config, redisUrl: url };
    }
    const workers = Array.from({ length: config.workers }, (_, index) => {
      const name = `worker ${index + 1}`;
      const first = config.workerMetricsPort;
      const own = { ...config, workerMetricsPort: first === 0 ? 0 : first + index };
      return this.#keep('workers', name, (signal) => spawnRole('worker', own, name, signal));
    });
    const api = this.#keep('api', 'the API', (signal) => spawnRole('api', config, 'the API', signal));
    const [{ url }] = await Promise.all([api, ...workers]);
    await untilReady(url);
    return url;
  }

  /** @throws Failure `interrupted`: what starts when all else was told to stop would be left running */
  async #keep(part: Part, name: string, start: StartInstance): Promise<Instance> {
    if (this.#stopping) throw new Failure('interrupted', `${name} is not started any more`);
    const keeper = new Keeper(name, start, say);
    this.#keepers.push({ part, keeper });
    return keeper.start();
  }

  /** The API stops accepting, workers hand back what they run, Redis writes what it has. Resolves with the exit code. */
  async #stop(presses: Presses, tell: Say = say): Promise<number> {
    this.#stopping = true;
    let atOnce = false;
    const step: Say = (line) => void (atOnce || tell(line));
    const inOrder = this.#stopInOrder(step).then(() => 'stopped' as const);
    if ((await Promise.race([inOrder, presses.second])) === 'stopped') return 0;
    atOnce = true;
    say('stopping at once; what was accepted goes on at the next start');
    for (const { keeper } of this.#keepers) keeper.kill();
    await inOrder;
    return new Failure('interrupted', '').rule.exit;
  }

  async #stopInOrder(tell: Say): Promise<void> {
    const stop = async (part: Part, what: string): Promise<void> => {
      const keepers = this.#keepers.filter((kept) => kept.part === part);
      if (keepers.length > 0) tell(`stopping: ${what}`);
      await Promise.all(keepers.map(({ keeper }) => keeper.stop()));
    };
    await stop('api', 'the API takes nothing new and finishes what is in flight (Ctrl-C again: at once)');
    await stop('workers', 'the workers hand back what they are at');
    await stop('redis', 'Redis writes what it has');
    tell('stopped');
  }
}

/** Whether it can do all that it is for; where it cannot yet, says why and goes on: it may, later. */
async function untilReady(url: string): Promise<void> {
  const deadline = Date.now() + READY_MS;
  for (;;) {
    const reply = await fetch(new URL('/ready', url), { signal: AbortSignal.timeout(READY_MS) });
    if (reply.ok) return void (await reply.body?.cancel());
    const { problems } = (await reply.json()) as { problems: Readonly<Record<string, string>> };
    if (Date.now() > deadline) return say(`not ready yet: ${Object.values(problems).join('; ')}`);
    await sleep(LOOK_MS);
  }
}
