/** A worker process: dependencies, jobs, metrics, and an orderly end. */
import { createServer, type Server } from 'node:http';
import { hostname } from 'node:os';
import type { Config } from '../lib/config.ts';
import { openDeps } from '../lib/deps.ts';
import { Failure, failureOf } from '../lib/errors.ts';
import type { Metrics } from '../lib/metrics.ts';
import { Pool, TIMINGS, type Timings } from './pool.ts';

const SCHEDULE_RETRY_MS = 30_000;
/** Telling Redis what it knows already changes nothing: the next run stays where it is. */
const SCHEDULE_LOOK_MS = 10 * 60_000;

export interface RunningWorker {
  /** `/metrics` and `/health`, without a trailing slash. */
  readonly url: string;
  /** Hands back what runs and lets go of everything, within the grace period. */
  close(): Promise<void>;
}

/** @throws Failure `invalid` for a setting that can't work, `unavailable` when something it needs does not answer */
export async function runWorker(config: Config, timings: Timings = TIMINGS): Promise<RunningWorker> {
  const deps = await openDeps(config, 'worker');
  const { log, metrics, queue } = deps;
  const worker = `${hostname().replaceAll(/[^A-Za-z0-9.-]/g, '-')}-${process.pid}`;
  let pool: Pool | undefined;
  let server: Server | undefined;
  try {
    pool = new Pool({ ...deps, worker }, timings);
    server = await serveMetrics(config, metrics, () => isReady(pool, deps));
    const url = urlOf(server, config.host);
    const stopScheduling = keepScheduled(() => queue.scheduleGc(config.gcEveryMs));
    log.info({ worker, metrics: `${url}/metrics` }, 'taking jobs');
    const running = { pool, server };
    return {
      url,
      async close() {
        stopScheduling();
        await running.pool.close();
        running.server.close();
        running.server.closeAllConnections();
        await deps.close();
      },
    };
  } catch (error) {
    server?.close();
    await pool?.close();
    await deps.close();
    throw error;
  }
}

/** Tries until Redis has it, and looks again now and then: a Redis that lost its data has lost this, too. */
function keepScheduled(schedule: () => Promise<void>): () => void {
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;
  const attempt = (): void =>
    void schedule()
      .then(
        () => SCHEDULE_LOOK_MS,
        () => SCHEDULE_RETRY_MS,
      )
      .then((ms) => {
        if (!stopped) timer = setTimeout(attempt, ms);
      });
  attempt();
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}

interface Readiness {
  readonly ready: boolean;
  readonly problem?: string;
}

async function isReady(
  pool: Pool | undefined,
  deps: Awaited<ReturnType<typeof openDeps>>,
): Promise<Readiness> {
  const redis = await deps.queue.health();
  deps.metrics.redisUp.set({}, redis.up ? 1 : 0);
  deps.metrics.redisNoeviction.set({}, redis.noeviction ? 1 : 0);
  if (!pool?.ready) return { ready: false, problem: 'shutting down' };
  if (redis.problem !== undefined) return { ready: false, problem: redis.problem };
  try {
    await deps.ledger.ping();
  } catch (error) {
    return { ready: false, problem: failureOf(error).message };
  }
  return { ready: true };
}

/** `/metrics` for Prometheus, `/health` (the process lives) and `/ready` (it takes jobs) for whoever runs it. */
async function serveMetrics(
  config: Config,
  metrics: Metrics,
  readiness: () => Promise<Readiness>,
): Promise<Server> {
  const server = createServer((request, response) => {
    const answer = (status: number, type: string, body: string): void =>
      void response.writeHead(status, { 'content-type': type }).end(body);
    const path = (request.url ?? '/').split('?')[0];
    if (request.method !== 'GET') return answer(405, 'text/plain', 'only GET is served here\n');
    if (path === '/health') return answer(200, 'text/plain', 'OK');
    if (path !== '/metrics' && path !== '/ready') return answer(404, 'text/plain', 'no such page\n');
    readiness()
      .then(async (found) => {
        if (path === '/metrics') return answer(200, metrics.contentType, await metrics.text());
        answer(found.ready ? 200 : 503, 'text/plain', found.ready ? 'OK' : `${found.problem}\n`);
      })
      .catch((error: unknown) => answer(500, 'text/plain', `${failureOf(error).message}\n`));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(cannotListen(config, error)));
    server.listen(config.workerMetricsPort, config.host, resolve);
  });
  return server;
}

const cannotListen = (config: Config, error: Error): Failure =>
  new Failure(
    'invalid',
    `could not serve metrics on ${config.host}:${config.workerMetricsPort}: ${error.message}; choose another port with --worker-metrics-port`,
    { op: 'listen' },
    { cause: error },
  );

function urlOf(server: Server, host: string): string {
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return `http://${host.includes(':') && !host.startsWith('[') ? `[${host}]` : host}:${port}`;
}
