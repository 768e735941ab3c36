/** Connections to Redis, in the two profiles that BullMQ needs, and whether that Redis is fit for jobs. */
import { Redis, type RedisOptions } from 'ioredis';
import { Failure } from '../errors.ts';
import type { Log } from '../log.ts';

/** Where Redis is, and how every key of ours begins there: a name in braces, so that a cluster keeps them in one slot. */
export interface RedisPlace {
  readonly url: string;
  readonly prefix: string;
}

/** How long a producer waits for Redis before it goes on without. */
const PRODUCER_TIMEOUT_MS = 1000;
const CONNECT_TIMEOUT_MS = 5000;
const RECONNECT_MAX_MS = 1000;
/**
 * A connection on which an answer is due and nothing comes for so long is given up for a new one: one that died without
 * a word would else be waited for until TCP gives up, a quarter of an hour later. A worker waits up to 10 s for a job.
 */
const SILENT_MS = { producer: 3000, worker: 15_000 };

/**
 * `producer`: a command fails within about a second when Redis is away, for what is committed needs no Redis.
 * `worker`: a command waits for Redis as long as it takes. Both reconnect for ever.
 */
export type RedisProfile = 'producer' | 'worker';

/**
 * @param url `redis://`, `rediss://`, or the path of a unix socket (`unix:///path` or `/path`)
 * @throws Failure `invalid` for anything else
 */
export function connectRedis(
  url: string,
  profile: RedisProfile,
  opts: { readonly log: Log; readonly name: string },
): Redis {
  const options: RedisOptions & { readonly replyMapping: 'legacy' } = {
    replyMapping: 'legacy',
    ...addressOf(url),
    ...PROFILES[profile],
    connectionName: `longshore-${opts.name}`,
  };
  const redis = new Redis(options);
  let up = true;
  redis.on('error', (error: Error) => {
    if (up) opts.log.warn({ connection: opts.name, err: error.message }, 'redis cannot be reached');
    up = false;
  });
  redis.on('ready', () => {
    if (!up) opts.log.info({ connection: opts.name }, 'redis is back');
    up = true;
  });
  return redis;
}

const reconnect = (times: number): number =>
  Math.min(RECONNECT_MAX_MS, 50 * 2 ** Math.min(times, 5)) * (0.5 + Math.random() / 2);

type Options = Omit<RedisOptions, 'replyMapping'>;
const PROFILES: Record<RedisProfile, Options> = {
  producer: {
    retryStrategy: reconnect,
    connectTimeout: CONNECT_TIMEOUT_MS,
    commandTimeout: PRODUCER_TIMEOUT_MS,
    socketTimeout: SILENT_MS.producer,
    maxRetriesPerRequest: 1,
  },
  worker: {
    retryStrategy: reconnect,
    connectTimeout: CONNECT_TIMEOUT_MS,
    socketTimeout: SILENT_MS.worker,
    maxRetriesPerRequest: null,
  },
};

function addressOf(url: string): Options {
  if (url.startsWith('/')) return { path: url };
  let parsed: URL;
  try {
    parsed = new URL(url);
  } catch {
    throw badUrl();
  }
  if (parsed.protocol === 'unix:') return { path: decoded(parsed.pathname) };
  if (parsed.protocol !== 'redis:' && parsed.protocol !== 'rediss:') throw badUrl();
  const db = parsed.pathname.slice(1);
  if (!/^\d*$/.test(db)) throw badUrl();
  const username = decoded(parsed.username);
  const password = decoded(parsed.password);
  return {
    host: parsed.hostname.replace(/^\[|\]$/g, ''),
    port: parsed.port === '' ? 6379 : Number(parsed.port),
    ...(username && { username }),
    ...(password && { password }),
    ...(db && { db: Number(db) }),
    ...(parsed.protocol === 'rediss:' && { tls: { servername: parsed.hostname } }),
  };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw badUrl(); // a percent sign that starts no escape
  }
}

/** Without the URL: it may hold a password. */
const badUrl = (): Failure =>
  new Failure(
    'invalid',
    'The Redis URL cannot be used: give redis://host:port/db, rediss://host:port, or the path of a unix socket (unix:///path)',
  );

/**
 * What a producer asks of Redis. What was asked goes on when it takes too long; its outcome is nobody's concern then.
 * @throws Failure `unavailable` after a second, or where Redis says no; any `Failure` of `run` is told as that, too
 */
export async function askRedis<T>(what: string, run: () => Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    const why = `no answer within ${PRODUCER_TIMEOUT_MS} ms`;
    timer = setTimeout(() => reject(new Error(why)), PRODUCER_TIMEOUT_MS);
  });
  const asked = run();
  asked.catch(() => {});
  try {
    return await Promise.race([asked, late]);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    // without the client's error: it carries the command that failed, and that may be AUTH with its password
    throw new Failure('unavailable', `could not ${what}: Redis: ${why}`, { op: what });
  } finally {
    clearTimeout(timer);
  }
}

export interface RedisHealth {
  readonly up: boolean;
  readonly noeviction: boolean;
  /** Why it is not fit for jobs; undefined when it is. */
  readonly problem?: string;
}

/** Asks Redis whether it answers and keeps what it is given. Never throws. */
export async function redisHealth(redis: Redis): Promise<RedisHealth> {
  let info: string;
  try {
    await redis.ping();
    info = await redis.info('memory');
  } catch (error) {
    // a producer gives up on a connection that is not there: its own words are about a setting that nobody made
    const why =
      error instanceof Error && error.name !== 'MaxRetriesPerRequestError' ? `: ${error.message}` : '';
    return { up: false, noeviction: false, problem: `Redis cannot be reached${why}` };
  }
  const policy = /^maxmemory_policy:(\S+)/m.exec(info)?.[1] ?? 'unknown';
  if (policy === 'noeviction') return { up: true, noeviction: true };
  return {
    up: true,
    noeviction: false,
    problem: `Redis runs with maxmemory-policy ${policy} and may drop jobs: set it to noeviction`,
  };
}
