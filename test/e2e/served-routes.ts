/** Every route of an API, as its own router was told of them: one that is added later is in the list without more ado. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';

export interface ServedRoute {
  readonly method: string;
  /** The pattern as it was declared. */
  readonly url: string;
  /** One that the pattern serves. */
  readonly path: string;
  /** What its body is: JSON by a schema, bytes, or nothing that the route asks for. */
  readonly body: 'json' | 'bytes' | 'none';
}

/** Collects the routes of whatever servers `start` builds. */
export async function withRoutes<T>(
  start: () => Promise<T>,
): Promise<{ readonly it: T; readonly routes: readonly ServedRoute[] }> {
  const routes: ServedRoute[] = [];
  const hear = (message: unknown): void => {
    (message as { fastify: FastifyInstance }).fastify.addHook('onRoute', ({ url, method, schema }) => {
      const path = url.replace(/:\w+/g, 't01m7zjca17azc15z8047jpyv9').replace(/\*$/, 'some/x.txt');
      for (const one of [method].flat()) {
        const bytes =
          schema?.bytes?.takes !== undefined || (one === 'PUT' && url.includes('mlflow-artifacts'));
        const body = schema?.body instanceof z.ZodType ? 'json' : bytes ? 'bytes' : 'none';
        routes.push({ method: one, url, path, body });
      }
    });
  };
  subscribe('fastify.initialization', hear);
  try {
    return { it: await start(), routes };
  } finally {
    unsubscribe('fastify.initialization', hear);
  }
}
