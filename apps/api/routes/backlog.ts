/** How much work waits, in seconds: what an autoscaler asks for. */
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import { demand } from '../auth.ts';
import { BACKLOG_QUEUES, type BacklogMeter } from '../backlog.ts';
import { withZod } from '../validation.ts';

const seconds = z.number().nonnegative();
const count = z.int().nonnegative();

const storeBacklog = z.object({
  jobs: count.describe('Waiting. A part is a job, and so is a page of a tree.'),
  bytes: count.describe('Those that are known before somebody looked: of uploads, parts and trees.'),
  jobsPerSecond: z.number().describe('Of all workers together while they have work.'),
  bytesPerSecond: z.number(),
  basis: z
    .enum(['measured', 'earlier', 'assumed'])
    .describe(
      'Where the rates are from: the last five minutes, before that, or nowhere yet. A store without any has its queue’s.',
    ),
  backlogSeconds: seconds.describe('By the jobs or by the bytes, whichever takes longer.'),
});

export const backlogView = z
  .object({
    at: z.iso.datetime(),
    workers: count.describe('Processes that take jobs now; for none the numbers are those of one.'),
    backlogSeconds: seconds.describe('The longest of the queues.'),
    queues: z.object(
      Object.fromEntries(
        BACKLOG_QUEUES.map((queue) => [
          queue,
          z.object({
            jobs: count,
            bytes: count,
            inHand: count.describe('Jobs that are worked on, or were put off for a while.'),
            oldestSeconds: seconds.describe('Age of the job that waits longest.'),
            backlogSeconds: seconds.describe('For all stores, and for what is in hand.'),
            stores: z.record(z.string(), storeBacklog).describe('By name of the store.'),
          }),
        ]),
      ),
    ),
  })
  .meta({ id: 'Backlog' });

export function registerBacklog(plain: FastifyInstance, backlog: BacklogMeter): void {
  withZod(plain).get(
    '/api/v1/backlog',
    {
      schema: {
        summary: 'How long the workers need for what waits',
        description:
          'What waits, by queue and store, divided by the rates at which such work was carried while there was any. ' +
          'Made for autoscalers: every number is always there. For whoever may read the metrics.',
        tags: ['operations'],
        response: { 200: backlogView },
      },
    },
    async (request) => {
      if (!request.principal.can('operate')) demand(request.principal, 'read');
      return { at: new Date().toISOString(), ...(await backlog.read()) };
    },
  );
}
