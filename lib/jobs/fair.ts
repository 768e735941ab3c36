/**
 * Whose turn it is. A lower priority number always goes first; among jobs of like priority lines take turns, a few jobs
 * each. A line is one tenant's, and what comes back or is given a new job goes in a second one of that tenant, so that
 * it neither goes behind all that came in meanwhile nor before what others have waiting.
 */
import { randomUUID } from 'node:crypto';
import type { Redis } from 'ioredis';
import { FRONT_TAG, GIVE_BACK_TURNS, OLDEST_WAITING, TAGS, TAKE_TURNS } from './fair-script.ts';
import type { QueueName } from './jobs.ts';

/**
 * BullMQ has room for so many bands of turns. Each ends with the priority given here, 1 is alone in the first one, and
 * 100, which is everybody's unless they say so, is alone as well.
 */
const BANDS = [1, 5, 10, 20, 40, 60, 80, 99, 100, 120, 200, 300, 500, 700, 999, 1000] as const;
/** Jobs of each band that are looked at for the oldest. */
const OLDEST_OF = 64;
const ARRIVED_AT_ONCE = 1000;

/** What decides on the turns of a transfer's jobs. */
export interface Turn {
  /** 1 (first) to 1000. */
  readonly priority: number;
  readonly line: string;
  /** It has waited once already. */
  readonly again: boolean;
}

/** In which the children of a job take turns. */
export interface ChildTurn extends Omit<Turn, 'priority'> {
  /** The job's own. */
  readonly bullPriority: number;
}

/** The line of whoever a transfer is for: the value of its label `fairBy` (`none`: no label counts), else its owner. */
export function lineOf(
  { labels, owner }: { readonly labels: Readonly<Record<string, string>>; readonly owner: string },
  fairBy: string,
): string {
  const label = fairBy === 'none' || !Object.hasOwn(labels, fairBy) ? undefined : labels[fairBy];
  return label === undefined ? `owner ${owner}` : `label ${label}`;
}

export const bandOf = (priority: number): number => BANDS.findIndex((last) => priority <= last);

/** In BullMQ's numbers: before all jobs of like priority. */
export const frontOf = (bullPriority: number): number => Math.floor(bullPriority / TAGS) * TAGS + FRONT_TAG;

interface Scripts {
  longshoreTakeTurns(...args: (string | number)[]): Promise<[name: string, ...priorities: number[]]>;
  longshoreGiveBackTurns(...args: (string | number)[]): Promise<null>;
  longshoreOldestWaiting(...args: (string | number)[]): Promise<string | null>;
}

export class Turns {
  readonly #redis: Scripts;
  readonly #prefix: string;
  readonly #name = randomUUID();
  #count = 0;
  /** What has been added since Redis was last told, by band. */
  readonly #arrived = new Map<string, string[]>();

  constructor(redis: Redis, prefix: string) {
    redis.defineCommand('longshoreTakeTurns', { numberOfKeys: 5, lua: TAKE_TURNS });
    redis.defineCommand('longshoreGiveBackTurns', { numberOfKeys: 2, lua: GIVE_BACK_TURNS });
    redis.defineCommand('longshoreOldestWaiting', { numberOfKeys: 2, lua: OLDEST_WAITING });
    this.#redis = redis as unknown as Scripts; // the commands defined above
    this.#prefix = prefix;
  }

  /**
   * Gives `add`, which puts as many jobs into the queue, their turns as BullMQ's priorities, in the order of `turns`.
   * Redis is asked once for each band.
   */
  async give(
    queue: QueueName,
    turns: readonly Turn[],
    add: (bullPriorities: readonly number[]) => Promise<unknown>,
  ): Promise<void> {
    const bullPriorities = new Array<number>(turns.length);
    const bands = Map.groupBy(turns.keys(), (at) => bandOf(turns[at]!.priority));
    const names = await Promise.all(
      [...bands].map(async ([band, places]) => {
        const lines = Map.groupBy(places, (at) => lineIn(turns[at]!));
        const counts = [...lines].map(([line, { length }]) => [line, length] as const);
        const [name, ...given] = await this.#take(queue, band, counts, '');
        for (const [n, at] of [...lines.values()].flat().entries()) bullPriorities[at] = given[n]!;
        return [band, name] as const;
      }),
    );
    try {
      await add(bullPriorities);
    } finally {
      for (const [band, name] of names) this.#arrivedIn(queue, band).push(name);
    }
  }

  /** For a job that is about to be put off: it comes back at the priority that it has by then. */
  async takeAgain(
    queue: QueueName,
    job: { readonly id: string; readonly bullPriority: number; readonly line: string },
  ): Promise<void> {
    await this.#take(queue, Math.floor(job.bullPriority / TAGS), [[againIn(job.line), 1]], job.id);
  }

  /** Of so many children, which were taken out of the queue before they had them. */
  async giveBack(queue: QueueName, { bullPriority, ...turn }: ChildTurn, count: number): Promise<void> {
    const state = this.#stateOf(queue, Math.floor(bullPriority / TAGS));
    await this.#redis.longshoreGiveBackTurns(state, `${state}:lines`, lineIn(turn), count);
  }

  #stateOf(queue: QueueName, band: number): string {
    return `${this.#prefix}:turns:${queue}:${band}`;
  }

  #take(queue: QueueName, band: number, lines: readonly (readonly [string, number])[], job: string) {
    const at = `${this.#prefix}:${queue}`;
    const state = this.#stateOf(queue, band);
    const arrived = this.#arrivedIn(queue, band).splice(0, ARRIVED_AT_ONCE);
    return this.#redis.longshoreTakeTurns(
      ...[`${at}:prioritized`, `${at}:delayed`, state, `${state}:lines`, `${state}:coming`],
      ...[`${at}:`, band, job, `${this.#name} ${++this.#count}`, arrived.length, ...arrived, ...lines.flat()],
    );
  }

  #arrivedIn(queue: QueueName, band: number): string[] {
    const key = `${queue} ${band}`;
    const arrived = this.#arrived.get(key) ?? [];
    this.#arrived.set(key, arrived);
    return arrived;
  }

  /** When the job was added that waits longest; unix time in ms. */
  async oldestMs(queue: QueueName): Promise<number | undefined> {
    const at = `${this.#prefix}:${queue}`;
    const oldest = await this.#redis.longshoreOldestWaiting(
      ...[`${at}:wait`, `${at}:prioritized`, `${at}:`, BANDS.length, OLDEST_OF],
    );
    return oldest === null ? undefined : Number(oldest);
  }
}

const againIn = (line: string): string => `again ${line}`;
const lineIn = ({ line, again }: Omit<Turn, 'priority'>): string => (again ? againIn(line) : line);
