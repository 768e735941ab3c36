/**
 * The folder that holds everything, and who owns it. One `up` at a time: ownership is an exclusive lock on a file that
 * the kernel takes back when its holder dies, however it dies, so that no lock is ever stale, no process id is mistaken
 * for a later one, and containers that share the folder see each other. What the lock's holder says of itself stands in
 * `owner.json`, for people only.
 */
import { readFileSync } from 'node:fs';
import { chmod, readFile, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { Failure } from '../../lib/errors.ts';
import { makeFolder } from '../../lib/path-folder.ts';

export interface DataFolder {
  readonly path: string;
  /** Its last owner did not let go of it in an orderly way. */
  readonly recovered: boolean;
  release(): Promise<void>;
}

const LOCK = 'owner.lock';
const OWNER = 'owner.json';
const SQLITE_BUSY = 5;

/**
 * Makes it, for this user only, and takes it.
 * @throws Failure `invalid` (not a folder, on a network file system), `denied` (somebody else's, not writable),
 * `busy` (another `up` has it)
 */
export async function ownDataFolder(path: string): Promise<DataFolder> {
  await prepareFolder(path);
  const lock = takeLock(path);
  const owner = join(path, OWNER);
  const said = `${JSON.stringify({ pid: process.pid, host: hostname(), since: new Date().toISOString() })}\n`;
  let recovered: boolean;
  try {
    recovered = await isLeftBehind(owner);
    await writeFile(owner, said);
  } catch (error) {
    lock.close();
    throw error instanceof Failure ? error : unusable(path, error);
  }
  return {
    path,
    recovered,
    async release() {
      if ((await readFile(owner, 'utf8').catch(() => undefined)) === said) await rm(owner, { force: true });
      lock.close();
    },
  };
}

/** Whether an owner before us has left its word there. @throws Failure `invalid`: it is somebody else's file */
async function isLeftBehind(owner: string): Promise<boolean> {
  const text = await readFile(owner, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
    return undefined;
  });
  // a crash of the machine may leave it empty, or half of it
  if (text === undefined || /^(\0*|\{"pid":\d+(,"host":.*)?)\n?$/s.test(text)) return text !== undefined;
  throw new Failure(
    'invalid',
    `could not use the data folder: ${owner} is not one that a Longshore has written, and would be overwritten; move it, or choose another folder with --data`,
  );
}

/** Makes it, for this user only, and looks whether it is fit. @throws Failure as `ownDataFolder` */
export async function prepareFolder(path: string): Promise<void> {
  await makeOwn(path);
  await refuseNetwork(path);
}

async function makeOwn(path: string): Promise<void> {
  try {
    await makeFolder(path, 0o700);
    const found = await stat(path);
    if (found.uid !== process.getuid?.())
      throw new Failure(
        'denied',
        `could not use the data folder ${path}: it belongs to another user (id ${found.uid}); choose another with --data, or chown it`,
      );
    if ((found.mode & 0o077) !== 0) await chmod(path, 0o700);
  } catch (error) {
    if (error instanceof Failure) throw error;
    throw unusable(path, error);
  }
}

function unusable(path: string, error: unknown): Failure {
  const { code, message } = error as NodeJS.ErrnoException;
  const because = (kind: 'invalid' | 'denied' | 'no-space' | 'unavailable', why: string): Failure =>
    new Failure(kind, `could not use the data folder ${path}: ${why}`, {}, { cause: error });
  switch (code) {
    case 'EEXIST':
    case 'ENOTDIR':
      return because('invalid', 'there is a file in its place; choose a folder with --data');
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return because('denied', 'this user may not write there; choose another with --data');
    case 'ENOSPC':
    case 'EDQUOT':
      return because('no-space', 'no space is left there');
    case 'ENOENT':
      return because('invalid', 'no folder can be made there; choose another with --data');
    default:
      return because('unavailable', message);
  }
}

function takeLock(path: string): DatabaseSync {
  let lock: DatabaseSync | undefined;
  try {
    lock = new DatabaseSync(join(path, LOCK), { timeout: 0 });
    lock.exec('PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE');
    return lock;
  } catch (error) {
    lock?.close();
    if ((error as { errcode?: number }).errcode === SQLITE_BUSY)
      throw new Failure(
        'busy',
        `the data folder ${path} is in use by ${ownerOf(path)}; stop it, or choose another with --data`,
      );
    const why = (error as Error).message;
    throw new Failure(
      'denied',
      `could not lock the data folder ${path}: ${why}; it must be writable`,
      {},
      { cause: error },
    );
  }
}

function ownerOf(path: string): string {
  try {
    const { pid, host, since } = JSON.parse(readFileSync(join(path, OWNER), 'utf8'));
    return `another longshore (process ${pid} on ${host}, since ${since})`;
  } catch {
    return 'another longshore';
  }
}

/** As in Linux' magic.h. Elsewhere the numbers mean nothing and nothing is refused. */
const NETWORK_TYPES: Readonly<Record<number, string>> = {
  26985: 'NFS',
  20859: 'SMB',
  4283649346: 'CIFS',
  4266872130: 'SMB2',
  16914839: '9P',
  12805120: 'Ceph',
  1397113167: 'AFS',
  198183888: 'Lustre',
  1196443219: 'GPFS',
};
const FUSE = 0x65735546;
const NETWORK_FUSE =
  /sshfs|s3|rclone|gluster|gcsfuse|blobfuse|goofys|geesefs|juicefs|ceph|davfs|smb|nfs|curlftpfs|hdfs/i;

/** SQLite and Redis need locks and syncs that network file systems promise and don't always keep. */
async function refuseNetwork(path: string): Promise<void> {
  if (process.platform !== 'linux') return;
  const type = (await statfs(path)).type >>> 0;
  const name = type === FUSE ? await fuseName(path) : NETWORK_TYPES[type];
  if (name === undefined || (type === FUSE && !NETWORK_FUSE.test(name))) return;
  throw new Failure(
    'invalid',
    `could not use the data folder ${path}: it is on a network file system (${name}), where the ledger could be damaged; put --data on a local disk (--artifacts-destination and --staging may be anywhere)`,
  );
}

/** Kind of the FUSE mount that holds it: `fuse.sshfs` … */
async function fuseName(path: string): Promise<string | undefined> {
  const mounts = (await readFile('/proc/self/mounts', 'utf8')).split('\n').map((line) => line.split(' '));
  const [, , kind] = mounts
    .filter(
      ([, at]) => at !== undefined && (path === at || path.startsWith(at.endsWith('/') ? at : `${at}/`)),
    )
    .reduce((longest, mount) => (mount[1]!.length >= (longest[1]?.length ?? 0) ? mount : longest), []);
  return kind;
}
