/** Listings of keys, page by page to the end, and what they show of this installation's own. */
import { ListObjectsV2Command } from '@aws-sdk/client-s3';
import { Failure } from '../../errors.ts';
import { ROOT, type StorePath } from '../../path.ts';
import type { Call, Entry, Leftover, ListCall } from '../driver.ts';
import { decodeKey, type S3Connection } from './s3-client.ts';
import { classifyS3 } from './s3-errors.ts';

/** Keys that begin with `prefix`; those with a further slash only where it is `deep`. */
export async function* listPages(s3: S3Connection, prefix: string, call: ListCall) {
  let after: string | undefined;
  do {
    const asked = after;
    const page = await s3.call(call.signal, (client, options) =>
      client.send(
        new ListObjectsV2Command({
          ...s3.common,
          Prefix: prefix,
          EncodingType: 'url',
          ...(call.deep ? {} : { Delimiter: '/' }),
          ...(asked === undefined ? {} : { ContinuationToken: asked }),
        }),
        options,
      ),
    );
    yield page;
    after = page.IsTruncated ? page.NextContinuationToken : undefined;
    if (page.IsTruncated && (after === undefined || after === asked))
      throw new Failure('unavailable', 'the server says that a list goes on, but not where');
  } while (after !== undefined);
}

/** Canaries at the root: the only objects under hidden names that are made on S3. */
export async function* leftoversAt(s3: S3Connection, call: Call): AsyncGenerator<readonly Leftover[]> {
  const prefix = s3.prefixOf(ROOT) + s3.hidden.prefix;
  for await (const page of listPages(s3, prefix, { ...call, deep: false })) {
    const found = (page.Contents ?? []).flatMap(({ Key = '', LastModified }): Leftover[] => {
      const path = s3.pathOf(decodeKey(Key, page.EncodingType));
      if (path === undefined || s3.hidden.kindOf(path) !== 'ours') return [];
      return [{ path, modifiedMs: LastModified?.getTime() ?? Date.now() }];
    });
    if (found.length > 0) yield found;
  }
}

/**
 * XML carries few control characters. A server that does not encode keys as it is asked to (versitygw) writes U+FFFD for
 * others: then the name that it tells is right only if there is such an object, and else nobody knows it.
 */
export async function rightlyTold(
  page: { readonly EncodingType?: string | undefined },
  entry: Entry,
  head: (path: StorePath) => Promise<unknown>,
): Promise<Entry> {
  const { path } = entry;
  if (page.EncodingType === 'url' || !path.includes('\ufffd')) return entry;
  try {
    await head(path);
    return entry;
  } catch (error) {
    if (classifyS3(error).kind !== 'not-found') throw error;
    const why = 'its key has a character that the listing of this server cannot tell';
    return { kind: 'other', path, size: 0, is: 'unnamed', why };
  }
}
