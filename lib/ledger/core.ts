import type { Db } from './engine.ts';
import type { Reader, Writer } from './writer.ts';

/** What the parts of the ledger share. */
export interface Core {
  readonly reader: Reader;
  readonly writer: Writer;
  /** To build queries with; they run on the connection that `reader` or `writer` gives. */
  readonly build: Db;
  /** Unix time in ms. */
  readonly now: () => number;
}
