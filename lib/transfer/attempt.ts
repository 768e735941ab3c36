/** What an attempt is given by whoever carries it out, and how it may end. */
import type { PartJobs } from './parts.ts';

export interface Attempt {
  readonly signal: AbortSignal;
  /** How long the bytes of a download stay unless they are read; ms. */
  readonly leaseMs: number;
  readonly parts: PartJobs;
  /** Bytes of this attempt so far; `total` where it is known. Called for every chunk. */
  onProgress(done: number, total: number | undefined): void;
  /** Something moves that is none of the bytes to carry. */
  onMove(): void;
  /** From here on nothing moves that could be seen: the store joins and syncs. */
  onRest(): void;
  /** Now it is going to be seen. @throws Failure `interrupted`: another worker may have the job by now */
  onPublish(): void;
}

/**
 * `handed-out`: its parts are jobs of their own now, and another attempt goes on when they have ended. `stale`: somebody
 * else ended it, or it has a newer epoch; nothing is left to do.
 */
export type AttemptEnd = 'succeeded' | 'superseded' | 'stale' | 'handed-out';
