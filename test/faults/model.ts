/**
 * What Longshore promises, as a list: everything that was accepted, in the order of its acceptance. What landed last on a
 * path is there; what was cancelled or failed never is; an older one never replaces a newer one.
 */

/** SHA-256, or `undefined` for nothing there. */
export type Content = string | undefined;
export type OpState = 'open' | 'landed' | 'failed' | 'cancelled' | 'superseded';

export interface Op {
  readonly path: string;
  readonly content: Content;
  /** Only where nothing is. */
  readonly create: boolean;
  /** Of a transfer; a synchronous request has none. */
  readonly id?: string;
  state: OpState;
  /** Staging has the bytes, so that it can be retried. */
  kept: boolean;
}

export class Model {
  ops: Op[] = [];
  worker = true;
  /** Redis may have forgotten jobs, or a worker died with some. */
  shaken = false;

  at(path: string): readonly Op[] {
    return this.ops.filter((op) => op.path === path);
  }

  get transfers(): readonly (Op & { readonly id: string })[] {
    return this.ops.filter((op): op is Op & { readonly id: string } => op.id !== undefined);
  }

  accept(op: Pick<Op, 'path' | 'content'> & Partial<Pick<Op, 'id' | 'create' | 'state'>>): void {
    this.ops.push({ create: false, state: 'open', kept: false, ...op });
  }

  retry(op: Op): void {
    this.ops = [...this.ops.filter((other) => other !== op), op];
    op.state = 'open';
    op.kept = false;
  }

  /** What is at `path` when nothing is open. */
  landed(path: string): Content {
    return this.at(path).findLast(({ state }) => state === 'landed')?.content;
  }

  /** What a reader may see at `path` now: what landed last, or anything open that was accepted after it. */
  visible(path: string): readonly Content[] {
    const ops = this.at(path);
    const last = ops.findLastIndex(({ state }) => state === 'landed');
    const open = ops.slice(last + 1).filter(({ state }) => state === 'open');
    return [ops[last]?.content, ...open.map(({ content }) => content)];
  }

  /** Why `op`, which has ended like this, should not have; undefined: it may. */
  objection(op: Op): string | undefined {
    const ops = this.at(op.path);
    const at = ops.indexOf(op);
    if (op.state === 'open') return 'it has not ended';
    if (op.state === 'superseded' && !ops.slice(at + 1).some(({ state }) => state === 'landed'))
      return 'superseded, but nothing landed later';
    if (op.state === 'failed' && !op.create) return 'failed, with nothing in its way';
    const before = ops.slice(0, at).findLast(({ state }) => state === 'landed')?.content;
    if (op.state === 'landed' && op.create && before !== undefined) return 'landed over what was there';
    return undefined;
  }
}
