/** State changes and progress as server-sent events. State events are numbered by the ledger: a client that comes back misses none. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { Failure } from '../../../lib/errors.ts';
import { hearProgress } from '../../../lib/jobs/progress.ts';
import { hasEnded } from '../../../lib/ledger/transfer.ts';
import { demandSight, maySee } from '../access.ts';
import type { ApiDeps } from '../deps.ts';
import { EventHub } from '../event-hub.ts';
import { EventStream, HEARTBEAT_MS } from '../event-stream.ts';
import { writeError } from '../replies.ts';
import { eventsQuery, transferId } from '../schemas.ts';
import { withZod } from '../validation.ts';
import { TRANSFERS } from '../views.ts';

const TAGS = ['events'];
/** Each costs memory and a connection for as long as its client likes. */
export const MAX_STREAMS = 1000;
const FULL_RETRY_MS = 5000;
const STREAM =
  'Events `state` (with `id`: the ledger numbers them) and `progress` (without, and lossy), each with JSON data. ' +
  'A client that comes back with `Last-Event-ID` is told what it missed, whatever was restarted meanwhile.';
const HEADERS = {
  'Last-Event-ID': 'Number of the last state event that was seen; those after it come first.',
};

export function registerEvents(plain: FastifyInstance, deps: ApiDeps): void {
  const app = withZod(plain);
  const open: OpenStreams = { count: 0 };
  const hub = new EventHub(deps.ledger, (heard) => hearProgress(deps.queue, deps.log, heard), deps.log);
  app.addHook('preClose', async () => hub.close());

  app.get(
    '/api/v1/events',
    {
      schema: {
        summary: 'Follow all transfers that you may see',
        description: `${STREAM} Without a number it begins with what happens next.`,
        tags: TAGS,
        takesHeaders: HEADERS,
        bytes: { gives: 'text/event-stream' },
        querystring: eventsQuery,
      },
    },
    (request, reply) => {
      const after = lastSeen(request, request.query['last-event-id']);
      return follow(deps, hub, open, request, reply, { after });
    },
  );

  app.get(
    `${TRANSFERS}/:id/events`,
    {
      schema: {
        summary: 'Follow one transfer to its end',
        description:
          `${STREAM} Without a number it begins with the acceptance. The stream ends when the transfer has; a client ` +
          'that asks again after that is answered 204.',
        tags: TAGS,
        takesHeaders: HEADERS,
        bytes: { gives: 'text/event-stream' },
        answers: { 204: 'It has ended, and there is nothing more to tell.' },
        params: transferId,
        querystring: eventsQuery,
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      const transfer = demandSight(request.principal, id, await deps.ledger.transfers.get(id));
      const after = lastSeen(request, request.query['last-event-id']) ?? 0;
      // 204 tells an EventSource to stop asking
      if (hasEnded(transfer.state) && (await deps.ledger.events.after(after, 1, id)).length === 0)
        return void reply.code(204).send();
      return follow(deps, hub, open, request, reply, { after, transfer: id });
    },
  );
}

function lastSeen(request: FastifyRequest, asked: number | undefined): number | undefined {
  const header = request.headers['last-event-id'];
  if (header === undefined || header === '') return asked;
  if (typeof header === 'string' && /^\d{1,15}$/.test(header)) return Number(header);
  throw new Failure('invalid', 'Last-Event-ID must be the number of an event');
}

interface OpenStreams {
  count: number;
}

/** @throws Failure `busy`: this process has as many streams open as it may */
async function follow(
  deps: ApiDeps,
  hub: EventHub,
  open: OpenStreams,
  request: FastifyRequest,
  reply: FastifyReply,
  which: { readonly after: number | undefined; readonly transfer?: string },
): Promise<void> {
  if (open.count >= MAX_STREAMS)
    throw new Failure(
      'busy',
      `this process has ${MAX_STREAMS} event streams open and takes no more; try again, or ask for the transfer now and then`,
      { op: 'follow', retryAfterMs: FULL_RETRY_MS },
    );
  reply.hijack();
  const res = reply.raw;
  const stream = new EventStream(res, {
    hub,
    events: deps.ledger.events,
    mayHear: (transfer) => maySee(request.principal, transfer),
    heartbeatMs: HEARTBEAT_MS,
    ...(which.transfer !== undefined && { transfer: which.transfer }),
  });
  open.count++;
  deps.metrics.eventStreams.inc({});
  try {
    res.writeHead(200, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store',
      // proxies of the nginx kind would hold events back
      'x-accel-buffering': 'no',
    });
    await stream.run(which.after);
  } catch (error) {
    writeError(error, request, res, deps.log);
  } finally {
    open.count--;
    deps.metrics.eventStreams.dec({});
  }
}
