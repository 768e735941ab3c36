/**
 * The order of writes behind an answer, judged from system calls alone: fsync(file) < rename < fsync(folder) < the
 * ledger commit's sync, where there is one < the answer's write. Knows nothing of Longshore but the names of its ledger file and the target.
 */
import type { SystemCall } from './trace.ts';

export interface Expectation {
  /** Start of the answer on the wire, for example `HTTP/1.1 202`. */
  readonly answer: string;
  /** Which of the answers that start so, from 0. */
  readonly nth: number;
  /** In the published file's path, from its folder on. */
  readonly published: string;
  /** What the ledger's write-ahead log is called; undefined: the answer needs no commit. */
  readonly ledgerLog?: string;
}

const SYNCS = new Set(['fsync', 'fdatasync']);
const RENAMES = new Set(['rename', 'renameat', 'renameat2', 'link', 'linkat']);
const SENDS = new Set(['write', 'writev', 'sendto', 'sendmsg']);
const ok = (call: SystemCall) => call.result === '0' || /^0\b/.test(call.result);

const pathOfFd = (args: string): string =>
  /^\d+<([^>]*)>/.exec(args)?.[1]?.replace(/ \(deleted\)$/, '') ?? '';
/** The two paths of a rename or link; names below `/proc/self/fd/<n>` are told by what descriptor n was opened on last. */
function pathsOfRename(calls: readonly SystemCall[], rename: SystemCall): readonly [string, string] {
  const [from = '', to = ''] = [...rename.args.matchAll(/"((?:[^"\\]|\\.)*)"/g)].map(([, name]) => {
    const [, fd, below] = /^\/proc\/self\/fd\/(\d+)\/(.*)$/.exec(name!) ?? [];
    if (fd === undefined) return name!;
    const opened = calls.findLast(
      (call) => call.name === 'openat' && call.entered < rename.entered && call.result.startsWith(`${fd}<`),
    );
    return `${/<([^>]*)>/.exec(opened?.result ?? '')?.[1] ?? ''}/${below}`;
  });
  return [from, to];
}
const baseOf = (path: string) => path.slice(path.lastIndexOf('/') + 1);

/** What is out of order, in words; undefined when all is well. */
export function orderViolation(calls: readonly SystemCall[], expected: Expectation): string | undefined {
  const answer = calls.filter((call) => SENDS.has(call.name) && call.args.includes(expected.answer))[
    expected.nth
  ];
  if (!answer) return `no answer '${expected.answer}' was written`;
  const rename = calls.findLast(
    (call) =>
      RENAMES.has(call.name) &&
      ok(call) &&
      pathsOfRename(calls, call)[1].includes(expected.published) &&
      call.entered < answer.entered,
  );
  if (!rename) return 'the file was not renamed into place before the answer';
  const sibling = baseOf(pathsOfRename(calls, rename)[0]);
  const fileSync = calls.findLast(
    (call) =>
      SYNCS.has(call.name) &&
      ok(call) &&
      baseOf(pathOfFd(call.args)) === sibling &&
      call.returned < rename.entered,
  );
  if (!fileSync) return 'the file was not synced before it was renamed';
  const laterWrite = calls.find(
    (call) =>
      /write/.test(call.name) && baseOf(pathOfFd(call.args)) === sibling && call.entered > fileSync.entered,
  );
  if (laterWrite) return 'bytes were written to the file after its sync';
  const folderSync = calls.find(
    (call) =>
      SYNCS.has(call.name) &&
      ok(call) &&
      isFolderOf(pathOfFd(call.args), expected.published) &&
      call.entered > rename.returned,
  );
  if (!folderSync) return 'the folder was not synced after the rename';
  const { ledgerLog } = expected;
  if (ledgerLog === undefined)
    return folderSync.returned < answer.entered
      ? undefined
      : 'the answer was written before the folder was synced';
  const commit = calls.find(
    (call) =>
      SYNCS.has(call.name) &&
      ok(call) &&
      pathOfFd(call.args).endsWith(ledgerLog) &&
      call.entered > folderSync.returned,
  );
  if (!commit) return 'the ledger did not commit after the folder was synced';
  if (commit.returned >= answer.entered) return 'the answer was written before the ledger had committed';
  return undefined;
}

/** `published` is of a path's end; its folder ends with everything before the last slash. */
const isFolderOf = (folder: string, published: string): boolean =>
  folder.endsWith(published.slice(0, published.lastIndexOf('/')));
