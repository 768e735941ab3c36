/**
 * One page of a tree: its files, a few at a time, each with its turn on its target. What became of each is written down
 * when the page ends, and also when it is put back, so that what is done is not done again.
 */
import { pause, throwIfAborted } from '../deadline.ts';
import { Failure, failureOf } from '../errors.ts';
import { noCounts, type Place, type Transfer, type TreeCounts, type TreePage } from '../ledger/transfer.ts';
import type { StorePath } from '../path.ts';
import { nameOf, storeAt } from './deps.ts';
import type { PartJobs } from './parts.ts';
import { notKeptIn } from './tree-endings.ts';
import { placeBelow } from './tree-entries.ts';
import { BatchFacts } from './tree-facts.ts';
import { type Carried, carryFile, type FileRun, targetOf } from './tree-file.ts';
import {
  COUNTED,
  countOf,
  type EndedFile,
  type FileEnd,
  keyOf,
  type PageResult,
  type PlannedFile,
  readPlanPage,
  readResult,
  writeResult,
} from './tree-pages.ts';
import { placeOf, type TreeDeps } from './tree-plan.ts';
import { lookedAgain } from './tree-relook.ts';
import { fileSlotsOf } from './tree-slots.ts';

/** Files on their way at once are a lane's files times the lanes; a turn lasts as long as a batch. */
const LANES = 2;
const AT_ONCE = 8;
const BATCH = 48;
/** A delete's batch is one request. */
const REMOVE_BATCH = 500;
/** So many failures in a row that speak of the store, and the rest of the page is not tried now. */
const TROUBLE_IN_ROW = 8;
/** Of files whose targets somebody else publishes at. */
const TURN_MS = 5000;
const LOOK_AGAIN_MS = 200;
const COME_BACK_MS = 1000;
const SAVE_MS = 5000;

export interface PageAttempt {
  readonly signal: AbortSignal;
  /** It was begun before, in this epoch or an older one. */
  readonly again: boolean;
  /** Rounds that a page may spend on a store that is in trouble. */
  readonly rounds: number;
  /** For a page of one large file. */
  readonly parts: PartJobs;
  /** Why none of its files shall be tried. */
  readonly givenUp?: Failure | undefined;
  /** Something moved; bytes of files that have ended. */
  onProgress(doneBytes: number): void;
  /** From here on nothing moves that could be seen: a store joins parts, or copies by itself. */
  onRest(): void;
  onPublish(): void;
  /** `false`: another worker may have the job by now, and with it the turns and the page's result. */
  isMine(): boolean;
}

export type PageEnd =
  | { readonly as: 'ended'; readonly counts: TreeCounts }
  /** The transfer, or the page, has ended or is with somebody else. */
  | { readonly as: 'stale' }
  /** Its one file goes in parts, which have jobs now. */
  | { readonly as: 'handed-out' }
  /** Some files are left for another round. `spent`: rounds so far; undefined: nobody's fault. */
  | { readonly as: 'again'; readonly failure: Failure; readonly spent: number | undefined };

/** @throws Failure why it was stopped, or could not begin; what was done by then is written down where that was possible */
export async function carryPage(
  deps: TreeDeps,
  row: Transfer,
  page: number,
  attempt: PageAttempt,
): Promise<PageEnd> {
  const planned = await deps.ledger.trees.page(row.id, page);
  if (!planned || planned.ended) return { as: 'stale' };
  const { id } = row;
  let run: PageRun;
  try {
    const files = await readPlanPage(deps.staging, id, page, attempt.signal);
    const before = attempt.again ? await readResult(deps.staging, id, page, attempt.signal) : undefined;
    const isRetried = before !== undefined && before.epoch !== row.epoch;
    const now = isRetried ? await lookedAgain(deps, row, page, files, attempt.signal) : files;
    run = new PageRun(deps, row, page, attempt, now, before);
  } catch (error) {
    if (failureOf(error).rule.retry !== 'never' || attempt.signal.aborted) throw error;
    return endLost(deps, row, planned, failureOf(error));
  }
  const beganMs = Date.now();
  try {
    const end = await run.carry();
    if (end.as !== 'ended') return end;
    const { firstFailure: failure, planned: plannedNow, notKept } = run;
    const counted = { ...end.counts, failure, busyMs: Date.now() - beganMs, planned: plannedNow, notKept };
    return (await deps.ledger.trees.endPage(row.id, row.epoch, page, counted)) ? end : { as: 'stale' };
  } catch (error) {
    if (error instanceof Stale) return { as: 'stale' };
    const stopped = failureOf(error);
    if (stopped.kind === 'timeout') run.noteTimeout();
    if (stopped.kind !== 'cancelled' && attempt.isMine()) await run.save().catch(() => undefined);
    throw stopped;
  }
}

/** Nobody can say any more which files these are. */
async function endLost(
  { ledger }: TreeDeps,
  { id, epoch }: Transfer,
  { page, files, bytes }: TreePage,
  { kind, message }: Failure,
): Promise<PageEnd> {
  const counts = { ...noCounts(), failed: { files, bytes } };
  const ended = await ledger.trees.endPage(id, epoch, page, {
    ...counts,
    failure: { kind, message },
    busyMs: 0,
  });
  return ended ? { as: 'ended', counts } : { as: 'stale' };
}

class Stale extends Error {}

class PageRun {
  readonly #deps: TreeDeps;
  readonly #row: Transfer;
  readonly #page: number;
  readonly #attempt: PageAttempt;
  readonly #files: readonly PlannedFile[];
  readonly #ends: (EndedFile | undefined)[];
  readonly #targets: readonly (Place | Failure)[];
  readonly #fileRun: Omit<FileRun, 'facts'>;
  #spent: number;
  /** Of those to do, the next one. */
  #todo: number[] = [];
  #waiting: number[] = [];
  readonly #troubled = new Map<number, Failure>();
  #troubleInRow = 0;
  /** The store as a whole is in trouble. */
  #trouble: Failure | undefined;
  #handedOut = false;
  /** A file has ended in this round. */
  #gotOn = false;
  #doneBytes: number;

  constructor(
    deps: TreeDeps,
    row: Transfer,
    page: number,
    attempt: PageAttempt,
    files: readonly PlannedFile[],
    before: PageResult | undefined,
  ) {
    this.#deps = deps;
    this.#row = row;
    this.#page = page;
    this.#attempt = attempt;
    this.#files = files;
    const sameEpoch = before?.epoch === row.epoch;
    this.#spent = sameEpoch ? before.spent : 0;
    const known = new Map(before?.files.map((file) => [keyOf(file), file]));
    this.#ends = files.map((file) => {
      if (file.end) return ended(file, file.end);
      const end = known.get(keyOf(file));
      return end?.state === 'failed' && !sameEpoch ? undefined : end;
    });
    this.#doneBytes = this.#ends.reduce((sum, end) => sum + (end?.size ?? 0), 0);
    this.#targets = files.map((file) => targetOf(deps, row, file));
    this.#fileRun = {
      deps,
      row,
      again: attempt.again,
      signal: attempt.signal,
      onBytes: () => attempt.onProgress(this.#doneBytes),
      onRest: () => attempt.onRest(),
      onPublish: () => attempt.onPublish(),
      ...(files.length === 1 && { parts: { jobs: attempt.parts, owner: `${row.id}.${page}` } }),
    };
  }

  get firstFailure() {
    const first = (state: FileEnd['state']) => this.#ends.find((end) => end?.state === state)?.failure;
    return first('failed') ?? first('left-out');
  }

  get notKept() {
    return notKeptIn(this.#ends);
  }

  /** What it is of, by now. */
  get planned() {
    return countOf(this.#files);
  }

  async carry(): Promise<PageEnd> {
    this.#todo = this.#files
      .keys()
      .filter((at) => this.#ends[at] === undefined)
      .toArray();
    this.#trouble = this.#attempt.givenUp ?? this.#stuck();
    await this.#lanes();
    const untilMs = Date.now() + TURN_MS;
    while (this.#waiting.length > 0 && !this.#trouble && Date.now() < untilMs) {
      await pause(LOOK_AGAIN_MS * (1 + Math.random()), this.#attempt.signal);
      this.#todo = this.#waiting.splice(0);
      await this.#lanes();
    }
    throwIfAborted(this.#attempt.signal);
    if (this.#handedOut) return { as: 'handed-out' };
    const left = await this.#leftOver();
    if (left) return left;
    await this.save();
    // of a worker that died some may be claimed still
    if (this.#attempt.again) await this.#release(this.#files.keys().toArray());
    return { as: 'ended', counts: this.#counts() };
  }

  /** A round in which no file got to its end is spent: else one that never does would hold the tree for ever. */
  noteTimeout(): void {
    if (!this.#gotOn) this.#spent++;
  }

  #stuck(): Failure | undefined {
    if (this.#spent < this.#attempt.rounds) return undefined;
    return new Failure('timeout', `it was not through when its time was over, ${this.#spent} times`);
  }

  /** What is to be tried again in another round, if this was not the last one. */
  async #leftOver(): Promise<PageEnd | undefined> {
    const failure = this.#attempt.givenUp ?? this.#trouble ?? this.#troubled.values().next().value;
    if (failure) {
      const spends = failure.rule.retry !== 'later';
      if (spends) this.#spent++;
      if (!this.#attempt.givenUp && this.#spent < this.#attempt.rounds) {
        await this.save();
        return { as: 'again', failure, spent: spends ? this.#spent : undefined };
      }
      for (const [at, end] of this.#ends.entries())
        if (!end) this.#end(at, failed(this.#troubled.get(at) ?? failure));
    }
    if (this.#waiting.length === 0 || failure) return undefined;
    await this.save();
    const busy = new Failure(
      'busy',
      `could not publish ${this.#waiting.length} files: another transfer has been publishing there for ${TURN_MS / 1000} s; they wait for their turn`,
      { op: 'publish', retryAfterMs: COME_BACK_MS },
    );
    return { as: 'again', failure: busy, spent: undefined };
  }

  /** Also where it was stopped: not with its signal, therefore. */
  save(): Promise<void> {
    const files = this.#ends.filter((end) => end !== undefined);
    const result = { epoch: this.#row.epoch, spent: this.#spent, files };
    return writeResult(this.#deps.staging, this.#row.id, this.#page, result, AbortSignal.timeout(SAVE_MS));
  }

  #counts(): TreeCounts {
    const counts = noCounts();
    for (const end of this.#ends) {
      if (!end) throw new Failure('bug', `a file of page ${this.#page} of ${this.#row.id} has no end`);
      if (end.dir && end.state === 'done') counts.done.directories++;
      else counts[COUNTED[end.state]].files++;
      counts[COUNTED[end.state]].bytes += end.size;
    }
    return counts;
  }

  async #lanes(): Promise<void> {
    const lanes = Array.from({ length: LANES }, () => this.#lane());
    const ended = await Promise.allSettled(lanes);
    for (const lane of ended) if (lane.status === 'rejected') throw lane.reason;
  }

  async #lane(): Promise<void> {
    const size = this.#row.kind === 'delete' ? REMOVE_BATCH : BATCH;
    while (this.#todo.length > 0 && !this.#trouble) {
      throwIfAborted(this.#attempt.signal);
      await this.#batch(this.#todo.splice(0, size));
    }
  }

  async #batch(batch: readonly number[]): Promise<void> {
    const { trees } = this.#deps.ledger;
    const { id, epoch } = this.#row;
    const fit: number[] = [];
    for (const at of batch) {
      const to = this.#targets[at];
      if (to instanceof Failure) this.#end(at, failed(to));
      else fit.push(at);
    }
    const turns = await trees.claim(
      id,
      epoch,
      fit.map((at) => this.#to(at).path),
    );
    if (!turns) throw new Stale();
    const mine: number[] = [];
    for (const [nth, at] of fit.entries()) {
      if (turns[nth] === 'ok') mine.push(at);
      else if (turns[nth] === 'wait') this.#waiting.push(at);
      else this.#end(at, { state: 'skipped', outcome: 'superseded' });
    }
    let facts: BatchFacts | undefined;
    try {
      if (this.#row.kind === 'delete') await this.#removeAll(mine);
      else {
        facts = await this.#factsOf(mine);
        await this.#carryAll(mine, facts);
      }
    } finally {
      await this.#release(mine, facts?.published);
    }
  }

  #factsOf(files: readonly number[]): Promise<BatchFacts> {
    const { objects } = this.#deps.ledger;
    const from = placeOf(this.#row, this.#row.from);
    const sources = files
      .map((at) => this.#files[at]!)
      .filter(({ dir }) => !dir)
      .map(({ below, etag }) => ({ path: placeBelow(from, below).path, etag }));
    return BatchFacts.of(objects, from.store, sources);
  }

  #release(files: readonly number[], published: BatchFacts['published'] = []): Promise<void> {
    const { id, epoch } = this.#row;
    const paths = files.filter((at) => this.#fits(at)).map((at) => this.#to(at).path);
    if (paths.length === 0 || !this.#attempt.isMine()) return Promise.resolve();
    return this.#deps.ledger.trees.release(id, epoch, paths, published);
  }

  #fits(at: number): boolean {
    return !(this.#targets[at] instanceof Failure);
  }

  #to(at: number): Place {
    const to = this.#targets[at];
    if (to === undefined || to instanceof Failure)
      throw to ?? new Failure('bug', `no file ${at} in this page`);
    return to;
  }

  async #carryAll(files: readonly number[], facts: BatchFacts): Promise<void> {
    const left = [...files];
    const slots = fileSlotsOf(this.#deps.buffers);
    const run = { ...this.#fileRun, facts };
    const carry = async (): Promise<void> => {
      for (let next = left.shift(); next !== undefined; next = left.shift()) {
        const at = next;
        await slots.during(() => this.#carry(at, run));
      }
    };
    const ended = await Promise.allSettled(Array.from({ length: AT_ONCE }, carry));
    for (const one of ended) if (one.status === 'rejected') throw one.reason;
  }

  async #carry(at: number, run: FileRun): Promise<void> {
    throwIfAborted(this.#attempt.signal);
    if (this.#trouble) return;
    const file = this.#files[at]!;
    await this.#trying(at, async () => {
      const from = placeBelow(placeOf(this.#row, this.#row.from), file.below);
      if (file.dir) return this.#makeDirectory(at);
      const carried = await carryFile(run, file, from, this.#to(at));
      if (carried === 'handed-out') this.#handedOut = true;
      else this.#carried(at, carried);
    });
  }

  async #makeDirectory(at: number): Promise<void> {
    const to = this.#to(at);
    const { makeDirectory } = storeAt(this.#deps, to);
    if (!makeDirectory) {
      const message = `${nameOf(to)}: this store keeps no directories that are empty`;
      return this.#end(at, { state: 'left-out', failure: { kind: 'unsupported', message } });
    }
    this.#attempt.onPublish();
    await makeDirectory(to.path, this.#attempt.signal);
    this.#carried(at, { state: 'done', outcome: 'published', size: 0 });
  }

  async #removeAll(files: readonly number[]): Promise<void> {
    if (files.length === 0) return;
    const store = storeAt(this.#deps, this.#to(files[0]!));
    const nameAt = (at: number): StorePath =>
      `${this.#to(at).path}${this.#files[at]!.dir ? '/' : ''}` as StorePath;
    const remove = async (some: readonly number[]): Promise<void> => {
      this.#attempt.onPublish();
      await store.remove(some.map(nameAt), this.#attempt.signal);
      for (const at of some)
        this.#carried(at, { state: 'done', outcome: 'removed', size: this.#files[at]!.size });
    };
    try {
      await remove(files);
    } catch {
      // which of them did not go is found by removing each
      for (const at of files) if (!this.#trouble) await this.#trying(at, () => remove([at]));
    }
  }

  #carried(at: number, { size, ...end }: Carried): void {
    this.#troubleInRow = 0;
    this.#end(at, end, size);
  }

  #end(at: number, end: FileEnd, size = this.#files[at]!.size): void {
    this.#ends[at] = ended({ ...this.#files[at]!, size }, end);
    this.#gotOn = true;
    this.#troubled.delete(at);
    this.#doneBytes += size;
    this.#attempt.onProgress(this.#doneBytes);
  }

  /** A failure is the file's, noted. @throws Failure when the page was stopped */
  async #trying(at: number, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      throwIfAborted(this.#attempt.signal);
      const failure = failureOf(error);
      if (failure.kind === 'interrupted' || failure.kind === 'cancelled') throw failure;
      if (!isPassing(failure)) return this.#end(at, failed(failure));
      this.#troubled.set(at, failure);
      if (++this.#troubleInRow >= TROUBLE_IN_ROW) this.#trouble ??= failure;
    }
  }
}

/** It speaks of the store and not of the file, or may pass. */
const isPassing = ({ kind, rule }: Failure): boolean =>
  rule.retry !== 'never' || kind === 'unauthenticated' || kind === 'no-space';

const failed = ({ kind, message }: Failure): FileEnd => ({ state: 'failed', failure: { kind, message } });

const ended = ({ below, size, dir }: PlannedFile, end: FileEnd): EndedFile => ({
  below,
  size,
  ...(dir && { dir }),
  ...end,
});
