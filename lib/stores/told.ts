/** A store's optional powers, their errors told as the store tells all others. */
import type { StorePath } from '../path.ts';
import type { Multipart, ServerCopy } from './driver.ts';

export interface Telling {
  /** Runs a driver call; its error comes out as a `Failure` that names `op`, store and path. */
  attempt<T>(op: string, path: StorePath, signal: AbortSignal, work: () => Promise<T>): Promise<T>;
  /** As `attempt`, of the store as a whole. */
  asked<T>(op: string, signal: AbortSignal, work: () => Promise<T>): Promise<T>;
  told<T>(op: string, path: StorePath, signal: AbortSignal, items: AsyncIterable<T>): AsyncIterable<T>;
}

export function toldMultipart(multipart: Multipart, { attempt, told }: Telling): Multipart {
  return {
    limits: multipart.limits,
    provesOwner: multipart.provesOwner,
    begin: (path, call) => attempt('begin', path, call.signal, () => multipart.begin(path, call)),
    part: (upload, part, body, call) =>
      attempt(`send part ${part.number} of`, upload.path, call.signal, () =>
        multipart.part(upload, part, body, call),
      ),
    parts: (upload, call) =>
      told('list the parts of', upload.path, call.signal, multipart.parts(upload, call)),
    finish: (upload, receipts, whole, call) =>
      attempt('publish', upload.path, call.signal, () => multipart.finish(upload, receipts, whole, call)),
    abandon: (upload, call) =>
      attempt('abandon', upload.path, call.signal, () => multipart.abandon(upload, call)),
    pending: (path, call) => told('list uploads of', path, call.signal, multipart.pending(path, call)),
  };
}

export function toldServerCopy(serverCopy: ServerCopy, { attempt, asked }: Telling): ServerCopy {
  return {
    realm: serverCopy.realm,
    maxBytes: serverCopy.maxBytes,
    carries: (call) => asked('look at copies on', call.signal, () => serverCopy.carries(call)),
    source: (path) => serverCopy.source(path),
    copy: (from, path, call) =>
      attempt('copy to', path, call.signal, () => serverCopy.copy(from, path, call)),
    begin: (path, call) => attempt('begin', path, call.signal, () => serverCopy.begin(path, call)),
    part: (from, range, upload, part, call) =>
      attempt(`copy part ${part.number} of`, upload.path, call.signal, () =>
        serverCopy.part(from, range, upload, part, call),
      ),
  };
}
