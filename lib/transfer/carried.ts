/**
 * What an object is to carry beside its bytes: what its source has and its target can hold. Names of what cannot be kept
 * go into the result; nobody is told that something was kept that was not.
 */
import { Failure } from '../errors.ts';
import type { Place, Preserved, Transfer } from '../ledger/transfer.ts';
import { baseName } from '../path.ts';
import { type Attributes, lacking, merged, namesOf, without } from '../stores/attributes.ts';
import type { FileEntry, WriteCall } from '../stores/driver.ts';
import { storeAt, type TransferDeps } from './deps.ts';
import { contentTypeOf } from './media-type.ts';

export interface CarriedAttributes extends Pick<WriteCall, 'attributes' | 'mediaType'> {
  /** Known before anything is sent. */
  readonly notKept: readonly string[];
}

/** Types that say nothing. */
const UNSAID: ReadonlySet<string> = new Set(['application/octet-stream', 'binary/octet-stream']);
const PERMISSIONS = 0o777;
/** Bits that lend a file's rights to who runs it: to be given on purpose, never by a copy. */
const LENT = { setuid: 0o4000, setgid: 0o2000, sticky: 0o1000 } as const;

/** Of staged bytes, which nothing is known of but their name. */
export const carriedByName = (to: Place): CarriedAttributes => ({
  mediaType: contentTypeOf(baseName(to.path)),
  notKept: [],
});

/** @param entry as `head` or `read` answered it. @throws Failure where its tags cannot be read just now */
export async function carriedOf(
  deps: TransferDeps,
  row: Pick<Transfer, 'preserve'>,
  from: Place,
  entry: FileEntry,
  to: Place,
  signal: AbortSignal,
): Promise<CarriedAttributes> {
  const { attributes = {}, fixed = [] } = entry;
  const keeps = new Set<string>(storeAt(deps, to).traits.keeps);
  const { mode, mediaType = contentTypeOf(baseName(to.path)), ...rest } = attributes;
  const wanted: Attributes = { ...rest, ...preserved(row.preserve ?? [], entry) };
  const held = without(
    wanted,
    namesOf(wanted).filter((name) => !keeps.has(name)),
  );
  const notKept = [
    ...fixed,
    ...namesOf(wanted).filter((name) => !keeps.has(name)),
    ...unpreserved(row, entry),
  ];
  const saysMore = !UNSAID.has(mediaType) && mediaType !== contentTypeOf(baseName(to.path));
  if (saysMore && !keeps.has('mediaType')) notKept.push('mediaType');
  const tags = keeps.has('tags') ? await tagsOf(deps, from, entry, signal) : undefined;
  if (entry.tagCount && !tags) notKept.push('tags');
  return {
    mediaType,
    attributes: { ...held, ...(tags && { tags }) },
    notKept: merged(notKept),
  };
}

function preserved(
  wishes: readonly Preserved[],
  { attributes: { mode } = {}, modifiedMs }: FileEntry,
): Pick<Attributes, 'mode' | 'modified'> {
  return {
    ...(wishes.includes('mode') && mode !== undefined && { mode: mode & PERMISSIONS }),
    ...(wishes.includes('modified') && { modified: modifiedMs }),
  };
}

/** What was asked for and the source does not have, or nobody shall be given. */
function unpreserved({ preserve = [] }: Pick<Transfer, 'preserve'>, { attributes }: FileEntry): string[] {
  if (!preserve.includes('mode')) return [];
  const mode = attributes?.mode;
  if (mode === undefined) return ['mode'];
  return Object.entries(LENT).flatMap(([name, bit]) => ((mode & bit) === 0 ? [] : [name]));
}

/** `undefined`: there are none, or we may not read them. */
async function tagsOf(
  deps: TransferDeps,
  from: Place,
  { tagCount = 0 }: FileEntry,
  signal: AbortSignal,
): Promise<Attributes['tags']> {
  if (tagCount === 0) return undefined;
  try {
    return await storeAt(deps, from).tags(from.path, signal);
  } catch (error) {
    if (error instanceof Failure && (error.kind === 'denied' || error.kind === 'unsupported'))
      return undefined;
    throw error;
  }
}

/** What a copy that another worker published does not have, by looking at it. */
export function notKeptAt(
  { attributes = {}, notKept }: Pick<CarriedAttributes, 'attributes' | 'notKept'>,
  there: FileEntry,
): readonly string[] {
  const { tags, modified, ...looked } = attributes;
  const missing: string[] = lacking(looked, there.attributes ?? {});
  if (tags && there.tagCount !== Object.keys(tags).length) missing.push('tags');
  if (modified !== undefined && Math.abs(there.modifiedMs - modified) >= 1000) missing.push('modified');
  return merged(notKept, missing);
}
