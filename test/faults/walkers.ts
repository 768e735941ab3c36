/** What is there, told by somebody who is not us: GNU find for folders, S3's own listing for buckets. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { lstatSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { GetObjectCommand, ListObjectsV2Command, type S3Client } from '@aws-sdk/client-s3';
import { bytesOfRaw, isReserved, isVersion, type Raw, rawOf } from './awkward.ts';

export interface Walked {
  /** Below the root that was walked. */
  readonly raw: Raw;
  readonly is: 'file' | 'dir' | 'link' | 'special' | 'closed' | 'reserved';
  /** SHA-256 of a file's bytes. */
  readonly sha?: string;
  readonly size: number;
  /** All of its bytes are one and the same, and come in lines of `moving`. */
  readonly uniform?: boolean;
}
/** By key: a path, and `/` after a directory. */
export type Walk = ReadonlyMap<string, Walked>;

export const keyOf = ({ raw, is }: Pick<Walked, 'raw' | 'is'>): string =>
  is === 'dir' ? `${raw}/` : `${raw}\0`;

const factsOf = (bytes: Uint8Array) => ({
  sha: createHash('sha256').update(bytes).digest('hex'),
  uniform: isVersion(bytes),
});
const nativeOf = (root: string, raw: Raw): Buffer =>
  Buffer.concat([Buffer.from(root), ...(raw === '' ? [] : [Buffer.from('/'), bytesOfRaw(raw)])]);

interface Found {
  readonly type: string;
  readonly mode: number;
  readonly size: number;
  readonly raw: Raw;
}

function find(root: Buffer): Found[] {
  const format = '%y\\0%m\\0%s\\0%P\\0';
  // as text, one character per byte, it could not be an argument: bash hands the bytes over
  const quoted = `$'${[...root].map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')}'`;
  const { stdout } = spawnSync('bash', ['-c', `exec find -H ${quoted} -mindepth 1 -printf '${format}'`], {
    maxBuffer: 2 ** 28,
  });
  const parts = stdout.toString('latin1').split('\0').slice(0, -1);
  const found: Found[] = [];
  for (let at = 0; at + 3 < parts.length; at += 4)
    found.push({
      type: parts[at]!,
      mode: Number.parseInt(parts[at + 1]!, 8),
      size: Number(parts[at + 2]),
      raw: parts[at + 3]!,
    });
  return found;
}

const MAY_LIST = 0o500;

/**
 * Everything below a folder: files, links, special files, and of directories those that are empty or closed, nothing
 * below which counts. `follow`: links are what they lead to within `store`.
 */
export function walkFolder(root: string, opts: { readonly follow?: { readonly store: string } } = {}): Walk {
  const walk = new Map<string, Walked>();
  const add = (one: Walked) => walk.set(keyOf(one), one);
  const visit = (at: Raw, through: readonly string[]): void => {
    const found = find(nativeOf(root, at)).map((one) => ({
      ...one,
      raw: at === '' ? one.raw : `${at}/${one.raw}`,
    }));
    const parents = new Set(found.map(({ raw }) => raw.slice(0, raw.lastIndexOf('/'))));
    const closed = found.filter(({ type, mode }) => type === 'd' && (mode & MAY_LIST) !== MAY_LIST);
    for (const { type, mode, size, raw } of found) {
      if (closed.some((dir) => raw.startsWith(`${dir.raw}/`))) continue;
      const native = nativeOf(root, raw);
      if (type === 'd') {
        if ((mode & MAY_LIST) !== MAY_LIST) add({ raw, is: 'closed', size: 0 });
        else if (!parents.has(raw)) add({ raw, is: 'dir', size: 0 });
      } else if (type === 'f') addFile(raw, native, size);
      else if (type !== 'l') add({ raw, is: 'special', size: 0 });
      else if (!opts.follow) add({ raw, is: 'link', size: 0 });
      else follow(raw, native, through, opts.follow.store);
    }
  };
  const addFile = (raw: Raw, native: Buffer, size: number) => {
    const base = raw.slice(raw.lastIndexOf('/') + 1);
    if (isReserved(base)) return add({ raw, is: 'reserved', size });
    const open = (statSync(native).mode & 0o400) !== 0;
    return add({ raw, is: open ? 'file' : 'closed', size, ...(open && factsOf(readFileSync(native))) });
  };
  const follow = (raw: Raw, native: Buffer, through: readonly string[], store: string): unknown => {
    let real: string;
    try {
      real = realpathSync.native(native, 'buffer').toString('latin1');
    } catch {
      return add({ raw, is: 'link', size: 0 });
    }
    const inside = rawOf(store);
    if (real !== inside && !real.startsWith(`${inside}/`)) return add({ raw, is: 'link', size: 0 });
    if (throughClosed(real)) return add({ raw, is: 'closed', size: 0 });
    const facts = lstatSync(bytesOfRaw(real));
    if (facts.isFile()) return addFile(raw, bytesOfRaw(real), facts.size);
    if (!facts.isDirectory()) return add({ raw, is: 'special', size: 0 });
    const holder = realpathSync
      .native(nativeOf(root, raw.slice(0, Math.max(0, raw.lastIndexOf('/')))), 'buffer')
      .toString('latin1');
    const holders = [...through, holder];
    if (holders.some((one) => one === real || one.startsWith(`${real}/`)))
      return add({ raw, is: 'link', size: 0 });
    if ((facts.mode & MAY_LIST) !== MAY_LIST) return add({ raw, is: 'closed', size: 0 });
    const before = walk.size;
    visit(raw, holders);
    return walk.size === before ? add({ raw, is: 'dir', size: 0 }) : undefined;
  };
  visit('', []);
  return walk;
}

/** Whether a directory on the way there may not be walked through. */
function throughClosed(real: string): boolean {
  for (let at = real.lastIndexOf('/'); at > 0; at = real.lastIndexOf('/', at - 1))
    if ((statSync(bytesOfRaw(real.slice(0, at))).mode & 0o100) === 0) return true;
  return false;
}

/** Every object below a prefix that ends in a slash. A marker is an empty one whose key ends in a slash. */
export async function walkBucket(s3: S3Client, bucket: string, prefix: string): Promise<Walk> {
  const walk = new Map<string, Walked>();
  for (let token: string | undefined; ; ) {
    const page = await s3.send(
      new ListObjectsV2Command({
        Bucket: bucket,
        Prefix: prefix,
        EncodingType: 'url',
        ...(token !== undefined && { ContinuationToken: token }),
      }),
    );
    for (const { Key: encoded = '', Size: size = 0 } of page.Contents ?? []) {
      const Key = decodeURIComponent(encoded.replaceAll('+', '%20'));
      const below = Key.slice(prefix.length);
      const isMarker = Key.endsWith('/') && size === 0;
      if (isMarker) {
        const raw = rawOf(below.slice(0, -1));
        walk.set(`${raw}/`, { raw, is: 'dir', size: 0 });
        continue;
      }
      const raw = rawOf(below);
      if (isReserved(raw.slice(raw.lastIndexOf('/') + 1))) {
        walk.set(`${raw}\0`, { raw, is: 'reserved', size });
        continue;
      }
      const got = await s3.send(new GetObjectCommand({ Bucket: bucket, Key }));
      walk.set(`${raw}\0`, { raw, is: 'file', size, ...factsOf(await got.Body!.transformToByteArray()) });
    }
    if (!page.IsTruncated) return walk;
    token = page.NextContinuationToken;
  }
}
