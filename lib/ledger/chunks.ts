/** Many paths in few queries: of each query there is one form, which is prepared once. */
import type { StorePath } from '../path.ts';

/** Paths in one query; a shorter list is filled up with its last one. */
const CHUNK = 50;
const SLOTS = Array.from({ length: CHUNK }, (_, at) => `path${at}` as const);

/** `path0`, `path1` … are as many as a query takes. */
export type Some = { readonly [path: `path${number}`]: StorePath };

export function* chunks(paths: readonly StorePath[]): Generator<Some> {
  for (let at = 0; at < paths.length; at += CHUNK) {
    const last = Math.min(at + CHUNK, paths.length) - 1;
    yield Object.fromEntries(SLOTS.map((name, n) => [name, paths[Math.min(at + n, last)]!]));
  }
}

export const allOf = (some: Some): StorePath[] => SLOTS.map((name) => some[name]!);
