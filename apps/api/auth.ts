/**
 * Who asks, and what they may do. Off until an auth file is configured: then everybody is `anonymous` and may do
 * everything. The file has one JSON object a line (blank lines and lines that start with `#` are skipped); it is looked
 * at again when it changes. It holds hashes only:
 *
 *     {"name":"ci","kind":"token","hash":"sha256:…","scopes":["read","write"],"prefixes":["12/"]}
 *     {"name":"ann","kind":"password","hash":"scrypt:…","scopes":["admin"]}
 */
import { createHash, randomBytes, scrypt, timingSafeEqual } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { promisify } from 'node:util';
import { z } from 'zod';
import { Failure } from '../../lib/errors.ts';
import type { Log } from '../../lib/log.ts';
import { isWithin, parsePath, type StorePath } from '../../lib/path.ts';

/** `read`: get, list, follow. `write`: put, delete, submit. `operate`: others' transfers, gc, metrics. `admin`: all. */
export const SCOPES = ['read', 'write', 'operate', 'admin'] as const;
export type Scope = (typeof SCOPES)[number];

export interface Principal {
  readonly name: string;
  /** Whether it may do that at `path` (an artifact path) or, without a path, at all. */
  can(scope: Scope, path?: StorePath): boolean;
}

export interface Authenticator {
  /** False: everybody is `anonymous`. */
  readonly on: boolean;
  /** @throws Failure `unauthenticated`, or `busy` when too many passwords are being checked */
  identify(authorization: string | undefined): Principal | Promise<Principal>;
}

/** @throws Failure `denied` */
export function demand(principal: Principal, scope: Scope, path?: StorePath): void {
  if (principal.can(scope, path)) return;
  const where = path === undefined ? '' : path === '' ? ' at the artifact root' : ` at '${path}'`;
  throw new Failure(
    'denied',
    `'${principal.name}' may not ${scope}${where}: ask an operator for the scope '${scope}'${path === undefined ? '' : ' there'}`,
  );
}

export const ANONYMOUS: Principal = { name: 'anonymous', can: () => true };
export const noAuth: Authenticator = { on: false, identify: () => ANONYMOUS };

const entrySchema = z.strictObject({
  name: z.string().min(1).max(128),
  kind: z.enum(['token', 'password']),
  hash: z.string().regex(/^(sha256:[0-9a-f]{64}|scrypt:[0-9]+:[0-9]+:[0-9]+:[\w-]+:[\w-]+)$/),
  scopes: z.array(z.enum(SCOPES)).min(1),
  /** Artifact paths that it may touch, each with everything below; none: everywhere. */
  prefixes: z.array(z.string()).default([]),
});
type AuthEntry = z.output<typeof entrySchema>;

const scryptAsync = promisify<
  string,
  Buffer,
  number,
  { N: number; r: number; p: number; maxmem: number },
  Buffer
>(scrypt);
const COST = { N: 16384, r: 8, p: 1, maxmem: 64 * 1024 * 1024 };
const HASH_BYTES = 32;
const SALT_BYTES = 16;

/** A new secret for a caller: 192 random bits, which is why a plain SHA-256 of it is safe to keep. */
export const newToken = (): string => `ls_${randomBytes(24).toString('base64url')}`;

/** What the auth file keeps of a secret. */
export async function hashSecret(kind: 'token' | 'password', secret: string): Promise<string> {
  if (kind === 'token') return `sha256:${createHash('sha256').update(secret).digest('hex')}`;
  const salt = randomBytes(SALT_BYTES);
  const hash = await scryptAsync(secret, salt, HASH_BYTES, COST);
  return `scrypt:${COST.N}:${COST.r}:${COST.p}:${salt.toString('base64url')}:${hash.toString('base64url')}`;
}

/** How long the file's time of change is trusted. */
const RECHECK_MS = 1000;
/** Secrets remembered as good, so that a password costs its hash once and not at each request. */
const REMEMBERED = 1000;
/** Passwords checked or waiting to be: each takes a core for about 50 ms, and strangers can ask for it. */
const MAX_CHECKS = 16;

/** @throws Failure `invalid` when the file can't be read or has a bad line */
export async function openAuth(file: string, log: Log): Promise<Authenticator> {
  const book = new AuthBook(file, log);
  await book.load();
  return book;
}

class AuthBook implements Authenticator {
  readonly on = true;
  readonly #file: string;
  readonly #log: Log;
  #entries: readonly AuthEntry[] = [];
  #version = '';
  #checkedMs = 0;
  #checks = 0;
  readonly #known = new Map<string, Principal>();

  constructor(file: string, log: Log) {
    this.#file = file;
    this.#log = log;
  }

  async load(): Promise<void> {
    let text: string;
    try {
      const { mtimeMs, size, ino } = await stat(this.#file);
      const version = `${mtimeMs}-${size}-${ino}`;
      this.#checkedMs = Date.now();
      if (version === this.#version) return;
      text = await readFile(this.#file, 'utf8');
      this.#entries = parseAuthFile(text);
      this.#version = version;
    } catch (error) {
      if (error instanceof Failure) throw error;
      throw new Failure(
        'invalid',
        `could not read the auth file ${this.#file}: ${(error as Error).message}`,
        {},
        { cause: error },
      );
    }
    this.#known.clear();
  }

  identify(authorization: string | undefined): Principal | Promise<Principal> {
    if (authorization === undefined)
      throw needed('credentials are needed: a bearer token, or a user and a password');
    if (Date.now() - this.#checkedMs < RECHECK_MS) {
      const known = this.#known.get(fingerprint(authorization));
      if (known) return known;
    }
    return this.#identify(authorization);
  }

  async #identify(authorization: string): Promise<Principal> {
    if (Date.now() - this.#checkedMs >= RECHECK_MS) {
      this.#checkedMs = Date.now();
      // a file that is being edited must not lock everybody out: what was read last stays good
      await this.load().catch((error: unknown) =>
        this.#log.error({ err: error }, 'the auth file was not reloaded'),
      );
    }
    const key = fingerprint(authorization);
    const known = this.#known.get(key);
    if (known) return known;
    const version = this.#version;
    const entry = await this.#find(authorization);
    if (!entry) throw needed('these credentials are not known here');
    const principal = principalOf(entry);
    if (this.#known.size >= REMEMBERED) this.#known.clear();
    if (version === this.#version) this.#known.set(key, principal);
    return principal;
  }

  async #find(authorization: string): Promise<AuthEntry | undefined> {
    const [, scheme, rest] = /^(\S+)\s+(.+)$/.exec(authorization) ?? [];
    if (scheme?.toLowerCase() === 'bearer') {
      const hash = Buffer.from(await hashSecret('token', rest!));
      return this.#entries.find((entry) => entry.kind === 'token' && equal(Buffer.from(entry.hash), hash));
    }
    if (scheme?.toLowerCase() !== 'basic')
      throw needed('only bearer tokens and basic credentials are understood');
    const pair = Buffer.from(rest!, 'base64').toString('utf8');
    const colon = pair.indexOf(':');
    const name = pair.slice(0, Math.max(0, colon));
    const entry = this.#entries.find((one) => one.kind === 'password' && one.name === name);
    if (this.#checks >= MAX_CHECKS)
      throw new Failure('busy', 'too many passwords are being checked just now');
    this.#checks++;
    try {
      // an unknown name costs as much as a known one, so that answers don't tell which names exist
      const good = await verifyPassword(pair.slice(colon + 1), entry?.hash ?? DECOY);
      return good ? entry : undefined;
    } finally {
      this.#checks--;
    }
  }
}

const DECOY = `scrypt:${COST.N}:${COST.r}:${COST.p}:${'A'.repeat(22)}:${'A'.repeat(43)}`;

async function verifyPassword(password: string, stored: string): Promise<boolean> {
  const [, N, r, p, salt, hash] = stored.split(':');
  const expected = Buffer.from(hash!, 'base64url');
  const cost = { N: Number(N), r: Number(r), p: Number(p), maxmem: COST.maxmem };
  const actual = await scryptAsync(password, Buffer.from(salt!, 'base64url'), expected.length, cost);
  return equal(actual, expected);
}

const equal = (a: Buffer, b: Buffer): boolean => a.length === b.length && timingSafeEqual(a, b);
/** The secret itself is not kept in memory. */
const fingerprint = (authorization: string): string =>
  createHash('sha256').update(authorization).digest('base64');
const needed = (message: string): Failure => new Failure('unauthenticated', message);

function parseAuthFile(text: string): AuthEntry[] {
  const entries: AuthEntry[] = [];
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue;
    const bad = (why: string): Failure =>
      new Failure('invalid', `line ${index + 1} of the auth file: ${why}`);
    let json: unknown;
    try {
      json = JSON.parse(line);
    } catch {
      throw bad('not a JSON object on one line');
    }
    const parsed = entrySchema.safeParse(json);
    if (!parsed.success) throw bad(z.prettifyError(parsed.error).replaceAll('\n', ' '));
    const kind = parsed.data.hash.startsWith('sha256:') ? 'token' : 'password';
    if (kind !== parsed.data.kind) throw bad(`a ${parsed.data.kind} with the hash of a ${kind}`);
    if (entries.some((entry) => entry.name === parsed.data.name))
      throw bad(`the name '${parsed.data.name}' is there twice`);
    for (const prefix of parsed.data.prefixes) parsePath(prefix);
    entries.push(parsed.data);
  }
  return entries;
}

function principalOf({ name, scopes, prefixes }: AuthEntry): Principal {
  const roots = prefixes.map((prefix) => parsePath(prefix));
  return {
    name,
    can: (scope, path) =>
      (scopes.includes(scope) || scopes.includes('admin')) &&
      (path === undefined || roots.length === 0 || roots.some((root) => isWithin(path, root))),
  };
}
