/**
 * The one typed job map. Add a job here and the compiler lists every other place to touch. A note is small, has no
 * secret in it and is parsed at both ends; fields are only ever added, with defaults (`test/payloads` keeps that true).
 */
import { z } from 'zod';

export const QUEUES = ['upload', 'download', 'multipart-part', 'gc'] as const;
export type QueueName = (typeof QUEUES)[number];

/** All a worker needs to find the row; the ledger has the rest. */
const transferNote = z.object({ transfer: z.string().min(1).max(64), epoch: z.number().int().positive() });

export const GC_TASKS = ['staging', 'uploads', 'downloads', 'history'] as const;
export type GcTask = (typeof GC_TASKS)[number];
const gcNote = z.object({
  tasks: z.array(z.enum(GC_TASKS)).default([...GC_TASKS]),
  dryRun: z.boolean().default(false),
});

export const JOBS = {
  /** Staged bytes, or an object of another store, to a store. */
  upload: { queue: 'upload', note: transferNote },
  copy: { queue: 'upload', note: transferNote },
  delete: { queue: 'upload', note: transferNote },
  /** An object of a store into staging, ready to be fetched. */
  download: { queue: 'download', note: transferNote },
  gc: { queue: 'gc', note: gcNote },
} as const satisfies Record<string, { queue: QueueName; note: z.ZodType }>;

export type JobName = keyof typeof JOBS;
export type Note<N extends JobName> = z.output<(typeof JOBS)[N]['note']>;

/** Job ids: letters, digits and dashes, never all digits (BullMQ's rules). */
export const transferJobId = (transfer: string, epoch: number): string => `${transfer}-${epoch}`;
