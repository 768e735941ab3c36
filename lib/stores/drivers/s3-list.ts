/** Listings of keys, page by page to the end, and what they show of this installation's own. */
import { ListObjectsV2Command } from '@aws-sdk/client-s3';
import { Failure } from '../../errors.ts';
import { ROOT } from '../../path.ts';
import type { Call, Leftover, ListCall } from '../driver.ts';
import { decodeKey, type S3Connection } from './s3-client.ts';

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
