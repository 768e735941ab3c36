/** Trees with every awkward thing at once, made of a seed: as folders, and as keys of a bucket. */
import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import {
  appendFileSync,
  chmodSync,
  existsSync,
  lchownSync,
  linkSync,
  mkdirSync,
  renameSync,
  rmdirSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { HUMBLE_UID } from './humble.ts';
import { bytesOf, randomOf } from './seed.ts';

/** A name or path as its bytes, one character (U+0000 to U+00FF) for each: any of them is a name of a folder. */
export type Raw = string;
export const rawOf = (text: string): Raw => Buffer.from(text).toString('latin1');
export const bytesOfRaw = (raw: Raw): Buffer => Buffer.from(raw, 'latin1');

/** Names that some tool somewhere stumbles over. */
const TEXTS = [
  'plain.txt',
  'with space ',
  ' leading',
  '-rf',
  '100%',
  '%2e%2e',
  '%41',
  'a#b',
  'what?x=1&y',
  'C:',
  'C:\\dos\\path',
  'back\\slash',
  'tab\there',
  'new\nline',
  'carriage\rreturn',
  'bell\x07\x7f',
  'esc\x1b[31m',
  'quote"\'`$(x)',
  'caf\u00e9', // NFC
  'cafe\u0301', // NFD: another name
  '重み-🚢',
  '\u2028line',
  '\ufeffbom',
  '\ufffd',
  '...',
  '..x',
  '.hidden',
  '~',
  'a+b=c;d,e',
  '{"json": true}',
  '*',
  'CON',
  '.longshore-notes',
  '.longshore-0123456789abcdef0123456789abcdef',
  '.longshore-',
  '.artifact.uploading.toolongname',
  '.artifact.uploading.',
];
/** MLflow's server keeps a file that is on its way under such a name. */
const UPLOADING = '.artifact.uploading.abcdefgh';
/** Another installation of ours does so under one of these. */
const FOREIGN_HIDDEN = `.longshore-${'0123456789abcdef'}-t1-00c0ffee-${'0'.repeat(31)}1`;
const RESERVED =
  /^\.artifact\.uploading\.[a-z0-9_]{8}$|^\.longshore-[0-9a-f]{16}-[A-Za-z0-9-]+-[0-9a-f]{8}-[0-9a-f]{32}$/;
export const isReserved = (raw: Raw): boolean => raw.split('/').some((name) => RESERVED.test(name));

const NO_TEXT = ['\xff\xfe', 'caf\xe9', '\xc0\xaf', 'a\x80b', '\xed\xa0\x80', 'half\xf0\x9f\x9a'];

/** Where files come, change and go while the tree is listed and carried. */
export const MOVING = 'moving';

/** A folder tree below `root`, which is made and belongs to the service. */
export class AwkwardFolder {
  readonly root: string;
  readonly #random: () => number;
  readonly #store: string;
  readonly #servers: Server[] = [];
  readonly #closed: string[] = [];

  private constructor(store: string, name: string, seed: number) {
    this.#store = store;
    this.root = join(store, name);
    this.#random = randomOf(seed);
  }

  /** @param store the folder that is the store's root; `outside` of it lies what links may lead to */
  static async make(store: string, name: string, seed: number): Promise<AwkwardFolder> {
    const tree = new AwkwardFolder(store, name, seed);
    await tree.#make();
    return tree;
  }

  #at(raw: Raw): Buffer {
    return Buffer.concat([Buffer.from(`${this.root}/`), bytesOfRaw(raw)]);
  }
  #pick<T>(of: readonly T[]): T {
    return of[Math.floor(this.#random() * of.length)]!;
  }
  #dir(raw: Raw): void {
    mkdirSync(this.#at(raw), { recursive: true });
  }
  #file(raw: Raw, size = Math.floor(this.#random() * 3000)): void {
    writeFileSync(this.#at(raw), bytesOf(size, this.#random));
  }
  #link(raw: Raw, to: string | Buffer): void {
    symlinkSync(to, this.#at(raw));
  }

  async #make(): Promise<void> {
    const random = this.#random;
    mkdirSync(this.root, { recursive: true });
    const dirs: Raw[] = ['d', 'd/deep', 'd/deep/er'];
    for (const raw of dirs) this.#dir(raw);
    for (const name of [
      ...TEXTS.map(rawOf),
      ...NO_TEXT,
      UPLOADING,
      FOREIGN_HIDDEN,
      'n'.repeat(255),
      '\xe9'.repeat(200),
    ]) {
      const within = this.#pick(['', 'd/', 'd/deep/er/']);
      if (random() < 0.15) {
        // a directory of that name, and something in it
        this.#dir(`${within}${name}`);
        if (random() < 0.7) this.#file(`${within}${name}/in it`);
      } else this.#file(within + name, random() < 0.2 ? 0 : undefined);
    }
    this.#file('large', 0);
    truncateSync(this.#at('large'), 9 * 1024 * 1024); // a hole
    linkSync(this.#at('large'), this.#at('d/hard link'));
    for (const raw of ['empty', 'hollow/hollow/hollow', `d/${rawOf('leer ü')}`, 'd/\xff empty'])
      this.#dir(raw);
    await this.#specials();
    this.#closedOnes();
    this.#links();
    this.#dir(`${MOVING}/sub`);
    for (let n = 0; n < 12; n++) writeFileSync(join(this.root, MOVING, `m${n}`), version(n, 0));
    this.#own();
    for (const dir of this.#closed) chmodSync(dir, random() < 0.5 ? 0o000 : 0o311);
  }

  async #specials(): Promise<void> {
    const pipe = join(this.root, 'd', 'pipe');
    execFileSync('mkfifo', [pipe]);
    const server = createServer();
    const short = join('/tmp', `awkward-${process.pid}-${randomUUID().slice(0, 8)}`);
    await new Promise<void>((resolve) => server.listen(short, resolve));
    renameSync(short, join(this.root, 'socket'));
    this.#servers.push(server);
  }

  #closedOnes(): void {
    for (const name of ['closed', 'd/closed too']) {
      this.#dir(`${name}/below`);
      this.#file(`${name}/one`);
      this.#file(`${name}/below/two`);
      this.#closed.push(join(this.root, name));
    }
    this.#file('unreadable', 10);
    chmodSync(join(this.root, 'unreadable'), 0);
  }

  #links(): void {
    const outside = join(this.#store, '..', 'outside');
    mkdirSync(outside, { recursive: true });
    writeFileSync(join(outside, 'secret'), 'not of the store');
    this.#link('to file', 'd/hard link');
    this.#link('to dir', 'd/deep');
    this.#link('d/to link', '../to file');
    this.#link('dangling', 'no/such');
    this.#link('through a file', 'large/x');
    this.#link('to itself', 'to itself');
    this.#link('to outside', join(outside, 'secret'));
    this.#link('to the outside', outside);
    this.#link('d/deep/up', '..');
    this.#link('to all', '.');
    this.#link('ping', 'pong');
    this.#link('pong', 'ping');
    this.#link('to closed', 'closed');
    this.#link('into closed', 'closed/one');
    this.#link('to pipe', 'd/pipe');
    this.#link('to empty', 'empty');
    this.#link('\xfe link', 'd/deep/er');
    this.#link('far', Buffer.concat([Buffer.from(`${this.root}/`), bytesOfRaw('d/deep/er')]));
  }

  #own(): void {
    if (HUMBLE_UID === undefined) return;
    execFileSync('chown', ['-R', '-h', `${HUMBLE_UID}:${HUMBLE_UID}`, this.root]);
    lchownSync(this.root, HUMBLE_UID, HUMBLE_UID);
  }

  /** What was closed is open. */
  open(): void {
    for (const dir of this.#closed) chmodSync(dir, 0o755);
    chmodSync(join(this.root, 'unreadable'), 0o644);
  }

  /** Changes what is in `moving` until `signal` is aborted, then answers. */
  async move(signal: AbortSignal): Promise<void> {
    const dir = join(this.root, MOVING);
    for (let round = 1; round < 10_000 && !signal.aborted; round++) {
      const n = Math.floor(this.#random() * 12);
      const file = join(dir, `m${n}`);
      const sub = join(dir, 'sub', `s${n}`);
      if (round % 4 === 0) {
        writeFileSync(join(dir, 'next'), version(n, round));
        renameSync(join(dir, 'next'), file);
      } else if (round % 4 === 1) {
        if (existsSync(file)) appendFileSync(file, Buffer.alloc(LINE, n));
      } else if (round % 4 === 2) {
        if (n > 5 && existsSync(file)) unlinkSync(file);
        mkdirSync(sub, { recursive: true });
        writeFileSync(join(sub, 'f'), version(n, round));
      } else if (existsSync(sub)) {
        unlinkSync(join(sub, 'f'));
        rmdirSync(sub);
      }
      await sleep(1);
    }
    if (existsSync(join(dir, 'next'))) unlinkSync(join(dir, 'next'));
    execFileSync('chown', ['-R', '-h', '--reference', this.root, dir]);
  }

  close(): void {
    for (const server of this.#servers) server.close();
  }
}

const LINE = 512;
const version = (n: number, round: number): Buffer => Buffer.alloc(LINE * (1 + (round % 5)), n);

/** Whether these bytes are those of one version of a file in `moving`, whole. */
export const isVersion = (bytes: Uint8Array): boolean =>
  bytes.length > 0 && bytes.length % LINE === 0 && bytes.every((byte) => byte === bytes[0]);

/** Keys below a prefix that ends in a slash, and what they hold. Servers may refuse some. */
export function awkwardKeys(prefix: string, seed: number): Map<string, Buffer> {
  const random = randomOf(seed);
  const keys = new Map<string, Buffer>();
  // not among them: `a` and `a/b`, of which MinIO lists one only, and names that end in its own `__XLDIR__`
  const put = (key: string, size = Math.floor(random() * 3000)): void => {
    keys.set(prefix + key, bytesOf(size, random));
  };
  const within = ['', 'd/', 'd/deep/er/', 'D:/'];
  for (const name of [...TEXTS, UPLOADING, FOREIGN_HIDDEN, 'n'.repeat(255)])
    put(`${within[Math.floor(random() * within.length)]}${name}`, random() < 0.2 ? 0 : undefined);
  put('marker/', 0);
  put('marker with bytes/', 7);
  put('nested/marker/', 0);
  put('d/', 0);
  put('d/deep/', 5);
  put('both', 9);
  put('both/', 0);
  put(' /', 0);
  put('m#?\t/', 0);
  put('double//slash');
  put('/leads');
  put('ends//', 0);
  put('up/../there');
  put('./here');
  put(`${'long/'.repeat(30)}x`);
  put(`${'l'.repeat(250)}/${'l'.repeat(250)}/${'l'.repeat(250)}/x`);
  put('large', 9 * 1024 * 1024);
  return keys;
}
