import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import { Failure } from '../../lib/errors.ts';
import { s3SettingsFromEnv } from '../../lib/stores/drivers/s3-config.ts';

const refusalOf = (env: Record<string, string>): string => {
  try {
    s3SettingsFromEnv(env);
  } catch (error) {
    if (error instanceof Failure && error.kind === 'invalid') return error.message;
    throw error;
  }
  throw new Error('it was accepted');
};
const extra = (args: unknown) => ({ MLFLOW_S3_UPLOAD_EXTRA_ARGS: JSON.stringify(args) });

describe("S3's settings from an environment", () => {
  it('are the plain ones where nothing is set', () => {
    expect(s3SettingsFromEnv({ MLFLOW_S3_ENDPOINT_URL: '', AWS_CA_BUNDLE: '' })).toEqual({
      addressing: 'auto',
      signature: 's3v4',
      extraArgs: {},
      tls: { verify: true },
    });
  });

  it("take MLflow's endpoint before Amazon's, and the service's before the general one", () => {
    const all = {
      MLFLOW_S3_ENDPOINT_URL: 'http://a:1/',
      AWS_ENDPOINT_URL_S3: 'http://b:2',
      AWS_ENDPOINT_URL: 'http://c:3',
    };
    expect(s3SettingsFromEnv(all).endpoint).toBe('http://a:1');
    expect(s3SettingsFromEnv({ ...all, MLFLOW_S3_ENDPOINT_URL: '' }).endpoint).toBe('http://b:2');
    expect(s3SettingsFromEnv({ AWS_ENDPOINT_URL: all.AWS_ENDPOINT_URL }).endpoint).toBe('http://c:3');
  });

  it('take the default region before the region', () => {
    expect(s3SettingsFromEnv({ AWS_DEFAULT_REGION: 'eu-west-1', AWS_REGION: 'us-west-2' }).region).toBe(
      'eu-west-1',
    );
    expect(s3SettingsFromEnv({ AWS_REGION: 'us-west-2' }).region).toBe('us-west-2');
  });

  it('refuse an endpoint that carries a bucket, because the path would double', () => {
    const words = refusalOf({ MLFLOW_S3_ENDPOINT_URL: 'http://127.0.0.1:9000/bucket/prefix' });
    expect(words).toContain('twice');
    expect(words).toContain('http://127.0.0.1:9000 ');
    expect(words).toContain('s3://bucket/prefix');
  });

  it.each(['127.0.0.1:9000', 'ftp://host', 'not a url', 'http://host?x=1'])(
    'refuse %s as an endpoint',
    (url) => {
      expect(refusalOf({ MLFLOW_S3_ENDPOINT_URL: url })).toContain('MLFLOW_S3_ENDPOINT_URL');
    },
  );

  it('never repeat a password of an endpoint', () => {
    const words = refusalOf({ AWS_ENDPOINT_URL: 'http://me:hunter2@host:9000' });
    expect(words).toContain('AWS_ENDPOINT_URL');
    expect(words).not.toContain('hunter2');
  });

  it('refuse to ignore TLS with a CA bundle set', () => {
    expect(refusalOf({ MLFLOW_S3_IGNORE_TLS: 'true', AWS_CA_BUNDLE: '/ca.pem' })).toMatch(
      /both set.*unset one/,
    );
    expect(s3SettingsFromEnv({ MLFLOW_S3_IGNORE_TLS: '1' }).tls).toEqual({ verify: false });
    expect(s3SettingsFromEnv({ MLFLOW_S3_IGNORE_TLS: 'false', AWS_CA_BUNDLE: '/ca.pem' }).tls).toEqual({
      verify: true,
      caFile: '/ca.pem',
    });
    expect(refusalOf({ MLFLOW_S3_IGNORE_TLS: 'maybe' })).toContain('true, false, 1 or 0');
  });

  it('know the words for addressing and signing', () => {
    expect(s3SettingsFromEnv({ MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE: 'Virtual' }).addressing).toBe('virtual');
    expect(s3SettingsFromEnv({ MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION: 'unsigned' }).signature).toBe(
      'unsigned',
    );
    expect(refusalOf({ MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE: 'host' })).toContain('auto, path, virtual');
    expect(refusalOf({ MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION: 's3' })).toContain('s3v4, unsigned');
  });

  it('hold keys only where printing does not show them', async () => {
    const settings = s3SettingsFromEnv({
      AWS_ACCESS_KEY_ID: 'AKIAEXAMPLE',
      AWS_SECRET_ACCESS_KEY: 'very-secret',
      AWS_SESSION_TOKEN: 'session-secret',
    });
    expect(`${inspect(settings, { depth: 9, showHidden: true })}${JSON.stringify(settings)}`).not.toMatch(
      /AKIA|secret/,
    );
    expect(await settings.credentials?.()).toEqual({
      accessKeyId: 'AKIAEXAMPLE',
      secretAccessKey: 'very-secret',
      sessionToken: 'session-secret',
    });
    expect(refusalOf({ AWS_ACCESS_KEY_ID: 'AKIAEXAMPLE' })).toContain('AWS_SECRET_ACCESS_KEY');
    expect(refusalOf({ AWS_SECRET_ACCESS_KEY: 'very-secret' })).not.toContain('very-secret');
  });

  it("take boto3's upload arguments", () => {
    const args = {
      ServerSideEncryption: 'aws:kms',
      SSEKMSKeyId: 'key',
      Metadata: { team: 'vision' },
      Expires: '2030-01-31T00:00:00Z',
    };
    expect(s3SettingsFromEnv(extra(args)).extraArgs).toEqual(args);
    expect(s3SettingsFromEnv(extra({ ChecksumAlgorithm: 'CRC32' })).extraArgs).toEqual({});
  });

  it.each([
    ['not JSON', '{', 'not valid JSON'],
    ['a list', '[]', 'JSON object'],
    ['an unknown argument', '{"ServerSideEncrypton": "AES256"}', 'ServerSideEncryption, '],
    ['a number for text', '{"ACL": 7}', 'ACL must be a non-empty string'],
    ['text for a map', '{"Metadata": "team=vision"}', 'Metadata must be an object'],
    ['a number in a map', '{"Metadata": {"n": 1}}', 'Metadata must be an object'],
    ['no date', '{"Expires": "soon"}', 'Expires must be a date'],
    ['a checksum of one file', '{"ChecksumSHA256": "abc"}', 'ChecksumSHA256 cannot be set'],
  ])('refuse %s as extra arguments', (_, json, words) => {
    expect(refusalOf({ MLFLOW_S3_UPLOAD_EXTRA_ARGS: json })).toContain(words);
  });

  it("never repeat an extra argument's value", () => {
    expect(refusalOf(extra({ SSECustomerKey: ['hunter2'] }))).not.toContain('hunter2');
  });
});
