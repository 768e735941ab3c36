/**
 * What `/api/v1` takes and answers: one zod schema per thing, from which come validation, types and `/openapi.json`.
 * Times are RFC 3339 in UTC, sizes bytes, durations seconds.
 */
import { z } from 'zod';
import type { ExpectedDigests } from '../../lib/digests.ts';
import { FAILURE_KINDS } from '../../lib/errors.ts';
import { GC_TASKS } from '../../lib/jobs/jobs.ts';
import {
  LINKS,
  ON_EXISTS,
  ON_UNSUPPORTED,
  PRESERVED,
  TRANSFER_KINDS,
  TRANSFER_STATES,
} from '../../lib/ledger/transfer.ts';
import { FILE_OUTCOMES, FILE_STATES } from '../../lib/transfer/tree-pages.ts';

const HEX_LENGTHS = { 'sha-256': 64, 'sha-512': 128, md5: 32, crc32: 8 } as const;
type Algorithm = keyof typeof HEX_LENGTHS;
const ALGORITHMS = Object.keys(HEX_LENGTHS) as [Algorithm, ...Algorithm[]];
const DIGEST_NAMES = { 'sha-256': 'sha256', 'sha-512': 'sha512', md5: 'md5', crc32: 'crc32' } as const;

/** A path of 4 KiB in which every byte is percent-encoded, and a store's address. */
const MAX_PLACE = 16 * 1024;
const MAX_LABELS = 16;
const MAX_DEADLINE_SECONDS = 31 * 24 * 3600;
const DEADLINE = `give seconds from now (1 to ${MAX_DEADLINE_SECONDS}) or a time such as 2030-01-31T12:00:00Z`;

const ONE_PLACE = 'give an artifact path, a URI, or { "store": …, "path": … }';
const place = z
  .union(
    [
      z.string().min(1).max(MAX_PLACE),
      z.strictObject({
        store: z.string().optional().describe('Name of a configured store; default `artifacts`.'),
        path: z.string().max(MAX_PLACE),
        encoding: z
          .literal('percent')
          .optional()
          .describe(
            '`path` is percent-encoded bytes, for a name that is no Unicode; else it is taken as it is.',
          ),
      }),
    ],
    { error: ONE_PLACE },
  )
  .describe(
    'An artifact path, taken as it is (`reports/50%#1.txt`); a percent-encoded URI below the root of a configured store ' +
      '(`s3://bucket/prefix/report%231.txt`, `file:///lake/caf%E9.txt`); or a store and a path in it, as transfers are answered.',
  );

const links = z
  .enum(LINKS)
  .optional()
  .describe(
    'Of a tree: symbolic links are taken for what they lead to within the store (`follow`, the default), skipped and ' +
      'counted so (`skip`), or left out (`refuse`). A link that leads nowhere, outside or in a circle is left out.',
  );
const onUnsupported = z
  .enum(ON_UNSUPPORTED)
  .optional()
  .describe(
    'Of a tree: what it comes to where something in it could be no file at its target (a pipe, a name that no path ' +
      'can give …). `fail` (the default): all else is carried, and it ends as failed. `skip`: it may succeed all the ' +
      'same. Either way `files?state=left-out` names them.',
  );

const preserve = z
  .array(z.enum(PRESERVED))
  .max(PRESERVED.length)
  .optional()
  .describe(
    'What a copy is to keep besides what stores keep anyway: permission bits (`mode`) and when the content was changed ' +
      'last (`modified`). What its target cannot hold is named in `notKept`.',
  );

const checksumPair = z.strictObject({
  algorithm: z.enum(ALGORITHMS),
  value: z.string().describe('Hexadecimal.'),
});

/** `sha-256:<hex>` or `{ algorithm, value }`, as the digests the bytes must have. */
const checksum = z
  .union([z.string(), checksumPair], {
    error: 'give "sha-256:<hex>" or { "algorithm": "sha-256", "value": "<hex>" }',
  })
  .describe(
    'What the bytes must have: `sha-256:<hex>`, or as an object. Where they differ nothing is published, and the ' +
      'transfer fails as `invalid` without another attempt.',
  )
  .transform((given, ctx): ExpectedDigests => {
    const at = typeof given === 'string' ? given.indexOf(':') : -1;
    const algorithm =
      typeof given === 'string' ? given.slice(0, Math.max(0, at)).toLowerCase() : given.algorithm;
    const value = (typeof given === 'string' ? given.slice(at + 1) : given.value).toLowerCase();
    const length = (HEX_LENGTHS as Record<string, number>)[algorithm];
    if (length === undefined || value.length !== length || !/^[0-9a-f]*$/.test(value)) {
      const message = `it must be one of ${ALGORITHMS.map((name) => `${name}:<${HEX_LENGTHS[name]} hex digits>`).join(', ')}`;
      ctx.addIssue({ code: 'custom', message });
      return z.NEVER;
    }
    return { [DIGEST_NAMES[algorithm as Algorithm]]: value };
  });

const labelKey = z
  .string()
  .regex(
    /^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$/,
    'a label key is 1 to 63 letters, digits, dots, dashes, underscores or slashes',
  );
const labelValue = z
  .string()
  .regex(
    /^[^\p{Cc}\p{Cs}]{0,255}$/u,
    'a label value is at most 255 characters, none of them a control character',
  );
const MANY_LABELS = `at most ${MAX_LABELS} labels`;
const labels = z
  .record(labelKey, labelValue)
  .refine((all) => Object.keys(all).length <= MAX_LABELS, MANY_LABELS);

const priority = z.number().int().min(1).max(1000).default(100).describe('1 goes first, 1000 last.');
const onExists = z
  .enum(ON_EXISTS)
  .default('replace')
  .describe('What to do where something is there already; `skip-if-same` compares size and digest.');

/** Seconds from now, or a time. Resolved against the clock when the request is handled. */
const deadline = z
  .union(
    [
      z.int(DEADLINE).min(1, DEADLINE).max(MAX_DEADLINE_SECONDS, DEADLINE),
      z.iso.datetime({ offset: true, error: DEADLINE }),
    ],
    {
      error: DEADLINE,
    },
  )
  .describe('The transfer fails as `timeout` when it has not ended by then: seconds from now, or a time.');

const tree = z
  .boolean()
  .optional()
  .describe(
    'Everything at and below the place instead of one object; paths below it stay as they are. A tree is not atomic: ' +
      'each file appears whole, and `files` says what became of them.',
  );
const common = { tree, priority, labels: labels.default({}), deadline: deadline.optional() };
const listed = { links, onUnsupported };
const written = { checksum: checksum.optional(), onExists };

export const submission = z
  .discriminatedUnion('kind', [
    z.strictObject({ kind: z.literal('upload'), from: place, to: place, ...written, ...listed, ...common }),
    z.strictObject({
      kind: z.literal('copy'),
      from: place,
      to: place,
      preserve,
      ...written,
      ...listed,
      ...common,
    }),
    z.strictObject({
      kind: z.literal('download'),
      from: place,
      checksum: checksum.optional(),
      ...listed,
      ...common,
    }),
    z.strictObject({ kind: z.literal('delete'), to: place, onUnsupported, ...common }),
  ])
  .refine((asked) => asked.tree || asked.onUnsupported === undefined, {
    path: ['onUnsupported'],
    error: 'it is said of a tree, which this is not',
  })
  .refine((asked) => asked.tree || !('links' in asked) || asked.links === undefined, {
    path: ['links'],
    error: 'it is said of a tree, which this is not',
  })
  .refine((asked) => !asked.tree || !('checksum' in asked) || asked.checksum === undefined, {
    path: ['checksum'],
    error: 'a tree is many objects: it has no checksum of its own',
  })
  .meta({
    id: 'Submission',
    description:
      'What to move: one object, or with `tree` everything at and below a place. `upload` and `copy` go from one store ' +
      'to another; `download` brings the object, or a tar archive of the tree, into staging, from where `/content` ' +
      'serves it; `delete` removes exactly the object at `to`, and nothing below it, or with `tree` all of it.',
  });

/** A query parameter that is a number; text in JSON Schema's eyes as well. */
const numeric = (schema: z.ZodNumber) => z.coerce.number<string | number>().pipe(schema);

const LABEL_PAIR = 'write it as label=key=value';
const labelPairs = z
  .union([z.string(), z.array(z.string())])
  .transform((given) => [given].flat())
  .pipe(z.array(z.string().regex(/^[^=]+=/, LABEL_PAIR)).max(MAX_LABELS, MANY_LABELS))
  .transform((pairs) => Object.fromEntries(pairs.map((pair) => splitAt(pair, pair.indexOf('=')))))
  .pipe(labels);

const splitAt = (text: string, at: number): [string, string] => [text.slice(0, at), text.slice(at + 1)];

/** Options of an upload whose body is the bytes. */
export const uploadOptions = z.strictObject({
  priority: numeric(z.number().int().min(1).max(1000)).default(100).describe('1 goes first, 1000 last.'),
  'on-exists': onExists,
  label: labelPairs.default({}).describe('`key=value`, repeatable.'),
  deadline: z
    .string()
    .transform((text) => (/^\d+$/.test(text) ? Number(text) : text))
    .pipe(deadline)
    .optional()
    .describe('Seconds from now, or a time.'),
});

const time = z.iso.datetime({
  offset: true,
  error: 'give a time such as 2030-01-31T12:00:00Z (in a URL a + is written %2B)',
});
export const listQuery = z.strictObject({
  state: z.enum(TRANSFER_STATES).optional(),
  kind: z.enum(TRANSFER_KINDS).optional(),
  store: z.string().optional().describe('Name of a configured store that the transfer reads or writes.'),
  label: z
    .string()
    .regex(/^[^=]+=/, LABEL_PAIR)
    .transform((pair) => splitAt(pair, pair.indexOf('=')))
    .optional()
    .describe('`key=value`.'),
  since: time.optional().describe('Accepted at this time or later.'),
  until: time.optional().describe('Accepted before this time.'),
  limit: numeric(z.number().int().min(1).max(1000)).default(100),
  cursor: z.string().max(200).optional().describe('`nextCursor` of the page before.'),
});

export const transferId = z.strictObject({
  id: z.string().regex(/^[A-Za-z0-9-]{1,64}$/, 'a transfer id is letters, digits and dashes'),
});

export const eventsQuery = z.strictObject({
  'last-event-id': numeric(z.number().int().nonnegative())
    .optional()
    .describe('As the header `Last-Event-ID`: state events after this one come first.'),
});

export const gcRequest = z
  .strictObject({
    tasks: z
      .array(z.enum(GC_TASKS))
      .min(1)
      .default([...GC_TASKS]),
    dryRun: z.boolean().default(false).describe('Answer what would go, remove nothing.'),
  })
  .meta({ id: 'Collection' });

const failure = z
  .object({ kind: z.enum(FAILURE_KINDS as [string, ...string[]]), message: z.string() })
  .meta({ id: 'Failure' });
const pathView = {
  path: z.string(),
  encoding: z
    .literal('percent')
    .optional()
    .describe('The name is no Unicode: `path` is percent-encoded bytes.'),
};
const placeView = z.object({ store: z.string(), ...pathView }).meta({ id: 'Place' });

const fileCount = z.object({ files: z.number().int(), bytes: z.number().int() });
const entryCount = fileCount.extend({
  directories: z.number().int().describe('Empty ones, and markers of such.'),
});
const treeCounts = { done: entryCount, skipped: fileCount, failed: fileCount, leftOut: fileCount };
const filesView = z
  .object({
    planned: entryCount
      .optional()
      .describe('All that there is to do, from when it was listed; only in the answer for one transfer.'),
    ...treeCounts,
  })
  .meta({
    id: 'FileCounts',
    description: 'What became of the files of a tree; counted by pages of up to 1,000.',
  });

const attemptView = z
  .object({
    number: z.number().int(),
    worker: z.string(),
    startedAt: z.iso.datetime(),
    endedAt: z.iso.datetime().optional(),
    failure: failure.optional(),
  })
  .meta({ id: 'Attempt' });

const resultView = z
  .object({
    outcome: z.enum(['published', 'skipped', 'removed', 'ready']),
    size: z.number().int().optional(),
    etag: z.string().optional(),
    sha256: z.string().optional(),
    files: z.object(treeCounts).optional().describe('Of a tree.'),
    notKept: z
      .array(z.string())
      .optional()
      .describe(
        'What the source has beside its bytes and the copy does not: `metadata`, `tags`, `storageClass`, `cacheControl` ….',
      ),
    notKeptFiles: z
      .record(z.string(), z.number().int())
      .optional()
      .describe('Of a tree: of how many files, by name.'),
    verified: z
      .array(z.object({ check: z.string(), by: z.string() }))
      .describe('What was compared, and with whose word: `client`, `store`, `staging` or `ledger`.'),
  })
  .meta({ id: 'Result' });

export const transferView = z
  .object({
    id: z.string(),
    kind: z.enum(TRANSFER_KINDS),
    state: z.enum(TRANSFER_STATES),
    from: placeView.optional(),
    to: placeView.optional(),
    tree: z.boolean(),
    priority: z.number().int(),
    onExists: z.enum(ON_EXISTS),
    links: z.enum(LINKS).optional().describe('Of a tree.'),
    onUnsupported: z.enum(ON_UNSUPPORTED).optional().describe('Of a tree.'),
    preserve: z.array(z.enum(PRESERVED)).optional().describe('Of a copy that was asked to.'),
    labels: z.record(z.string(), z.string()),
    owner: z.string(),
    createdAt: z.iso.datetime(),
    startedAt: z.iso.datetime().optional(),
    endedAt: z.iso.datetime().optional(),
    deadline: z.iso.datetime().optional(),
    bytesDone: z
      .number()
      .int()
      .optional()
      .describe('Of the attempt that runs; only while it runs and Redis answers.'),
    bytesTotal: z.number().int().optional(),
    bytesPerSecond: z.number().optional(),
    etaSeconds: z.number().optional(),
    files: filesView
      .optional()
      .describe('Of a tree: once it has ended, and always in the answer for one transfer.'),
    failedAttempts: z.number().int(),
    attempts: z.array(attemptView).optional().describe('Only in the answer for one transfer.'),
    failure: failure.optional(),
    result: resultView.optional(),
    bytesKeptUntil: z.iso
      .datetime()
      .optional()
      .describe(
        'Until when staging keeps the bytes: of a download that is ready, or of an upload that can be retried.',
      ),
    content: z.string().optional().describe('Where the bytes of a finished download are served.'),
  })
  .meta({ id: 'Transfer' });
export type TransferView = z.output<typeof transferView>;

export const transferList = z
  .object({ transfers: z.array(transferView), nextCursor: z.string().optional() })
  .meta({ id: 'TransferList' });

export const filesQuery = z.strictObject({
  state: z
    .enum([...FILE_STATES, 'pending'])
    .optional()
    .describe('Only files that are so.'),
  limit: numeric(z.number().int().min(1).max(1000)).default(100),
  cursor: z.string().max(40).optional().describe('`nextCursor` of the page before.'),
});

export const fileList = z
  .object({
    files: z.array(
      z.object({
        ...pathView,
        path: pathView.path.describe("Below the tree's root; empty for the object at the root's own path."),
        directory: z.literal(true).optional().describe('A directory that is there on its own.'),
        size: z.number().int(),
        state: z.enum([...FILE_STATES, 'pending']),
        outcome: z.enum(FILE_OUTCOMES).optional(),
        notKept: z.array(z.string()).readonly().optional().describe('As in a result.'),
        failure: failure.optional(),
      }),
    ),
    nextCursor: z.string().optional(),
  })
  .meta({ id: 'FileList' });

const unprovenView = z
  .array(
    z.object({
      store: z.string(),
      count: z.number().int(),
      uploads: z
        .array(
          z.object({
            ...pathView,
            begun: z.iso.datetime(),
            id: z.string().describe('How the id that the store gave it begins.'),
          }),
        )
        .describe('The first hundred.'),
      remedy: z.string(),
    }),
  )
  .meta({
    id: 'UnprovenUploads',
    description:
      'Uploads in parts older than a day that no row of the ledger names: ours whose id was lost, or another tool’s. They stay.',
  });

export const gcPlan = z
  .object({
    dryRun: z.boolean(),
    tasks: z.partialRecord(
      z.enum(GC_TASKS),
      z.object({ items: z.number().int(), bytes: z.number().int(), unproven: unprovenView.optional() }),
    ),
  })
  .meta({ id: 'CollectionPlan' });

export const errorBody = z
  .object({
    error_code: z.string(),
    message: z.string(),
    kind: z.enum(FAILURE_KINDS as [string, ...string[]]),
  })
  .meta({ id: 'Error', description: 'Every answer that is not a success, on every route but `/ready`.' });
