/**
 * Addresses that people give: of stores (an operator's settings) and of single objects (a user's `from` and `to`). A
 * user reaches only what lies under the root of a configured store: the service is no proxy to anywhere.
 */
import { resolve } from 'node:path';
import { Failure } from '../errors.ts';
import { encodedPath, parsePath, plainPath, type StorePath } from '../path.ts';
import { percentDecoded } from '../path-bytes.ts';

/** An object in a configured store, by the store's name. */
interface Place {
  readonly store: string;
  readonly path: StorePath;
}

export type StoreUri =
  /** `path` is absolute and normal. */
  | { readonly scheme: 'file'; readonly path: string }
  /** `prefix` has no slash at its ends; `''` for the whole bucket. */
  | { readonly scheme: 's3'; readonly bucket: string; readonly prefix: string };

/** Schemes of MLflow's artifact stores that have no driver here. */
const WITHOUT_DRIVER: ReadonlyMap<string, string> = new Map([
  ['wasb', 'Azure Blob'],
  ['wasbs', 'Azure Blob'],
  ['abfs', 'Azure Data Lake'],
  ['abfss', 'Azure Data Lake'],
  ['gs', 'Google Cloud Storage'],
  ['ftp', 'FTP'],
  ['sftp', 'SFTP'],
  ['hdfs', 'HDFS'],
  ['viewfs', 'HDFS'],
  ['r2', 'Cloudflare R2'],
  ['b2', 'Backblaze B2'],
  ['dbfs', 'Databricks'],
]);
const FORMS = '/a/folder, file:///a/folder or s3://bucket/prefix';
const SCHEME = /^([A-Za-z][A-Za-z0-9+.-]+):\/\//;

const refuse = (sentence: string): never => {
  throw new Failure('invalid', sentence);
};

/**
 * A store's address: a folder (absolute, or relative to the working directory; `~` is an ordinary character),
 * `file:///folder` or `s3://bucket/prefix`. As on MLflow's server a key prefix is taken as it is, a file URI is
 * percent-decoded once.
 * @throws Failure `invalid`, or `unsupported` for a store that exists elsewhere but not here
 */
export function parseStoreUri(given: string): StoreUri {
  const uri = given.trim();
  if (uri === '') return refuse(`a store's address is empty; it is ${FORMS}`);
  const scheme = SCHEME.exec(uri)?.[1]?.toLowerCase() ?? (/^file:/i.test(uri) ? 'file' : undefined);
  if (scheme === undefined) return { scheme: 'file', path: resolve(uri) };
  if (scheme === 'file') return { scheme, path: resolve(filePath(uri)) };
  if (scheme === 's3') return { scheme, ...s3Parts(uri) };
  if (scheme === 'http' || scheme === 'https')
    return refuse(
      'a store cannot be an http(s) URL: objects would end up under <bucket>/<key>/<bucket>/<key>; ' +
        'give the server as MLFLOW_S3_ENDPOINT_URL and the store as s3://bucket/prefix',
    );
  if (scheme === 'mlflow-artifacts' || scheme === 'runs' || scheme === 'models')
    return refuse(`${scheme}: is how clients name what this service serves; a store is ${FORMS}`);
  const service = WITHOUT_DRIVER.get(scheme);
  if (service !== undefined)
    throw new Failure('unsupported', `${service} (${scheme}://) is not supported; a store is ${FORMS}`);
  return refuse(`unknown kind of store '${scheme}://'; a store is ${FORMS}`);
}

/** The one way we write a store's address; it holds no secret and parses to the same again. */
export function formatStoreUri(uri: StoreUri): string {
  if (uri.scheme === 'file') return uri.path;
  return uri.prefix === '' ? `s3://${uri.bucket}` : `s3://${uri.bucket}/${uri.prefix}`;
}

function filePath(uri: string): string {
  const [, host = '', path = ''] = /^file:(?:\/\/([^/]*))?(\/.*)?$/i.exec(uri) ?? [];
  if (path === '') return refuse('a file URI needs an absolute path: file:///a/folder');
  if (host !== '' && host.toLowerCase() !== 'localhost')
    return refuse(`a file URI cannot name another machine ('${host}'): file:///a/folder`);
  if (/[?#]/.test(path))
    return refuse("a file URI takes no query or fragment; write '?' as %3F and '#' as %23");
  const decoded = decode(path);
  return decoded.includes('\0') ? refuse('a file URI cannot contain a NUL') : decoded;
}

function decode(text: string): string {
  if (!text.isWellFormed()) return refuse('Invalid path: not valid Unicode');
  return percentDecoded(text) ?? refuse('a file URI with a lone percent sign; write it as %25');
}

function s3Parts(uri: string): { bucket: string; prefix: string } {
  const { bucket, rest } = bucketOf(uri);
  return { bucket, prefix: parsePath(rest.replace(/^\/+/, '')) };
}

function bucketOf(uri: string): { readonly bucket: string; readonly rest: string } {
  const [, bucket = '', rest = ''] = /^s3:\/\/([^/]*)(.*)$/is.exec(uri) ?? [];
  if (bucket.includes('@'))
    return refuse(
      'an s3:// URI takes no credentials; they go into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY',
    );
  if (bucket.includes(':'))
    return refuse('an s3:// URI takes no host or port; the server goes into MLFLOW_S3_ENDPOINT_URL');
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{1,62}$/.test(bucket))
    return refuse('an s3:// URI needs a bucket: s3://bucket/prefix');
  if (/[?#]/.test(rest))
    return refuse("an s3:// URI takes no query or fragment; in a key '?' is written as %3F and '#' as %23");
  return { bucket, rest };
}

/**
 * What a user gives as `from` or `to`: an artifact path, taken as it is; a URI, which is percent-encoded; or a store's name
 * and a path in it, as transfers are answered.
 */
export type GivenPlace =
  | string
  | {
      readonly store?: string | undefined;
      readonly path: string;
      readonly encoding?: 'percent' | undefined;
    };

/** The configured stores, as far as addresses need them. */
export type Roots = ReadonlyMap<
  string,
  { readonly uri: string; readonly traits: { readonly namespace: 'flat' | 'hierarchical' } }
>;

/**
 * The object that a user's `from` or `to` names; of several roots that a URI lies under the longest is meant.
 * @throws Failure `invalid`, which names the configured stores but not where they are
 */
export function placeOf(given: GivenPlace, stores: Roots): Place {
  const place = anyPlace(given, stores);
  if (place.path === '') return refuse('this names the root of a store, not an object in it');
  return place;
}

/** As `placeOf`, of a folder or key prefix: it may be the root of a store, and may end in a slash. */
export function treeOf(given: GivenPlace, stores: Roots): Place {
  const { store, path } = anyPlace(given, stores);
  return { store, path: path.replace(/\/$/, '') as StorePath };
}

function anyPlace(given: GivenPlace, stores: Roots): Place {
  if (typeof given !== 'string') {
    const { store = 'artifacts', path, encoding } = given;
    return inStore(store, encoding === 'percent' ? encodedPath(path) : plainPath(path), stores);
  }
  return SCHEME.test(given) || /^file:/i.test(given)
    ? placeOfUri(given, stores)
    : inStore('artifacts', plainPath(given), stores);
}

/** In a hierarchical store runs of slashes are as good as one, and so is one at the end. @throws Failure `invalid` */
export function inStore(store: string, path: StorePath, stores: Roots): Place {
  const root = stores.get(store);
  if (!root)
    return refuse(`there is no store '${store}'; the configured ones are ${[...stores.keys()].join(', ')}`);
  if (root.traits.namespace === 'flat') return { store, path };
  if (path.startsWith('/')) return refuse('an absolute path; it must be relative to the root of the store');
  return { store, path: withoutRuns(path) };
}

const withoutRuns = (path: StorePath): StorePath => path.replace(/\/+/g, '/').replace(/\/$/, '') as StorePath;

function placeOfUri(given: string, stores: Roots): Place {
  const target = /^file:/i.test(given)
    ? { root: '/', path: withoutRuns(filePath(given).replace(/^\/+/, '') as StorePath) }
    : /^s3:/i.test(given)
      ? keyOf(given)
      : undefined;
  // no segment above a root may lead elsewhere either: `..` never gets as far as a comparison
  const dots = target?.path.split('/').find((segment) => segment === '.' || segment === '..');
  if (dots !== undefined) return refuse(`Invalid path: it contains the segment '${dots}'`);
  let best: (Place & { readonly rootLength: number }) | undefined;
  for (const [store, { uri }] of stores) {
    const root = rootOf(parseStoreUri(uri));
    if (root.root !== target?.root) continue;
    const below = belowRoot(target.path as StorePath, root.path);
    if (below !== undefined && root.path.length >= (best?.rootLength ?? 0))
      best = { store, path: below, rootLength: root.path.length };
  }
  if (best) return { store: best.store, path: best.path };
  return refuse(
    `this URI is not under the root of a configured store (${[...stores.keys()].join(', ')}); give an artifact path, or have the operator add a store`,
  );
}

/** Where a place is, so that two that are one object are the same text; for comparison only. */
export function absoluteOf({ store, path }: Place, stores: Roots): string {
  const at = stores.get(store);
  if (!at) return `${store}\0${path}`;
  const { root, path: above } = rootOf(parseStoreUri(at.uri));
  return [root, above, path].filter((part) => part !== '').join('/');
}

/** What two addresses must share before their paths can be compared, and the path from there, without slashes at its ends. */
function rootOf(uri: StoreUri): { readonly root: string; readonly path: string } {
  if (uri.scheme === 'file') return { root: '/', path: uri.path.slice(1) };
  return { root: `s3://${uri.bucket}`, path: uri.prefix };
}

function keyOf(given: string): { readonly root: string; readonly path: string } {
  const { bucket, rest } = bucketOf(given);
  const key = rest.replace(/^\//, '');
  if (!key.isWellFormed()) return refuse('Invalid path: not valid Unicode');
  const path = percentDecoded(key);
  if (path === undefined) return refuse('an s3:// URI with a lone percent sign; write it as %25');
  return { root: `s3://${bucket}`, path };
}

function belowRoot(path: StorePath, root: string): StorePath | undefined {
  if (root === '') return path;
  if (path === root) return '' as StorePath;
  return path.startsWith(`${root}/`) ? (path.slice(root.length + 1) as StorePath) : undefined;
}
