/** Names drawn from all of Unicode and all bytes, from a seed. */

/** Mulberry32: the same numbers for the same seed, each at least 0 and below 1. */
function numbersOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** What broke something somewhere. */
const KNOWN = [
  'report#1.txt',
  'a?b',
  '50%',
  '%41',
  '%2e%2e',
  'back\\slash',
  'C:\\x',
  'c:x',
  'a:b',
  'a*b',
  'a"b',
  'a<b>c',
  'a|b',
  'tab\there',
  'line\nfeed',
  'return\r',
  'bell\u0007',
  'del\u007f',
  'nel\u0085',
  'ls\u2028',
  'trailing ',
  ' leading',
  'dot.',
  '...',
  '.x',
  '-rf',
  '~',
  '$HOME',
  '`id`',
  "it's",
  'plus+plus',
  'a&b=c;d',
  'e\u0301',
  '\u00e9',
  '\uac00',
  '\u1100\u1161',
  '\ufeffbom',
  '\u200b',
  '\u202etxt',
  '\ufffd',
  '\uffff',
  '\ufffe',
  '\u{1f6a2}',
  '\u{10ffff}',
  '\u{10fe00}',
  '\u{10fe01}x',
  '\u{10fe80}',
  'a//b',
  '/a',
  'a///b',
  'a/./b',
  'a/../b',
  '..',
  '.',
  'a/',
  'dir/x',
  `${'n'.repeat(255)}`,
  `${'n'.repeat(256)}`,
  `${'\u65e5'.repeat(85)}`,
  `${'d/'.repeat(300)}x`,
  'nul\0',
  '\u0001',
  'file:x',
  'http://x',
  's3://b/k',
  'con',
  'aux.txt',
  'x.lock',
].map((name) => Buffer.from(name));

/** No two are equal; the first ones are known to be hard. Bytes, which need not be UTF-8. */
export function drawNames(seed: number, count: number): readonly Buffer[] {
  const next = numbersOf(seed);
  const below = (most: number): number => Math.floor(next() * most);
  const codePoint = (): number => {
    for (;;) {
      const plane = [0x80, 0x100, 0x3000, 0x10000, 0x110000][below(5)]!;
      const code = below(plane);
      if (code < 0xd800 || code > 0xdfff) return code;
    }
  };
  const draws = [
    () =>
      Buffer.from(Array.from({ length: 1 + below(20) }, () => String.fromCodePoint(codePoint())).join('')),
    () => Buffer.from(Array.from({ length: 1 + below(40) }, () => below(256))),
    () => Buffer.concat([KNOWN[below(KNOWN.length)]!, Buffer.from(String(below(1000)))]),
    () => Buffer.concat([KNOWN[below(KNOWN.length)]!, Buffer.of(128 + below(128))]),
  ];
  const names = new Map(KNOWN.slice(0, count).map((name) => [name.toString('hex'), name]));
  while (names.size < count) {
    const name = draws[below(draws.length)]!();
    names.set(name.toString('hex'), name);
  }
  return [...names.values()];
}

/** As a `StorePath` has it, below a directory of its own: two names are never in each other's way. */
export const pathOf = (name: Buffer, index: number): Buffer =>
  Buffer.concat([Buffer.from(`${index}/`), name]);
