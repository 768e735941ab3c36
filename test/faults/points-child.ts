/**
 * Loaded into a process before its own code (`NODE_OPTIONS=--import=…`): each time the process passes a named point it
 * looks for an order in the folder that the environment names. What it wraps does what it did before.
 */
import { appendFileSync, openSync, readdirSync, renameSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { tookTurnAtOnce } from '../../lib/ledger/transfer.ts';
import type { Order, Point } from './points.ts';
import { PartedUploads, type Passing } from './points-parts.ts';

const folder = process.env.LONGSHORE_TEST_POINTS;
const role = process.argv[2];
if (folder !== undefined && (role === 'api' || role === 'worker')) await install(folder, role);

/** More than any store's first part. */
const PARTS_BYTES = 17 * 1024 * 1024;
/** How often one transfer may be hit: one that kills its workers again and again is ended for it. */
const MOST_HITS = 3;

async function install(folder: string, role: string): Promise<void> {
  const { Ledger } = await import('../../lib/ledger/ledger.ts');
  const { Queue } = await import('../../lib/jobs/queue.ts');
  const { Staging } = await import('../../lib/transfer/staging.ts');
  const { Store } = await import('../../lib/stores/store.ts');
  const pass = (point: Point, transfer: string): void => obey(folder, `${role}.${point}`, transfer);
  const sent = counterIn(folder);
  const partsFile = join(folder, 'parts', String(process.pid));
  const parted = role === 'worker' ? new PartedUploads({ pass, sent, partsFile }) : undefined;
  if (parted) await aroundStores(parted, folder, pass);

  const { open } = Ledger;
  Ledger.open = async (opts) => {
    const ledger = await open.call(Ledger, opts);
    const { accept, start, publishing, end } = ledger.transfers;
    Object.assign(ledger.transfers, {
      accept: async (...args: Parameters<typeof accept>) => {
        const accepted = await accept(...args);
        pass('committed', accepted.transfer.id);
        return accepted;
      },
      start: async (...args: Parameters<typeof start>) => {
        const row = await start(...args);
        if (row) pass('started', row.id);
        if (row && tookTurnAtOnce(row)) pass('publishing', row.id);
        return row;
      },
      publishing: async (...args: Parameters<typeof publishing>) => {
        const turn = await publishing(...args);
        if (turn === 'ok') pass('publishing', args[0]);
        return turn;
      },
      end: async (...args: Parameters<typeof end>) => {
        const ended = await end(...args);
        if (ended) pass('ended', args[0]);
        return ended;
      },
    });
    parted?.around(ledger.uploads);
    return ledger;
  };

  const { stage } = Staging.prototype;
  Staging.prototype.stage = async function (...args) {
    const digests = await stage.apply(this, args);
    pass('staged', args[0]);
    return digests;
  };

  const { submit } = Queue.prototype;
  Queue.prototype.submit = async function (transfer) {
    await submit.call(this, transfer);
    pass('enqueued', transfer.id);
  };

  const { prepare } = Store.prototype;
  Store.prototype.prepare = async function (path, bytes, opts) {
    if (this.name === 'staging') return prepare.call(this, path, bytes, opts);
    const transfer = opts.token.slice(0, opts.token.lastIndexOf('-'));
    async function* counted() {
      let passed = 0;
      for await (const chunk of bytes instanceof Uint8Array ? [bytes] : bytes) {
        sent(chunk.length);
        passed += chunk.length;
        pass('sending', transfer);
        if (passed > PARTS_BYTES) pass('parts', transfer);
        yield chunk;
      }
    }
    const draft = await prepare.call(this, path, counted(), opts);
    return {
      ...draft,
      publish: async (how) => {
        const published = await draft.publish(how);
        pass('published', transfer);
        return published;
      },
    };
  };
}

/** Also writes a line with the path of each file that a folder is given as a whole. */
async function aroundStores(parted: PartedUploads, folder: string, pass: Passing['pass']): Promise<void> {
  const { FileMultipart } = await import('../../lib/stores/drivers/file-multipart.ts');
  const { FileDriver } = await import('../../lib/stores/drivers/file.ts');
  parted.aroundStore(FileMultipart);
  const file = join(folder, 'files', String(process.pid));
  const { write } = FileDriver.prototype;
  FileDriver.prototype.write = async function (...args) {
    appendFileSync(file, `${args[0]}\n`);
    const entry = await write.apply(this, args);
    if (args[0].startsWith('carried/')) pass('file', String(process.pid));
    return entry;
  };
  if (process.env.AWS_ACCESS_KEY_ID === undefined) return;
  const { S3Multipart } = await import('../../lib/stores/drivers/s3-multipart.ts');
  const { S3Driver } = await import('../../lib/stores/drivers/s3.ts');
  parted.aroundStore(S3Multipart);
  const { write: put } = S3Driver.prototype;
  S3Driver.prototype.write = async function (...args) {
    const entry = await put.apply(this, args);
    if (args[0].startsWith('carried/')) pass('file', String(process.pid));
    return entry;
  };
}

function obey(folder: string, place: string, transfer: string): void {
  const names = readdirSync(join(folder, 'orders')).filter(
    (name) => name.split('.', 3).slice(1).join('.') === place,
  );
  for (const name of names) {
    const order = name.split('.', 1)[0] as Order;
    if (order === 'kill' && !mayHit(folder, transfer)) return;
    try {
      renameSync(join(folder, 'orders', name), join(folder, 'taken', `${name}.${process.pid}`));
    } catch {
      continue; // another process was quicker
    }
    if (order !== 'tell') process.kill(process.pid, order === 'kill' ? 'SIGKILL' : 'SIGSTOP');
    return;
  }
}

function mayHit(folder: string, transfer: string): boolean {
  for (let hit = 1; hit <= MOST_HITS; hit++)
    try {
      writeFileSync(join(folder, 'hits', `${transfer}.${hit}`), '', { flag: 'wx' });
      return true;
    } catch {
      // hit before
    }
  return false;
}

/** Counts where a killed process has it written down already. */
function counterIn(folder: string): (bytes: number) => void {
  const fd = openSync(join(folder, 'sent', String(process.pid)), 'w');
  const text = Buffer.alloc(8);
  let sum = 0;
  return (bytes) => {
    sum += bytes;
    text.writeDoubleLE(sum);
    writeSync(fd, text, 0, 8, 0);
  };
}
