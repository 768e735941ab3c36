/**
 * Text as a database takes it: valid Unicode without NUL. A `StorePath` may have more (NUL in a key, a lone surrogate
 * for a byte that is no UTF-8): each such character is stored as one of a plane that nobody writes in, and these, should
 * somebody do so, with a mark before them. Every character is mapped by itself, so a prefix stays a prefix.
 */

/** U+10FE00 marks a character that stands for itself; U+10FE01 is NUL; U+10FE80 to U+10FEFF are bytes. */
const MARK = '\u{10fe00}';
const NUL = '\u{10fe01}';
const BYTES = 0x10fe00;
/** First half of every character from U+10FC00 on: text without it is stored as it is. */
const HALF = '\udbff';

// biome-ignore lint/suspicious/noControlCharactersInRegex: NUL is what this looks for
const TO_STORE = /[\u0000\udc80-\udcff\u{10fe00}-\u{10feff}]/gu;
const STORED = /\u{10fe00}([\s\S])|[\u{10fe01}\u{10fe80}-\u{10feff}]/gu;

export function storable(text: string): string {
  if (text.isWellFormed() && !text.includes('\0') && !text.includes(HALF)) return text;
  return text.replace(TO_STORE, (char) => {
    if (char === '\0') return NUL;
    if (char.length === 1) return String.fromCodePoint(BYTES + char.charCodeAt(0) - 0xdc00);
    return MARK + char;
  });
}

export function restored(text: string): string {
  if (!text.includes(HALF)) return text;
  return text.replace(STORED, (char, itself: string | undefined) => {
    if (itself !== undefined) return itself;
    if (char === NUL) return '\0';
    return String.fromCharCode(0xdc00 + (char.codePointAt(0)! - BYTES));
  });
}
