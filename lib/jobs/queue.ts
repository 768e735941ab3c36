/** The producing side of the queues: puts notes in, looks what is there, and takes out what nobody needs. No job is begun here. */
import { Queue as BullQueue, type JobState, type JobsOptions } from 'bullmq';
import type { Redis } from 'ioredis';
import { throwIfAborted } from '../deadline.ts';
import { Failure } from '../errors.ts';
import type { Log } from '../log.ts';
import { dropChildren, hasLivingChild, type JobAt } from './children.ts';
import { type ChildTurn, lineOf, type Turn, Turns } from './fair.ts';
import {
  JOBS,
  type JobName,
  type Note,
  type NoteGiven,
  QUEUES,
  type QueueName,
  transferJobId,
  turnNote,
} from './jobs.ts';
import { askRedis, connectRedis, type RedisHealth, type RedisPlace, redisHealth } from './redis.ts';
import { Together } from './together.ts';

const EVENTS_KEPT = 1000;
/** Notes are a few dozen bytes; one that is larger carries what it must not. */
const MAX_NOTE_BYTES = 4096;

/**
 * BullMQ's own attempts are only the net below ours: the ledger counts attempts, and a job fails here only when the
 * ledger could not be reached to say how it ended.
 */
const JOB_OPTIONS = {
  removeOnComplete: true,
  removeOnFail: true,
  attempts: 1_000_000,
  backoff: { type: 'fixed', delay: 5000, jitter: 0.5 },
  stackTraceLimit: 0,
  keepLogs: 0,
  sizeLimit: MAX_NOTE_BYTES,
} as const satisfies JobsOptions;

/** A job of its own for a piece of another's work. */
export type ChildJob = {
  [N in JobName]: {
    readonly name: N;
    readonly note: NoteGiven<N>;
    readonly jobId: string;
    readonly priority: number;
  };
}[JobName];
/** So many are added at a time: Redis must have taken them within the time of one question. */
const JOBS_AT_ONCE = 250;
/** Who began to drop the children of a job is left alone with it for so long. */
const DROPPING_MS = 5000;

interface NewJob {
  readonly name: JobName;
  readonly data: object;
  readonly turn: Turn | undefined;
  readonly opts: JobsOptions;
}

/** Jobs that carry out a transfer are named by its kind. */
export type TransferJobName = 'upload' | 'copy' | 'delete' | 'download';
/** What the queue must know of a transfer. */
export interface TransferJob {
  readonly id: string;
  readonly epoch: number;
  readonly kind: TransferJobName;
  readonly priority: number;
  /** With its labels, whose it is: see `fairBy`. */
  readonly owner: string;
  readonly labels: Readonly<Record<string, string>>;
}

export interface EnqueueOptions {
  /** Letters, digits, dashes; a job with this id that is still there is kept and this one is not added. */
  readonly jobId?: string;
  /** Without one it goes before all that have one. */
  readonly turn?: Turn;
  readonly delayMs?: number;
}

export interface QueueCounts {
  /** Prioritized ones included: all that a free worker would take. */
  readonly waiting: number;
  readonly delayed: number;
  readonly active: number;
  readonly 'waiting-children': number;
  /** When the job that waits longest was added; Unix time in ms. */
  readonly oldestMs?: number;
}

/** A job in one of these states will be worked on without anybody's help. */
const ALIVE: readonly (JobState | 'unknown')[] = ['waiting', 'prioritized', 'delayed', 'active'];

export class Queue implements RedisPlace {
  readonly url: string;
  readonly prefix: string;
  /** Fails fast. Shared with progress and cancel. */
  readonly redis: Redis;
  readonly #log: Log;
  readonly #fairBy: string;
  readonly #turns: Turns;
  readonly #queues = new Map<QueueName, Promise<BullQueue>>();
  readonly #addings = new Map<QueueName, Together<NewJob>>();

  /** `fairBy`: the label whose values take turns, or `none`; jobs without it count as their owner's. */
  constructor(place: RedisPlace & { readonly fairBy?: string }, log: Log) {
    this.url = place.url;
    this.prefix = place.prefix;
    this.#fairBy = place.fairBy ?? 'none';
    this.#log = log;
    this.redis = connectRedis(place.url, 'producer', { log, name: 'producer' });
    this.#turns = new Turns(this.redis, place.prefix);
  }

  /**
   * Parses the note and puts it into the job's queue, together with what else is asked for while Redis is at the last.
   * @throws Failure `invalid` for a note that does not parse, `unavailable` when Redis does not take it within a second
   *   from when it is sent, or what was sent before it
   */
  async enqueue<N extends JobName>(name: N, note: NoteGiven<N>, opts: EnqueueOptions = {}): Promise<void> {
    const data = parseNote(name, note);
    const { jobId, turn, delayMs } = opts;
    await this.#adding(JOBS[name].queue).add({
      name,
      data: turn ? { ...data, line: turn.line } : data,
      turn,
      opts: {
        ...JOB_OPTIONS,
        ...(jobId !== undefined && { jobId }),
        ...(delayMs !== undefined && { delay: delayMs }),
      },
    });
  }

  #adding(queue: QueueName): Together<NewJob> {
    let adding = this.#addings.get(queue);
    if (!adding) {
      // the patience is with Redis: it begins anew with each lot
      adding = new Together(JOBS_AT_ONCE, (jobs) => askRedis('enqueue', () => this.#addAll(queue, jobs)));
      this.#addings.set(queue, adding);
    }
    return adding;
  }

  async #addAll(queue: QueueName, jobs: readonly NewJob[]): Promise<void> {
    const bull = await this.#open(queue);
    const plain = jobs.filter(({ turn }) => !turn);
    if (plain.length > 0) await bull.addBulk(plain);
    const inTurn = jobs.flatMap(({ turn, ...job }) => (turn ? [{ turn, ...job }] : []));
    if (inTurn.length > 0) await this.#addInTurn(queue, inTurn);
  }

  async #addInTurn(queue: QueueName, jobs: readonly (NewJob & { readonly turn: Turn })[]): Promise<void> {
    const bull = await this.#open(queue);
    await this.#turns.give(
      queue,
      jobs.map(({ turn }) => turn),
      (priorities) =>
        bull.addBulk(
          jobs.map(({ name, data, opts }, n) => ({
            name,
            data,
            opts: { ...opts, priority: priorities[n]! },
          })),
        ),
    );
  }

  /** The job of this transfer's epoch. */
  submit(transfer: TransferJob): Promise<void> {
    const note = { transfer: transfer.id, epoch: transfer.epoch };
    return this.enqueue(transfer.kind, note, {
      jobId: transferJobId(transfer.id, transfer.epoch),
      turn: {
        priority: transfer.priority,
        line: lineOf(transfer, this.#fairBy),
        again: transfer.epoch > 1,
      },
    });
  }

  /** To be called before the job is put off: it then comes back in turn, neither before nor behind all others. */
  async putOff(
    queue: QueueName,
    job: { readonly id: string; readonly priority: number; readonly data: unknown },
  ): Promise<void> {
    const { line } = turnNote.parse(job.data);
    await askRedis('put off', () =>
      this.#turns.takeAgain(queue, { id: job.id, bullPriority: job.priority, line }),
    );
  }

  /**
   * Children of a job that runs: once they have all ended, and it has been put among those that wait for children, it
   * runs again, however they ended. One that is there already is kept, and waited for. They take turns in its line.
   * @throws Failure as `enqueue`; also where the parent is gone, and why `signal` fired. Some may have been added then
   */
  async addChildren(parent: JobAt, children: readonly ChildJob[], signal: AbortSignal): Promise<void> {
    for (let at = 0; at < children.length; at += JOBS_AT_ONCE) {
      throwIfAborted(signal);
      await askRedis('enqueue', async () => {
        const bull = await this.#open(parent.queue);
        const { line, again } = await this.#turnOf(bull.toKey(parent.jobId));
        const opts = {
          ...JOB_OPTIONS,
          parent: { id: parent.jobId, queue: bull.qualifiedName },
          removeDependencyOnFailure: true,
        };
        const portion = children.slice(at, at + JOBS_AT_ONCE);
        for (const [queue, alike] of Map.groupBy(portion, ({ name }) => JOBS[name].queue))
          await this.#addInTurn(
            queue,
            alike.map(({ name, note, jobId, priority }) => ({
              name,
              data: { ...parseNote(name, note), line },
              turn: { priority, line, again },
              opts: { ...opts, jobId },
            })),
          );
      });
    }
  }

  /** That its children take; `line` is `''` for a job that is gone, to which nothing can be added. */
  async #turnOf(jobKey: string): Promise<ChildTurn> {
    const [data, priority] = await this.redis.hmget(jobKey, 'data', 'priority');
    const { line, epoch } = turnNote.parse(JSON.parse(data ?? '{}'));
    return { line, again: epoch > 1, bullPriority: Number(priority ?? 0) };
  }

  /** Those of `transfers` (a page, not thousands) whose job Redis does not have, or has waiting for lost children. */
  async lacking<T extends TransferJob>(transfers: readonly T[]): Promise<T[]> {
    const alive = await askRedis('look for jobs', () =>
      Promise.all(transfers.map((transfer) => this.#isAlive(transfer))),
    );
    return transfers.filter((_, at) => !alive[at]);
  }

  async #isAlive({ id, epoch, kind }: TransferJob): Promise<boolean> {
    const bull = await this.#open(JOBS[kind].queue);
    const jobId = transferJobId(id, epoch);
    const state = await bull.getJobState(jobId);
    if (state !== 'waiting-children') return ALIVE.includes(state);
    if (await hasLivingChild(this.redis, bull.toKey(jobId))) return true;
    // the last one may just have ended
    return (await bull.getJobState(jobId)) !== 'waiting-children';
  }

  /**
   * Of a transfer that has ended: its job, which cleans up after it, need not wait any more, neither for its time nor for
   * children that were not begun. `false`: there is no job that would end.
   */
  async hurry(transfer: TransferJob): Promise<boolean> {
    const { queue } = JOBS[transfer.kind];
    const bull = await askRedis('open a queue', () => this.#open(queue));
    const jobId = transferJobId(transfer.id, transfer.epoch);
    if (!(await askRedis('look for jobs', () => this.#isAlive(transfer)))) {
      await this.drop(transfer);
      return false;
    }
    await askRedis('bring a job back', async () => {
      if ((await this.redis.zscore(bull.toKey('delayed'), jobId)) === null) return;
      await (await bull.getJob(jobId))?.promote().catch(() => {}); // it came back by itself
    });
    await this.dropChildren({ queue, jobId });
    return true;
  }

  /**
   * Children of this job that no worker has go without being begun, and give back their turns; the job then waits for
   * the others only. One process at a time does it.
   * @returns whether any of its children will still end
   * @throws Failure `unavailable`: whoever takes one of those that are left may call this again
   */
  async dropChildren(parent: JobAt): Promise<boolean> {
    const jobKey = `${this.prefix}:${parent.queue}:${parent.jobId}`;
    const dropping = `${jobKey}:dropping`;
    const begun = await askRedis('look for jobs', async () => {
      if ((await this.redis.exists(`${jobKey}:dependencies`)) === 0) return 'needless';
      return this.redis.set(dropping, '', 'PX', DROPPING_MS, 'NX');
    });
    if (begun !== 'OK') return begun !== 'needless';
    try {
      const turn = await askRedis('look for jobs', () => this.#turnOf(jobKey));
      const waited = await dropChildren(this.redis, jobKey, (page) => this.#removeAll(page));
      await askRedis('give back turns', () =>
        Promise.all([...waited].map(([queue, count]) => this.#turns.giveBack(queue, turn, count))),
      );
    } finally {
      await this.redis.del(dropping).catch(() => 0);
    }
    return askRedis('look for jobs', () => hasLivingChild(this.redis, jobKey));
  }

  async #removeAll(jobs: readonly JobAt[]): Promise<void> {
    await askRedis('remove jobs', () =>
      Promise.all(
        jobs.map(async ({ queue, jobId }) =>
          (await this.#open(queue)).remove(jobId, { removeChildren: false }),
        ),
      ),
    );
  }

  /** The job of an epoch that is over, with those that it waits for. What a worker has ends by itself. */
  async drop({ id, epoch, kind }: TransferJob): Promise<void> {
    const job = { queue: JOBS[kind].queue, jobId: transferJobId(id, epoch) };
    if (!(await this.dropChildren(job))) await this.#removeAll([job]);
  }

  /** A few commands a queue, none of which grows with the queue. */
  async counts(): Promise<Readonly<Record<QueueName, QueueCounts>>> {
    const all = await askRedis('count jobs', () =>
      Promise.all(
        QUEUES.map(async (name) => {
          const bull = await this.#open(name);
          const counts = await bull.getJobCounts(
            'waiting',
            'prioritized',
            'delayed',
            'active',
            'waiting-children',
          );
          const oldestMs = await this.#turns.oldestMs(name);
          const of = (state: string): number => counts[state] ?? 0;
          return [
            name,
            {
              waiting: of('waiting') + of('prioritized'),
              delayed: of('delayed'),
              active: of('active'),
              'waiting-children': of('waiting-children'),
              ...(oldestMs !== undefined && { oldestMs }),
            },
          ] as const;
        }),
      ),
    );
    return Object.fromEntries(all) as Record<QueueName, QueueCounts>;
  }

  /** Worker processes, as their connections tell; 0 also where Redis lets nobody ask who is connected. */
  workers(): Promise<number> {
    return askRedis('count workers', async () => {
      const bull = await this.#open('upload');
      return bull.getWorkersCount().catch(() => 0);
    });
  }

  /** Notes of some of the jobs that wait for their turn, taken at random; at most `limit`. */
  async sample<N extends JobName>(name: N, limit: number): Promise<Note<N>[]> {
    const { queue, note } = JOBS[name];
    return askRedis('look at jobs', async () => {
      const bull = await this.#open(queue);
      const ids = await this.redis.zrandmember(bull.toKey('prioritized'), limit);
      const found = await Promise.all(
        [ids].flat().map((id) => this.redis.hmget(bull.toKey(`${id}`), 'name', 'data')),
      );
      return found.flatMap(([named, data]) => {
        const parsed = named === name ? note.safeParse(JSON.parse(data ?? 'null')) : undefined;
        return parsed?.success ? [parsed.data as Note<N>] : [];
      });
    });
  }

  /** Has a gc job made every `everyMs`, once for the whole fleet however many ask for it. */
  async scheduleGc(everyMs: number): Promise<void> {
    await askRedis('schedule gc', async () => {
      const bull = await this.#open(JOBS.gc.queue);
      await bull.upsertJobScheduler(
        'gc',
        { every: everyMs },
        { name: 'gc', data: JOBS.gc.note.parse({}), opts: JOB_OPTIONS },
      );
    });
  }

  health(): Promise<RedisHealth> {
    return redisHealth(this.redis);
  }

  /** What was asked for before is sent first, for as long as Redis takes it. */
  async close(): Promise<void> {
    await Promise.all([...this.#addings.values()].map((adding) => adding.settled()));
    const open = await Promise.allSettled(
      [...this.#queues.values()].map((queue) => askRedis('open a queue', () => queue)),
    );
    await Promise.allSettled(open.map((queue) => queue.status === 'fulfilled' && queue.value.close()));
    this.redis.disconnect();
  }

  /** A queue whose start failed half way would stay deaf for ever, so the next caller gets a new one. */
  #open(name: QueueName): Promise<BullQueue> {
    let opening = this.#queues.get(name);
    if (!opening) {
      opening = this.#start(name);
      this.#queues.set(name, opening);
      opening.catch(() => this.#queues.delete(name));
    }
    return opening;
  }

  async #start(name: QueueName): Promise<BullQueue> {
    const bull = new BullQueue(name, {
      connection: this.redis,
      prefix: this.prefix,
      streams: { events: { maxLen: EVENTS_KEPT } },
    });
    bull.on('error', (error) => this.#log.debug({ queue: name, err: error.message }, 'queue connection'));
    await bull.waitUntilReady();
    return bull;
  }
}

function parseNote<N extends JobName>(name: N, note: NoteGiven<N>): Note<N> {
  const parsed = JOBS[name].note.safeParse(note);
  if (parsed.success) return parsed.data as Note<N>;
  throw new Failure('invalid', `could not enqueue a ${name} job: ${parsed.error.message}`, { op: 'enqueue' });
}
