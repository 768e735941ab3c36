/** What the path tests ask for: request targets made of everything that ever got through somewhere, and names that are legal. */
import fc from 'fast-check';
import { HIDDEN_NAME, MLFLOW_HIDDEN_NAME } from '../../lib/path.ts';

const nasty = fc.constantFrom(
  ...[
    '..',
    '.',
    '',
    '%2e%2e',
    '%2e',
    '.%2e',
    '%252e%252e',
    '%25252e%25252e',
    '..%2f..',
    '..%5c',
    '..\\',
    '\\..\\',
    '%c0%ae%c0%ae',
  ],
  ...[
    '%00',
    'x%00.txt',
    '%0a',
    '%0d%0aX-Evil:1',
    '%7f',
    '%ff',
    '%e2%82',
    '%zz',
    '%',
    '%u002e',
    '..;',
    '..;/x',
    '%2f',
    '%2fetc',
    '%5c',
  ],
  ...[
    'C:',
    'c:%5cx',
    'file:',
    'file:%2f%2f%2fx',
    '~',
    '~root',
    '#',
    '?',
    '%23',
    '%3f',
    '&',
    '+',
    ';a=b',
    '*',
    ' ',
    '%20',
    '"',
    '<',
    '|',
  ],
  ...[
    'etc',
    'canary',
    'x',
    'rooted',
    'root',
    'inside',
    'd',
    'up',
    'abs',
    'file',
    'link-dir',
    'link-file',
    'dangling',
  ],
  ...[
    '.longshore-x',
    `.longshore-${'0'.repeat(16)}-x-${'0'.repeat(8)}-${'0'.repeat(32)}`,
    '.artifact.uploading.1',
    '.artifact.uploading.abcd_123',
    '.longshore-x.parts',
    '%2elongshore-y',
    'CON',
    'nul',
    'a'.repeat(255),
    'a'.repeat(256),
  ],
  ...[
    '．．',
    '‥',
    '..／',
    '%ef%bc%8e%ef%bc%8e',
    '\u202e',
    '\ufeff',
    'é',
    'e\u0301',
    '日本',
    '\u{1f600}',
    '%ed%a0%80',
  ],
);
const noise = fc.oneof(
  fc.string({ maxLength: 12 }),
  fc.string({ unit: 'binary', maxLength: 8 }),
  fc.string({ unit: 'grapheme', maxLength: 6 }).map(encodeURIComponent),
  fc
    .uint8Array({ maxLength: 6 })
    .map((bytes) => [...bytes].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')),
);
const segment = fc.oneof({ weight: 4, arbitrary: nasty }, { weight: 2, arbitrary: noise });
/** A path that should lead nowhere, or to where it says. */
export const hostilePath = fc.oneof(
  { weight: 12, arbitrary: fc.array(segment, { maxLength: 6 }).map((segments) => segments.join('/')) },
  {
    weight: 1,
    arbitrary: fc.constantFrom('//', '///x', './', '../', '/etc/passwd', 'd//../../x').map(String),
  },
  { weight: 1, arbitrary: fc.nat(3).map((up) => `${'../'.repeat(up)}a/b/c/canary`) },
  { weight: 1, arbitrary: fc.nat({ max: 9000 }).map((length) => 'é/'.repeat(length / 2)) },
);

const service = fc.constantFrom('/api/2.0/mlflow-artifacts', '/ajax-api/2.0/mlflow-artifacts');
const prefix = fc.oneof(
  { weight: 12, arbitrary: fc.constant('') },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      'http://localhost',
      'http://evil.example',
      'ftp://x',
      '/',
      '//',
      '/.',
      '/x/..',
      'x',
      '\\',
    ),
  },
);
export interface Request {
  readonly method: string;
  readonly target: string;
  readonly body?: string;
  /** Refuses everything in this way, on purpose. */
  readonly answers501?: true;
}
const put = { method: 'PUT', body: 'written by the test' };
const json = (kind: string, from: string, to: string): string =>
  JSON.stringify({ kind, from, to, onExists: 'replace' });

export const request: fc.Arbitrary<Request> = fc
  .tuple(prefix, service, hostilePath, hostilePath)
  .chain(([head, base, path, other]) =>
    fc.oneof(
      {
        weight: 8,
        arbitrary: fc
          .constantFrom<Omit<Request, 'target'>>(
            { method: 'GET' },
            { method: 'GET' },
            { method: 'HEAD' },
            put,
            put,
            { method: 'DELETE' },
            { method: 'POST' },
            { method: 'PATCH' },
            { method: 'OPTIONS' },
            { method: 'PROPFIND' },
          )
          .map((what) => ({ ...what, target: `${head}${base}/artifacts/${path}` })),
      },
      {
        weight: 3,
        arbitrary: fc.constant({ method: 'GET', target: `${head}${base}/artifacts?path=${path}` }),
      },
      { weight: 2, arbitrary: fc.constant({ ...put, target: `${head}/api/v1/uploads/${path}` }) },
      {
        weight: 2,
        arbitrary: fc.constantFrom('upload', 'copy', 'download', 'delete').map((kind) => ({
          method: 'POST',
          target: `${head}/api/v1/transfers`,
          body: json(kind, path, other),
        })),
      },
      {
        weight: 1,
        arbitrary: fc
          .constantFrom('', '/content', '/events')
          .map((tail) => ({ method: 'GET', target: `${head}/api/v1/transfers/${path}${tail}` })),
      },
      {
        weight: 1,
        arbitrary: fc.constant({
          method: 'GET',
          target: `${head}${base}/presigned/${path}`,
          answers501: true as const,
        }),
      },
      {
        weight: 1,
        arbitrary: fc.constant({
          ...put,
          method: 'POST',
          target: `${head}${base}/mpu/create/${path}`,
          answers501: true as const,
        }),
      },
      { weight: 1, arbitrary: fc.constant({ method: 'GET', target: `${head}/${path}` }) },
    ),
  );

const bytesOf = (text: string): number => Buffer.byteLength(text);
/** Cut to at most 255 bytes, at whole code points. */
function fit(name: string): string {
  let size = 0;
  let fitted = '';
  for (const point of name) {
    size += bytesOf(point);
    if (size > 255) break;
    fitted += point;
  }
  return fitted;
}
const legal = (name: string): boolean =>
  name !== '' &&
  name.isWellFormed() &&
  !/[\p{Cc}/\\#]/u.test(name) &&
  !/^\.\.?$/.test(name) &&
  !/^([a-z]:|file:)/i.test(name) &&
  !/%[0-9a-f]{2}/i.test(name) && // would be decoded again by the reference; the next test has those that are taken
  !HIDDEN_NAME.test(name) &&
  !MLFLOW_HIDDEN_NAME.test(name);
export const legalName = fc
  .oneof(
    fc.string({ unit: 'grapheme', minLength: 1, maxLength: 80 }),
    fc.string({ unit: 'binary', minLength: 1, maxLength: 40 }),
    fc.string({
      unit: fc.constantFrom(' ', '%', '.', '+', '&', '=', ';', '?', '\u00e9', '日', '\u{1f680}', 'a'),
      minLength: 1,
      maxLength: 300,
    }),
  )
  .map(fit)
  .filter(legal);
