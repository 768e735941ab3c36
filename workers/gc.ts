import { stopReason } from '../lib/deadline.ts';
import { failureOf } from '../lib/errors.ts';
import type { Note } from '../lib/jobs/jobs.ts';
import { writtenPath } from '../lib/path.ts';
import { COLLECT } from '../lib/transfer/gc.ts';
import { UNPROVEN_REMEDY, type UnprovenUploads } from '../lib/transfer/gc-unproven.ts';
import { DONE, type Ending, HANDED_BACK } from './endings.ts';
import type { JobRun, WorkerDeps } from './handlers.ts';

/** As many as a line can name. */
const NAMED = 10;

/** Runs the tasks one after the other. What fails is left to the next run: nobody waits for a collection. */
export async function collectGarbage(
  deps: WorkerDeps,
  note: Note<'gc'>,
  { running }: JobRun,
): Promise<Ending> {
  const { log, metrics, config } = deps;
  const { signal } = running.deadline;
  for (const task of note.tasks) {
    const startedMs = Date.now();
    const line = { job: running.jobId, name: 'gc', task, dryRun: note.dryRun };
    try {
      const opts = { signal, dryRun: note.dryRun, nowMs: startedMs, historyMs: config.historyMs };
      const { items, bytes, failed, unproven } = await COLLECT[task](deps, opts);
      if (unproven) tellUnproven(deps, unproven, line);
      if (!note.dryRun && items > 0) metrics.gcItems.inc({ task }, items);
      const level = items + failed > 0 ? 'info' : 'debug'; // an hourly nothing is no news
      log[level]({ ...line, items, bytes, failed, ms: Date.now() - startedMs }, 'collected');
    } catch (error) {
      if (signal.aborted && stopReason(signal).kind === 'interrupted') return HANDED_BACK;
      log.error({ ...line, err: failureOf(error).message, ms: Date.now() - startedMs }, 'could not collect');
    }
  }
  return DONE;
}

/** In the log and in a metric. */
export function tellUnproven(
  { log, metrics }: Pick<WorkerDeps, 'log' | 'metrics'>,
  found: ReadonlyMap<string, UnprovenUploads>,
  line: object,
): void {
  for (const [store, { count, uploads }] of found) {
    metrics.unprovenUploads.set({ store }, count);
    if (count === 0) continue;
    const named = uploads.slice(0, NAMED).map(({ path, begunMs, id }) => ({
      ...writtenPath(path),
      begun: new Date(begunMs).toISOString(),
      id,
    }));
    log.warn({ ...line, store, unproven: count, uploads: named }, UNPROVEN_REMEDY);
  }
}
