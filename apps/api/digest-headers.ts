/**
 * `Content-Digest`, `Repr-Digest` (RFC 9530), their forerunners `Digest` and `Content-MD5`, and those of S3's clients:
 * what a client says of its bytes, and what we say of ours.
 */
import type { IncomingHttpHeaders } from 'node:http';
import type { ExpectedDigests } from '../../lib/digests.ts';
import { Failure } from '../../lib/errors.ts';

const ALGORITHMS = {
  'sha-256': { key: 'sha256', bytes: 32 },
  'sha-512': { key: 'sha512', bytes: 64 },
  md5: { key: 'md5', bytes: 16 },
} as const;
type Algorithm = keyof typeof ALGORITHMS;
/** Checksums of object stores' own interfaces, with which a client counts on being refused where they differ. */
const PROMISES = /^(x-amz-checksum-.*|x-goog-hash|x-ms-content-crc64|x-ms-blob-content-md5)$/;
const isKnown = (name: string): name is Algorithm => Object.hasOwn(ALGORITHMS, name);

/**
 * The digests that the headers demand; `undefined` where they demand none that we know.
 * @throws Failure `invalid` for one that is malformed, or two that can't both be right
 */
export function expectedDigests(headers: IncomingHttpHeaders): ExpectedDigests | undefined {
  const expected: { -readonly [K in keyof ExpectedDigests]: ExpectedDigests[K] } = {};
  const demand = (header: string, algorithm: Algorithm, base64: string): void => {
    const { key, bytes } = ALGORITHMS[algorithm];
    const digest = Buffer.from(base64, 'base64');
    if (digest.length !== bytes || digest.toString('base64') !== base64)
      throw new Failure('invalid', `${header}: not the base64 of a ${algorithm} digest`);
    const hex = digest.toString('hex');
    if (expected[key] !== undefined && expected[key] !== hex)
      throw new Failure('invalid', `${header}: another ${algorithm} digest than in a header before`);
    expected[key] = hex;
  };
  for (const header of ['Content-Digest', 'Repr-Digest'] as const) {
    const value = headers[header.toLowerCase()];
    if (value === undefined) continue;
    for (const member of String(value).split(',')) {
      const [, name = '', base64] = /^\s*([a-z*][a-z0-9_.*-]*)=(?::([^:]*):)?/.exec(member) ?? [];
      if (name === '') throw new Failure('invalid', `${header}: not of the form sha-256=:<base64>:`);
      if (!isKnown(name)) continue;
      if (base64 === undefined)
        throw new Failure('invalid', `${header}: ${name} is not of the form ${name}=:<base64>:`);
      demand(header, name, base64);
    }
  }
  const md5 = headers['content-md5'];
  if (md5 !== undefined) demand('Content-MD5', 'md5', String(md5).trim());
  for (const member of String(headers.digest ?? '').split(',')) {
    const [, name = '', base64 = ''] = /^\s*([^=]*)=(.*?)\s*$/.exec(member) ?? [];
    const algorithm = name.toLowerCase();
    if (isKnown(algorithm)) demand('Digest', algorithm, base64);
  }
  const hex = headers['x-amz-content-sha256'];
  if (typeof hex === 'string' && /^[0-9a-f]{64}$/i.test(hex))
    demand('x-amz-content-sha256', 'sha-256', Buffer.from(hex, 'hex').toString('base64'));
  for (const name in headers) {
    if (name === 'x-amz-checksum-sha256') demand(name, 'sha-256', String(headers[name]).trim());
    else if (PROMISES.test(name))
      throw new Failure(
        'invalid',
        `${name}: this checksum is not checked here; send Content-Digest with sha-256 or sha-512, or Content-MD5`,
      );
  }
  return Object.keys(expected).length > 0 ? expected : undefined;
}

/** Of a SHA-256 in hex. */
export const reprDigest = (sha256: string): string =>
  `sha-256=:${Buffer.from(sha256, 'hex').toString('base64')}:`;
