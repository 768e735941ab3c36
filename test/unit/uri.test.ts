import { resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Failure } from '../../lib/errors.ts';
import { absoluteOf, formatStoreUri, parseStoreUri, placeOf, treeOf } from '../../lib/stores/uri.ts';

const failureOf = (act: () => unknown): Failure => {
  try {
    act();
  } catch (error) {
    if (error instanceof Failure) return error;
    throw error;
  }
  throw new Error('it did not fail');
};

describe('addresses of stores', () => {
  it('are folders, file URIs and buckets with a prefix', () => {
    expect(parseStoreUri('/data/artifacts/')).toEqual({ scheme: 'file', path: '/data/artifacts' });
    expect(parseStoreUri('./mlartifacts')).toEqual({ scheme: 'file', path: resolve('mlartifacts') });
    expect(parseStoreUri('file:///data/my%20runs')).toEqual({ scheme: 'file', path: '/data/my runs' });
    expect(parseStoreUri('file://localhost/data')).toEqual({ scheme: 'file', path: '/data' });
    expect(parseStoreUri('s3://bucket')).toEqual({ scheme: 's3', bucket: 'bucket', prefix: '' });
    expect(parseStoreUri('S3://bucket/a/b/')).toEqual({ scheme: 's3', bucket: 'bucket', prefix: 'a/b' });
  });

  it('take a tilde and a percent sign in a key as they are', () => {
    expect(parseStoreUri('~/runs')).toEqual({ scheme: 'file', path: resolve('~/runs') });
    expect(parseStoreUri('s3://bucket/a%20b')).toMatchObject({ prefix: 'a%20b' });
  });

  it('are written in one way that parses to the same', () => {
    for (const uri of ['/data/x', 'file:///d%25/x', 's3://bucket', 's3://bucket/a/b//'])
      expect(parseStoreUri(formatStoreUri(parseStoreUri(uri)))).toEqual(parseStoreUri(uri));
    expect(formatStoreUri(parseStoreUri('s3://bucket/a/b//'))).toBe('s3://bucket/a/b');
  });

  it.each([
    ['http://127.0.0.1:9000', 'MLFLOW_S3_ENDPOINT_URL and the store as s3://bucket/prefix'],
    ['https://minio.example.com/bucket', '<bucket>/<key>/<bucket>/<key>'],
    ['', 'empty'],
    ['s3://', 'needs a bucket'],
    ['s3://key:secret@bucket/x', 'no credentials'],
    ['s3://127.0.0.1:9000/bucket', 'MLFLOW_S3_ENDPOINT_URL'],
    ['s3://bucket/a/../b', "'..'"],
    ['s3://bucket/x?versionId=1', 'no query'],
    ['file://server/share', 'another machine'],
    ['file:relative', 'absolute path'],
    ['mlflow-artifacts:/x'.replace(':/', '://'), 'what this service serves'],
    ['nosuch://x', "'nosuch://'"],
  ])('refuses %s and says what would be right', (uri, words) => {
    const failure = failureOf(() => parseStoreUri(uri));
    expect(failure.kind).toBe('invalid');
    expect(failure.message).toContain(words);
    expect(failure.message).not.toContain('secret');
  });

  it.each(['wasbs', 'gs', 'ftp', 'sftp', 'hdfs', 'abfss'])('says that %s:// is not supported', (scheme) => {
    expect(failureOf(() => parseStoreUri(`${scheme}://user:secret@host/path`))).toMatchObject({
      kind: 'unsupported',
    });
    expect(failureOf(() => parseStoreUri(`${scheme}://user:secret@host/path`)).message).not.toContain(
      'secret',
    );
  });
});

describe('places of a transfer', () => {
  const flat = { traits: { namespace: 'flat' } } as const;
  const hierarchical = { traits: { namespace: 'hierarchical' } } as const;
  const stores = new Map([
    ['artifacts', { uri: 's3://models/mlflow', ...flat }],
    ['staged', { uri: 's3://models/mlflow/incoming', ...flat }],
    ['everything', { uri: 's3://raw', ...flat }],
    ['inbox', { uri: '/data/in', ...hierarchical }],
  ]);

  it.each([
    '7/abc/artifacts/w.bin',
    'a name with: colons/x',
    'report#1.txt',
    '50%.txt',
    'a%20b',
    'a?b*c"<>|\\',
    'tab\there\u0001',
    'trailing. ',
    'x//y',
    'C:/x',
  ])('are artifact paths in the artifact store, taken as they are: %j', (path) => {
    expect(placeOf(path, stores)).toEqual({ store: 'artifacts', path });
    expect(placeOf({ path }, stores)).toEqual({ store: 'artifacts', path });
    expect(placeOf({ store: 'everything', path }, stores)).toEqual({ store: 'everything', path });
  });

  it('are URIs under the root of a store, the longest root first, and percent-encoded', () => {
    const placed = (uri: string) => Object.values(placeOf(uri, stores));
    expect(placed('s3://models/mlflow/7/w.bin')).toEqual(['artifacts', '7/w.bin']);
    expect(placed('s3://models/mlflow/incoming/w.bin')).toEqual(['staged', 'w.bin']);
    expect(placed('s3://models/mlflow/incoming-2/w.bin')).toEqual(['artifacts', 'incoming-2/w.bin']);
    expect(placed('s3://raw/x/y')).toEqual(['everything', 'x/y']);
    expect(placed('s3://raw/report%231%25.txt')).toEqual(['everything', 'report#1%.txt']);
    expect(placed('s3://raw/x//y/')).toEqual(['everything', 'x//y/']);
    expect(placed('file:///data/in/a%20b')).toEqual(['inbox', 'a b']);
    expect(placed('file:///data/in//a///b/')).toEqual(['inbox', 'a/b']);
    expect(placed('file:///data/in/caf%E9')).toEqual(['inbox', 'caf\udce9']);
    expect(placed('file:///data/in/caf%C3%A9')).toEqual(['inbox', 'café']);
    expect(placed('file:///data/in/%252e%252e/x')).toEqual(['inbox', '%2e%2e/x']);
  });

  it('are a store and a path, percent-encoded where it says so', () => {
    expect(placeOf({ store: 'inbox', path: 'caf%E9#', encoding: 'percent' }, stores)).toEqual({
      store: 'inbox',
      path: 'caf\udce9#',
    });
    expect(placeOf({ store: 'inbox', path: 'a//b/' }, stores)).toEqual({ store: 'inbox', path: 'a/b' });
    for (const given of [
      { store: 'nowhere', path: 'x' },
      { store: 'inbox', path: '/x' },
      { store: 'inbox', path: '%E', encoding: 'percent' as const },
      { store: 'everything', path: 'lone \ud800' },
      { store: 'everything', path: 'byte \udce9' },
      's3://raw/report#1.txt',
      's3://raw/what?',
      's3://raw/100%',
      'file:///data/in/a%zz',
      'lone \udce9',
    ])
      expect(failureOf(() => placeOf(given, stores)).kind, JSON.stringify(given)).toBe('invalid');
  });

  it('of trees may end in a slash, and may be a root', () => {
    expect(treeOf('s3://raw/x/', stores)).toEqual({ store: 'everything', path: 'x' });
    expect(treeOf('s3://raw/x//', stores)).toEqual({ store: 'everything', path: 'x/' });
    expect(treeOf('s3://raw', stores)).toEqual({ store: 'everything', path: '' });
    expect(treeOf('file:///data/in/', stores)).toEqual({ store: 'inbox', path: '' });
  });

  it.each([
    's3://models/other/x',
    's3://models/mlflowx/x',
    's3://Models/mlflow/x',
    's3://elsewhere/x',
    'file:///etc/passwd',
    'file:///data/input',
    'http://169.254.169.254/latest',
    'gs://bucket/x',
  ])('never lie elsewhere: %s', (given) => {
    const failure = failureOf(() => placeOf(given, stores));
    expect(failure.kind).toBe('invalid');
    expect(failure.message).toContain('artifacts, staged, everything, inbox');
    expect(failure.message).not.toMatch(/models|raw|\/data/);
  });

  it.each([
    'file:///data/in/../../etc/passwd',
    'file:///data/in/%2e%2e/%2e%2e/etc/passwd',
    's3://models/mlflow/../secret',
    's3://models/mlflow/%2e%2e/secret',
    's3://models/mlflow%2f..%2fsecret',
    'file:etc',
  ])('refuse what would climb out: %s', (given) => {
    expect(failureOf(() => placeOf(given, stores)).kind).toBe('invalid');
  });

  it('are objects, not roots', () => {
    for (const given of ['', 's3://models/mlflow', 's3://raw/', 'file:///data/in'])
      expect(failureOf(() => placeOf(given, stores)).kind).toBe('invalid');
  });

  it('are one object where they are at one place', () => {
    const at = (given: string | { store: string; path: string }) =>
      absoluteOf(placeOf(given, stores), stores);
    expect(at('incoming/x')).toBe(at({ store: 'staged', path: 'x' }));
    expect(at('s3://models/mlflow/x')).toBe(at('x'));
    expect(at('x')).not.toBe(at({ store: 'everything', path: 'x' }));
  });
});
