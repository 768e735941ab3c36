/** What a job and a byte cost a worker, judged by what was carried. */

export interface Carried {
  readonly jobs: number;
  /** Those that are known. */
  readonly bytes: number;
  /** In all workers together: time without work does not count. */
  readonly busyMs: number;
}
/** `measured` lately, `earlier`, or `assumed`: nothing like it was carried since this process started. */
export type Basis = 'measured' | 'earlier' | 'assumed';
/** Of one place at which a worker carries one job at a time. */
export interface Cost {
  readonly msPerJob: number;
  readonly msPerByte: number;
  readonly basis: Basis;
}

/** Before anything is known: a job a second, and 8 MiB a second. */
export const NOTHING: Cost = { msPerJob: 1000, msPerByte: 1000 / (8 * 1024 * 1024), basis: 'assumed' };
/** Jobs of fewer bytes say what a job costs, those of more what a byte does. */
const LARGE_BYTES = 4 * 1024 * 1024;

/** Both are upper bounds; the one that the jobs say nothing of is not believed when it is worse than what is assumed. */
export function costOf({ jobs, bytes, busyMs }: Carried): Cost | undefined {
  if (jobs === 0) return undefined;
  const ms = Math.max(busyMs, jobs); // less than a millisecond each was not measured
  const perJob = ms / jobs;
  const perByte = bytes === 0 ? NOTHING.msPerByte : ms / bytes;
  const large = bytes / jobs >= LARGE_BYTES;
  return {
    msPerJob: large ? Math.min(perJob, NOTHING.msPerJob) : perJob,
    msPerByte: large ? perByte : Math.min(perByte, NOTHING.msPerByte),
    basis: 'measured',
  };
}

/** Many small ones are bound by their number, few large ones by their bytes: the larger of both. */
export const workMs = (work: { readonly jobs: number; readonly bytes: number }, cost: Cost): number =>
  Math.max(work.jobs * cost.msPerJob, work.bytes * cost.msPerByte);
