import { Failure } from '../errors.ts';
import type { Objects, Transfers, Uploads } from '../ledger/contract.ts';
import type { Place } from '../ledger/transfer.ts';
import type { Log } from '../log.ts';
import type { BufferPool } from '../stores/buffers.ts';
import type { Store } from '../stores/store.ts';
import type { Staging } from './staging.ts';

/** What carrying bytes needs; `Deps` has all of it. */
export interface TransferDeps {
  readonly log: Log;
  readonly ledger: { readonly transfers: Transfers; readonly objects: Objects; readonly uploads: Uploads };
  readonly stores: ReadonlyMap<string, Store>;
  readonly staging: Staging;
  /** This process's memory for bytes in flight. */
  readonly buffers: BufferPool;
}

/** @throws Failure `invalid`: it was configured when the transfer was accepted and is not any more */
export function storeAt(deps: Pick<TransferDeps, 'stores'>, place: Place): Store {
  const store = deps.stores.get(place.store);
  if (store) return store;
  throw new Failure('invalid', `the store '${place.store}' is not configured here: add it with --store`, {
    store: place.store,
    path: place.path,
  });
}

/** Staging included; `undefined`: it is not configured here. */
export const findStore = (
  { stores, staging }: Pick<TransferDeps, 'stores' | 'staging'>,
  { store }: Pick<Place, 'store'>,
): Store | undefined => (store === staging.store.name ? staging.store : stores.get(store));

/** `artifacts:models/w.bin`, as messages name it. */
export const nameOf = (place: Place): string => `${place.store}:${place.path}`;
