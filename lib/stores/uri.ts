/**
 * Addresses that people give: of stores (an operator's settings) and of single objects (a user's `from` and `to`). A
 * user reaches only what lies under the root of a configured store: the service is no proxy to anywhere.
 */
import { resolve } from 'node:path';
import { Failure } from '../errors.ts';
import { parsePath, type StorePath } from '../path.ts';

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
  try {
    return decodeURIComponent(text);
  } catch {
    return refuse('a file URI with a lone percent sign; write it as %25');
  }
}

function s3Parts(uri: string): { bucket: string; prefix: string } {
  const [, bucket = '', rest = ''] = /^s3:\/\/([^/]*)(.*)$/is.exec(uri) ?? [];
  if (bucket.includes('@'))
    return refuse(
      'an s3:// URI takes no credentials; they go into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY',
    );
  if (bucket.includes(':'))
    return refuse('an s3:// URI takes no host or port; the server goes into MLFLOW_S3_ENDPOINT_URL');
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{1,62}$/.test(bucket))
    return refuse('an s3:// URI needs a bucket: s3://bucket/prefix');
  if (/[?#]/.test(rest)) return refuse('an s3:// URI takes no query or fragment');
  return { bucket, prefix: parsePath(rest.replace(/^\/+/, '')) };
}

/**
 * The object that a user's `from` or `to` names: an artifact path (in the store `artifacts`), or a URI under the root
 * of a configured store; of several roots that fit the longest is meant.
 * @throws Failure `invalid`, which names the configured stores but not where they are
 */
export function placeOf(given: string, stores: ReadonlyMap<string, { readonly uri: string }>): Place {
  const place = treeOf(given, stores);
  if (place.path === '') return refuse('this names the root of a store, not an object in it');
  return place;
}

/** As `placeOf`, of a folder or key prefix: it may be the root of a store. */
export function treeOf(given: string, stores: ReadonlyMap<string, { readonly uri: string }>): Place {
  return SCHEME.test(given) || /^file:/i.test(given)
    ? placeOfUri(given, stores)
    : { store: 'artifacts', path: parsePath(given) };
}

function placeOfUri(given: string, stores: ReadonlyMap<string, { readonly uri: string }>): Place {
  const target = /^file:/i.test(given)
    ? { root: '/', path: filePath(given) }
    : /^s3:/i.test(given)
      ? keyOf(given)
      : undefined;
  // every segment of what was given is checked, above a root as well: `..` never gets as far as a comparison
  const path = target && parsePath(target.path.replace(/^\/+/, ''));
  let best: (Place & { readonly rootLength: number }) | undefined;
  for (const [store, { uri }] of stores) {
    const root = rootOf(parseStoreUri(uri));
    if (path === undefined || root.root !== target?.root) continue;
    const below = belowRoot(path, root.path);
    if (below !== undefined && root.path.length >= (best?.rootLength ?? 0))
      best = { store, path: below, rootLength: root.path.length };
  }
  if (best) return { store: best.store, path: best.path };
  return refuse(
    `this URI is not under the root of a configured store (${[...stores.keys()].join(', ')}); give an artifact path, or have the operator add a store`,
  );
}

/** What two addresses must share before their paths can be compared, and the path from there, without slashes at its ends. */
function rootOf(uri: StoreUri): { readonly root: string; readonly path: string } {
  if (uri.scheme === 'file') return { root: '/', path: uri.path.slice(1) };
  return { root: `s3://${uri.bucket}`, path: uri.prefix };
}

function keyOf(given: string): { readonly root: string; readonly path: string } {
  const { bucket, prefix } = s3Parts(given);
  return { root: `s3://${bucket}`, path: prefix };
}

function belowRoot(path: StorePath, root: string): StorePath | undefined {
  if (root === '') return path;
  if (path === root) return '' as StorePath;
  return path.startsWith(`${root}/`) ? (path.slice(root.length + 1) as StorePath) : undefined;
}
