/**
 * Every series that Longshore exports, in one table: `docs/metrics.md` is generated from it and a test fails when they
 * drift. A label's values are a closed set, known when the process starts; no path, id or user is ever one.
 */
import { readdirSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import { FAILURE_KINDS } from './errors.ts';

export const ROLES = ['api', 'worker'] as const;
export type Role = (typeof ROLES)[number];

/** Values of labels. They repeat what the modules above declare, because this file imports none of them; a test compares. */
export const LABELS = {
  kind: ['upload', 'download', 'copy', 'delete'],
  outcome: ['succeeded', 'failed', 'cancelled', 'superseded'],
  queue: ['upload', 'download', 'multipart-part', 'gc'],
  jobState: ['waiting', 'delayed', 'active', 'waiting-children'],
  direction: ['read', 'written'],
  failure: FAILURE_KINDS,
  op: [
    'head',
    'tags',
    'carries',
    'read',
    'write',
    'list',
    'remove',
    'prune',
    'make-directory',
    'begin',
    'part',
    'parts',
    'finish',
    'abandon',
    'pending',
    'leftovers',
    'remove-leftovers',
    'copy',
    'copy-part',
  ],
  requestOutcome: ['ok', ...FAILURE_KINDS],
  group: ['artifacts', 'uploads', 'transfers', 'events', 'gc', 'operations', 'other'],
  method: ['GET', 'HEAD', 'PUT', 'POST', 'DELETE', 'other'],
  status: ['2xx', '3xx', '4xx', '5xx'],
  task: ['staging', 'uploads', 'downloads', 'history'],
  stat: ['p50', 'p99', 'max'],
} as const;

/** A label whose values are the configured stores' names. */
const STORE = 'store' as const;
type LabelValues = readonly string[] | typeof STORE;

const TRANSFER_BUCKETS = [
  0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 1800, 3600, 7200,
] as const;
const REQUEST_BUCKETS = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
] as const;

const LAG_RESOLUTION_MS = 10;

export interface SeriesSpec {
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly name: string;
  readonly help: string;
  readonly labels: Readonly<Record<string, LabelValues>>;
  readonly by: readonly Role[];
  readonly buckets?: readonly number[];
  /** Not set to 0 at the start: too many combinations, most of which never happen. */
  readonly sparse?: true;
}

export const SERIES = {
  transfersEnded: {
    type: 'counter',
    name: 'longshore_transfers_ended_total',
    by: ['api', 'worker'],
    labels: { kind: LABELS.kind, store: STORE, outcome: LABELS.outcome },
    help: 'Transfers that ended, by kind, store (the target; of a download the source) and ending.',
  },
  transferDuration: {
    type: 'histogram',
    name: 'longshore_transfer_duration_seconds',
    by: ['worker'],
    labels: { kind: LABELS.kind },
    buckets: TRANSFER_BUCKETS,
    help: 'Time from acceptance to the recorded ending.',
  },
  transferRetries: {
    type: 'counter',
    name: 'longshore_transfer_retries_total',
    by: ['worker'],
    labels: { failure: LABELS.failure },
    help: 'Attempts that ended in a failure after which the transfer is tried again, by kind of failure.',
  },
  transfersInFlight: {
    type: 'gauge',
    name: 'longshore_transfers_in_flight',
    by: ['worker'],
    labels: { kind: LABELS.kind },
    help: 'Transfers that this worker is working on now.',
  },
  queueWait: {
    type: 'histogram',
    name: 'longshore_queue_wait_seconds',
    by: ['worker'],
    labels: { queue: LABELS.queue },
    buckets: TRANSFER_BUCKETS,
    help: 'Time a job spent in its queue before a worker took it.',
  },
  queueJobs: {
    type: 'gauge',
    name: 'longshore_queue_jobs',
    by: ['api'],
    labels: { queue: LABELS.queue, state: LABELS.jobState },
    help: 'Jobs by queue and state, as Redis has them (every API answers the same numbers: use max, not sum).',
  },
  queueOldest: {
    type: 'gauge',
    name: 'longshore_queue_oldest_waiting_seconds',
    by: ['api'],
    labels: { queue: LABELS.queue },
    help: 'Age of the job that has waited longest; 0 when none waits.',
  },
  backlog: {
    type: 'gauge',
    name: 'longshore_backlog_seconds',
    by: ['api'],
    labels: { queue: ['upload', 'download', 'multipart-part'], store: STORE },
    help: 'How long the workers that run now need for what waits, at the rates that were measured lately (as `/api/v1/backlog`).',
  },
  stagingBytes: {
    type: 'gauge',
    name: 'longshore_staging_bytes',
    by: ['api'],
    labels: {},
    help: 'Bytes that wait in staging or are reserved there.',
  },
  stagingLimit: {
    type: 'gauge',
    name: 'longshore_staging_limit_bytes',
    by: ['api'],
    labels: {},
    help: 'Bytes that staging may hold.',
  },
  storeBytes: {
    type: 'counter',
    name: 'longshore_store_bytes_total',
    by: ['api', 'worker'],
    labels: { store: STORE, direction: LABELS.direction },
    help: 'Bytes read from and written to a store, retries included.',
  },
  storeRequests: {
    type: 'histogram',
    name: 'longshore_store_request_duration_seconds',
    by: ['api', 'worker'],
    labels: { store: STORE, op: LABELS.op, outcome: LABELS.requestOutcome },
    buckets: REQUEST_BUCKETS,
    sparse: true,
    help: 'Time of one call of a store, by operation and outcome (ok or the kind of failure); what it waits under --store-limit is part of it for S3.',
  },
  storeLimitWait: {
    type: 'histogram',
    name: 'longshore_store_limit_wait_seconds',
    by: ['api', 'worker'],
    labels: { store: STORE },
    buckets: REQUEST_BUCKETS,
    help: 'Time a request to a store with a --store-limit waited for its turn.',
  },
  storeLimitHeld: {
    type: 'gauge',
    name: 'longshore_store_limit_connections',
    by: ['worker'],
    labels: { store: STORE },
    help: "Requests that this process may have in flight now: its share of the store's --store-limit.",
  },
  storeThrottled: {
    type: 'counter',
    name: 'longshore_store_throttled_total',
    by: ['api', 'worker'],
    labels: { store: STORE },
    help: 'Times that a store asked this process for fewer requests; all processes then pause.',
  },
  storeTrouble: {
    type: 'gauge',
    name: 'longshore_store_trouble',
    by: ['worker'],
    labels: { store: STORE },
    help: '0: the store answers. 1: it says nothing, or wants a pause; it gets fewer job slots. 2: it fails; its jobs wait and one at a time tries.',
  },
  jobsHeldBack: {
    type: 'counter',
    name: 'longshore_jobs_held_back_total',
    by: ['worker'],
    labels: { store: STORE },
    help: 'Times that a job was put back into its queue because its store is in trouble; no attempt is spent.',
  },
  httpRequests: {
    type: 'counter',
    name: 'longshore_http_requests_total',
    by: ['api'],
    labels: { group: LABELS.group, method: LABELS.method, status: LABELS.status },
    help: 'HTTP requests answered, by group of routes, method and class of status.',
  },
  httpDuration: {
    type: 'histogram',
    name: 'longshore_http_request_duration_seconds',
    by: ['api'],
    labels: { group: LABELS.group, method: LABELS.method },
    buckets: TRANSFER_BUCKETS,
    sparse: true,
    help: 'Time from the head of a request to the end of its answer.',
  },
  eventStreams: {
    type: 'gauge',
    name: 'longshore_event_streams',
    by: ['api'],
    labels: {},
    help: 'Open event streams.',
  },
  redisUp: {
    type: 'gauge',
    name: 'longshore_redis_up',
    by: ['api', 'worker'],
    labels: {},
    help: '1 when Redis answered when it was last asked.',
  },
  redisNoeviction: {
    type: 'gauge',
    name: 'longshore_redis_noeviction',
    by: ['api', 'worker'],
    labels: {},
    help: '1 when Redis runs with maxmemory-policy noeviction, without which jobs may vanish.',
  },
  ledgerCommit: {
    type: 'histogram',
    name: 'longshore_ledger_commit_duration_seconds',
    by: ['api', 'worker'],
    labels: {},
    buckets: REQUEST_BUCKETS,
    help: 'Time of one ledger transaction, which may hold the changes of many transfers, its sync included.',
  },
  lockLosses: {
    type: 'counter',
    name: 'longshore_lock_losses_total',
    by: ['worker'],
    labels: { queue: LABELS.queue },
    help: 'Jobs that this worker stopped because it could not renew their lock in time.',
  },
  requeues: {
    type: 'counter',
    name: 'longshore_reconciler_requeues_total',
    by: ['api', 'worker'],
    labels: {},
    help: 'Transfers that had no job and were given a new one.',
  },
  gcItems: {
    type: 'counter',
    name: 'longshore_gc_items_total',
    by: ['worker'],
    labels: { task: LABELS.task },
    help: 'Items removed by collection, by task.',
  },
  unprovenUploads: {
    type: 'gauge',
    name: 'longshore_unproven_uploads',
    by: ['worker'],
    labels: { store: STORE },
    help: 'Multipart uploads older than a day that no row of the ledger names, as the last collection of this worker found them: ours whose id was lost, or anybody else’s. They stay; a lifecycle rule of the bucket removes them.',
  },
  eventLoopLag: {
    type: 'gauge',
    name: 'longshore_event_loop_lag_seconds',
    by: ['api', 'worker'],
    labels: { stat: LABELS.stat },
    help: 'How late the event loop was since the last scrape.',
  },
  buildInfo: {
    type: 'gauge',
    name: 'longshore_build_info',
    by: ['api', 'worker'],
    labels: { version: [], node: [] },
    help: 'Always 1; the version of Longshore and of Node are labels.',
  },
  cpu: {
    type: 'counter',
    name: 'process_cpu_seconds_total',
    by: ['api', 'worker'],
    labels: {},
    help: 'Processor time of this process, user and system.',
  },
  memory: {
    type: 'gauge',
    name: 'process_resident_memory_bytes',
    by: ['api', 'worker'],
    labels: {},
    help: 'Resident memory of this process.',
  },
  openFiles: {
    type: 'gauge',
    name: 'process_open_fds',
    by: ['api', 'worker'],
    labels: {},
    help: 'Open file descriptors of this process; 0 where the system does not tell.',
  },
  started: {
    type: 'gauge',
    name: 'process_start_time_seconds',
    by: ['api', 'worker'],
    labels: {},
    help: 'When this process started, in Unix time.',
  },
} as const satisfies Record<string, SeriesSpec>;

type Values<V> = V extends readonly [] ? string : V extends readonly (infer Value)[] ? Value : string;
type LabelsOf<S extends SeriesSpec> = { readonly [L in keyof S['labels']]: Values<S['labels'][L]> };

/** Handles take the labels first, `{}` where a series has none. */
interface CounterOf<L> {
  inc(labels: L, by?: number): void;
}
interface GaugeOf<L> {
  set(labels: L, value: number): void;
  inc(labels: L, by?: number): void;
  dec(labels: L, by?: number): void;
}
interface HistogramOf<L> {
  /** Seconds. */
  observe(labels: L, value: number): void;
}
type HandleOf<S extends SeriesSpec> = S['type'] extends 'counter'
  ? CounterOf<LabelsOf<S>>
  : S['type'] extends 'gauge'
    ? GaugeOf<LabelsOf<S>>
    : HistogramOf<LabelsOf<S>>;

export type Metrics = { readonly [K in keyof typeof SERIES]: HandleOf<(typeof SERIES)[K]> } & {
  readonly role: Role;
  /** The exposition text, and the content type it is served as. */
  text(): Promise<string>;
  readonly contentType: string;
  /** Stops watching the event loop. */
  close(): void;
};

/**
 * One registry per process. Every handle is there in every role, so that shared code needs no condition; a series that
 * the role does not export is kept out of the text.
 * @param stores names of the configured stores (staging included): the values of the label `store`
 */
export function createMetrics(
  role: Role,
  opts: { readonly stores: readonly string[]; readonly version: string },
): Metrics {
  const registry = new Registry();
  const handles = Object.fromEntries(
    Object.entries<SeriesSpec>(SERIES).map(([key, spec]) => {
      const registers = spec.by.includes(role) ? [registry] : [];
      const handle = create(spec, registers);
      if (!spec.sparse) for (const labels of combinations(spec.labels, opts.stores)) zero(handle, labels);
      return [key, handle];
    }),
  );
  const lag = monitorEventLoopDelay({ resolution: LAG_RESOLUTION_MS });
  lag.enable();
  let cpuSeconds = 0;
  const metrics = {
    ...handles,
    role,
    contentType: registry.contentType,
    text: () => {
      observeEventLoop(metrics, lag);
      cpuSeconds = observeProcess(metrics, cpuSeconds);
      return registry.metrics();
    },
    close: () => lag.disable(),
  } as unknown as Metrics; // the table above is what gives the handles their types
  metrics.buildInfo.set({ version: opts.version, node: process.versions.node }, 1);
  metrics.started.set({}, Math.round(Date.now() / 1000 - process.uptime()));
  return metrics;
}

function create(spec: SeriesSpec, registers: Registry[]): Counter | Gauge | Histogram {
  const base = { name: spec.name, help: spec.help, labelNames: Object.keys(spec.labels), registers };
  if (spec.type === 'counter') return new Counter(base);
  if (spec.type === 'gauge') return new Gauge(base);
  return new Histogram({ ...base, buckets: [...(spec.buckets ?? [])] });
}

function zero(handle: Counter | Gauge | Histogram, labels: Record<string, string>): void {
  if (handle instanceof Histogram) handle.zero(labels);
  else handle.inc(labels, 0);
}

function combinations(labels: SeriesSpec['labels'], stores: readonly string[]): Record<string, string>[] {
  let all: Record<string, string>[] = [{}];
  for (const [name, values] of Object.entries(labels))
    all = all.flatMap((one) =>
      (values === STORE ? stores : values).map((value) => ({ ...one, [name]: value })),
    );
  return all;
}

function observeEventLoop(metrics: Metrics, lag: ReturnType<typeof monitorEventLoopDelay>): void {
  // the monitor measures the whole sleep: what it was asked to sleep is no lag
  const seconds = (ns: number): number =>
    lag.count === 0 ? 0 : Math.max(0, ns / 1e9 - LAG_RESOLUTION_MS / 1000);
  metrics.eventLoopLag.set({ stat: 'p50' }, seconds(lag.percentile(50)));
  metrics.eventLoopLag.set({ stat: 'p99' }, seconds(lag.percentile(99)));
  metrics.eventLoopLag.set({ stat: 'max' }, seconds(lag.max));
  lag.reset();
}

/** Answers the CPU seconds told so far: a counter is moved by differences. */
function observeProcess(metrics: Metrics, cpuSecondsTold: number): number {
  const { user, system } = process.cpuUsage();
  const cpuSeconds = (user + system) / 1e6;
  metrics.cpu.inc({}, cpuSeconds - cpuSecondsTold);
  metrics.memory.set({}, process.memoryUsage.rss());
  metrics.openFiles.set({}, openFiles());
  return cpuSeconds;
}

function openFiles(): number {
  try {
    return readdirSync('/proc/self/fd').length;
  } catch {
    return 0; // not Linux
  }
}
