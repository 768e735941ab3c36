/**
 * The folder that holds everything, and who owns it. One `up` at a time: ownership is an exclusive lock on a file that
 * the kernel takes back when its holder dies, however it dies, so that no lock is ever stale, no process id is mistaken
 * for a later one, and containers that share the folder see each other. What the lock's holder says of itself stands in
 * `owner.json`, for people only. That file is ours where it has the mark that is kept in the lock: one that lies there
 * under our name is neither written over nor removed.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { chmod, link, readFile, rename, rm, stat, statfs, writeFile } from 'node:fs/promises';
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
const SQLITE_NOTADB = 26;
/** Of the lock, as SQLite files say what they are of; 'Long'. */
const APPLICATION = 0x4c6f6e67;

/**
 * Makes it, for this user only, and takes it.
 * @throws Failure `invalid` (not a folder, on a network file system), `denied` (somebody else's, not writable),
 * `busy` (another `up` has it)
 */
export async function ownDataFolder(path: string): Promise<DataFolder> {
  await prepareFolder(path);
  const { lock, mark } = takeLock(path);
  const owner = join(path, OWNER);
  const said = { pid: process.pid, host: hostname(), since: new Date().toISOString(), mark };
  try {
    const found = await ownerFile(owner);
    if (found !== undefined && !isMarked(found, mark))
      throw new Failure(
        'invalid',
        `could not use the data folder: ${owner} is not one that a Longshore has written here, and would be overwritten; move it, or choose another folder with --data`,
      );
    const whole = `${owner}.${mark}`; // nobody else knows this name
    // a crash of the machine must not leave one that is empty, which would be nobody's
    await writeFile(whole, `${JSON.stringify(said)}\n`, { flush: true });
    if (found === undefined) await link(whole, owner); // whoever puts one there in between keeps it
    await (found === undefined ? rm(whole) : rename(whole, owner));
    return {
      path,
      recovered: found !== undefined,
      async release() {
        if (isMarked(await ownerFile(owner).catch(() => undefined), mark)) await rm(owner, { force: true });
        lock.close();
      },
    };
  } catch (error) {
    lock.close();
    throw error instanceof Failure ? error : unusable(path, error);
  }
}

/** Undefined: there is none. */
const ownerFile = (path: string): Promise<string | undefined> =>
  readFile(path, 'utf8').catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  });

function isMarked(text: string | undefined, mark: string): boolean {
  try {
    return text !== undefined && (JSON.parse(text) as { mark?: unknown } | null)?.mark === mark;
  } catch {
    return false;
  }
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

/** `mark`: made once with the lock, by which what else is in the folder is known to be of its owners. */
function takeLock(path: string): { readonly lock: DatabaseSync; readonly mark: string } {
  let lock: DatabaseSync | undefined;
  try {
    lock = new DatabaseSync(join(path, LOCK), { timeout: 0 });
    lock.exec('PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE');
    const isEmpty = lock.prepare('SELECT count(*) AS count FROM sqlite_schema').get()?.count === 0;
    if (!isEmpty && lock.prepare('PRAGMA application_id').get()?.application_id !== APPLICATION)
      throw notOurs(path);
    lock.exec(
      `PRAGMA application_id = ${APPLICATION}; CREATE TABLE IF NOT EXISTS folder (mark TEXT NOT NULL)`,
    );
    const kept = lock.prepare('SELECT mark FROM folder').get()?.mark;
    const mark = typeof kept === 'string' ? kept : randomBytes(16).toString('hex');
    if (kept !== mark) lock.prepare('INSERT INTO folder (mark) VALUES (?)').run(mark);
    // in exclusive mode the lock outlives its transactions
    lock.exec('COMMIT; BEGIN EXCLUSIVE');
    return { lock, mark };
  } catch (error) {
    lock?.close();
    if (error instanceof Failure) throw error;
    const { errcode } = error as { errcode?: number };
    if (errcode === SQLITE_NOTADB) throw notOurs(path);
    if (errcode === SQLITE_BUSY)
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

const notOurs = (path: string): Failure =>
  new Failure(
    'invalid',
    `could not use the data folder ${path}: ${LOCK} in it was not made by longshore; move it away, or choose another folder with --data`,
  );

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
