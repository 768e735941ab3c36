/** What S3 must allow: for each command, so that a refusal can say what is missing, and for each thing that Longshore does. */

const READ =
  'it is missing, or there is no right to know: reading an object needs s3:GetObject on it, and being told that there ' +
  'is none needs s3:ListBucket on the bucket';
const WRITE =
  's3:PutObject on the object (and s3:PutObjectTagging, s3:PutObjectAcl or s3:PutObjectRetention where ' +
  'MLFLOW_S3_UPLOAD_EXTRA_ARGS asks for such)';
const COPY = 's3:GetObject on the source and s3:PutObject on the target';

/** The SDK's name of a command → what a refusal of it says. */
const COMMANDS: Readonly<Record<string, string>> = {
  HeadObject: READ,
  GetObject: READ,
  GetObjectTagging: 'reading the tags of an object needs s3:GetObjectTagging on it',
  ListObjectsV2: 'listing needs s3:ListBucket on the bucket',
  PutObject: `writing needs ${WRITE}`,
  CreateMultipartUpload: `an upload in parts needs ${WRITE}`,
  UploadPart: 'an upload in parts needs s3:PutObject on the object',
  CompleteMultipartUpload: 'an upload in parts needs s3:PutObject on the object',
  UploadPartCopy: `a copy on the server's side needs ${COPY}`,
  CopyObject: `a copy on the server's side needs ${COPY}`,
  ListParts: 'seeing which parts are there needs s3:ListMultipartUploadParts on the object',
  AbortMultipartUpload: 'giving up an upload in parts needs s3:AbortMultipartUpload on the object',
  ListMultipartUploads: 'looking for uploads in parts needs s3:ListBucketMultipartUploads on the bucket',
  DeleteObject: 'removing needs s3:DeleteObject on the object',
  DeleteObjects: 'removing needs s3:DeleteObject on the object',
};

/** What was refused for want of a right, in words; `undefined` for a command without an entry. */
export const neededFor = (command: string): string | undefined =>
  Object.hasOwn(COMMANDS, command) ? COMMANDS[command] : undefined;

export interface S3Operation {
  readonly does: string;
  /** All that it needs, and nothing more. */
  readonly rights: readonly string[];
  /** What becomes of it where one of them is missing, or what one more adds. */
  readonly note: string;
}

/** A row for each thing that Longshore does at S3; `docs/stores.md` is made from it. */
export const S3_OPERATIONS = {
  get: {
    does: 'GET or HEAD of an artifact; source of a transfer',
    rights: ['s3:GetObject'],
    note: 'one that is missing answers 403, not 404, without s3:ListBucket',
  },
  list: { does: 'list; source of a tree', rights: ['s3:ListBucket'], note: '403 without it' },
  put: { does: 'PUT', rights: ['s3:PutObject'], note: '403 without it' },
  transfer: {
    does: 'a transfer to here',
    rights: ['s3:PutObject'],
    note: 's3:GetObject too where a worker died while it published: what is there is looked at first',
  },
  transferFail: {
    does: 'a transfer to here with `onExists` other than `replace`',
    rights: ['s3:GetObject', 's3:PutObject', 's3:DeleteObject'],
    note: 's3:ListBucket too where the server (Amazon) answers 403 for what is missing without it; s3:DeleteObject is for the canary, as with `If-None-Match`',
  },
  create: {
    does: 'PUT with `If-None-Match: *`',
    rights: ['s3:PutObject', 's3:DeleteObject'],
    note: 's3:DeleteObject removes the canary that tries, once a process, whether the server obeys conditions; without it nothing is written',
  },
  replace: {
    does: 'PUT with `If-Match` or a date',
    rights: ['s3:GetObject', 's3:PutObject', 's3:DeleteObject'],
    note: 'what is there is looked at first',
  },
  removeFile: {
    does: 'DELETE of one artifact by MLflow’s route',
    rights: ['s3:GetObject', 's3:DeleteObject'],
    note: 'without s3:ListBucket what may lie below it is not seen and stays (the log warns of it), and one that is missing answers 403. s3:ListBucket instead of s3:GetObject does as well',
  },
  removeTree: {
    does: 'DELETE of a directory by MLflow’s route; a `delete` of a tree',
    rights: ['s3:ListBucket', 's3:DeleteObject'],
    note: '403 without one of them, with nothing removed',
  },
  removeObject: {
    does: 'a `delete` of one object',
    rights: ['s3:DeleteObject'],
    note: 'nothing is looked at before',
  },
  upload: {
    does: 'an upload in parts (above the size of one part)',
    rights: ['s3:PutObject', 's3:ListMultipartUploadParts', 's3:AbortMultipartUpload'],
    note: 'the last two go on with, or give up, what another process began',
  },
  copy: {
    does: 'a copy on the server’s side',
    rights: ['s3:GetObject', 's3:PutObject'],
    note: 's3:GetObject on the source’s bucket as well as on the target. Tags are carried with s3:GetObjectTagging on the source and s3:PutObjectTagging on the target; without them the copy is made, and its result names them as not kept',
  },
  pending: {
    does: 'gc: count uploads in parts that nobody finished',
    rights: ['s3:ListBucketMultipartUploads'],
    note: 'without it they are not counted',
  },
  leftovers: {
    does: 'gc: remove canaries that a crash left behind',
    rights: ['s3:ListBucket', 's3:DeleteObject'],
    note: 'without it they stay',
  },
  doctor: {
    does: '`longshore doctor`',
    rights: ['s3:PutObject', 's3:GetObject', 's3:ListBucket', 's3:DeleteObject'],
    note: 'it names the first step that is refused',
  },
} as const satisfies Record<string, S3Operation>;
