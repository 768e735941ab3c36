/**
 * One process's gate to one store: it leases turns and slots from the book in Redis, in portions as they are needed, and
 * hands them out. While Redis cannot be asked it goes on with what it holds, later with its part of the limit; a process
 * that slept asks anew before it lets anything begin.
 */
import type { Redis } from 'ioredis';
import { holdWatches } from '../deadline.ts';
import { AHEAD_MS, EXCHANGE, LEASE_MS } from './limit-script.ts';
import { Share } from './limit-share.ts';
import { Slots, spacingOf } from './limit-slots.ts';

/** Of all processes together; at least one of the two. */
export interface StoreLimit {
  /** Requests in flight. */
  readonly connections?: number | undefined;
  /** Requests begun in any second. */
  readonly requests?: number | undefined;
}

/** What is leased may be used so long after Redis was last asked: less than the lease, which it counts from later. */
const USABLE_MS = LEASE_MS - 2000;
const RENEW_MS = 2000;
/** Who holds turns hears this often whether others wait for them. */
const HOLDING_MS = 100;
/** Who waits asks this often, and less often the more are before it. */
const ASK_MS = 25;
const ASK_MAX_MS = 250;
const LEAST_MS = 5;
/** How often Redis is tried while it is away. */
const AWAY_MS = 500;
/** Without Redis for so long, who holds more than its part comes down to it; then who holds less takes its part. */
const PART_MS = { down: 5000, up: 10_000 };
/**
 * However many processes there are, so that none is shut out. Who writes to a store what it reads there needs two: it
 * waits, and a job that does is given up when its lock could not be renewed.
 */
const LEAST_PART = 1;
/** A server needs a moment to notice that a request was given up. */
const NOTICED_MS = 100;

export interface GateOptions {
  readonly redis: Redis;
  /** Of the book. */
  readonly key: string;
  /** Letters, digits, dashes; of this process only. */
  readonly process: string;
  /** With the process at its end, the channel on which it hears that it should ask: call `nudge`. */
  readonly channel: string;
  readonly limit: StoreLimit;
  /** How many processes there are, as long as Redis has not told. */
  readonly processes: number;
  /** ms that a request waited. */
  readonly onWaited: (ms: number) => void;
  /** Requests that may be in flight from here. */
  readonly onHeld: (connections: number) => void;
}

type Answer = readonly (string | number)[];
interface Scripts {
  longshoreLimits(key: string, ...args: (string | number)[]): Promise<Answer>;
}

export class StoreGate {
  readonly #opts: GateOptions;
  readonly #redis: Scripts;
  readonly #readings: Share;
  readonly #connections: Share;
  readonly #slots: Slots | undefined;
  readonly #spacing: number;
  #processes: number;
  #run = '';
  #counter = 0;
  #heardMs = Number.NEGATIVE_INFINITY;
  #awaySinceMs: number | undefined;
  #awaySlotMs = 0;
  #asking: Promise<void> | undefined;
  #askedMs = 0;
  #timer: NodeJS.Timeout | undefined;
  #dueMs = Number.POSITIVE_INFINITY;
  #closed = false;

  constructor(opts: GateOptions) {
    const { connections, requests } = opts.limit;
    opts.redis.defineCommand('longshoreLimits', { numberOfKeys: 1, lua: EXCHANGE });
    this.#opts = opts;
    this.#redis = opts.redis as unknown as Scripts; // the command defined above
    this.#processes = opts.processes;
    const usable = (): boolean => this.#usable();
    this.#connections = new Share(connections, usable);
    this.#readings = new Share(connections === undefined ? undefined : connections - 1, usable);
    this.#spacing = requests === undefined ? 0 : spacingOf(requests, connections);
    this.#slots = requests === undefined ? undefined : new Slots();
    this.#askWithin(0);
  }

  get connections(): number | undefined {
    return this.#opts.limit.connections;
  }

  /** @throws Failure the signal's reason */
  async enter(
    signal: AbortSignal,
    what: 'reading' | 'other',
  ): Promise<{ mayBegin(): boolean; leave(how: 'answered' | 'cut'): void }> {
    const release = holdWatches(signal);
    const beganMs = performance.now();
    const shares = what === 'reading' ? [this.#readings, this.#connections] : [this.#connections];
    try {
      for (;;) {
        if (await this.#enter(signal, shares)) break;
      }
    } finally {
      release();
      this.#opts.onWaited(performance.now() - beganMs);
    }
    let left = false;
    const leave = (how: 'answered' | 'cut'): void => {
      if (left) return;
      left = true;
      if (how === 'answered') this.#give(shares);
      else setTimeout(() => this.#give(shares), NOTICED_MS).unref();
    };
    return { mayBegin: () => this.#usable(), leave };
  }

  /** Something that it waits for may be free. */
  nudge(): void {
    this.#askWithin(0);
  }

  /** `false`: it slept, and what it waited for is void. */
  async #enter(signal: AbortSignal, shares: readonly Share[]): Promise<boolean> {
    const soon = (): void => this.#askWithin(0);
    const taken: Share[] = [];
    try {
      for (const share of shares) {
        await share.take(signal, soon);
        taken.push(share);
      }
      const untilMs = (await this.#slots?.take(signal, soon)) ?? Number.POSITIVE_INFINITY;
      if (performance.now() <= untilMs && this.#usable()) return true;
    } catch (error) {
      this.#give(taken);
      throw error;
    }
    this.#give(taken);
    this.#askWithin(0);
    return false;
  }

  #usable(): boolean {
    return performance.now() - this.#heardMs < USABLE_MS;
  }

  #give(shares: readonly Share[]): void {
    for (const share of shares.toReversed()) if (share.give()) this.#askWithin(0);
  }

  /** Asks Redis at the latest then, but not twice at once and not without a pause. */
  #askWithin(ms: number): void {
    if (this.#closed) return;
    const dueMs = Math.max(performance.now() + ms, this.#askedMs + LEAST_MS);
    if (dueMs >= this.#dueMs) return;
    this.#dueMs = dueMs;
    if (this.#asking) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), Math.max(0, dueMs - performance.now()));
  }

  #ask(bye: 'bye' | '' = ''): Promise<void> {
    this.#dueMs = Number.POSITIVE_INFINITY;
    clearTimeout(this.#timer);
    this.#asking ??= this.#exchange(bye).then((nextMs) => {
      this.#asking = undefined;
      const dueMs = this.#dueMs;
      this.#dueMs = Number.POSITIVE_INFINITY;
      this.#askWithin(Math.min(nextMs, Math.max(0, dueMs - performance.now())));
      this.#opts.onHeld(this.#connections.held);
    });
    return this.#asking;
  }

  /** Answers when to ask again; ms. */
  async #exchange(bye: 'bye' | ''): Promise<number> {
    const shares = [this.#readings, this.#connections];
    for (const share of shares) share.trim();
    const sentMs = performance.now();
    this.#askedMs = sentMs;
    const before = shares.map(({ held }) => held);
    try {
      const answer = await this.#redis.longshoreLimits(
        this.#opts.key,
        this.#opts.process,
        ++this.#counter,
        this.#run,
        ...shares.map(({ limit = 0 }) => limit),
        this.#spacing,
        ...shares.flatMap(({ wanted }, at) => (bye ? [0, 0] : [before[at]!, wanted])),
        this.#slots?.wanted ?? 0,
        bye,
        this.#opts.channel,
      );
      return answer.length === 0 ? AWAY_MS : this.#told(answer, before, sentMs);
    } catch {
      this.#goOnWithout(sentMs);
      return AWAY_MS;
    }
  }

  #told(answer: Answer, before: readonly number[], sentMs: number): number {
    const [run, ...numbers] = answer;
    const [
      processes,
      busy,
      hungryReadings,
      hungryConnections,
      readings,
      connections,
      ahead,
      slots,
      wait,
      every,
    ] = numbers.map(Number) as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    this.#run = String(run);
    this.#processes = processes;
    this.#heardMs = sentMs;
    this.#awaySinceMs = undefined;
    const nowMs = performance.now();
    const waitMs = wait / 1000;
    this.#slots?.add(slots, { earliest: sentMs + waitMs, latest: nowMs + waitMs, everyMs: every / 1000 });
    Object.assign(this.#readings, { busy, hungry: hungryReadings });
    Object.assign(this.#connections, { busy, hungry: hungryConnections });
    // what was given back meanwhile stays given back
    this.#readings.change(readings - before[0]!);
    this.#connections.change(connections - before[1]!);
    return Math.min(
      this.#readings.wanted + this.#connections.wanted > 0
        ? Math.min(ASK_MAX_MS, ASK_MS * (1 + ahead / (this.connections ?? 1)))
        : RENEW_MS,
      this.#slots?.lacking ? Math.max(0, slots > 0 ? 0 : waitMs - AHEAD_MS) : RENEW_MS,
      this.#connections.held > 0 ? HOLDING_MS : RENEW_MS,
    );
  }

  #goOnWithout(sentMs: number): void {
    const now = performance.now();
    this.#awaySinceMs ??= now;
    const awayMs = now - this.#awaySinceMs;
    // what lapsed before, in a process that slept, may be another's by now
    if (sentMs - this.#heardMs < USABLE_MS || awayMs > PART_MS.up) this.#heardMs = sentMs;
    for (const share of [this.#readings, this.#connections]) {
      const part = Math.max(LEAST_PART, Math.floor((share.limit ?? 0) / this.#processes));
      const wrong = awayMs > PART_MS.up || (awayMs > PART_MS.down && share.held > part);
      share.change(wrong ? part - share.held : 0);
    }
    this.#slotsWithout(now);
  }

  /** Half of this process's part: when Redis is back, it gives out the other half until all have heard of it. */
  #slotsWithout(now: number): void {
    const everyMs = (this.#spacing / 1000) * 2 * this.#processes;
    const first = Math.max(now, this.#awaySlotMs);
    const count = Math.min(
      this.#slots?.wanted ?? 0,
      Math.max(0, Math.ceil((now + AWAY_MS - first) / everyMs)),
    );
    this.#slots?.add(count, { earliest: first, latest: first, everyMs });
    this.#awaySlotMs = first + count * everyMs;
  }

  /** Gives everything back. */
  async close(): Promise<void> {
    await this.#asking;
    this.#closed = true;
    await this.#ask('bye');
    clearTimeout(this.#timer);
    this.#slots?.close();
  }
}
