/** What a tree consists of: everything at and below a place, as its store lists it. */
import { Failure } from '../errors.ts';
import type { Place, Transfer } from '../ledger/transfer.ts';
import { belowOf, isWithin, pathBelow, ROOT, type StorePath } from '../path.ts';
import type { Entry, OtherEntry } from '../stores/driver.ts';
import { isRemovable } from '../stores/store.ts';
import { nameOf, storeAt, type TransferDeps } from './deps.ts';
import { headOrNothing } from './plan.ts';
import type { FileEnd, PlannedFile } from './tree-pages.ts';

type Wishes = Pick<Transfer, 'kind' | 'links'>;

/** In the store's order. @throws Failure where `root` itself may not be looked into */
export async function* entriesOf(
  deps: TransferDeps,
  root: Place,
  { kind, links }: Wishes,
  signal: AbortSignal,
): AsyncGenerator<readonly Entry[]> {
  const store = storeAt(deps, root);
  const itself = root.path === ROOT ? undefined : await headOrNothing(store, root, signal);
  if (itself) yield [itself];
  // who removes a tree removes its links, and never what they lead to
  const listed = kind !== 'delete' && links === 'follow' ? 'follow' : 'name';
  for await (const page of store.list(root.path, { deep: true, links: listed, signal }))
    yield page.filter(
      (entry) =>
        isWithin(entry.path, root.path) && (entry.kind === 'dir' || !itself || entry.path !== root.path),
    );
}

/** An entry as a tree at `root` plans it. */
export function plannedOf(deps: TransferDeps, root: Place, entry: Entry, wishes: Wishes): PlannedFile {
  const below = belowOf(root.path, entry.path);
  if (entry.kind === 'file') {
    const { size, etag, attributes: { storageClass } = {} } = entry;
    return { below, size, etag, ...(storageClass !== undefined && { storageClass }) };
  }
  if (entry.kind === 'dir') return { below, size: 0, etag: '', dir: true };
  const planned = { below, size: entry.size, etag: '' };
  const end = endOf(deps, root, entry, wishes);
  return { ...planned, ...(end && { end }), ...(entry.is === 'closed' && { closed: true }) };
}

/** `undefined`: it is carried, or removed, as a file is. */
function endOf(
  deps: TransferDeps,
  root: Place,
  entry: OtherEntry,
  { kind, links }: Wishes,
): FileEnd | undefined {
  if (kind === 'delete' && isRemovable(entry)) return undefined;
  const { kind: why, message } = storeAt(deps, root).notReadable(entry);
  const failure = { kind: why, message };
  if (entry.is === 'closed') return { state: 'failed', failure };
  if (entry.is === 'link' && links === 'skip') return { state: 'skipped', outcome: 'skipped', failure };
  return { state: 'left-out', failure };
}

export const placeBelow = ({ store, path }: Place, below: string): Place => ({
  store,
  path: pathBelow(path, below),
});

/** How people read what is below a tree's root. */
export const withoutSlash = (below: string): StorePath =>
  (below.length > 1 ? below.slice(1) : below) as StorePath;

export const nothingAt = (root: Place): Failure =>
  new Failure('not-found', `there is no object at or below ${nameOf(root)}`, {
    op: 'list',
    store: root.store,
    path: root.path,
  });
