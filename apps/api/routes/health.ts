/** What load balancers and MLflow clients ask before anything else. None of it needs a store or Redis. */
import type { FastifyInstance } from 'fastify';
import { MLFLOW_VERSION, VERSION } from '../../../lib/version.ts';

/**
 * What an MLflow client asks to choose between a plain PUT and the multipart protocol. Unknown keys are ignored, so
 * ours may stand beside them.
 */
const SERVER_INFO = {
  store_type: null,
  workspaces_enabled: false,
  trace_archival_enabled: false,
  multipart_uploads_enabled: false,
  multipart_downloads_enabled: false,
  presigned_upload_run_id_supported: false,
  presigned_upload_model_id_supported: false,
  features_enabled: { gateway: false },
  longshore_version: VERSION,
} as const;

const method = ['GET', 'HEAD'];
/** Served without credentials. */
const open = { config: { open: true } } as const;

export function registerHealth(app: FastifyInstance): void {
  app.route({
    method,
    url: '/health',
    ...open,
    handler: (_request, reply) => reply.type('text/plain').send('OK'),
  });
  app.route({
    method,
    url: '/version',
    ...open,
    handler: (_request, reply) => reply.type('text/plain').send(MLFLOW_VERSION),
  });
  app.route({
    method,
    url: '/api/3.0/mlflow/server-info',
    // a client that was given a workspace asks here whether there are any, and says itself that there are none
    config: { anyWorkspace: true },
    handler: (_request, reply) => reply.send(SERVER_INFO),
  });
}
