import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Api, startApi } from './api.ts';

type Json = Record<string, unknown>;
interface Operation {
  readonly operationId: string;
  readonly summary: string;
  readonly parameters?: readonly { readonly in: string; readonly name: string; readonly schema: Json }[];
  readonly requestBody?: { readonly content: Json };
  readonly responses: Record<string, Json>;
}
interface Document {
  readonly openapi: string;
  readonly info: Json;
  readonly paths: Record<string, Record<string, Operation>>;
  readonly components: { readonly schemas: Record<string, Json>; readonly responses: Json };
}

let api: Api;
let document: Document;
beforeAll(async () => {
  api = await startApi();
  document = (await (await fetch(`${api.url}/openapi.json`)).json()) as Document;
});
afterAll(() => api.close());

const operations = (): [path: string, method: string, operation: Operation][] =>
  Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods)
      .filter(([method]) => method !== 'parameters')
      .map(([method, operation]): [string, string, Operation] => [path, method, operation]),
  );

function* refs(node: unknown): Iterable<string> {
  if (typeof node !== 'object' || node === null) return;
  for (const [key, value] of Object.entries(node))
    if (key === '$ref' && typeof value === 'string') yield value;
    else yield* refs(value);
}

function resolve(ref: string): unknown {
  return ref
    .slice(2)
    .split('/')
    .reduce<unknown>((node, name) => (node as Json | undefined)?.[name], document);
}

describe('/openapi.json', () => {
  test('is an OpenAPI 3.1 document whose references all lead somewhere', () => {
    expect(document.openapi).toBe('3.1.0');
    expect(document.info).toMatchObject({ title: 'Longshore', version: expect.any(String) });
    const all = [...refs(document)];
    expect(all.length).toBeGreaterThan(10);
    for (const ref of all) expect(resolve(ref), ref).toBeTypeOf('object');
    expect(JSON.stringify(document)).not.toContain('#/$defs/');
  });

  test('describes every operation whole: a name of its own, a sentence, parameters, answers', () => {
    const names = operations().map(([, , { operationId }]) => operationId);
    expect(new Set(names).size).toBe(names.length);
    for (const [path, method, operation] of operations()) {
      const name = `${method} ${path}`;
      expect(operation.summary, name).toBeTypeOf('string');
      expect(Object.keys(operation.responses).length, name).toBeGreaterThan(0);
      const declared = [
        ...(operation.parameters ?? []),
        ...(((document.paths[path] as Json).parameters as []) ?? []),
      ];
      for (const [, parameter] of path.matchAll(/\{(\w+)\}/g))
        expect(
          declared.some((one: { in: string; name: string }) => one.in === 'path' && one.name === parameter),
          name,
        ).toBe(true);
    }
  });

  test('has every route under /api/v1 that the server serves, and the server serves all that it has', async () => {
    const mine = operations().filter(([path]) => path.startsWith('/api/v1/'));
    expect(mine.map(([path, method]) => `${method.toUpperCase()} ${path}`).sort()).toEqual(
      [
        'DELETE /api/v1/transfers/{id}',
        'GET /api/v1/backlog',
        'GET /api/v1/events',
        'GET /api/v1/transfers',
        'GET /api/v1/transfers/{id}',
        'GET /api/v1/transfers/{id}/content',
        'GET /api/v1/transfers/{id}/events',
        'GET /api/v1/transfers/{id}/files',
        'HEAD /api/v1/transfers',
        'HEAD /api/v1/transfers/{id}',
        'HEAD /api/v1/transfers/{id}/content',
        'POST /api/v1/gc',
        'POST /api/v1/transfers',
        'POST /api/v1/transfers/{id}/retry',
        'PUT /api/v1/uploads/{path}',
      ].sort(),
    );
    for (const [path] of operations()) {
      const answer = await fetch(`${api.url}${path.replace('{id}', 't-none').replace('{path}', 'x')}`, {
        method: 'OPTIONS',
      });
      const allowed = (answer.headers.get('allow') ?? '').split(', ');
      const methods = Object.keys(document.paths[path]!).filter((method) => method !== 'parameters');
      expect(allowed, path).toEqual(expect.arrayContaining(methods.map((method) => method.toUpperCase())));
    }
  });

  test('says of a delete that it takes one object, as a worker does', () => {
    const { description } = document.components.schemas.Submission as { description: string };
    expect(description).toContain('`delete` removes exactly the object at `to`, and nothing below it');
  });

  test('says of a submission what is refused: each kind with its own fields and no other', () => {
    const submission = document.components.schemas.Submission as { oneOf?: Json[]; anyOf?: Json[] };
    const kinds = (submission.oneOf ?? submission.anyOf ?? []) as {
      properties: Record<string, Json>;
      additionalProperties: boolean;
    }[];
    const fields = Object.fromEntries(
      kinds.map((kind) => [kind.properties.kind!.const, Object.keys(kind.properties)]),
    );
    expect(fields).toMatchObject({
      upload: expect.arrayContaining(['from', 'to', 'checksum', 'onExists']),
      download: expect.not.arrayContaining(['to']),
      delete: expect.not.arrayContaining(['from']),
    });
    for (const kind of kinds) expect(kind.additionalProperties).toBe(false);
  });
});
