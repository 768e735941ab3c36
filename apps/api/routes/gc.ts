/** Collection on demand: what would go is answered at once, removing it is a job. */
import type { FastifyInstance } from 'fastify';
import { GC_TASKS, type GcTask } from '../../../lib/jobs/jobs.ts';
import { type WrittenPath, writtenPath } from '../../../lib/path.ts';
import { COLLECT, type Collected } from '../../../lib/transfer/gc.ts';
import { UNPROVEN_REMEDY, type UnprovenUploads } from '../../../lib/transfer/gc-unproven.ts';
import { demand } from '../auth.ts';
import { requestSignal } from '../body.ts';
import type { ApiDeps } from '../deps.ts';
import { gcPlan, gcRequest } from '../schemas.ts';
import { withZod } from '../validation.ts';

interface Unproven {
  store: string;
  count: number;
  uploads: (WrittenPath & { begun: string; id: string })[];
  remedy: string;
}

const told = ([store, { count, uploads }]: readonly [string, UnprovenUploads]): Unproven[] =>
  count === 0
    ? []
    : [
        {
          store,
          count,
          uploads: uploads.map(({ path, begunMs, id }) => ({
            ...writtenPath(path),
            begun: new Date(begunMs).toISOString(),
            id,
          })),
          remedy: UNPROVEN_REMEDY,
        },
      ];

export function registerGc(plain: FastifyInstance, deps: ApiDeps): void {
  const app = withZod(plain);
  app.post(
    '/api/v1/gc',
    {
      onRequest: (request, _reply, done) => {
        demand(request.principal, 'operate');
        done();
      },
      schema: {
        summary: 'Collect what nobody needs any more',
        description:
          'Expired staging, abandoned multipart uploads, downloads past their lease, history past retention. Only what a row of ' +
          'the ledger names goes, or what proves by its name that this installation made it. With `dryRun` the answer (200) ' +
          'counts what would go, and names uploads that stay because nothing proves whose they are; without it a job does it ' +
          '(202), as one does on schedule. Needs `operate`.',
        tags: ['operations'],
        body: gcRequest,
        response: { 200: gcPlan, 202: gcPlan },
      },
    },
    async (request, reply) => {
      const { dryRun } = request.body;
      const tasks = GC_TASKS.filter((task) => request.body.tasks.includes(task));
      if (!dryRun) {
        await deps.queue.enqueue('gc', { tasks, dryRun: false });
        return reply.code(202).send({ dryRun, tasks: {} });
      }
      const signal = requestSignal(request.raw, reply.raw, 'answer');
      const opts = { signal, dryRun, nowMs: Date.now(), historyMs: deps.config.historyMs };
      const plan: { [T in GcTask]?: Pick<Collected, 'items' | 'bytes'> & { unproven?: Unproven[] } } = {};
      for (const task of tasks) {
        const { items, bytes, unproven } = await COLLECT[task](deps, opts);
        plan[task] = { items, bytes, ...(unproven && { unproven: [...unproven].flatMap(told) }) };
      }
      return { dryRun, tasks: plan };
    },
  );
}
