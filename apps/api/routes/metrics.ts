/** What machines ask of this process: its metrics, and whether it should be sent work. */
import type { FastifyInstance } from 'fastify';
import { failureOf } from '../../../lib/errors.ts';
import { QUEUES } from '../../../lib/jobs/jobs.ts';
import { demand } from '../auth.ts';
import { BACKLOG_QUEUES, BacklogMeter } from '../backlog.ts';
import type { ApiDeps } from '../deps.ts';
import { readiness } from '../readiness.ts';
import { registerBacklog } from './backlog.ts';

const NOTHING = { waiting: 0, delayed: 0, active: 0, 'waiting-children': 0 } as const;

export function registerMetrics(app: FastifyInstance, deps: ApiDeps): void {
  const backlog = new BacklogMeter(deps);
  registerBacklog(app, backlog);
  app.route({
    method: ['GET', 'HEAD'],
    url: '/metrics',
    handler: async (request, reply) => {
      if (!request.principal.can('operate')) demand(request.principal, 'read');
      await observe(deps, backlog);
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
async function observe(deps: ApiDeps, backlog: BacklogMeter): Promise<void> {
  const { metrics, log } = deps;
  const parts = {
    redis: observeRedis,
    staging: observeStaging,
    queues: observeQueues,
    backlog: () => observeBacklog(deps, backlog),
  };
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

async function observeQueues({ metrics, queue }: ApiDeps): Promise<void> {
  const nowMs = Date.now();
  const counts = await queue.counts();
  for (const name of QUEUES) {
    const { oldestMs, ...states } = counts[name] ?? NOTHING;
    for (const state of ['waiting', 'delayed', 'active', 'waiting-children'] as const)
      metrics.queueJobs.set({ queue: name, state }, states[state]);
    metrics.queueOldest.set(
      { queue: name },
      oldestMs === undefined ? 0 : Math.max(0, nowMs - oldestMs) / 1000,
    );
  }
}

async function observeBacklog({ metrics }: ApiDeps, backlog: BacklogMeter): Promise<void> {
  const { queues } = await backlog.read();
  for (const queue of BACKLOG_QUEUES)
    for (const [store, { backlogSeconds }] of Object.entries(queues[queue].stores))
      metrics.backlog.set({ queue, store }, backlogSeconds);
}
