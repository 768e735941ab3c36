/** Transfers of the asynchronous side: submit, look, cancel, retry. What is answered comes from the ledger. */
import type { FastifyInstance } from 'fastify';
import type { z } from 'zod';
import { Failure, failureOf } from '../../../lib/errors.ts';
import { pushCancel } from '../../../lib/jobs/control.ts';
import { type Progress, readProgress } from '../../../lib/jobs/progress.ts';
import type { TransferFilter } from '../../../lib/ledger/contract.ts';
import { newTransferId } from '../../../lib/ledger/ids.ts';
import type { NewTransfer, Place, Transfer } from '../../../lib/ledger/transfer.ts';
import { isWithin, ROOT, type StorePath } from '../../../lib/path.ts';
import { absoluteOf, type GivenPlace, placeOf, treeOf } from '../../../lib/stores/uri.ts';
import { answerAccepted, deadlineMsOf, enqueue, idempotencyKey, idempotencyOf, prefixOf } from '../accept.ts';
import { demandAt, demandControl, demandPlaces, demandSight, maySee } from '../access.ts';
import type { Principal } from '../auth.ts';
import { sendContent } from '../content.ts';
import type { ApiDeps } from '../deps.ts';
import { listQuery, submission, transferId, transferList, transferView } from '../schemas.ts';
import { withZod } from '../validation.ts';
import { type FilesSoFar, TRANSFERS, transferPath, viewOf } from '../views.ts';

const TAGS = ['transfers'];
const ONE = `${TRANSFERS}/:id`;
/** Pages looked through for one that has something the caller may see. */
const MAX_PAGES = 20;

type App = ReturnType<typeof withZod>;

export function registerTransfers(plain: FastifyInstance, deps: ApiDeps): void {
  const app = withZod(plain);
  submitRoute(app, deps);
  readRoutes(app, deps);
  changeRoutes(app, deps);
}

function submitRoute(app: App, deps: ApiDeps): void {
  const { transfers } = deps.ledger;
  app.post(
    TRANSFERS,
    {
      onRequest: (request, _reply, done) => {
        idempotencyKey(request); // refused before the body is asked for
        done();
      },
      schema: {
        summary: 'Submit a transfer of one object, or of a tree',
        description: 'The answer means that it is written down: killing any process, or all, loses nothing.',
        tags: TAGS,
        takesHeaders: { 'Idempotency-Key': IDEMPOTENCY_HELP },
        body: submission,
        response: { 202: transferView },
      },
    },
    async (request, reply) => {
      const { principal, body } = request;
      const idempotency = idempotencyOf(request, principal, { route: 'transfers', ...body });
      const before = idempotency && (await transfers.findByKey(idempotency.scope, idempotency.key));
      const transfer = planned(deps, principal, body, before !== undefined);
      const keptUntilMs = planUntilMs(deps, transfer);
      answerAccepted(deps, request, reply, await transfers.accept(transfer, idempotency, keptUntilMs));
    },
  );
}

function readRoutes(app: App, deps: ApiDeps): void {
  const { transfers } = deps.ledger;
  app.get(
    TRANSFERS,
    {
      exposeHeadRoute: true,
      schema: {
        summary: 'List transfers, newest first',
        description: 'A page may be shorter than `limit`; it is the last one when it has no `nextCursor`.',
        tags: TAGS,
        querystring: listQuery,
        response: { 200: transferList },
      },
    },
    async (request) => {
      const { cursor, limit, ...query } = request.query;
      const prefix = prefixOf(request, deps.config.staticPrefix);
      const page = await visiblePage(deps, request.principal, filterOf(query), { limit, cursor });
      const progress = await progressOf(deps, page.transfers);
      const views = page.transfers.map((one) => viewOf(one, prefix, { progress: progress.get(one.id) }));
      return { transfers: views, ...(page.nextCursor !== undefined && { nextCursor: page.nextCursor }) };
    },
  );

  app.get(
    ONE,
    {
      exposeHeadRoute: true,
      schema: {
        summary: 'One transfer, with its attempts',
        tags: TAGS,
        params: transferId,
        response: { 200: transferView },
      },
    },
    async (request) => {
      const { id } = request.params;
      const transfer = demandSight(request.principal, id, await transfers.get(id));
      const attempts = await transfers.attemptsOf(id);
      const progress = (await progressOf(deps, [transfer])).get(id);
      const files = transfer.tree && transfer.to ? await filesSoFar(deps, id) : undefined;
      return viewOf(transfer, prefixOf(request, deps.config.staticPrefix), { attempts, progress, files });
    },
  );

  app.route({
    method: ['GET', 'HEAD'],
    url: `${ONE}/content`,
    schema: {
      summary: 'The bytes of a finished download',
      description:
        'Ranges and conditions are honoured; reading renews the lease. 409 with `Retry-After` until it is ready, 404 once its lease is over.',
      tags: TAGS,
      params: transferId,
      bytes: { gives: 'application/octet-stream' },
      answers: {
        206: 'The range.',
        304: 'Not modified.',
        409: 'Not ready yet (then with `Retry-After`), or it failed.',
        416: 'The range lies outside of the content.',
      },
    },
    handler: async (request, reply) => {
      const { id } = request.params;
      const transfer = demandSight(request.principal, id, await transfers.get(id));
      // to see that there is a transfer is less than to read its bytes, and scopes may have changed since
      if (transfer.from) demandAt(request.principal, 'read', transfer.from);
      await sendContent(deps, request, reply, transfer);
    },
  });
}

function changeRoutes(app: App, deps: ApiDeps): void {
  const { transfers } = deps.ledger;
  app.delete(
    ONE,
    {
      schema: {
        summary: 'Cancel it, wherever it runs',
        description: '409 once it is publishing or has ended otherwise.',
        tags: TAGS,
        params: transferId,
        response: { 200: transferView },
      },
    },
    async (request) => {
      const { id } = request.params;
      const before = demandSight(request.principal, id, await transfers.get(id));
      demandControl(request.principal, before);
      const outcome = await transfers.cancel(id, planUntilMs(deps, before));
      const after = demandSight(request.principal, id, await transfers.get(id));
      if (outcome !== 'cancelled')
        throw new Failure('conflict', `transfer ${id} cannot be cancelled any more: it is ${after.state}`);
      void pushCancel(deps.queue, id);
      void deps.queue.hurry(after).catch(() => false); // workers and the outbox find what is left
      if (before.state !== 'cancelled') countCancelled(deps, after);
      return viewOf(after, prefixOf(request, deps.config.staticPrefix));
    },
  );

  app.post(
    `${ONE}/retry`,
    {
      schema: {
        summary: 'Accept a failed or cancelled transfer anew',
        description:
          '409 when it did not fail, or its staged bytes are gone. It takes its turn as if submitted now; of a tree only what failed, or was not done, is carried again.',
        tags: TAGS,
        params: transferId,
        response: { 202: transferView },
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      const before = demandSight(request.principal, id, await transfers.get(id));
      demandControl(request.principal, before);
      if (!request.principal.can('operate')) demandPlaces(request.principal, before);
      if (before.synchronous)
        throw new Failure('conflict', `${id} was a request of its own and no job: send that request again`);
      const again = retried(id, await transfers.retry(id));
      const prefix = prefixOf(request, deps.config.staticPrefix);
      void reply.code(202).header('location', transferPath(prefix, id)).send(viewOf(again, prefix));
      enqueue(deps, again);
    },
  );
}

export const IDEMPOTENCY_HELP =
  'The same key with the same request answers the first transfer, for at least a day; with another request 422.';

function planned(
  deps: ApiDeps,
  principal: Principal,
  asked: z.output<typeof submission>,
  repeated: boolean,
): NewTransfer {
  const from = 'from' in asked ? placeIn(deps, 'from', asked.from, asked.tree) : undefined;
  const to = 'to' in asked ? placeIn(deps, 'to', asked.to, asked.tree, asked.kind === 'delete') : undefined;
  if (asked.tree && asked.kind === 'delete' && to?.path === ROOT)
    throw new Failure('invalid', 'to: this names the root of a store, not an object in it');
  demandPlaces(principal, { from, to });
  if (from && to) refuseOnItself(deps, from, to, asked.tree === true);
  return {
    id: newTransferId(),
    kind: asked.kind,
    from,
    to,
    expected: 'checksum' in asked ? asked.checksum : undefined,
    onExists: 'onExists' in asked ? asked.onExists : 'replace',
    tree: asked.tree === true,
    links: 'links' in asked ? asked.links : undefined,
    onUnsupported: asked.onUnsupported,
    preserve: 'preserve' in asked ? [...new Set(asked.preserve)] : undefined,
    priority: asked.priority,
    labels: asked.labels,
    deadlineMs: deadlineMsOf(asked.deadline, repeated),
    owner: principal.name,
  };
}

/** What a tree keeps in staging, its plan, stays as long as staged bytes would; Unix time in ms. */
const planUntilMs = (
  { config }: ApiDeps,
  { tree, to }: Pick<NewTransfer, 'tree' | 'to'>,
): number | undefined => (tree && to ? Date.now() + config.failedBytesMs : undefined);

/** @throws Failure `invalid` that names the field */
function placeIn(
  deps: ApiDeps,
  field: 'from' | 'to',
  given: GivenPlace,
  tree = false,
  removed = false,
): Place {
  try {
    const place = tree ? treeOf(given, deps.stores) : placeOf(given, deps.stores);
    const store = deps.stores.get(place.store);
    // a flat store removes any key, also one that nobody can read
    const asIs = place.path === ROOT || (removed && store?.traits.namespace === 'flat');
    const why = asIs ? undefined : store?.refuses(place.path);
    if (why !== undefined) throw new Failure('invalid', `Invalid path: ${why}`);
    return place;
  } catch (error) {
    const { kind, message } = failureOf(error);
    throw new Failure(kind, `${field}: ${message}`, {}, { cause: error });
  }
}

/** Compared by where they are: an artifact path and a URI, or two stores, may name one object. */
function refuseOnItself({ stores }: ApiDeps, from: Place, to: Place, tree: boolean): void {
  const [source, target] = [absoluteOf(from, stores), absoluteOf(to, stores)] as [StorePath, StorePath];
  if (source === target && !tree)
    throw new Failure('invalid', 'to: this is the object itself: a copy onto itself would change nothing');
  if (tree && (isWithin(source, target) || isWithin(target, source)))
    throw new Failure('invalid', 'to: a tree cannot be copied to a place that holds it or lies in it');
}

async function filesSoFar({ ledger: { trees } }: ApiDeps, id: string): Promise<FilesSoFar> {
  const [{ complete, files, bytes, directories }, totals] = await Promise.all([
    trees.planned(id),
    trees.totals(id),
  ]);
  return { ...(complete && { planned: { files, bytes, directories } }), ...totals };
}

type ListQuery = Omit<z.output<typeof listQuery>, 'cursor' | 'limit'>;

const filterOf = ({ state, kind, store, label, since, until }: ListQuery): TransferFilter => ({
  state,
  kind,
  store,
  label: label && { key: label[0], value: label[1] },
  fromMs: since === undefined ? undefined : Date.parse(since),
  toMs: until === undefined ? undefined : Date.parse(until),
});

async function visiblePage(
  deps: ApiDeps,
  principal: Principal,
  filter: TransferFilter,
  page: { readonly limit: number; readonly cursor: string | undefined },
) {
  let cursor = page.cursor;
  for (let looked = 1; ; looked++) {
    const found = await deps.ledger.transfers.list(filter, { limit: page.limit, cursor });
    const transfers = found.transfers.filter((one) => maySee(principal, one));
    cursor = found.nextCursor;
    if (transfers.length > 0 || cursor === undefined || looked === MAX_PAGES)
      return { transfers, nextCursor: cursor };
  }
}

/** Of those that run; empty when Redis is away. */
async function progressOf(deps: ApiDeps, of: readonly Transfer[]): Promise<ReadonlyMap<string, Progress>> {
  const running = of.filter(({ state }) => state === 'running' || state === 'publishing').map(({ id }) => id);
  return readProgress(deps.queue, running).catch(() => new Map());
}

function retried(id: string, outcome: Transfer | 'not-failed' | 'bytes-gone' | undefined): Transfer {
  if (outcome === undefined) throw new Failure('not-found', `No transfer with the id '${id}'`);
  if (outcome === 'not-failed')
    throw new Failure(
      'conflict',
      `transfer ${id} is neither failed nor cancelled: there is nothing to retry`,
    );
  if (outcome === 'bytes-gone')
    throw new Failure(
      'conflict',
      `the staged bytes of transfer ${id} are gone: send them again as a new upload`,
    );
  return outcome;
}

function countCancelled({ metrics }: ApiDeps, { kind, to, from }: Transfer): void {
  metrics.transfersEnded.inc({ kind, store: (to ?? from)?.store ?? '', outcome: 'cancelled' });
}
