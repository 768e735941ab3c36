/** What machines ask of this process: its metrics, and whether it should be sent work. */
import type { FastifyInstance } from 'fastify';
import { failureOf } from '../../../lib/errors.ts';
import { JOBS, QUEUES, type QueueName } from '../../../lib/jobs/jobs.ts';
import { TRANSFER_KINDS } from '../../../lib/ledger/transfer.ts';
import { demand } from '../auth.ts';
import type { ApiDeps } from '../deps.ts';
import { readiness } from '../readiness.ts';

/** Over this time the rate is measured at which work is done. */
const RATE_WINDOW_MS = 60_000;
const NOTHING = { waiting: 0, delayed: 0, active: 0, 'waiting-children': 0 } as const;

export function registerMetrics(app: FastifyInstance, deps: ApiDeps): void {
  app.route({
    method: ['GET', 'HEAD'],
    url: '/metrics',
    handler: async (request, reply) => {
      if (!request.principal.can('operate')) demand(request.principal, 'read');
      await observe(deps);
      return reply.type(deps.metrics.contentType).send(await deps.metrics.text());
    },
  });
  const problemsOf = readiness(deps);
  app.route({
    method: ['GET', 'HEAD'],
    url: '/ready',
    config: { open: true },
    handler: async (_request, reply) => {
      const problems = await problemsOf();
      const ready = Object.keys(problems).length === 0;
      return reply.code(ready ? 200 : 503).send({ ready, problems });
    },
  });
}

/** Brings the gauges up to date that are looked up and not counted. A part that can't be asked keeps its last value. */
async function observe(deps: ApiDeps): Promise<void> {
  const { metrics, log } = deps;
  const parts = { redis: observeRedis, staging: observeStaging, queues: observeQueues };
  const asked = Object.entries(parts).map(async ([part, look]) => {
    try {
      await look(deps);
    } catch (error) {
      log.debug({ part, why: failureOf(error).message }, 'metrics are not up to date');
    }
  });
  metrics.stagingLimit.set({}, deps.staging.limitBytes);
  await Promise.all(asked);
}

async function observeRedis({ metrics, queue }: ApiDeps): Promise<void> {
  const { up, noeviction } = await queue.health();
  metrics.redisUp.set({}, up ? 1 : 0);
  metrics.redisNoeviction.set({}, noeviction ? 1 : 0);
}

async function observeStaging({ metrics, staging }: ApiDeps): Promise<void> {
  metrics.stagingBytes.set({}, await staging.usedBytes());
}

async function observeQueues({ metrics, queue, ledger }: ApiDeps): Promise<void> {
  const nowMs = Date.now();
  const [counts, ended] = await Promise.all([
    queue.counts(),
    ledger.transfers.endedSince(nowMs - RATE_WINDOW_MS),
  ]);
  const endedOf = (name: QueueName): number =>
    TRANSFER_KINDS.filter((kind) => JOBS[kind].queue === name).reduce((sum, kind) => sum + ended[kind], 0);
  for (const name of QUEUES) {
    const { oldestMs, ...states } = counts[name] ?? NOTHING;
    for (const state of ['waiting', 'delayed', 'active', 'waiting-children'] as const)
      metrics.queueJobs.set({ queue: name, state }, states[state]);
    metrics.queueOldest.set(
      { queue: name },
      oldestMs === undefined ? 0 : Math.max(0, nowMs - oldestMs) / 1000,
    );
    // a queue in which nothing ends has no rate: as if one had ended, so that the number is large and finite
    const perSecond = Math.max(1, endedOf(name)) / (RATE_WINDOW_MS / 1000);
    metrics.queueBacklog.set({ queue: name }, states.waiting / perSecond);
  }
}
