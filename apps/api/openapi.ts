/** The OpenAPI 3.1 document, made from the schemas that the routes validate with. */
import type { FastifySchema, RouteOptions } from 'fastify';
import { z } from 'zod';
import { errorBody, transferView } from './schemas.ts';

type Json = Record<string, unknown>;
export type DescribedRoute = Pick<RouteOptions, 'url' | 'method'> & { readonly schema: FastifySchema };

/** Schemas that are named (`meta({ id })`), as they are met. */
type Components = Record<string, unknown>;

/** @param byHand paths that no schema describes: MLflow's, and what operators ask */
export function openapiDocument(routes: readonly DescribedRoute[], byHand: Json, version: string): Json {
  const schemas: Components = {};
  const paths: Record<string, Json> = {};
  for (const route of routes) {
    const path = route.url.replace(/:([A-Za-z]+)/g, '{$1}').replace(/\*$/, '{path}');
    paths[path] ??= {};
    for (const method of [route.method].flat())
      paths[path][method.toLowerCase()] = operation(route, method, path, schemas);
  }
  jsonOf(errorBody, 'output', schemas);
  return {
    openapi: '3.1.0',
    info: {
      title: 'Longshore',
      version,
      description:
        'A transfer service for ML artifacts: MLflow’s artifact API, and asynchronous transfers behind it.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    paths: { ...paths, ...byHand },
    components: {
      schemas,
      responses: { Failure: { description: 'What went wrong.', content: jsonContent(ref('Error')) } },
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer' },
        basic: { type: 'http', scheme: 'basic' },
      },
    },
    security: [{}, { bearer: [] }, { basic: [] }],
  };
}

function operation({ schema }: DescribedRoute, method: string, path: string, schemas: Components): Json {
  const params = path.includes('{path}')
    ? [
        {
          in: 'path',
          name: 'path',
          required: true,
          description: 'Artifact path; slashes stay as they are.',
          schema: { type: 'string' },
        },
      ]
    : parameters('path', schema.params, schemas);
  const headers = Object.entries(schema.takesHeaders ?? {}).map(([name, description]) => ({
    in: 'header',
    name,
    description,
    required: false,
    schema: { type: 'string' },
  }));
  return {
    operationId: idOf(method, path),
    summary: schema.summary,
    ...(schema.description !== undefined && { description: schema.description }),
    tags: schema.tags,
    parameters: [...params, ...parameters('query', schema.querystring, schemas), ...headers],
    ...bodyOf(schema, schemas),
    responses: { ...answersOf(schema, schemas), default: { $ref: '#/components/responses/Failure' } },
  };
}

/** `GET /api/v1/transfers/{id}/events` → `getTransfersEvents`. */
function idOf(method: string, path: string): string {
  const words = path.split('/').filter((word) => word !== '' && word !== 'api' && word !== 'v1');
  const named = words.map((word) => (word.startsWith('{') ? (word === '{id}' ? 'ById' : '') : word));
  return method.toLowerCase() + named.map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join('');
}

function parameters(where: 'path' | 'query', schema: unknown, schemas: Components): Json[] {
  if (!(schema instanceof z.ZodObject)) return [];
  const { properties = {}, required = [] } = jsonOf(schema, 'input', schemas) as {
    properties?: Record<string, Json>;
    required?: string[];
  };
  return Object.entries(properties).map(([name, { description, ...rest }]) => ({
    in: where,
    name,
    required: where === 'path' || required.includes(name),
    ...(description !== undefined && { description }),
    schema: rest,
  }));
}

function bodyOf({ body, bytes }: FastifySchema, schemas: Components): Json {
  if (body instanceof z.ZodType)
    return { requestBody: { required: true, content: jsonContent(jsonOf(body, 'input', schemas)) } };
  if (bytes?.takes === undefined) return {};
  const content = { 'application/octet-stream': {} };
  return { requestBody: { required: true, description: bytes.takes, content } };
}

function answersOf({ response, bytes, answers: others = {} }: FastifySchema, schemas: Components): Json {
  const answers: Json = {};
  if (bytes?.gives !== undefined)
    answers['200'] = { description: 'The bytes.', content: { [bytes.gives]: {} } };
  for (const [status, description] of Object.entries(others)) answers[status] = { description };
  for (const [status, schema] of Object.entries(response ?? {}))
    if (schema instanceof z.ZodType)
      answers[status] = {
        description: DESCRIPTIONS[status] ?? 'OK',
        ...(status === '202' && schema === transferView && { headers: { Location: LOCATION } }),
        content: jsonContent(jsonOf(schema, 'output', schemas)),
      };
  return answers;
}

const DESCRIPTIONS: Readonly<Record<string, string>> = {
  '200': 'OK',
  '202': 'Accepted: it is written down and will be done, whatever is restarted.',
};
const LOCATION = { description: 'The transfer.', schema: { type: 'string' } };
const jsonContent = (schema: Json): Json => ({ 'application/json': { schema } });
const ref = (id: string): Json => ({ $ref: `#/components/schemas/${id}` });

/** The schema as JSON Schema; named ones go to `schemas` and leave a reference. */
function jsonOf(schema: z.ZodType, io: 'input' | 'output', schemas: Components): Json {
  // inside another one a named schema is always moved to $defs, also when it is the one that was asked for
  const { properties, $defs = {} } = z.toJSONSchema(z.object({ it: schema }), { io, unrepresentable: 'any' });
  for (const [id, named] of Object.entries($defs)) schemas[id] = relinked(named);
  return relinked(properties?.it) as Json;
}

function relinked(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(relinked);
  if (typeof node !== 'object' || node === null) return node;
  return Object.fromEntries(
    Object.entries(node)
      .filter(([key]) => key !== 'id' || typeof Reflect.get(node, 'id') !== 'string')
      .map(([key, value]) =>
        key === '$ref' && typeof value === 'string'
          ? [key, value.replace('#/$defs/', '#/components/schemas/')]
          : [key, relinked(value)],
      ),
  );
}
