/** Digests of a batch of a tree's files: looked up in one query, and written down together when the batch is over. */
import type { KnownDigests, ObjectFacts, Objects, Version } from '../ledger/contract.ts';
import type { Place } from '../ledger/transfer.ts';
import type { StorePath } from '../path.ts';

export class BatchFacts implements Pick<Objects, 'known'> {
  /** Of what was put into the target's store. One that is never written down is only read back some day. */
  readonly published: (ObjectFacts & { readonly path: StorePath })[] = [];
  readonly #objects: Objects;
  readonly #known: ReadonlyMap<string, KnownDigests | undefined>;

  private constructor(objects: Objects, known: ReadonlyMap<string, KnownDigests | undefined>) {
    this.#objects = objects;
    this.#known = known;
  }

  /** `sources`: as they were planned, by the paths they have in `store`. */
  static async of(objects: Objects, store: string, sources: readonly Version[]): Promise<BatchFacts> {
    const known = await objects.knownOf(store, sources);
    return new BatchFacts(objects, new Map(sources.map((file, at) => [keyOf(store, file), known[at]])));
  }

  async known(place: Place, etag: string): Promise<KnownDigests | undefined> {
    const key = keyOf(place.store, { path: place.path, etag });
    return this.#known.has(key) ? this.#known.get(key) : this.#objects.known(place, etag);
  }

  record({ path }: Place, facts: ObjectFacts): void {
    this.published.push({ path, ...facts });
  }
}

const keyOf = (store: string, { path, etag }: Version): string => `${store}\0${path}\0${etag}`;
