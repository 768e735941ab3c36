/** `/openapi.json`: what this server serves, collected from its own routes. */
import type { FastifyInstance } from 'fastify';
import { VERSION } from '../../../lib/version.ts';
import type { ApiDeps } from '../deps.ts';
import { type DescribedRoute, openapiDocument } from '../openapi.ts';

/** To be called before any other route is added: it hears of each as it is. */
export function registerOpenapi(app: FastifyInstance, deps: ApiDeps): void {
  const routes: DescribedRoute[] = [];
  app.addHook('onRoute', ({ url, method, schema }) => {
    if (schema?.summary !== undefined) routes.push({ url, method, schema });
    else if (url.startsWith('/api/v1/'))
      throw new Error(`the route ${url} says nothing of itself: give it a summary`);
  });
  let text: string | undefined;
  app.route({
    method: ['GET', 'HEAD'],
    url: '/openapi.json',
    config: { open: true },
    handler: (_request, reply) => {
      text ??= JSON.stringify({
        ...openapiDocument(routes, BY_HAND, VERSION),
        ...(deps.config.staticPrefix !== '' && {
          servers: [{ url: deps.config.staticPrefix }, { url: '/' }],
        }),
      });
      return reply.type('application/json').send(text);
    },
  });
}

const FAILURE = { $ref: '#/components/responses/Failure' };
const bytes = (description: string) => ({ description, content: { 'application/octet-stream': {} } });
const text = (description: string) => ({
  description,
  content: { 'text/plain': { schema: { type: 'string' } } },
});
const json = (description: string, schema: object) => ({
  description,
  content: { 'application/json': { schema } },
});
const PATH = { in: 'path', name: 'path', required: true, schema: { type: 'string' } };
const EMPTY = { type: 'object' };
const get = (operationId: string, summary: string, tags: readonly string[], answer: object) => ({
  get: { operationId, summary, tags, responses: { 200: answer, default: FAILURE } },
});
const MLFLOW = ['mlflow'];
const OPERATIONS = ['operations'];

const FILES = {
  type: 'object',
  properties: {
    files: {
      type: 'array',
      items: {
        type: 'object',
        properties: { path: { type: 'string' }, is_dir: { type: 'boolean' }, file_size: { type: 'integer' } },
        required: ['path', 'is_dir'],
      },
    },
  },
};

const READY = {
  type: 'object',
  properties: {
    ready: { type: 'boolean' },
    problems: {
      type: 'object',
      description: 'What is wrong with `ledger`, `staging` or `redis`.',
      additionalProperties: { type: 'string' },
    },
  },
  required: ['ready', 'problems'],
};

/** MLflow's own routes, whose shapes are MLflow's and not ours to choose; each also under `/ajax-api`. */
const BY_HAND = {
  '/api/2.0/mlflow-artifacts/artifacts': {
    get: {
      operationId: 'listArtifacts',
      summary: 'List one directory',
      tags: MLFLOW,
      parameters: [{ in: 'query', name: 'path', required: false, schema: { type: 'string' } }],
      responses: {
        200: json('Names are relative to the directory; a missing one has no files.', FILES),
        default: FAILURE,
      },
    },
  },
  '/api/2.0/mlflow-artifacts/artifacts/{path}': {
    parameters: [PATH],
    get: {
      operationId: 'getArtifact',
      summary: 'Download an artifact; ranges and conditions are honoured',
      tags: MLFLOW,
      responses: {
        200: bytes('The artifact.'),
        206: bytes('The range.'),
        304: { description: 'Not modified.' },
        404: { description: 'There is no such artifact.' },
        416: { description: 'The range lies outside of the artifact.' },
        default: FAILURE,
      },
    },
    head: {
      operationId: 'headArtifact',
      summary: 'Size, version and type of an artifact',
      tags: MLFLOW,
      responses: { 200: { description: 'There is one.' }, default: FAILURE },
    },
    put: {
      operationId: 'putArtifact',
      summary: 'Upload an artifact; answered when it is published and verified',
      description:
        'With `Prefer: respond-async` answered 202 as `PUT /api/v1/uploads/{path}` is, unless it has conditions: those ' +
        'are kept synchronously.',
      tags: MLFLOW,
      parameters: ['Content-Digest', 'Repr-Digest', 'Content-MD5', 'If-Match', 'If-None-Match', 'Prefer'].map(
        (name) => ({ in: 'header', name, required: false, schema: { type: 'string' } }),
      ),
      requestBody: { required: true, content: { 'application/octet-stream': {} } },
      responses: {
        200: json('Published whole, durable, verified.', EMPTY),
        202: json('Accepted.', { $ref: '#/components/schemas/Transfer' }),
        400: {
          description:
            'A bad path, or the bytes are not as long or not what was declared: nothing is stored.',
        },
        412: { description: 'The conditions do not hold: nothing is stored.' },
        415: { description: 'The bytes come in a `Content-Encoding`; only `identity` is accepted.' },
        default: FAILURE,
      },
    },
    delete: {
      operationId: 'deleteArtifact',
      summary: 'Delete an artifact and everything below it',
      tags: MLFLOW,
      responses: { 200: json('It is gone, or never was.', EMPTY), default: FAILURE },
    },
  },
  '/api/3.0/mlflow/server-info': get(
    'serverInfo',
    'What this server can do, as MLflow clients ask',
    MLFLOW,
    json('Facts.', EMPTY),
  ),
  '/health': get('health', 'Whether the process answers', OPERATIONS, text('OK')),
  '/version': get(
    'version',
    'The version of MLflow whose protocol is spoken',
    OPERATIONS,
    text('A version.'),
  ),
  '/ready': {
    get: {
      operationId: 'ready',
      summary: 'Whether it should be sent work, and if not, why',
      tags: OPERATIONS,
      responses: { 200: json('It is.', READY), 503: json('It is not.', READY), default: FAILURE },
    },
  },
  '/metrics': get('metrics', 'Metrics in Prometheus’ text format', OPERATIONS, text('Metrics.')),
};
