/**
 * How long the workers that run now would need for what waits, for whoever decides how many there should be. What waits
 * and what was carried lately is the ledger's to say, save for parts, which only Redis knows.
 */
import { JOBS, type QueueName } from '../../lib/jobs/jobs.ts';
import { readPace } from '../../lib/jobs/parts-pace.ts';
import type { StoreWork } from '../../lib/ledger/contract.ts';
import { type Basis, type Carried, type Cost, costOf, NOTHING, workMs } from './backlog-cost.ts';
import type { ApiDeps } from './deps.ts';

export const BACKLOG_QUEUES = ['upload', 'download', 'multipart-part'] as const satisfies QueueName[];
type BacklogQueue = (typeof BACKLOG_QUEUES)[number];

/** Over this time it is measured what a job and a byte cost; what was measured before is remembered. */
const WINDOW_MINUTES = 5;
const PARTS_SAMPLED = 64;
/** Longest that an answer is given again. */
const KEPT_MS = 5000;
/** Of a part, as long as none can be looked at: it is at least of this size, save the last one. */
const PART_BYTES = 16 * 1024 * 1024;

export interface StoreBacklog {
  /** Waiting. */
  readonly jobs: number;
  /** Those that are known: the sources of copies and downloads have not been looked at yet. */
  readonly bytes: number;
  /** Of all workers together while they have such work. */
  readonly jobsPerSecond: number;
  readonly bytesPerSecond: number;
  readonly basis: Basis;
  readonly backlogSeconds: number;
}
export interface QueueBacklog {
  readonly jobs: number;
  readonly bytes: number;
  /** Being worked on, or put off for a while. */
  readonly inHand: number;
  readonly oldestSeconds: number;
  readonly backlogSeconds: number;
  readonly stores: Readonly<Record<string, StoreBacklog>>;
}
export interface Backlog {
  readonly workers: number;
  /** The longest of the queues': a worker serves all of them at the same time. */
  readonly backlogSeconds: number;
  readonly queues: Readonly<Record<BacklogQueue, QueueBacklog>>;
}

type Facts = Awaited<ReturnType<typeof look>>;

export class BacklogMeter {
  readonly #deps: ApiDeps;
  /** The last that was measured, by queue and store; and of a queue as a whole. */
  readonly #known = new Map<string, Cost>();
  #answer: Promise<Backlog> | undefined;
  #untilMs = 0;

  constructor(deps: ApiDeps) {
    this.#deps = deps;
  }

  /** A tenth of the time is spent on it, however many ask. @throws Failure `unavailable`: ledger or Redis is away */
  read(): Promise<Backlog> {
    if (this.#answer && Date.now() < this.#untilMs) return this.#answer;
    const askedMs = Date.now();
    this.#untilMs = Number.POSITIVE_INFINITY;
    const answer = this.#read();
    answer.then(
      () => (this.#untilMs = Date.now() + Math.min(KEPT_MS, 9 * (Date.now() - askedMs))),
      () => (this.#untilMs = 0),
    );
    this.#answer = answer;
    return answer;
  }

  async #read(): Promise<Backlog> {
    const facts = await look(this.#deps);
    const entries = BACKLOG_QUEUES.map((queue) => [queue, this.#queue(queue, facts)] as const);
    return {
      workers: facts.workers,
      backlogSeconds: Math.max(...entries.map(([, { backlogSeconds }]) => backlogSeconds)),
      queues: Object.fromEntries(entries) as Record<BacklogQueue, QueueBacklog>,
    };
  }

  #queue(queue: BacklogQueue, facts: Facts): QueueBacklog {
    const { counts, workers } = facts;
    const slots = Math.max(1, workers) * this.#slotsOf(queue);
    const all = this.#measure(queue, total(this.#carried(queue, undefined, facts)), undefined);
    const stores = [...this.#deps.stores.keys()].map((store) => {
      const work = this.#waiting(queue, store, facts);
      const cost = this.#measure(`${queue} ${store}`, total(this.#carried(queue, store, facts)), all);
      const backlog: StoreBacklog = {
        ...work,
        jobsPerSecond: rounded((slots * 1000) / cost.msPerJob),
        bytesPerSecond: Math.round((slots * 1000) / cost.msPerByte),
        basis: cost.basis,
        backlogSeconds: rounded(workMs(work, cost) / slots / 1000),
      };
      return [store, backlog] as const;
    });
    const { oldestMs, active, delayed } = counts[queue];
    const inHand = active + delayed;
    const sum = (field: 'jobs' | 'bytes' | 'backlogSeconds'): number =>
      stores.reduce((soFar, [, backlog]) => soFar + backlog[field], 0);
    return {
      jobs: sum('jobs'),
      bytes: sum('bytes'),
      inHand,
      oldestSeconds: oldestMs === undefined ? 0 : rounded(Math.max(0, Date.now() - oldestMs) / 1000),
      // how far the jobs in hand are is not known: as if they had just begun
      backlogSeconds: rounded(sum('backlogSeconds') + (inHand * all.msPerJob) / slots / 1000),
      stores: Object.fromEntries(stores),
    };
  }

  #slotsOf(queue: BacklogQueue): number {
    const { uploadConcurrency, downloadConcurrency, partConcurrency } = this.#deps.config;
    return { upload: uploadConcurrency, download: downloadConcurrency, 'multipart-part': partConcurrency }[
      queue
    ];
  }

  #waiting(queue: BacklogQueue, store: string, { waiting, counts, parts }: Facts) {
    if (queue !== 'multipart-part') {
      const { jobs, bytes } = total(waiting.filter(isOf(queue, store)));
      return { jobs, bytes };
    }
    const here = parts.filter((part) => part.store === store);
    const each = counts[queue].waiting / Math.max(1, parts.length);
    const bytes = here.reduce((sum, part) => sum + part.bytes, 0);
    return { jobs: Math.round(each * here.length), bytes: Math.round(each * bytes) };
  }

  /** Parts are counted without their store and bytes: the store makes less of a difference, and they are alike. */
  #carried(
    queue: BacklogQueue,
    store: string | undefined,
    { carried, pace, parts }: Facts,
  ): Partial<Carried>[] {
    if (queue !== 'multipart-part') return carried.filter(isOf(queue, store));
    const sampled = parts.reduce((sum, { bytes }) => sum + bytes, 0);
    const each = parts.length === 0 ? PART_BYTES : sampled / parts.length;
    return [{ ...pace, bytes: pace.jobs * each }];
  }

  /** What was carried lately tells; else what did before; else that of the queue as a whole. */
  #measure(name: string, carried: Carried, otherwise: Cost | undefined): Cost {
    const measured = costOf(carried);
    if (measured) this.#known.set(name, { ...measured, basis: 'earlier' });
    return measured ?? this.#known.get(name) ?? otherwise ?? NOTHING;
  }
}

async function look(deps: ApiDeps) {
  const { ledger, queue } = deps;
  const [waiting, carried, counts, workers, parts, pace] = await Promise.all([
    ledger.transfers.waiting(),
    ledger.transfers.carriedSince(Date.now() - WINDOW_MINUTES * 60_000),
    queue.counts(),
    queue.workers(),
    sampledParts(deps),
    readPace(queue, 'multipart-part', WINDOW_MINUTES),
  ]);
  return { waiting, carried, counts, workers, parts, pace };
}

/** Some of the parts that wait, taken at random: the share of each store is that of all. */
async function sampledParts({ ledger, queue, stores }: ApiDeps): Promise<{ store: string; bytes: number }[]> {
  const notes = await queue.sample('part', PARTS_SAMPLED);
  const ids = [...new Set(notes.map(({ upload }) => upload))];
  const uploads = new Map(
    await Promise.all(ids.map(async (id) => [id, await ledger.uploads.parted(id)] as const)),
  );
  return notes.flatMap(({ upload: id }) => {
    const upload = uploads.get(id);
    if (!upload) return []; // it has ended meanwhile
    const { place, from, partBytes, size } = upload;
    const store = stores.has(place.store) ? place.store : (from?.store ?? place.store);
    return [{ store, bytes: Math.min(partBytes, size) }];
  });
}

const isOf =
  (queue: BacklogQueue, store: string | undefined) =>
  (work: StoreWork): boolean =>
    JOBS[work.kind].queue === queue && (store === undefined || work.store === store);

function total(works: readonly Partial<Carried>[]): Carried {
  const sum = (field: keyof Carried): number => works.reduce((soFar, work) => soFar + (work[field] ?? 0), 0);
  return { jobs: sum('jobs'), bytes: sum('bytes'), busyMs: sum('busyMs') };
}

const rounded = (value: number): number => Math.round(value * 1000) / 1000;
