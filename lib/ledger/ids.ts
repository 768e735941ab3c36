import { randomBytes } from 'node:crypto';

/** Crockford's base32: no i, l, o, u; in ASCII order, so that ids sort as the numbers they spell. */
const ALPHABET = '0123456789abcdefghjkmnpqrstvwxyz';

/**
 * 26 lowercase letters and digits, a letter first: fit for a job id, a file name and a URL. They sort by the ms
 * they were made in; 75 random bits keep those of one ms apart, in any number of processes.
 */
export function newTransferId(nowMs: number = Date.now()): string {
  let time = '';
  for (let left = nowMs, digit = 0; digit < 10; digit++, left = Math.floor(left / 32))
    time = ALPHABET.charAt(left % 32) + time;
  let random = '';
  for (const byte of randomBytes(15)) random += ALPHABET.charAt(byte & 31);
  return `t${time}${random}`;
}
