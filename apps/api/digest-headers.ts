/** `Content-Digest`, `Repr-Digest` (RFC 9530) and `Content-MD5`: what a client says of its bytes, and what we say of ours. */
import type { IncomingHttpHeaders } from 'node:http';
import type { ExpectedDigests } from '../../lib/digests.ts';
import { Failure } from '../../lib/errors.ts';

const ALGORITHMS = {
  'sha-256': { key: 'sha256', bytes: 32 },
  'sha-512': { key: 'sha512', bytes: 64 },
  md5: { key: 'md5', bytes: 16 },
} as const;
type Algorithm = keyof typeof ALGORITHMS;
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
  return Object.keys(expected).length > 0 ? expected : undefined;
}

/** Of a SHA-256 in hex. */
export const reprDigest = (sha256: string): string =>
  `sha-256=:${Buffer.from(sha256, 'hex').toString('base64')}:`;
