/**
 * The one typed job map. Add a job here and the compiler lists every other place to touch. A note is small, has no
 * secret in it and is parsed at both ends; fields are only ever added, with defaults (`test/payloads` keeps that true).
 */
import { z } from 'zod';

export const QUEUES = ['upload', 'download', 'multipart-part', 'gc'] as const;
export type QueueName = (typeof QUEUES)[number];

/** All a worker needs to find the row; the ledger has the rest. */
const transferNote = z.object({
  transfer: z.string().min(1).max(64),
  epoch: z.number().int().positive(),
  /** In which the job takes turns; the queue writes it. */
  line: z.string().optional(),
});
/** What decides on the turn of a job that comes back, or has children; of any note but gc's. */
export const turnNote = z.object({
  line: z.string().default(''),
  epoch: z.number().int().positive().default(1),
});

const carryingNote = transferNote.extend({
  /** Parts, or pages, that it waited for when it last ran; 0: none. */
  waitedFor: z.number().int().nonnegative().default(0),
  /** 1: of a tree that had to wait for older transfers at its target when it last ran. */
  behind: z.number().int().min(0).max(1).default(0),
});

const partNote = transferNote.extend({
  /** Of the parted upload in the ledger. */
  upload: z.string().min(1).max(64),
  /** From 1. */
  number: z.number().int().positive(),
  /** Tries that were spent. */
  failed: z.number().int().nonnegative().default(0),
  /** Deaths of its workers after which it was put off, to be kept apart from what it ran with. */
  apart: z.number().int().nonnegative().default(0),
});

const pageNote = carryingNote.extend({
  /** Of the tree's plan. */
  page: z.number().int().nonnegative(),
});

export const GC_TASKS = ['staging', 'uploads', 'downloads', 'history'] as const;
export type GcTask = (typeof GC_TASKS)[number];
const gcNote = z.object({
  tasks: z.array(z.enum(GC_TASKS)).default([...GC_TASKS]),
  dryRun: z.boolean().default(false),
});

export const JOBS = {
  /** Staged bytes, or an object of another store, to a store. */
  upload: { queue: 'upload', note: carryingNote },
  copy: { queue: 'upload', note: carryingNote },
  delete: { queue: 'upload', note: carryingNote },
  /** An object of a store into staging, ready to be fetched. */
  download: { queue: 'download', note: carryingNote },
  /** A part of something large, for any of these. */
  part: { queue: 'multipart-part', note: partNote },
  /** Up to a thousand files of a tree. */
  page: { queue: 'upload', note: pageNote },
  gc: { queue: 'gc', note: gcNote },
} as const satisfies Record<string, { queue: QueueName; note: z.ZodType }>;

export type JobName = keyof typeof JOBS;
export type Note<N extends JobName> = z.output<(typeof JOBS)[N]['note']>;
/** As it is written: what has a default may be left out. */
export type NoteGiven<N extends JobName> = z.input<(typeof JOBS)[N]['note']>;

/** Job ids: letters, digits and dashes, never all digits (BullMQ's rules). */
export const transferJobId = (transfer: string, epoch: number): string => `${transfer}-${epoch}`;
export const pageJobId = (note: Pick<Note<'page'>, 'transfer' | 'epoch' | 'page'>): string =>
  `${note.transfer}-${note.epoch}-page${note.page}`;
export const partJobId = ({ transfer, epoch, upload, number }: NoteGiven<'part'>): string =>
  `${transfer}-${epoch}-${upload}-p${number}`;
