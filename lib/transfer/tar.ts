/** The few bytes between files that make a stream of them a tar archive: POSIX ustar, and pax records where that is too small. */
import { bytesOfText } from '../path-bytes.ts';

const BLOCK = 512;
/** Eleven octal digits. */
const LARGEST = 8 ** 11 - 1;
const NAME = { bytes: 100, prefixBytes: 155 } as const;

export interface TarFile {
  /** Without a leading slash; any length, any characters but NUL; bytes that are no UTF-8 as in `path-bytes.ts`. */
  readonly name: string;
  /** Its name ends in a slash then. */
  readonly directory?: boolean;
  /** Bytes that follow the header. */
  readonly size: number;
  /** Unix time in ms. */
  readonly modifiedMs: number;
}

/**
 * Why no archive may hold a member of this name; `undefined`: it may. Tools that unpack resolve such names, or refuse
 * the whole archive.
 */
export function whyNotInTar(name: string): string | undefined {
  if (name.includes('\0')) return 'an archive cannot hold a name with a NUL';
  const wrong = name.split('/').find((part) => part === '' || part === '.' || part === '..');
  if (wrong === undefined) return undefined;
  return wrong === ''
    ? 'an archive cannot hold a name with an empty segment'
    : `an archive cannot hold a name with the segment '${wrong}'`;
}

/** What comes before the file's bytes. */
export function tarHeader(file: TarFile): Buffer {
  const records: [string, string][] = [];
  const split = splitName(file.name);
  if (!split) {
    if (!file.name.isWellFormed()) records.push(['hdrcharset', 'BINARY']); // said before the name that it is about
    records.push(['path', file.name]);
  }
  if (file.size > LARGEST) records.push(['size', String(file.size)]);
  const { name, prefix } = split ?? { name: stump(file.name), prefix: '' };
  const type = file.directory ? '5' : '0';
  const own = block({ ...file, size: Math.min(file.size, LARGEST), name, prefix, type });
  if (records.length === 0) return own;
  const body = Buffer.concat(records.map(([key, value]) => record(key, value)));
  const extended = block({ ...file, name: 'pax-header', prefix: '', size: body.length, type: 'x' });
  return Buffer.concat([extended, body, tarPadding(body.length), own]);
}

/** What comes after a file of `size` bytes. */
export const tarPadding = (size: number): Buffer => Buffer.alloc((BLOCK - (size % BLOCK)) % BLOCK);

/** What comes after the last file. */
export const TAR_END: Buffer = Buffer.alloc(2 * BLOCK);

/** `undefined`: ustar has no room for it, or does not say what its bytes mean. */
function splitName(full: string): { readonly name: string; readonly prefix: string } | undefined {
  if (!/^[\x20-\x7e]*$/.test(full)) return undefined;
  if (full.length <= NAME.bytes) return { name: full, prefix: '' };
  const at = full.indexOf('/', full.length - NAME.bytes - 1);
  if (at <= 0 || at > NAME.prefixBytes || at === full.length - 1) return undefined;
  return { name: full.slice(at + 1), prefix: full.slice(0, at) };
}

/** For readers that know nothing of pax: the end of the name, cut between characters. */
function stump(full: string): string {
  const plain = full.replaceAll(/[^\x20-\x7e]/g, '_');
  return plain.slice(-NAME.bytes).replace(/^\/+/, '');
}

/** `<length> <key>=<value>\n`, where the length counts itself. */
function record(key: string, value: string): Buffer {
  const bytes = bytesOfText(value);
  const rest = Buffer.concat([
    Buffer.from(` ${key}=`),
    typeof bytes === 'string' ? Buffer.from(bytes) : bytes,
    Buffer.from('\n'),
  ]);
  let length = rest.length + String(rest.length).length;
  if (String(length).length > String(rest.length).length) length = rest.length + String(length).length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

interface Block extends TarFile {
  readonly prefix: string;
  readonly type: '0' | '5' | 'x';
}

function block({ name, prefix, size, modifiedMs, type }: Block): Buffer {
  const header = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, digits: number): void =>
    void header.write(value.toString(8).padStart(digits, '0'), at, 'latin1');
  header.write(name, 0, 'latin1');
  octal(type === '5' ? 0o755 : 0o644, 100, 7);
  octal(0, 108, 7);
  octal(0, 116, 7);
  octal(size, 124, 11);
  octal(Math.min(LARGEST, Math.max(0, Math.floor(modifiedMs / 1000))), 136, 11);
  header.write(' '.repeat(8), 148, 'latin1');
  header.write(type, 156, 'latin1');
  header.write('ustar\x0000', 257, 'latin1');
  header.write(prefix, 345, 'latin1');
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return header;
}
