/** The files of a tree, page by page: what became of each, and why those that failed did. */
import type { FastifyInstance } from 'fastify';
import { listFiles } from '../../../lib/transfer/tree-list.ts';
import { demandSight } from '../access.ts';
import { requestSignal } from '../body.ts';
import type { ApiDeps } from '../deps.ts';
import { fileList, filesQuery, transferId } from '../schemas.ts';
import { withZod } from '../validation.ts';
import { TRANSFERS } from '../views.ts';

export function registerFiles(plain: FastifyInstance, deps: ApiDeps): void {
  withZod(plain).get(
    `${TRANSFERS}/:id/files`,
    {
      schema: {
        summary: 'The files of a tree, and what became of them',
        description:
          'In the order in which they were listed. A page may be shorter than `limit`; it is the last one when it has ' +
          'no `nextCursor`. Kept as long as the tree can be retried, and for a day at least; 404 after that.',
        tags: ['transfers'],
        params: transferId,
        querystring: filesQuery,
        response: { 200: fileList },
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      const transfer = demandSight(request.principal, id, await deps.ledger.transfers.get(id));
      return listFiles(deps, transfer, request.query, requestSignal(request.raw, reply.raw, 'answer'));
    },
  );
}
