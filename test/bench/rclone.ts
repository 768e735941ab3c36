/** `rclone copy` as the peer of asynchronous copies: as it comes, and as well as it can be tuned for the work at hand. */
import { cleanEnvironment } from '../servers/process.ts';
import type { S3Server } from '../servers/s3.ts';
import { type Cost, costOfProgram } from './processes.ts';

export const rcloneRemote = (minio: S3Server, place: string): string =>
  `:s3,provider=Minio,endpoint="${minio.url}",access_key_id=${minio.accessKey},secret_access_key=${minio.secretKey}:${place}`;

/** Bucket and target are known to be fine and empty, so that it need not look. */
const LOOKS_LESS = ['--s3-no-check-bucket', '--no-traverse'];
const BIG = ['--s3-disable-checksum', '--s3-chunk-size', '16M', '--s3-upload-concurrency'];

/** Sets of flags worth a try: one object, and many small ones. */
export const FLAGS: Readonly<Record<'big' | 'small', readonly (readonly string[])[]>> = {
  big: [
    [...LOOKS_LESS, ...BIG, '4', '--multi-thread-streams', '4'],
    [...LOOKS_LESS, ...BIG, '8', '--multi-thread-streams', '8'],
    [...LOOKS_LESS, ...BIG, '16', '--multi-thread-streams', '2'],
  ],
  small: [
    [...LOOKS_LESS, '--transfers', '16', '--checkers', '16'],
    [...LOOKS_LESS, '--s3-no-head', '--s3-disable-checksum', '--transfers', '16', '--checkers', '16'],
    [...LOOKS_LESS, '--s3-no-head', '--s3-disable-checksum', '--transfers', '32', '--checkers', '32'],
    ['--fast-list', '--s3-no-head', '--s3-disable-checksum', '--transfers', '32', '--checkers', '16'],
  ],
};

export function rcloneCopy(from: string, to: string, flags: readonly string[]): Promise<Cost> {
  const args = ['--config', '/dev/null', 'copy', from, to, ...flags];
  return costOfProgram('rclone', args, cleanEnvironment());
}
