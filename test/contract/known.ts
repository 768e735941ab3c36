/**
 * Where a real server does not do what the contract asks, and why we live with it. A case named here must fail on that
 * server: when it passes one day, the suite turns red and the entry goes. One that fails only `sometimes` cannot be held to that.
 */
export interface KnownException {
  /** The name of the case, word for word. */
  readonly test: string;
  readonly reason: string;
  /** It passes there most of the time: it is skipped instead. */
  readonly sometimes?: true;
}

export const FILE_AND_DIR_LISTED = 'a file and files below its name are listed side by side';
export const FILE_AND_DIR_KEPT =
  'a file and a file below its name can both be there, or the second is refused as invalid';

export const WRITERS_AND_REMOVERS = 'writers and removers in one tree do not disturb each other';

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
    {
      test: WRITERS_AND_REMOVERS,
      reason:
        'versitygw removes the folder that became empty while another request writes into it, and now and then that request fails',
      sometimes: true,
    },
  ],
} as const satisfies Record<string, readonly KnownException[]>;
