/**
 * Whether a server's copies carry what their source has, all of it: MinIO drops `Expires` without a word. Asked once, on
 * two hidden objects, before the first copy that nobody looks at.
 */
import { randomUUID } from 'node:crypto';
import { ROOT, type StorePath } from '../../path.ts';
import { type Attributes, lacking } from '../attributes.ts';
import type { Body, Call, Driver, FileEntry, WholeSource, WriteCall } from '../driver.ts';
import type { S3Connection } from './s3-client.ts';
import { S3Error } from './s3-errors.ts';

const SAMPLE = {
  contentEncoding: 'gzip',
  cacheControl: 'no-store',
  contentDisposition: 'attachment',
  contentLanguage: 'nb',
  expires: 'Wed, 21 Oct 2065 07:28:00 GMT',
  metadata: { sample: '1' },
  tags: { sample: '1' },
} as const satisfies Attributes;
const MEDIA_TYPE = 'application/x-sample';
const NOTHING: Body = { size: 0, crc32: 0, open: () => [] };
const CLEAN_UP_MS = 30_000;

export interface Copying extends Pick<Driver, 'head' | 'write' | 'remove'> {
  source(path: StorePath): string;
  copy(from: WholeSource, path: StorePath, call: WriteCall): Promise<FileEntry>;
}

/** A server that refuses any of it is no server to rely on. @throws what may pass */
export async function provesCarrying(s3: S3Connection, driver: Copying, call: Call): Promise<boolean> {
  const [from, to] = [0, 1].map(() => s3.hidden.nameIn(ROOT, `canary-${randomUUID()}`) as StorePath) as [
    StorePath,
    StorePath,
  ];
  const made = { ...call, mode: 'replace', token: 'canary' } as const;
  try {
    const sample = { ...made, attributes: SAMPLE, mediaType: MEDIA_TYPE };
    const { etag, notKept = [] } = await driver.write(from, NOTHING, sample);
    const kept = await driver.copy({ source: driver.source(from), etag, size: 0, carries: true }, to, made);
    const there = await driver.head(to, call);
    const tags = there.tagCount === 1 ? SAMPLE.tags : {};
    const lost = lacking({ ...SAMPLE, mediaType: MEDIA_TYPE }, { ...there.attributes, tags });
    return !kept.notKept?.length && lost.every((name) => notKept.includes(name));
  } catch (error) {
    if (error instanceof S3Error && [400, 403, 501].includes(error.status ?? 0)) return false;
    throw error;
  } finally {
    // where this fails two empty hidden objects stay behind, which gc removes if anybody may
    await driver.remove([from, to], { signal: AbortSignal.timeout(CLEAN_UP_MS) }).catch(() => undefined);
  }
}
