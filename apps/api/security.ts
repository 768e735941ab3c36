/** Checks of the `Host` and `Origin` headers, as MLflow's server makes them, and the headers that every answer carries. */
import type { IncomingMessage, ServerResponse } from 'node:http';

export interface SecurityRules {
  /** Host patterns with `*`; empty: loopback and private addresses. */
  readonly allowedHosts: readonly string[];
  /** Origins that may change things and read answers from a browser; `*` in a pattern; loopback always may. */
  readonly corsAllowedOrigins: readonly string[];
  /** `NONE` leaves the header away. */
  readonly xFrameOptions: 'SAMEORIGIN' | 'DENY' | 'NONE';
  readonly disabled: boolean;
}

/** Why a request is refused: sentences of MLflow's server. */
export interface Refusal {
  readonly status: 400 | 403;
  readonly message: string;
}
const BAD_HOST: Refusal = {
  status: 403,
  message: 'Invalid Host header - possible DNS rebinding attack detected',
};
const NO_HOST: Refusal = { status: 400, message: 'An HTTP/1.1 request needs one Host header' };
const BAD_ORIGIN: Refusal = { status: 403, message: 'Cross-origin request blocked' };

const LOOPBACK_HOSTS = ['localhost', '127.0.0.1', '[::1]', '0.0.0.0'];
const PRIVATE_HOSTS = [
  '192.168.*',
  '10.*',
  ...Array.from({ length: 16 }, (_, i) => `172.${16 + i}.*`),
  'fc00:*',
  'fd00:*',
  '[fc00:*',
  '[fd00:*',
];
const DEFAULT_HOSTS = [...LOOPBACK_HOSTS, ...LOOPBACK_HOSTS.map((host) => `${host}:*`), ...PRIVATE_HOSTS];

const LOOPBACK_NAMES = new Set(['localhost', '127.0.0.1', '[::1]']);
const CHANGING_METHODS = new Set(['POST', 'PUT', 'DELETE', 'PATCH']);
/** Paths that load balancers ask, by whatever name they know the host. */
const HOST_EXEMPT = new Set(['/health', '/version', '/ready']);
/** Distinct Host headers remembered as good. */
const REMEMBERED_HOSTS = 256;
const PREFLIGHT_MAX_AGE_SECONDS = '600';

export interface Security {
  /** @param path of the rewritten target, without the query */
  check(req: IncomingMessage, path: string): Refusal | undefined;
  /** Sets what every answer carries; answers of `corsAllowedOrigins` may be read by a page of that origin. */
  decorate(req: IncomingMessage, res: ServerResponse): void;
  /** Whether `req` is a CORS preflight; `decorate` has already set what it answers. */
  isPreflight(req: IncomingMessage): boolean;
}

export function createSecurity(rules: SecurityRules): Security {
  const hosts = rules.allowedHosts.length > 0 ? rules.allowedHosts : DEFAULT_HOSTS;
  const goodHost = anyPattern(hosts);
  const goodOrigin = anyPattern(rules.corsAllowedOrigins);
  const known = new Set<string>();
  const mayCross = (origin: string): boolean => isLoopbackOrigin(origin) || goodOrigin(origin);

  const hostAllowed = (host: string): boolean => {
    if (known.has(host)) return true;
    if (!goodHost(host) && !goodHost(withoutPort(host))) return false;
    if (known.size < REMEMBERED_HOSTS) known.add(host);
    return true;
  };

  return {
    check(req, path) {
      const { host, origin } = req.headers;
      if ((host === undefined && req.httpVersionMinor === 1) || hasTwoHosts(req)) return NO_HOST;
      if (rules.disabled) return undefined;
      if (!HOST_EXEMPT.has(path) && !hostAllowed(host ?? '')) return BAD_HOST;
      if (origin !== undefined && CHANGING_METHODS.has(req.method ?? '') && !mayCross(origin))
        return BAD_ORIGIN;
      return undefined;
    },
    decorate(req, res) {
      if (rules.disabled) return;
      res.setHeader('x-content-type-options', 'nosniff');
      if (rules.xFrameOptions !== 'NONE') res.setHeader('x-frame-options', rules.xFrameOptions);
      const { origin } = req.headers;
      if (origin === undefined) return;
      res.setHeader('vary', 'Origin');
      if (!mayCross(origin)) return;
      res.setHeader('access-control-allow-origin', origin);
      res.setHeader('access-control-allow-credentials', 'true');
      res.setHeader(
        'access-control-expose-headers',
        'Accept-Ranges, Content-Disposition, Content-Range, ETag, Idempotency-Replayed, Location, ' +
          'Preference-Applied, Repr-Digest, Retry-After',
      );
      if (!isPreflight(req)) return;
      res.setHeader('access-control-allow-methods', 'GET, HEAD, PUT, POST, DELETE, OPTIONS');
      res.setHeader('access-control-max-age', PREFLIGHT_MAX_AGE_SECONDS);
      const asked = req.headers['access-control-request-headers'];
      if (asked) res.setHeader('access-control-allow-headers', asked);
    },
    isPreflight,
  };
}

/** Who forwards it might have looked at the other one. */
function hasTwoHosts({ rawHeaders }: IncomingMessage): boolean {
  let hosts = 0;
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at]!;
    if (name.length === 4 && name.toLowerCase() === 'host') hosts++;
  }
  return hosts > 1;
}

const isPreflight = (req: IncomingMessage): boolean =>
  req.method === 'OPTIONS' && req.headers['access-control-request-method'] !== undefined;

function isLoopbackOrigin(origin: string): boolean {
  const authority = /^https?:\/\/(\[[0-9a-f:.]*\]|[^:/?#@]*)(?::\d*)?$/i.exec(origin);
  return authority !== null && LOOPBACK_NAMES.has(authority[1]!.toLowerCase());
}

/** `host`, `host:port`, `[v6]`, `[v6]:port`; a bare IPv6 address has no port. */
function withoutPort(host: string): string {
  const match = /^(\[[^\]]*\]|[^:]*):\d+$/.exec(host);
  return match ? match[1]! : host;
}

/** Whether a text matches one of `patterns`, in which `*` stands for anything; letters of any case. */
function anyPattern(patterns: readonly string[]): (text: string) => boolean {
  const tests = patterns
    .filter((pattern) => pattern !== '')
    .map((pattern) => {
      const source = pattern.split('*').map((part) => part.replace(/[\\^$.|?+()[\]{}]/g, '\\$&'));
      return new RegExp(`^${source.join('.*')}$`, 'is');
    });
  return (text) => text !== '' && tests.some((test) => test.test(text));
}
