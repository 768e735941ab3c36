/**
 * The request target, taken apart before the router sees it. Artifact paths never reach the router, which would decode
 * them, so that they are decoded exactly once, here. `/ajax-api/…` and the static prefix are aliases: each route is
 * declared once, under `/api/…` without a prefix.
 */
import type { IncomingMessage } from 'node:http';
import { Failure } from '../../lib/errors.ts';
import { parsePath, type StorePath } from '../../lib/path.ts';
import { percentDecoded } from '../../lib/path-bytes.ts';

/** Route heads below which everything is one raw path. Routes are declared as `<head>*`. */
export const ARTIFACTS = '/api/2.0/mlflow-artifacts/artifacts/';
export const UPLOADS = '/api/v1/uploads/';
const RAW_HEADS = [
  ARTIFACTS,
  UPLOADS,
  '/api/2.0/mlflow-artifacts/mpu/',
  '/api/2.0/mlflow-artifacts/presigned/',
] as const;

/** What stands for the raw path in the URL that the router sees. */
const STAND_IN = '-';

const rawPaths = new WeakMap<IncomingMessage, string>();

/** Fastify's `rewriteUrl` for a server behind `staticPrefix` (`''` or `/p`, without a trailing slash). */
export function targetRewriter(staticPrefix: string): (req: IncomingMessage) => string {
  return (req) => {
    let target = req.url ?? '/';
    if (!target.startsWith('/')) target = originForm(target);
    const queryAt = target.indexOf('?');
    let path = queryAt < 0 ? target : target.slice(0, queryAt);
    const query = queryAt < 0 ? '' : target.slice(queryAt);
    if (staticPrefix !== '' && path.startsWith(`${staticPrefix}/`)) path = path.slice(staticPrefix.length);
    if (path.startsWith('/ajax-api/')) path = `/api/${path.slice('/ajax-api/'.length)}`;
    for (const head of RAW_HEADS) {
      if (!path.startsWith(head)) continue;
      rawPaths.set(req, path.slice(head.length));
      // the type of an artifact comes from its name; a malformed header must not decide anything
      delete req.headers['content-type'];
      return head + STAND_IN + query;
    }
    return path + query;
  };
}

/** `http://host/path` (a proxy's form) as `/path`; `*` and other oddities as a path that no route has. */
function originForm(target: string): string {
  const authority = /^[a-z][a-z0-9+.-]*:\/\/[^/?#]*/i.exec(target);
  const rest = authority ? target.slice(authority[0].length) : `/${target}`;
  return rest.startsWith('/') ? rest : `/${rest}`;
}

/** The artifact path of a request to one of the raw routes, decoded once. */
export interface ArtifactTarget {
  readonly path: StorePath;
  /** The path ended in a slash, which names a directory. */
  readonly slash: boolean;
}

/** @throws Failure `invalid` for what is no legal path, `not-found` where the route was reached by another spelling */
export function artifactTarget(req: IncomingMessage): ArtifactTarget {
  const given = decodeOnce(rawOf(req));
  return { path: parsePath(given), slash: given === '' || given.endsWith('/') };
}

/** As `artifactTarget`, of a route of ours: any name that its store can hold, its bytes as they were percent-encoded. */
export const uploadTarget = (req: IncomingMessage): StorePath => decodeBytes(rawOf(req)) as StorePath;

function rawOf(req: IncomingMessage): string {
  const raw = rawPaths.get(req);
  if (raw === undefined) throw new Failure('not-found', 'No such endpoint');
  return raw;
}

/** The first `name` of the query, decoded once; `undefined` where there is none. @throws Failure `invalid` */
export function queryParameter(url: string, name: string): string | undefined {
  const at = url.indexOf('?');
  if (at < 0) return undefined;
  for (const pair of url.slice(at + 1).split('&')) {
    const equals = pair.indexOf('=');
    const key = equals < 0 ? pair : pair.slice(0, equals);
    if (key === name) return equals < 0 ? '' : decodeOnce(pair.slice(equals + 1).replaceAll('+', ' '));
  }
  return undefined;
}

/** A percent sign that starts no escape stands for itself: MLflow's client sends `100%` so. */
const decodeBytes = (raw: string): string => percentDecoded(raw.replace(/%(?![0-9a-f]{2})/gi, '%25')) ?? raw;

function decodeOnce(raw: string): string {
  const text = decodeBytes(raw);
  if (text.isWellFormed()) return text;
  throw new Failure('invalid', 'Invalid path: not valid UTF-8 once percent-decoded');
}
