/** What a download says of its name. */
import { percentEncoded } from '../../lib/path-bytes.ts';

/** `attachment; filename=a.txt`, quoted where it must be; a name beyond ASCII travels as `filename*` too. */
export function dispositionOf(name: string): string {
  // no header can carry a control character
  if (/^[\x20-\x7e]*$/.test(name)) return `attachment; filename=${quoted(name)}`;
  const ascii = name.normalize('NFKD').replace(/[^\x20-\x7e]/g, '');
  const extended = percentEncoded(name);
  return `attachment; filename=${quoted(ascii === '' ? 'download' : ascii)}; filename*=UTF-8''${extended}`;
}

const quoted = (name: string): string =>
  /^[\w!#$%&'*+.^`|~-]+$/.test(name) ? name : `"${name.replace(/["\\]/g, '\\$&')}"`;
