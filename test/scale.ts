/**
 * How often a test repeats what it repeats: `npm run test:long` sets LONGSHORE_TEST_SCALE=full and gets the count that is
 * promised, other runs about a tenth of it (or what `share` says), and at least one.
 */
export function scaled(full: number, share = 10): number {
  return process.env.LONGSHORE_TEST_SCALE === 'full' ? full : Math.max(1, Math.round(full / share));
}
