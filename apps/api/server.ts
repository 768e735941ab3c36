/** The HTTP server: settings, what happens to every request before its route, and the routes in order. */
import type { Socket } from 'node:net';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { FAILURES, Failure } from '../../lib/errors.ts';
import { ANONYMOUS, type Principal } from './auth.ts';
import { breakOff } from './body.ts';
import { refusedHeaders } from './body-headers.ts';
import type { ApiDeps } from './deps.ts';
import { rawErrorResponse, sendError, sendRefusal } from './replies.ts';
import { registerArtifacts } from './routes/artifacts.ts';
import { registerEvents } from './routes/events.ts';
import { registerFiles } from './routes/files.ts';
import { registerGc } from './routes/gc.ts';
import { registerHealth } from './routes/health.ts';
import { registerMetrics } from './routes/metrics.ts';
import { registerOpenapi } from './routes/openapi.ts';
import { registerTransfers } from './routes/transfers.ts';
import { registerUploads } from './routes/uploads.ts';
import { createSecurity } from './security.ts';
import { targetRewriter } from './target.ts';
import { takesJson } from './validation.ts';
import { refusedWorkspace } from './workspace.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Who asks; `anonymous` where auth is off and on routes without credentials. */
    principal: Principal;
  }
  interface FastifyContextConfig {
    /** Served without credentials. */
    open?: boolean;
    /** Served whatever workspace the request names. */
    anyWorkspace?: boolean;
  }
}

/** Room for a path of 4 KiB in which every byte is percent-encoded, and for credentials. */
const MAX_HEAD_BYTES = 32 * 1024;
const HEAD_TIMEOUT_MS = 60_000;
const KEEP_ALIVE_MS = 75_000;

/** Listens on nothing yet. Bodies have no size limit and no total time limit: only stalling ends one. */
export function buildServer(deps: ApiDeps): FastifyInstance {
  const { config, log } = deps;
  const app = Fastify({
    http: { maxHeaderSize: MAX_HEAD_BYTES, requireHostHeader: false, noDelay: true },
    requestTimeout: 0,
    connectionTimeout: 0,
    keepAliveTimeout: KEEP_ALIVE_MS,
    return503OnClosing: false,
    exposeHeadRoutes: false,
    routerOptions: { maxParamLength: MAX_HEAD_BYTES },
    rewriteUrl: targetRewriter(config.staticPrefix),
    frameworkErrors: (error, request, reply) =>
      sendError(new Failure('invalid', refusedTarget(error), {}, { cause: error }), request, reply, log),
    clientErrorHandler: (error, socket) => answerBrokenRequest(error.code, socket),
  });
  app.server.headersTimeout = HEAD_TIMEOUT_MS;
  // a route decides whether it wants the body before the client is told to send it: see body.ts
  app.server.on('checkContinue', (req, res) => app.routing(req, res));
  app.server.on('checkExpectation', (req, res) => app.routing(req, res)); // refused in guard
  app.decorateRequest('principal');
  guard(app, deps, unknownRoutes(app));
  app.setErrorHandler((error, request, reply) => sendError(error, request, reply, log));

  registerOpenapi(app, deps);
  registerHealth(app);
  for (const register of [
    registerArtifacts,
    registerUploads,
    registerTransfers,
    registerFiles,
    registerEvents,
    registerGc,
    registerMetrics,
  ])
    app.register(async (scope) => register(scope, deps));
  return app;
}

/** Without the target itself, which the router's words repeat: its query may hold a signature. */
const refusedTarget = ({ code, message }: { readonly code: string; readonly message: string }): string =>
  code === 'FST_ERR_BAD_URL' ? 'The path of this URL is not valid: a percent sign starts no escape' : message;

/** Host, Origin, headers that change what a request means, and credentials, in one hook because each costs every request. */
function guard(app: FastifyInstance, deps: ApiDeps, refuseUnknown: Refuse): void {
  const { config, auth, log } = deps;
  const security = createSecurity({
    allowedHosts: config.allowedHosts,
    corsAllowedOrigins: config.corsAllowedOrigins,
    xFrameOptions: config.xFrameOptions,
    disabled: config.disableSecurityMiddleware,
  });
  app.addHook('onRequest', (request, reply, done) => {
    const req = request.raw;
    observe(request, reply, deps);
    security.decorate(req, reply.raw);
    const refusal = security.check(req, pathOf(request));
    if (refusal) {
      const code = FAILURES[refusal.status === 403 ? 'denied' : 'invalid'].mlflow;
      sendRefusal(request, reply, refusal.status, code, refusal.message);
      return;
    }
    if (security.isPreflight(req)) {
      void reply.code(200).type('text/plain').send('OK');
      return;
    }
    const workspace = request.routeOptions.config.anyWorkspace ? undefined : refusedWorkspace(req.headers);
    if (workspace !== undefined) {
      sendRefusal(request, reply, 400, FAILURES.invalid.mlflow, workspace);
      return;
    }
    const refused = refusedHeaders(req, takesJson(request));
    if (refused) {
      sendRefusal(request, reply, refused.status, refused.code, refused.message);
      return;
    }
    const accept = (principal: Principal): void => {
      request.principal = principal;
      // not left to the router's own handler, which comes when a body that may be waiting to be asked for was read
      if (request.is404) refuseUnknown(request, reply);
      else done();
    };
    if (!auth.on || request.routeOptions.config.open === true) {
      accept(ANONYMOUS);
      return;
    }
    try {
      const principal = auth.identify(req.headers.authorization);
      if (principal instanceof Promise)
        principal.then(accept, (error: unknown) => sendError(error, request, reply, log));
      else accept(principal);
    } catch (error) {
      sendError(error, request, reply, log);
    }
  });
}

const pathOf = (request: FastifyRequest): string => {
  const url = request.raw.url ?? '/';
  const queryAt = url.indexOf('?');
  return queryAt < 0 ? url : url.slice(0, queryAt);
};

/** First match wins. */
const GROUPS = [
  ['/api/2.0/mlflow-artifacts/', 'artifacts'],
  ['/api/v1/uploads/', 'uploads'],
  ['/api/v1/transfers', 'transfers'],
  ['/api/v1/events', 'events'],
  ['/api/v1/gc', 'gc'],
  ['/health', 'operations'],
  ['/version', 'operations'],
  ['/ready', 'operations'],
  ['/metrics', 'operations'],
  ['/openapi.json', 'operations'],
] as const;
const COUNTED_METHODS = ['GET', 'HEAD', 'PUT', 'POST', 'DELETE'] as const;
const CLASSES = ['2xx', '3xx', '4xx', '5xx'] as const;

/** Counts and times the request once its answer is out or its client is gone. */
function observe(request: FastifyRequest, reply: FastifyReply, { metrics }: ApiDeps): void {
  const begunMs = performance.now();
  const path = request.raw.url ?? '';
  reply.raw.once('close', () => {
    const group = GROUPS.find(([head]) => path.startsWith(head))?.[1] ?? 'other';
    const method = COUNTED_METHODS.find((name) => name === request.method) ?? 'other';
    const status = CLASSES[Math.floor(reply.raw.statusCode / 100) - 2] ?? '5xx';
    metrics.httpRequests.inc({ group, method, status });
    metrics.httpDuration.observe({ group, method }, (performance.now() - begunMs) / 1000);
  });
}

type Refuse = (request: FastifyRequest, reply: FastifyReply) => void;

/** 404, 405 with `Allow`, and what plain OPTIONS answers: all from the routes themselves. */
function unknownRoutes(app: FastifyInstance): Refuse {
  const routes = new Map<string, Set<string>>();
  app.addHook('onRoute', ({ url, method }) => {
    const methods = routes.get(url) ?? new Set();
    for (const one of [method].flat()) methods.add(one);
    routes.set(url, methods);
  });
  const refuse: Refuse = (request, reply) => {
    const methods = new Set<string>();
    for (const [url, of] of routes)
      if (fits(url, pathOf(request))) for (const method of of) methods.add(method);
    if (methods.size === 0) {
      sendRefusal(request, reply, 404, 'ENDPOINT_NOT_FOUND', 'No such endpoint');
      return;
    }
    void reply.header('allow', [...methods, 'OPTIONS'].sort().join(', '));
    if (request.method === 'OPTIONS') void reply.code(204).send();
    else
      sendRefusal(
        request,
        reply,
        405,
        'INVALID_PARAMETER_VALUE',
        `This endpoint does not take ${request.method}`,
      );
  };
  app.setNotFoundHandler(refuse);
  return refuse;
}

/** Whether `path` is one that the route pattern `url` serves. */
function fits(url: string, path: string): boolean {
  const pattern = url.split('/');
  const segments = path.split('/');
  for (const [at, part] of pattern.entries()) {
    if (part === '*') return segments.length > at;
    const segment = segments[at];
    if (segment === undefined || (!part.startsWith(':') && part !== segment)) return false;
  }
  return segments.length === pattern.length;
}

/** What came is no HTTP request. */
function answerBrokenRequest(code: string, socket: Socket): void {
  if (code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  if (breakOff(socket)) return;
  const answer =
    code === 'HPE_HEADER_OVERFLOW'
      ? rawErrorResponse(
          431,
          'Request Header Fields Too Large',
          `The URL and headers exceed ${MAX_HEAD_BYTES} bytes`,
        )
      : code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? rawErrorResponse(408, 'Request Timeout', 'The head of the request did not come in time')
        : rawErrorResponse(400, 'Bad Request', 'This is not a valid HTTP request');
  socket.end(answer);
}
