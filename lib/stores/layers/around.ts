/** What all layers share: a driver with every call of it, powers included, led through the layer's hooks. */
import { Failure } from '../../errors.ts';
import type { Body, Call, Classified, Driver, Multipart, Reading, ServerCopy, WriteCall } from '../driver.ts';

export type OnceOp =
  | 'head'
  | 'tags'
  | 'remove'
  | 'prune'
  | 'remove-leftovers'
  | 'make-directory'
  | 'begin'
  | 'finish'
  | 'abandon'
  | 'carries'
  | 'copy'
  | 'copy-part';
export type SendOp = 'write' | 'part';
export type PagesOp = 'list' | 'leftovers' | 'parts' | 'pending';
export type StoreOp = OnceOp | SendOp | PagesOp | 'read';

/** What a hook may know of a call; `mode` and `ifMatch` where it publishes. */
export type AnyCall = Call & Partial<Pick<WriteCall, 'mode' | 'ifMatch'>>;

/** What pages are of. */
export type Listed =
  | { readonly path: string; readonly kind?: string; readonly id?: string }
  | { readonly number: number };

/** Each hook calls `run` (or `open`) with the signal and body that the driver below is to have. */
export interface Hooks {
  /** `silentBytes`: how much the store may have to work through before it answers. */
  once<T>(
    op: OnceOp,
    call: AnyCall,
    run: (signal: AbortSignal) => Promise<T>,
    silentBytes?: number,
  ): Promise<T>;
  send<T>(
    op: SendOp,
    call: AnyCall,
    body: Body,
    run: (signal: AbortSignal, body: Body) => Promise<T>,
  ): Promise<T>;
  read(signal: AbortSignal, run: (signal: AbortSignal) => Promise<Reading>): Promise<Reading>;
  pages<T extends Listed>(
    op: PagesOp,
    signal: AbortSignal,
    open: (signal: AbortSignal) => AsyncIterable<readonly T[]>,
  ): AsyncIterable<readonly T[]>;
}

/** `driver` behind `hooks`: the same traits, the same powers, the same errors. */
export function around(driver: Driver, hooks: Hooks): Driver {
  const { multipart, serverCopy } = driver;
  return {
    traits: driver.traits,
    refuses: (path) => driver.refuses(path),
    head: (path, call) => hooks.once('head', call, (signal) => driver.head(path, { ...call, signal })),
    read: (path, range, call) =>
      hooks.read(call.signal, (signal) => driver.read(path, range, { ...call, signal })),
    write: (path, body, call) =>
      hooks.send('write', call, body, (signal, sent) => driver.write(path, sent, { ...call, signal })),
    list: (dir, call) => hooks.pages('list', call.signal, (signal) => driver.list(dir, { ...call, signal })),
    remove: (paths, call) =>
      hooks.once('remove', call, (signal) => driver.remove(paths, { ...call, signal })),
    close: () => driver.close(),
    classify: (error) => driver.classify(error),
    ...(driver.tags && {
      tags: (path, call) => hooks.once('tags', call, (signal) => driver.tags!(path, { ...call, signal })),
    }),
    ...(driver.prune && {
      prune: (dir, call) => hooks.once('prune', call, (signal) => driver.prune!(dir, { ...call, signal })),
    }),
    ...(driver.makeDirectory && {
      makeDirectory: (dir, call) =>
        hooks.once('make-directory', call, (signal) => driver.makeDirectory!(dir, { ...call, signal })),
    }),
    ...(driver.leftovers && {
      leftovers: (call) =>
        hooks.pages('leftovers', call.signal, (signal) => driver.leftovers!({ ...call, signal })),
    }),
    ...(driver.removeLeftovers && {
      removeLeftovers: (paths, call) =>
        hooks.once('remove-leftovers', call, (signal) => driver.removeLeftovers!(paths, { ...call, signal })),
    }),
    ...(multipart && { multipart: aroundMultipart(multipart, hooks) }),
    ...(serverCopy && { serverCopy: aroundServerCopy(serverCopy, hooks) }),
  };
}

function aroundServerCopy(serverCopy: ServerCopy, hooks: Hooks): ServerCopy {
  return {
    realm: serverCopy.realm,
    maxBytes: serverCopy.maxBytes,
    carries: (call) => hooks.once('carries', call, (signal) => serverCopy.carries({ ...call, signal })),
    source: (path) => serverCopy.source(path),
    copy: (from, path, call) =>
      hooks.once('copy', call, (signal) => serverCopy.copy(from, path, { ...call, signal }), from.size),
    begin: (path, call) => hooks.once('begin', call, (signal) => serverCopy.begin(path, { ...call, signal })),
    part: (from, range, upload, part, call) =>
      hooks.once(
        'copy-part',
        call,
        (signal) => serverCopy.part(from, range, upload, part, { ...call, signal }),
        range.end - range.start,
      ),
  };
}

function aroundMultipart(multipart: Multipart, hooks: Hooks): Multipart {
  return {
    limits: multipart.limits,
    provesOwner: multipart.provesOwner,
    begin: (path, call) => hooks.once('begin', call, (signal) => multipart.begin(path, { ...call, signal })),
    part: (upload, part, body, call) =>
      hooks.send('part', call, body, (signal, sent) =>
        multipart.part(upload, part, sent, { ...call, signal }),
      ),
    parts: (upload, call) =>
      hooks.pages('parts', call.signal, (signal) => multipart.parts(upload, { ...call, signal })),
    finish: (upload, receipts, whole, call) =>
      hooks.once(
        'finish',
        call,
        (signal) => multipart.finish(upload, receipts, whole, { ...call, signal }),
        whole.size,
      ),
    abandon: (upload, call) =>
      hooks.once('abandon', call, (signal) => multipart.abandon(upload, { ...call, signal })),
    pending: (path, call) =>
      hooks.pages('pending', call.signal, (signal) => multipart.pending(path, { ...call, signal })),
  };
}

/** Failures come from layers and speak for themselves; everything else is the vendor's. */
export function classified(driver: Driver, error: unknown): Classified {
  if (!(error instanceof Failure)) return driver.classify(error);
  const { retryAfterMs } = error.facts;
  return { kind: error.kind, message: error.message, ...(retryAfterMs !== undefined && { retryAfterMs }) };
}

/**
 * `inner` with `pull` around each step. `over` is called once, however it ends: at the end, by an error, or by
 * `return()`, also when that comes before the first step (where a generator's `finally` would not run). However it
 * ends, `inner` is told: a step that was given up may still hold a connection.
 */
export function tapped<T>(
  inner: AsyncIterable<T>,
  pull: (next: () => Promise<IteratorResult<T>>) => Promise<IteratorResult<T>>,
  over: (error?: unknown) => void = () => {},
): AsyncIterable<T> {
  let iterator: AsyncIterator<T> | undefined;
  let ended = false;
  const end = (error?: unknown): void => {
    if (ended) return;
    ended = true;
    over(error);
  };
  const next = async (): Promise<IteratorResult<T>> => {
    if (ended) return { done: true, value: undefined };
    const from = (iterator ??= inner[Symbol.asyncIterator]());
    try {
      const step = await pull(() => from.next());
      if (!step.done) return step;
      end();
    } catch (error) {
      end(error);
      from.return?.().catch(() => undefined); // not waited for: it may be stuck in the step that was given up
      throw error;
    }
    await from.return?.();
    return { done: true, value: undefined };
  };
  const stop = async (): Promise<IteratorResult<T>> => {
    iterator ??= inner[Symbol.asyncIterator]();
    try {
      await iterator.return?.();
    } finally {
      end();
    }
    return { done: true, value: undefined };
  };
  return { [Symbol.asyncIterator]: () => ({ next, return: stop }) };
}
