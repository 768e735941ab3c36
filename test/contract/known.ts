/**
 * Where a real server does not do what the contract asks, and why we live with it. A case named here must fail on that
 * server: when it passes one day, the suite turns red and the entry goes.
 */
export interface KnownException {
  /** The name of the case, word for word. */
  readonly test: string;
  readonly reason: string;
}

export const FILE_AND_DIR_LISTED = 'a file and files below its name are listed side by side';
export const FILE_AND_DIR_KEPT =
  'a file and a file below its name can both be there, or the second is refused as invalid';

export const KNOWN = {
  minio: [
    {
      test: FILE_AND_DIR_LISTED,
      reason:
        'MinIO keeps both objects, but a listing with a delimiter or of the tree tells of one of them only',
    },
  ],
  versitygw: [
    {
      test: FILE_AND_DIR_KEPT,
      reason:
        'versitygw keeps objects as files in folders, so it refuses the second one (ObjectParentIsFile)',
    },
    { test: FILE_AND_DIR_LISTED, reason: 'the second one cannot be written: see the case above' },
  ],
} as const satisfies Record<string, readonly KnownException[]>;
