/** What a transfer's job has to do with the jobs of its parts: it makes them, waits for them, and cleans up after them. */
import { Failure, type FailureFacts } from '../lib/errors.ts';
import { type Note, partJobId } from '../lib/jobs/jobs.ts';
import { forgetParts, reportParts, takeGivenUp } from '../lib/jobs/parts.ts';
import { hasEnded, type Transfer } from '../lib/ledger/transfer.ts';
import type { AttemptEnd } from '../lib/transfer/attempt.ts';
import { type PartJobs, type Parts, releaseParts } from '../lib/transfer/parts.ts';
import { type Decision, DONE, type Ending } from './endings.ts';
import type { JobRun, WorkerDeps } from './handlers.ts';

type CarryingNote = Pick<Note<'upload'>, 'transfer' | 'epoch' | 'waitedFor'>;
type As = AttemptEnd | Decision['as'];

export class PartsHandedOut {
  readonly #deps: WorkerDeps;
  readonly #note: CarryingNote;
  readonly #run: JobRun;
  /** Parts of this run, or pages, that are jobs now. */
  #missing = 0;
  #inParts = false;
  #behind = false;

  constructor(deps: WorkerDeps, note: CarryingNote, run: JobRun) {
    this.#deps = deps;
    this.#note = note;
    this.#run = run;
  }

  jobsOf(row: Transfer): PartJobs {
    const { config, queue } = this.#deps;
    return {
      thresholdBytes: config.partThresholdBytes,
      gaveUp: (upload) => {
        this.#inParts = true;
        return takeGivenUp(queue, upload);
      },
      handOut: (parts) => this.#handOut(row, parts),
    };
  }

  async #handOut(row: Transfer, { upload, receipts, missing }: Parts): Promise<void> {
    const { queue } = this.#deps;
    const { store, path } = upload.place;
    const ended = `the jobs of ${missing.length} parts have ended, and the store has none of these (part ${missing[0]} is the first)`;
    this.expect(missing.length, ended, { op: 'put', store, path });
    const { id: transfer, epoch, priority } = row;
    const jobs = missing.map((number) => {
      const note = { transfer, epoch, upload: upload.id, number };
      return { name: 'part' as const, note, jobId: partJobId(note), priority };
    });
    const { running } = this.#run;
    await queue.addChildren(running, jobs, running.deadline.signal);
    // a tree's progress is that of its pages
    if (upload.owner !== transfer) return;
    const whole = { transfer, epoch, total: upload.size };
    await reportParts(
      queue,
      whole,
      receipts.map(({ number, size }) => [number, size]),
    );
  }

  /**
   * So many parts, or pages, are waited for from now on.
   * @param ended what to say where there were as many before, so that jobs which end without any effect are not made for ever
   * @throws Failure `unavailable` then
   */
  expect(missing: number, ended: string, facts: FailureFacts = {}): void {
    const { waitedFor } = this.#note;
    if (waitedFor > 0 && missing >= waitedFor) throw new Failure('unavailable', ended, facts);
    this.#missing = missing;
  }

  /** The ledger hears of it first: from then on nobody takes this worker for dead. */
  async waitFor(row: Transfer): Promise<Ending> {
    await this.#deps.ledger.transfers.handedOut(row.id, row.epoch, row.starts);
    return this.waiting;
  }

  get waiting(): Ending {
    return { job: 'waiting-children', note: { waitedFor: this.#missing } };
  }

  /** Of a tree: it was told to wait for older transfers. */
  noteBehind(): void {
    this.#behind = true;
  }

  /** After an attempt that failed its parts may be the same that were missing before. */
  anew(ending: Ending): Ending {
    if (ending.job !== 'delayed') return ending;
    if (this.#behind) return { ...ending, note: { waitedFor: 0, behind: 1 } };
    return this.#note.waitedFor > 0 ? { ...ending, note: { waitedFor: 0 } } : ending;
  }

  /** What parts have done stays done, also where an attempt of the whole has failed. */
  keepProgress(as: As): boolean {
    return this.#inParts && (as === 'retry' || as === 'later' || as === 'interrupted');
  }

  /** A transfer that was begun and ended in one go has nothing to clean up after. */
  mayBeLeft({ starts }: Transfer, as: As): boolean {
    if (as === 'succeeded' || as === 'superseded') return starts > 1 || this.#inParts;
    return as === 'failed' || as === 'cancelled' || as === 'stale';
  }

  /**
   * Of a transfer that has ended: its parts go, and first the jobs of those that nobody has begun. Answers what becomes of
   * its job: where workers have parts it waits for them, and then cleans up. Never throws: what is left is gc's.
   */
  async releaseIfEnded(): Promise<Ending> {
    const { transfer, epoch } = this.#note;
    const { ledger, queue, log } = this.#deps;
    try {
      const found = (await ledger.transfers.statesOf([transfer])).get(transfer);
      const ended = !found || hasEnded(found.state);
      const needless = ended || found.epoch !== epoch;
      if (needless && (await queue.dropChildren(this.#run.running))) return { job: 'waiting-children' };
      // with another epoch somebody else goes on with its parts
      if (!ended) return DONE;
      await ledger.trees.releaseEnded(transfer);
      const uploads = await releaseParts(this.#deps, transfer);
      const ids = uploads.map(({ id }) => id);
      await forgetParts(queue, transfer, ids);
    } catch (error) {
      log.warn({ transfer, err: error }, 'could not clean up after parts; gc will');
    }
    return DONE;
  }
}

/** Of a part or page that nobody needs any more: nor does anybody need those that wait beside it. Never throws. */
export async function needless({ queue, log }: WorkerDeps, { parent }: JobRun): Promise<Ending> {
  try {
    if (parent) await queue.dropChildren(parent);
  } catch (error) {
    log.debug({ job: parent?.jobId, err: error }, 'could not take needless jobs out of their queue');
  }
  return DONE;
}
