/** Secrets that can be told from everything else, and the look for them in whatever was written. */
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

export class Needles {
  readonly #planted = new Map<string, string>();
  readonly #written = new Map<string, readonly string[]>();

  /** A secret of 24 characters after `prefix`; with what must be escaped in a URL, where it may be. */
  plant(name: string, prefix = '', escapes = ''): string {
    const secret = `${prefix}${randomBytes(6).toString('hex')}${escapes}${randomBytes(6).toString('hex')}`;
    this.#planted.set(name, secret);
    return secret;
  }

  /** Bytes that were not planted, but must be written nowhere as text either. */
  know(name: string, bytes: Uint8Array): void {
    const hex = Buffer.from(bytes).toString('hex');
    const numbers = [...bytes].join(',');
    this.#written.set(name, [hex, hex.toUpperCase(), numbers, ...base64Of(Buffer.from(bytes))]);
  }

  /** What was found and where, in any spelling; nothing, if all is well. */
  in(name: string, hay: string | Buffer): string[] {
    const text = Buffer.isBuffer(hay) ? hay.toString('latin1') : hay;
    const spelled = [...this.#planted].map(([secret, value]) => [secret, spellings(value)] as const);
    return [...spelled, ...this.#written].flatMap(([secret, forms]) =>
      forms
        .filter((spelling) => text.includes(spelling))
        .map((spelling) => `${secret} in ${name}: …${around(text, spelling)}…`),
    );
  }
}

function spellings(secret: string): string[] {
  const forms = [
    secret,
    encodeURIComponent(secret),
    JSON.stringify(secret).slice(1, -1),
    Buffer.from(secret).toString('hex'),
    ...base64Of(Buffer.from(secret)),
  ];
  return [...new Set(forms)];
}

const base64Of = (bytes: Buffer): string[] => [0, 1, 2].flatMap((offset) => inBase64(bytes, offset));

/** What is the same whatever comes before and after it. */
function inBase64(secret: Buffer, offset: number): string[] {
  const bytes = Buffer.concat([Buffer.alloc(offset), secret]);
  const whole = bytes.length - (bytes.length % 3);
  const cut = (text: string): string => text.slice(offset === 0 ? 0 : 4);
  const kept = bytes.subarray(0, whole);
  return [cut(kept.toString('base64')), cut(kept.toString('base64url'))];
}

function around(text: string, spelling: string): string {
  const at = text.indexOf(spelling);
  return text.slice(Math.max(0, at - 60), at + spelling.length + 20);
}

/** What is planted into settings, requests and files; `/`, `+`, `@` and `%` are what URLs stumble over. */
export function plantAll(needles: Needles) {
  return {
    keyId: needles.plant('access key id', 'AKIA'),
    secretKey: needles.plant('secret key', '', '/+'),
    session: needles.plant('session token', '', '/='),
    redisPassword: needles.plant('Redis password', '', '@/:%'),
    uriPassword: needles.plant('password in a store URI', '', '/+@'),
    endpointPassword: needles.plant('password in the endpoint', '', '/'),
    customerKey: needles.plant('customer key', '', '='),
    token: needles.plant('bearer token', 'ls_'),
    wrongToken: needles.plant('wrong bearer token', 'ls_'),
    password: needles.plant('basic password', '', ':@'),
    wrongPassword: needles.plant('wrong basic password', '', '%/'),
    signature: needles.plant('signature of a query'),
  };
}

/** What makes them the credentials for the S3 server at `endpoint`. */
export const awsEnv = (secrets: ReturnType<typeof plantAll>, endpoint: string): Record<string, string> => ({
  AWS_ACCESS_KEY_ID: secrets.keyId,
  AWS_SECRET_ACCESS_KEY: secrets.secretKey,
  AWS_SESSION_TOKEN: secrets.session,
  AWS_DEFAULT_REGION: 'us-east-1',
  MLFLOW_S3_ENDPOINT_URL: endpoint,
});

/** What was written somewhere, each looked through. */
export class Seen {
  readonly found: string[] = [];
  readonly #needles: Needles;
  readonly #texts = new Map<string, string>();

  constructor(needles: Needles) {
    this.#needles = needles;
  }

  add(name: string, text: string): void {
    this.#texts.set(name, text);
    this.found.push(...this.#needles.in(name, text));
  }

  /** Every file: the ledger with its log, what Redis keeps, what is staged, compiled sources. */
  addFolder(name: string, folder: string): void {
    const files = existsSync(folder) ? readdirSync(folder, { recursive: true, withFileTypes: true }) : [];
    const texts = files
      .filter((file) => file.isFile())
      .map((file) => `${file.name}\n${readFileSync(join(file.parentPath, file.name)).toString('latin1')}`);
    this.add(name, texts.join('\n'));
  }

  has(name: string, text: string): boolean {
    return this.#texts.get(name)?.includes(text) === true;
  }
}
