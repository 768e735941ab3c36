/** The producing side of the queues: puts notes in, and looks what is there. Nothing here takes a job out. */
import { Queue as BullQueue, type JobState, type JobsOptions } from 'bullmq';
import type { Redis } from 'ioredis';
import { Failure } from '../errors.ts';
import type { Log } from '../log.ts';
import { JOBS, type JobName, type Note, QUEUES, type QueueName, transferJobId } from './jobs.ts';
import { connectRedis, type RedisHealth, type RedisPlace, redisHealth } from './redis.ts';

/** Longest that a caller waits for Redis. */
const PATIENCE_MS = 1000;
const EVENTS_KEPT = 1000;
/** Notes are a few dozen bytes; one that is larger carries what it must not. */
const MAX_NOTE_BYTES = 4096;
/** Most priorities that are looked at for the oldest waiting job. */
const MAX_PRIORITIES = 16;

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

/** Jobs that carry out a transfer are named by its kind. */
export type TransferJobName = Exclude<JobName, 'gc'>;
/** What the queue must know of a transfer. */
export interface TransferJob {
  readonly id: string;
  readonly epoch: number;
  readonly kind: TransferJobName;
  readonly priority: number;
}

export interface EnqueueOptions {
  /** Letters, digits, dashes; a job with this id that is still there is kept and this one is not added. */
  readonly jobId?: string;
  /** 1 (first) to 1000. */
  readonly priority?: number;
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
const ALIVE: readonly (JobState | 'unknown')[] = [
  'waiting',
  'prioritized',
  'delayed',
  'active',
  'waiting-children',
];

export class Queue implements RedisPlace {
  readonly url: string;
  readonly prefix: string;
  /** Fails fast. Shared with progress and cancel. */
  readonly redis: Redis;
  readonly #log: Log;
  readonly #queues = new Map<QueueName, Promise<BullQueue>>();

  constructor(place: RedisPlace, log: Log) {
    this.url = place.url;
    this.prefix = place.prefix;
    this.#log = log;
    this.redis = connectRedis(place.url, 'producer', { log, name: 'producer' });
  }

  /**
   * Parses the note and puts it into the job's queue.
   * @throws Failure `invalid` for a note that does not parse, `unavailable` when Redis does not take it within a second
   */
  async enqueue<N extends JobName>(name: N, note: Note<N>, opts: EnqueueOptions = {}): Promise<void> {
    const { queue, note: schema } = JOBS[name];
    const parsed = schema.safeParse(note);
    if (!parsed.success)
      throw new Failure('invalid', `could not enqueue a ${name} job: ${parsed.error.message}`, {
        op: 'enqueue',
      });
    await this.#ask('enqueue', async () => {
      const bull = await this.#open(queue);
      await bull.add(name, parsed.data, {
        ...JOB_OPTIONS,
        ...(opts.jobId !== undefined && { jobId: opts.jobId }),
        ...(opts.priority !== undefined && { priority: opts.priority }),
        ...(opts.delayMs !== undefined && { delay: opts.delayMs }),
      });
    });
  }

  /** The job of this transfer's epoch. */
  submit(transfer: TransferJob): Promise<void> {
    const note = { transfer: transfer.id, epoch: transfer.epoch };
    return this.enqueue(transfer.kind, note, {
      jobId: transferJobId(transfer.id, transfer.epoch),
      priority: transfer.priority,
    });
  }

  /** Those of `transfers` (a page, not thousands) whose job Redis does not have. */
  async lacking<T extends TransferJob>(transfers: readonly T[]): Promise<T[]> {
    const states = await this.#ask('look for jobs', () =>
      Promise.all(
        transfers.map(async ({ id, epoch, kind }) => {
          const bull = await this.#open(JOBS[kind].queue);
          return bull.getJobState(transferJobId(id, epoch));
        }),
      ),
    );
    return transfers.filter((_, at) => !ALIVE.includes(states[at] ?? 'unknown'));
  }

  /** A few commands a queue, none of which grows with the queue. */
  async counts(): Promise<Readonly<Record<QueueName, QueueCounts>>> {
    const all = await this.#ask('count jobs', () =>
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
          const oldestMs = await this.#oldest(bull);
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

  /** The first of the plain list and of each priority: within one, jobs are in order of arrival. */
  async #oldest(bull: BullQueue): Promise<number | undefined> {
    const ids: string[] = [];
    const next = await this.redis.lindex(bull.toKey('wait'), -1);
    if (next !== null) ids.push(next);
    let above: string | number = '-inf';
    for (let n = 0; n < MAX_PRIORITIES; n++) {
      const [id, score]: string[] = await this.redis.zrangebyscore(
        bull.toKey('prioritized'),
        above,
        '+inf',
        'WITHSCORES',
        'LIMIT',
        0,
        1,
      );
      if (id === undefined) break;
      ids.push(id);
      above = (Math.floor(Number(score) / 2 ** 32) + 1) * 2 ** 32; // a score is priority × 2^32 + counter
    }
    const times = await Promise.all(ids.map((id) => this.redis.hget(bull.toKey(id), 'timestamp')));
    const known = times.filter((time) => time !== null).map(Number);
    return known.length > 0 ? Math.min(...known) : undefined;
  }

  /** Has a gc job made every `everyMs`, once for the whole fleet however many ask for it. */
  async scheduleGc(everyMs: number): Promise<void> {
    await this.#ask('schedule gc', async () => {
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

  async close(): Promise<void> {
    const open = await Promise.allSettled(
      [...this.#queues.values()].map((queue) => within(queue, PATIENCE_MS)),
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

  async #ask<T>(what: string, run: () => Promise<T>): Promise<T> {
    try {
      return await within(run(), PATIENCE_MS);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      // without the client's error: it carries the command that failed, and that may be AUTH with its password
      throw new Failure('unavailable', `could not ${what}: Redis: ${why}`, { op: what });
    }
  }
}

/** Rejects after `ms`; what was asked goes on and its outcome is nobody's concern any more. */
async function within<T>(asked: Promise<T>, ms: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([asked, late]);
  } finally {
    clearTimeout(timer);
    asked.catch(() => {});
  }
}
