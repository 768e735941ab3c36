/** An installation for tests that have no ledger, and another one. */
import { HiddenNames } from '../lib/stores/hidden.ts';

export const NAMES = new HiddenNames({ id: '00000000000000a1', key: Buffer.alloc(32, 1) });
export const OTHERS = new HiddenNames({ id: '00000000000000b2', key: Buffer.alloc(32, 2) });
