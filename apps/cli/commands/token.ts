/** `longshore token`: a line for the auth file, and the secret that goes with it. */
import { Failure } from '../../../lib/errors.ts';
import { parsePath } from '../../../lib/path.ts';
import { hashSecret, newToken, SCOPES, type Scope } from '../../api/auth.ts';

export interface TokenOptions {
  readonly scope: readonly string[];
  readonly prefix: readonly string[];
  /** Read a password from standard input and keep its hash, instead of making a token. */
  readonly password: boolean;
}

const MAX_PASSWORD_BYTES = 1024;

/** Resolves with the exit code. The line goes to standard output; a new token, which nobody can see again, to standard error. */
export async function token(name: string, options: TokenOptions): Promise<number> {
  const scopes = options.scope.map(scopeOf);
  for (const prefix of options.prefix) parsePath(prefix);
  const kind = options.password ? 'password' : 'token';
  const secret = options.password ? await readPassword() : newToken();
  const prefixes = options.prefix.length > 0 ? { prefixes: options.prefix } : {};
  process.stdout.write(
    `${JSON.stringify({ name, kind, hash: await hashSecret(kind, secret), scopes, ...prefixes })}\n`,
  );
  if (!options.password) process.stderr.write(`token of ${name}, shown this once: ${secret}\n`);
  return 0;
}

function scopeOf(given: string): Scope {
  const scope = SCOPES.find((known) => known === given);
  if (scope) return scope;
  throw new Failure(
    'invalid',
    `--scope: ${JSON.stringify(given)} is not usable; it needs one of ${SCOPES.join(', ')}`,
  );
}

async function readPassword(): Promise<string> {
  let text = '';
  for await (const chunk of process.stdin.setEncoding('utf8')) {
    text += chunk;
    if (Buffer.byteLength(text) > MAX_PASSWORD_BYTES) break;
  }
  const password = text.replace(/\r?\n$/, '');
  if (password === '' || /[\r\n]/.test(password) || Buffer.byteLength(password) > MAX_PASSWORD_BYTES)
    throw new Failure(
      'invalid',
      `--password: standard input must hold one line of at most ${MAX_PASSWORD_BYTES} bytes`,
    );
  return password;
}
