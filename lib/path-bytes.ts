/**
 * Names as bytes and as text. A name on a folder is any bytes; in a `StorePath` each byte that is not part of valid
 * UTF-8 is one lone surrogate, U+DC80 to U+DCFF (PEP 383, as Python has it), so that text and bytes turn into each other
 * without loss. Nothing else makes lone surrogates: text from outside must be well-formed.
 */
import { isUtf8 } from 'node:buffer';

const FIRST_LONE = 0xdc00;
/** With the `u` flag a half of a pair never matches. */
const LONE = /[\udc80-\udcff]/gu;

/** @param bytes of a name, in any encoding */
export function textOfBytes(bytes: Buffer): string {
  const text = bytes.toString('utf8');
  return !text.includes('\ufffd') || isUtf8(bytes) ? text : escaped(bytes);
}

function escaped(bytes: Buffer): string {
  let text = '';
  let from = 0;
  for (let at = 0; at < bytes.length; ) {
    const length = sequenceAt(bytes, at);
    if (length > 0) {
      at += length;
      continue;
    }
    text += bytes.toString('utf8', from, at) + String.fromCharCode(FIRST_LONE + bytes[at]!);
    from = ++at;
  }
  return text + bytes.toString('utf8', from);
}

/** Length of the valid UTF-8 sequence that begins at `at`; 0 where none does (Unicode, table 3-7). */
function sequenceAt(bytes: Buffer, at: number): number {
  const first = bytes[at]!;
  if (first < 0x80) return 1;
  const length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  return isUtf8(bytes.subarray(at, at + length)) && at + length <= bytes.length ? length : 0;
}

/** The bytes of a name. Well-formed text is given back as it is: Node writes it as UTF-8 wherever it takes a name. */
export function bytesOfText(text: string): string | Buffer {
  if (text.isWellFormed()) return text;
  const pieces: Buffer[] = [];
  let from = 0;
  for (const { index } of text.matchAll(LONE)) {
    pieces.push(Buffer.from(text.slice(from, index)), Buffer.of(text.charCodeAt(index) - FIRST_LONE));
    from = index + 1;
  }
  pieces.push(Buffer.from(text.slice(from)));
  return Buffer.concat(pieces);
}

/** Of a name; `Buffer.byteLength` takes each byte that is no text for three. */
export const byteLength = (text: string): number =>
  text.isWellFormed() ? Buffer.byteLength(text) : bytesOfText(text).length;

/** Percent-encoded bytes (RFC 3986: all but letters, digits and `-._~/`). */
export function percentEncoded(text: string): string {
  const bytes = bytesOfText(text);
  return [...(typeof bytes === 'string' ? Buffer.from(bytes) : bytes)]
    .map((byte) =>
      UNRESERVED.has(byte)
        ? String.fromCharCode(byte)
        : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`,
    )
    .join('');
}
const UNRESERVED: ReadonlySet<number> = new Set(
  Buffer.from('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/'),
);

/** `undefined`: a percent sign starts no escape. */
export function percentDecoded(text: string): string | undefined {
  if (/%(?![0-9a-f]{2})/i.test(text)) return undefined;
  if (!text.includes('%')) return text;
  const pieces = text
    .split(/((?:%[0-9a-f]{2})+)/i)
    .map((piece, at) => (at % 2 === 0 ? Buffer.from(piece) : Buffer.from(piece.replaceAll('%', ''), 'hex')));
  return textOfBytes(Buffer.concat(pieces));
}

/**
 * Text for messages and logs: what could end a line, move a cursor or be no Unicode is written as an escape (`\x0a`,
 * `\xe9` for a byte).
 */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this looks for
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\ud800-\udfff]/gu, (char) => {
    const code = char.charCodeAt(0);
    const byte = code >= 0xdc80 && code <= 0xdcff ? code - FIRST_LONE : code;
    return byte < 0x100
      ? `\\x${byte.toString(16).padStart(2, '0')}`
      : `\\u${code.toString(16).padStart(4, '0')}`;
  });
}
