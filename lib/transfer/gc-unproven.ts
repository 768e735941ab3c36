/**
 * Uploads in parts that a store holds and no row of the ledger names. One may be ours, where its id was lost before it was
 * written down, or another tool's: S3 does not say. So they are counted and named, and they stay.
 */
import { throwIfAborted } from '../deadline.ts';
import type { StorePath } from '../path.ts';
import type { Store } from '../stores/store.ts';
import type { TransferDeps } from './deps.ts';

/** So many are named; all are counted. */
const NAMED = 100;
const SHORT_ID = 12;

export interface UnprovenUpload {
  readonly path: StorePath;
  /** Unix time in ms. */
  readonly begunMs: number;
  /** How the store's id of it begins. */
  readonly id: string;
}
export interface UnprovenUploads {
  readonly count: number;
  /** The first hundred. */
  readonly uploads: readonly UnprovenUpload[];
}

/** What to say of them. */
export const UNPROVEN_REMEDY =
  "no row of the ledger names these uploads: they are ours whose id was lost, or another tool's, so they stay; " +
  'a lifecycle rule of the bucket with AbortIncompleteMultipartUpload removes such uploads some days after they were begun';

/** Those begun before then: younger ones may be about to be written down. */
export async function unprovenUploads(
  deps: Pick<TransferDeps, 'ledger'>,
  store: Store,
  { beforeMs, signal }: { readonly beforeMs: number; readonly signal: AbortSignal },
): Promise<UnprovenUploads> {
  let count = 0;
  const uploads: UnprovenUpload[] = [];
  for await (const page of store.pendingOfAnybody(signal)) {
    throwIfAborted(signal);
    const old = page.filter(({ begunMs }) => begunMs < beforeMs);
    const named = await deps.ledger.uploads.named(old.map(({ id }) => id));
    for (const { path, begunMs, id } of old) {
      if (named.has(id)) continue;
      count++;
      if (uploads.length < NAMED) uploads.push({ path, begunMs, id: id.slice(0, SHORT_ID) });
    }
  }
  return { count, uploads };
}
