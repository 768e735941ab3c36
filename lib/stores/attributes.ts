/** What an object carries beside its bytes: names, and what two stores have in common. */

/** All of them are optional: a store has what it has. */
export interface Attributes {
  /** `Content-Type`, where the store was told one. */
  readonly mediaType?: string;
  readonly contentEncoding?: string;
  readonly cacheControl?: string;
  readonly contentDisposition?: string;
  readonly contentLanguage?: string;
  /** As it was written, whether or not it is a date. */
  readonly expires?: string;
  /** The users' own, by name in lower case; values are Unicode. */
  readonly metadata?: Readonly<Record<string, string>>;
  readonly tags?: Readonly<Record<string, string>>;
  /** Absent: the store's usual one. */
  readonly storageClass?: string;
  /** Permission bits of a file, those for other users than its owner included. */
  readonly mode?: number;
  /** When the file's content was changed last: unix time in ms. */
  readonly modified?: number;
}
export type AttributeName = keyof Attributes;

export const ATTRIBUTE_NAMES = [
  'mediaType',
  'contentEncoding',
  'cacheControl',
  'contentDisposition',
  'contentLanguage',
  'expires',
  'metadata',
  'tags',
  'storageClass',
  'mode',
  'modified',
] as const satisfies readonly AttributeName[];

export const namesOf = (attributes: Attributes): AttributeName[] =>
  ATTRIBUTE_NAMES.filter((name) => attributes[name] !== undefined);

export function without(attributes: Attributes, names: Iterable<string>): Attributes {
  const left = new Set(names);
  return Object.fromEntries(Object.entries(attributes).filter(([name]) => !left.has(name)));
}

/** Of what was wanted, what is not so there. Maps that hold more than was wanted hold it all the same. */
export function lacking(wanted: Attributes, there: Attributes): AttributeName[] {
  return namesOf(wanted).filter((name) => !holds(wanted[name], there[name]));
}

function holds(wanted: unknown, there: unknown): boolean {
  if (typeof wanted !== 'object' || wanted === null) return wanted === there;
  const found = (there ?? {}) as Readonly<Record<string, unknown>>;
  return Object.entries(wanted).every(([key, value]) => found[key] === value);
}

/** Names once each, in order. */
export const merged = (...names: readonly (readonly string[] | undefined)[]): readonly string[] =>
  [...new Set(names.flatMap((some) => some ?? []))].toSorted();
