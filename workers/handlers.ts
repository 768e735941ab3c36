import type { Deps } from '../lib/deps.ts';
import type { JobAt } from '../lib/jobs/children.ts';
import type { JobName, Note } from '../lib/jobs/jobs.ts';
import type { Ending } from './endings.ts';
import { collectGarbage } from './gc.ts';
import { carryPart } from './multipart-part.ts';
import { carryOut } from './transfer.ts';
import { carryPage } from './tree.ts';
import type { Running } from './watch.ts';

export interface WorkerDeps extends Deps {
  /** Of this process, as the ledger's attempts name it. */
  readonly worker: string;
}

/** The job that a handler runs in. */
export interface JobRun {
  readonly running: Running;
  /** A transfer that so many workers died with is ended for it. */
  readonly mostDeaths: number;
  /** Somebody had it before. */
  readonly again: boolean;
  /** So many workers were lost while they had it. */
  readonly deaths: number;
  /** The job that waits for it. */
  readonly parent: JobAt | undefined;
  /** When it was put into the queue, or came back to it; unix time in ms. */
  readonly waitingSinceMs: number;
}

/** A handler tells the ledger how the work ended and answers what becomes of the job. */
export type Handler<N extends JobName> = (deps: WorkerDeps, note: Note<N>, run: JobRun) => Promise<Ending>;

export const HANDLERS: { readonly [N in JobName]: Handler<N> } = {
  upload: carryOut,
  copy: carryOut,
  delete: carryOut,
  download: carryOut,
  page: carryPage,
  part: carryPart,
  gc: collectGarbage,
};
