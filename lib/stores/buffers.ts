import { failureOf } from '../errors.ts';
import { BufferLease, type LeaseMemory } from './buffer-lease.ts';

/** How much of every body is taken in before it asks for a slab: who sends no more than this keeps none from others. */
const FIRST_BYTES = 64 * 1024;
/** While others wait for memory, who has some and adds nothing to it for so long is asked to make do with less. */
const IDLE_MS = 3000;
const LOOK_MS = 500;
/** Buffers for first bytes that are kept to be used again. */
const SPARE_FIRST = 16;

/** One account of the pool. */
interface Share {
  readonly budgetBytes: number;
  usedBytes: number;
  /** In order of arrival. */
  readonly waiting: Request[];
}

interface Request {
  readonly holder: Holder;
  readonly bytes: number;
  readonly go: () => void;
}

/** What the pool knows of a lease. */
export interface Holder {
  /** Where its first bytes are counted. */
  readonly first: Share;
  firstBytes: number;
  /** Slabs it has, in bytes, and the most that it will ever have. */
  heldBytes: number;
  readonly mostBytes: number;
  state: 'filling' | 'waiting' | 'sealed' | 'released';
  /** When it last got memory or bytes; unix time in ms. */
  movedMs: number;
  /** It stands still while others wait: expected to be sealed or released soon. */
  readonly onIdle: (() => void) | undefined;
}

/**
 * The memory that one process uses for bytes in flight: a counted budget, handed out in slabs that are used again.
 * Who finds it empty waits its turn, which is how a slow store slows its clients instead of filling the memory.
 *
 * A lease grows slab by slab as bytes arrive, so that a slow body keeps no memory that it has no bytes for. Leases that
 * wait for each other are ruled out as a bank does it: a slab is lent only where, in some order, every lease that has
 * slabs could still get all that it may ask for, each from what is free and what those before it give back. New ones
 * take their turns in order of arrival; who has slabs already may go before them, because that is what frees memory.
 * One that stops in the middle breaks this reckoning: while others wait it is told after a while (`onIdle`), and is to
 * send what it has or to give up.
 *
 * Small bodies, and the first bytes of large ones, have shares of their own, an eighth and a quarter of the budget on top of
 * it: neither waits behind parts of large ones.
 */
export class BufferPool {
  readonly budgetBytes: number;
  readonly slabBytes: number;
  readonly firstBytes: number;
  readonly #idleMs: number;
  readonly #small: Share;
  readonly #beginnings: Share;
  readonly #slabs: Share;
  readonly #holders = new Set<Holder>();
  readonly #spare: Buffer[] = [];
  readonly #spareFirst: Buffer[] = [];
  #timer: NodeJS.Timeout | undefined;

  constructor(options: {
    readonly budgetBytes: number;
    readonly slabBytes?: number;
    readonly firstBytes?: number;
    readonly idleMs?: number;
  }) {
    this.budgetBytes = options.budgetBytes;
    this.slabBytes = options.slabBytes ?? 1024 * 1024;
    this.firstBytes = options.firstBytes ?? Math.min(FIRST_BYTES, this.slabBytes);
    this.#idleMs = options.idleMs ?? IDLE_MS;
    const share = (budgetBytes: number): Share => ({ budgetBytes, usedBytes: 0, waiting: [] });
    this.#small = share(Math.max(this.budgetBytes / 8, this.firstBytes));
    this.#beginnings = share(Math.max(this.budgetBytes / 4, this.firstBytes));
    this.#slabs = share(this.budgetBytes);
  }

  get usedBytes(): number {
    return this.#small.usedBytes + this.#beginnings.usedBytes + this.#slabs.usedBytes;
  }

  /** Most that one lease can be: a quarter of the budget, so that one body never has it all to itself. */
  get largestLeaseBytes(): number {
    return Math.floor(this.budgetBytes / 4 / this.slabBytes) * this.slabBytes;
  }

  /**
   * A lease for up to `bytes` that come in their own time; its first bytes are there, `grow` gets more.
   * @param onIdle called when it stands still while others wait; seal or release it then
   * @throws Failure the signal's reason
   */
  async open(bytes: number, signal: AbortSignal, onIdle?: () => void): Promise<BufferLease> {
    const firstBytes = Math.min(bytes, this.firstBytes);
    const first = bytes <= this.firstBytes ? this.#small : this.#beginnings;
    const holder = this.#holder(first, this.#chargeFor(bytes, bytes - firstBytes), onIdle);
    await this.#ask(first, { holder, bytes: firstBytes }, signal);
    holder.firstBytes = firstBytes;
    return this.#lease(bytes, holder, firstBytes);
  }

  /**
   * A lease for `bytes`, all of them at once and at hand now: nothing is waited for later. First come, first served.
   * @throws Failure the signal's reason
   */
  async reserve(bytes: number, signal: AbortSignal): Promise<BufferLease> {
    const charge = this.#chargeFor(bytes, bytes);
    const holder = this.#holder(this.#small, charge, undefined);
    await this.#ask(this.#slabs, { holder, bytes: charge }, signal);
    return this.#lease(bytes, holder, bytes);
  }

  #holder(first: Share, mostBytes: number, onIdle: (() => void) | undefined): Holder {
    const movedMs = Date.now();
    return { first, firstBytes: 0, heldBytes: 0, mostBytes, state: 'filling', movedMs, onIdle };
  }

  /** Whole slabs, save for a lease that is smaller than one; a lease larger than the pool has all of it. */
  #chargeFor(leaseBytes: number, bytes: number): number {
    const counted = leaseBytes < this.slabBytes ? bytes : Math.ceil(bytes / this.slabBytes) * this.slabBytes;
    return Math.min(counted, this.budgetBytes);
  }

  #lease(bytes: number, holder: Holder, grantedBytes: number): BufferLease {
    const { firstBytes } = holder;
    const { slabBytes } = this;
    return new BufferLease({ bytes, firstBytes, grantedBytes, slabBytes, memory: this.#memoryOf(holder) });
  }

  #memoryOf(holder: Holder): LeaseMemory {
    return {
      grow: async (signal) => {
        const bytes = Math.min(this.slabBytes, holder.mostBytes - holder.heldBytes);
        if (bytes > 0) await this.#ask(this.#slabs, { holder, bytes }, signal);
      },
      first: (size) => (size === this.firstBytes && this.#spareFirst.pop()) || Buffer.allocUnsafe(size),
      slab: (size) =>
        size < this.slabBytes
          ? Buffer.allocUnsafe(size)
          : (this.#spare.pop() ?? Buffer.allocUnsafeSlow(size)),
      moved: () => {
        holder.movedMs = Date.now();
      },
      seal: () => {
        if (holder.state === 'filling') holder.state = 'sealed';
        this.#wake(); // it comes back by itself
      },
      giveBack: (first, slabs) => this.#giveBack(holder, first, slabs),
    };
  }

  async #ask(share: Share, wanted: Omit<Request, 'go'>, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const { holder } = wanted;
    this.#holders.add(holder);
    const isFirstInLine = share.waiting.length === 0 || this.#mayGoFirst(share, holder);
    if (isFirstInLine && this.#fits(share, wanted)) this.#grant(share, wanted);
    else {
      holder.state = 'waiting';
      await this.#turn(share, wanted, signal);
      holder.state = 'filling';
    }
    holder.movedMs = Date.now();
  }

  #mayGoFirst(share: Share, holder: Holder): boolean {
    return share === this.#slabs && holder.heldBytes > 0;
  }

  #grant(share: Share, { holder, bytes }: Omit<Request, 'go'>): void {
    share.usedBytes += bytes;
    if (share !== this.#slabs) return;
    holder.heldBytes += bytes;
    // what is smaller than a slab uses none of those that are spare: they must make room for it
    if (bytes % this.slabBytes !== 0)
      while (share.usedBytes + this.#spare.length * this.slabBytes > this.budgetBytes && this.#spare.pop());
  }

  #fits(share: Share, { holder, bytes }: Omit<Request, 'go'>): boolean {
    const freeBytes = share.budgetBytes - share.usedBytes;
    if (bytes > freeBytes) return false;
    return share !== this.#slabs || this.#isSafe(holder, bytes, freeBytes);
  }

  /** Whether all that have slabs, `holder` among them, could still be served to their end, one after the other. */
  #isSafe(holder: Holder, bytes: number, freeBytes: number): boolean {
    const others = [...this.#holders].filter((other) => other.heldBytes > 0 && other !== holder);
    let comingBytes = freeBytes;
    for (const other of others) if (other.state === 'sealed') comingBytes += other.heldBytes;
    // it goes first, and then all is as it was before
    if (holder.mostBytes - holder.heldBytes <= comingBytes) return true;
    comingBytes -= bytes;
    const filling = [
      { leftBytes: holder.mostBytes - holder.heldBytes - bytes, heldBytes: holder.heldBytes + bytes },
      ...others
        .filter(({ state }) => state !== 'sealed')
        .map(({ heldBytes, mostBytes }) => ({ leftBytes: mostBytes - heldBytes, heldBytes })),
    ].sort((a, b) => a.leftBytes - b.leftBytes);
    for (const { leftBytes, heldBytes } of filling) {
      if (leftBytes > comingBytes) return false;
      comingBytes += heldBytes;
    }
    return true;
  }

  #turn(share: Share, wanted: Omit<Request, 'go'>, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const request: Request = {
        ...wanted,
        go: () => {
          signal.removeEventListener('abort', leave);
          resolve();
        },
      };
      const leave = (): void => {
        share.waiting.splice(share.waiting.indexOf(request), 1);
        const { holder } = wanted;
        if (holder.firstBytes + holder.heldBytes === 0) this.#holders.delete(holder); // it never became a lease
        this.#wake();
        reject(failureOf(signal.reason));
      };
      signal.addEventListener('abort', leave, { once: true });
      share.waiting.push(request);
      this.#timer ??= setInterval(() => this.#look(), LOOK_MS);
    });
  }

  #wake(): void {
    for (const share of [this.#small, this.#beginnings, this.#slabs]) {
      let isBlocked = false;
      for (const request of [...share.waiting]) {
        if (isBlocked && !this.#mayGoFirst(share, request.holder)) continue;
        if (!this.#fits(share, request)) {
          isBlocked = true;
          continue;
        }
        share.waiting.splice(share.waiting.indexOf(request), 1);
        this.#grant(share, request);
        request.go();
      }
    }
    if (this.#shares().every(({ waiting }) => waiting.length === 0)) {
      clearInterval(this.#timer);
      this.#timer = undefined;
    }
  }

  #shares(): readonly Share[] {
    return [this.#small, this.#beginnings, this.#slabs];
  }

  /** Those that stand still for longest are told, until what they have makes up for what the first in line lacks. */
  #look(): void {
    const idleSinceMs = Date.now() - this.#idleMs;
    const idle = [...this.#holders]
      .filter(({ state, movedMs, onIdle }) => onIdle && state === 'filling' && movedMs <= idleSinceMs)
      .sort((a, b) => a.movedMs - b.movedMs);
    for (const share of this.#shares()) {
      const next = share.waiting[0];
      if (!next) continue;
      const has = (holder: Holder): number =>
        share === this.#slabs ? holder.heldBytes : holder.first === share ? holder.firstBytes : 0;
      const wantedBytes = share === this.#slabs ? next.holder.mostBytes - next.holder.heldBytes : next.bytes;
      let lackingBytes = wantedBytes - (share.budgetBytes - share.usedBytes);
      for (const holder of idle) {
        if (lackingBytes <= 0) break;
        if (has(holder) === 0 || holder.state !== 'filling') continue;
        lackingBytes -= has(holder);
        holder.onIdle?.();
      }
    }
  }

  #giveBack(holder: Holder, first: Buffer | undefined, slabs: readonly Buffer[]): void {
    holder.state = 'released';
    this.#holders.delete(holder);
    holder.first.usedBytes -= holder.firstBytes;
    this.#slabs.usedBytes -= holder.heldBytes;
    for (const slab of slabs) if (slab.length === this.slabBytes) this.#spare.push(slab);
    if (first?.length === this.firstBytes && this.#spareFirst.length < SPARE_FIRST)
      this.#spareFirst.push(first);
    this.#wake();
  }
}
