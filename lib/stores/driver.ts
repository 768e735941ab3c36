/**
 * The contract between one vendor's driver and everything above it. A driver is thin: it knows one vendor, throws the
 * vendor's own errors, never retries, never logs. Retry, limits, stall detection, metrics, checksums and error wrapping
 * are written once, in `layers/` and `store.ts`. `test/contract/store.ts` proves all that is promised here, both ways.
 */
import type { FailureKind } from '../errors.ts';
import type { StorePath } from '../path.ts';
import type { AttributeName, Attributes } from './attributes.ts';

/**
 * Bytes on their way. Chunks are lent: a consumer is done with one before it asks for the next, or copies it. Once it
 * calls `return()`, the last one stays as it is.
 */
export type Bytes = AsyncIterable<Uint8Array>;

/** Half-open: `start` is the first byte, `end` the one after the last. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

export interface FileEntry {
  readonly kind: 'file';
  readonly path: StorePath;
  /** Bytes. */
  readonly size: number;
  /** Opaque version, without quotes: differs whenever the content may differ. */
  readonly etag: string;
  /** Unix time in ms. */
  readonly modifiedMs: number;
  /** Who published it (`WriteCall.token`), where the store can remember it; `head` answers it, `list` need not. */
  readonly token?: string;
  /** CRC32 (IEEE) of the whole object as the store itself computed it, where it does. */
  readonly crc32?: number;
  /** What it carries beside its bytes, tags aside: `head` and `read` answer it; `list` no more than it is told anyway. */
  readonly attributes?: Attributes;
  /** How many tags it has, where `head` and `read` are told of some. */
  readonly tagCount?: number;
  /** What else it was seen to have that no other object can be given: short names. */
  readonly fixed?: readonly string[];
  /** Answered by who publishes: what of `WriteCall.attributes` the store did not take. */
  readonly notKept?: readonly AttributeName[];
}
export interface DirEntry {
  readonly kind: 'dir';
  readonly path: StorePath;
}
/**
 * Something that is there and cannot be read as a file. Listings leave out nothing but what this installation itself
 * has on its way, so that whoever counts on them can count everything.
 */
export interface OtherEntry {
  readonly kind: 'other';
  readonly path: StorePath;
  /** Bytes, where they are known; else 0. */
  readonly size: number;
  /**
   * `link`: a symbolic link that is not followed, or leads nowhere, outside of the store, or in a circle.
   * `special`: a pipe, socket or device.
   * `closed`: this user may not look into it; of a directory, nothing below it is listed.
   * `reserved`: the name is one under which another writer keeps a file that is on its way: nobody else touches it.
   * `unnamed`: the store does not tell its name rightly, so that nobody can remove it either.
   * `name`: no path can name it, or its name is too long to be opened.
   */
  readonly is: 'link' | 'special' | 'closed' | 'reserved' | 'name' | 'unnamed';
  /** Why it cannot be read: a sentence without its subject. */
  readonly why: string;
}
export type Entry = FileEntry | DirEntry | OtherEntry;

/** Facts that change what callers must do. Each is proved by the contract suite. */
export interface Traits {
  /** `gap`: replacing an object, a reader may for a moment find neither the old nor the new one. */
  readonly replace: 'atomic' | 'gap';
  /** `mode: 'create'` is decided by the store itself, so that of two writers exactly one wins. */
  readonly createOnly: boolean;
  /** `ifMatch` is decided by the store itself; else it is looked at just before publishing. */
  readonly conditionalWrite: boolean;
  readonly rangedRead: boolean;
  /**
   * `flat`: a name is a key, and any text is one. `hierarchical`: it is a way through directories, so that no segment is
   * empty, and runs of slashes are as good as one.
   */
  readonly namespace: 'flat' | 'hierarchical';
  /** `a` and `a/b` can both be files. */
  readonly fileAndDir: boolean;
  /**
   * `may-land`: a single write of a part that was suspended while its upload was published may still reach what was
   * published, as another version of it. So whoever sends a part twice sends the same bytes.
   */
  readonly lateParts: 'refused' | 'may-land';
  /** The store itself checks the CRC32 sent with each write and part. */
  readonly checksWrites: boolean;
  /** What of `WriteCall.attributes` it can hold; `notKept` names what one object was refused all the same. */
  readonly keeps: readonly AttributeName[];
  /** Longest path (prefix included by the driver) and longest single name, in UTF-8 bytes. */
  readonly maxPathBytes: number;
  readonly maxNameBytes: number;
  /** Requests in flight that this store takes well from one process. */
  readonly connections: number;
}

/** Every call has a signal: a call that nobody can stop is a leak. */
export interface Call {
  readonly signal: AbortSignal;
}
export interface ReadCall extends Call {
  /** Only this version: another one, or none, fails with a `precondition` failure. */
  readonly ifMatch?: string;
}
export interface WriteCall extends Call {
  /** `create`: fails with `already-exists` where something is there. */
  readonly mode: 'replace' | 'create';
  /** Only over this version: else `precondition`. */
  readonly ifMatch?: string;
  readonly mediaType?: string;
  /** What it shall carry: names that are in `Traits.keeps`, `mediaType` aside. Given to `begin`, `finish`, `write` and `copy` alike. */
  readonly attributes?: Omit<Attributes, 'mediaType'>;
  /** Who writes: transfer id and epoch, or a request's id. Letters, digits, dashes; at most 64. Names hidden siblings. */
  readonly token: string;
}
export interface ListCall extends Call {
  /**
   * `true`: every file below, and of directories those that are there on their own: empty ones, and markers (`dir`
   * itself included). `false`: files and directories right below.
   */
  readonly deep: boolean;
  /**
   * `follow` (default): symbolic links are listed as what they lead to, within the store; a circle ends where it comes
   * back to a directory that holds the link. `name`: they are listed as links.
   */
  readonly links?: 'follow' | 'name';
}

/** Bytes to write that can be sent again: they are in memory, or can be opened again. */
export interface Body {
  /** Bytes; what `open` yields is exactly this long. */
  readonly size: number;
  /** CRC32 (IEEE) of the bytes, as an unsigned number; a store that checks writes is sent it. */
  readonly crc32?: number;
  open(): Iterable<Uint8Array> | Bytes;
}

export interface Reading {
  /** The entry of the very version that the bytes are of. */
  readonly entry: FileEntry;
  /** What the bytes are: the range asked for, cut to the object's size. */
  readonly range: ByteRange;
  /** Read to the end or call `return()` (a `for await` does both): that frees the connection or file. Fails rather than end early. */
  readonly bytes: Bytes;
  /** All of `bytes`, where a short reading came in one piece: it is in memory, and nothing is held for it any more. */
  readonly content?: Uint8Array;
}

export interface Driver {
  readonly traits: Traits;
  /**
   * Why no object of this name can be here: the end of a sentence. `undefined`: it can, as far as can be said without
   * asking the store. No call but `list` (of the root) and, in a flat store, `remove` is made with a name that it refuses.
   */
  refuses(path: StorePath): string | undefined;
  /** Absent, or a directory: an error that `classify` calls `not-found`. */
  head(path: StorePath, call: Call): Promise<FileEntry>;
  /** `range.start` beyond the end is the caller's fault: callers know the size from `head`. `undefined`: the whole. */
  read(path: StorePath, range: ByteRange | undefined, call: ReadCall): Promise<Reading>;
  /** Those of the object, where the store has such. Asked only where `tagCount` says that there are some. */
  tags?(path: StorePath, call: Call): Promise<Readonly<Record<string, string>>>;
  /** All or nothing, durable when it resolves; when it rejects nothing new is visible, save a lost reply. */
  write(path: StorePath, body: Body, call: WriteCall): Promise<FileEntry>;
  /**
   * Pages of entries below `dir`, sorted by nothing in particular; absent or a file: no entries. What this driver's
   * installation has on its way is left out. @throws where `dir` itself may not be looked into
   */
  list(dir: StorePath, call: ListCall): AsyncIterable<readonly Entry[]>;
  /**
   * Files, links and special files; a name that ends in a slash is the empty directory, or the marker, of that name.
   * Absent is fine, and so is a directory that is not empty. Answers what could not be removed, and why, in the vendor's
   * errors.
   */
  remove(paths: readonly StorePath[], call: Call): Promise<readonly RemoveFailure[]>;
  /** Removes empty directories at and below `dir`, where directories stay when their last file has gone. */
  prune?(dir: StorePath, call: Call): Promise<void>;
  /** Makes a directory that is there on its own, or its marker, and those above it; there already is fine. */
  makeDirectory?(dir: StorePath, call: Call): Promise<void>;
  /** Hidden objects whose names prove that this installation made them: those on their way, and what a crash left. */
  leftovers?(call: Call): AsyncIterable<readonly Leftover[]>;
  /** Removes what `leftovers` told, and nothing that it would not tell; directories stay. Answers as `remove`. */
  removeLeftovers?(paths: readonly StorePath[], call: Call): Promise<readonly RemoveFailure[]>;
  close(): Promise<void>;

  /** Optional powers: there, or not supported. */
  readonly multipart?: Multipart;
  readonly serverCopy?: ServerCopy;

  /** The only code that looks inside a vendor's error. */
  classify(error: unknown): Classified;
}

/** A hidden object of this installation's own. */
export interface Leftover {
  /** No call but `removeLeftovers` takes it. */
  readonly path: StorePath;
  /** Unix time in ms. */
  readonly modifiedMs: number;
  /** Of the upload in parts that it would belong to. */
  readonly uploadId?: string;
}
export interface RemoveFailure {
  readonly path: StorePath;
  readonly error: unknown;
}
export interface Classified {
  readonly kind: FailureKind;
  /** What to tell people, without secrets; undefined: the error's own message. */
  readonly message?: string;
  readonly retryAfterMs?: number;
}

export interface Upload {
  readonly path: StorePath;
  /** The store's own name for it. */
  readonly id: string;
  /** Answered by `begin`: what of `WriteCall.attributes` the store did not take. */
  readonly notKept?: readonly AttributeName[];
}
export interface PendingUpload extends Upload {
  /** Unix time in ms. */
  readonly begunMs: number;
}
/** What the store holds of an upload. */
export interface Receipt {
  /** From 1. */
  readonly number: number;
  readonly size: number;
  readonly etag: string;
  readonly crc32?: number;
}

export interface PartPlace {
  /** From 1. */
  readonly number: number;
  /** Where it lies in the whole; bytes. */
  readonly offset: number;
  /** The receipt outlives a crash of the machine, and so must the bytes: they are on the disk before it is written. */
  readonly durable?: boolean;
}

/** An upload in parts, addressed by path and id so that any worker can send any part and any worker can finish. */
export interface Multipart {
  /** `pending` tells of this installation's uploads only; else it tells of everybody's, and not whose one is. */
  readonly provesOwner: boolean;
  readonly limits: {
    /** Smallest part but the last; largest part; bytes. */
    readonly minBytes: number;
    readonly maxBytes: number;
    readonly maxParts: number;
    /** The size that this store is fastest with when parts come from memory. */
    readonly goodBytes: number;
    readonly order: 'any' | 'ascending';
  };
  begin(path: StorePath, call: WriteCall): Promise<Upload>;
  /**
   * Same number and bytes: same effect. Opens what `begin` made and never makes it. Takes a body of any size up to
   * `maxBytes` without holding it: pieces of 8 MiB at most, whose CRC32 is declared beforehand, pass one by one.
   */
  part(upload: Upload, part: PartPlace, body: Body, call: Call): Promise<Receipt>;
  parts(upload: Upload, call: Call): AsyncIterable<readonly Receipt[]>;
  /** Publishes, durable when it resolves. `whole.crc32` is compared by stores that can. */
  finish(
    upload: Upload,
    receipts: readonly Receipt[],
    whole: { readonly size: number; readonly crc32?: number },
    call: WriteCall,
  ): Promise<FileEntry>;
  /** Forgets the upload and its bytes; an unknown one is fine. Only ever of an upload that is known to be ours. */
  abandon(upload: Upload, call: Call): Promise<void>;
  /** Uploads begun and not ended on exactly `path`, or anywhere where `path` is the root, whoever began them: for gc. */
  pending(path: StorePath, call: Call): AsyncIterable<readonly PendingUpload[]>;
}

/** A version of an object that another driver of the same realm keeps. */
export interface CopySource {
  /** As that driver's `serverCopy.source` calls it. */
  readonly source: string;
  readonly etag: string;
}

/** Multipart uploads are written down before they begin, so that none is forgotten in a store. */
export interface UploadJournal {
  /** Answers an id for the two calls below. */
  intend(path: StorePath): Promise<string>;
  begun(journalId: string, upload: Upload): Promise<void>;
  ended(journalId: string): Promise<void>;
}

/** `carries`: the copy gets what the source has, and of `call.attributes` its storage class. Else it gets what `call` says, and nothing of the source's. */
export interface WholeSource extends CopySource {
  readonly size: number;
  readonly carries?: boolean;
}

/** Bytes that go from one object of a server to another without passing through here. */
export interface ServerCopy {
  /** Names the server and who we are there, without a secret: two drivers with the same realm can copy from each other. */
  readonly realm: string;
  /** Largest object that one `copy` takes; bytes. */
  readonly maxBytes: number;
  /**
   * A `copy` may be told to carry what the source has without anybody having looked at it, and then nothing is lost; not
   * so a conditional one. What it makes need not remember `WriteCall.token` then.
   */
  carries(call: Call): Promise<boolean>;
  /** What another driver of the realm calls this object (opaque). */
  source(path: StorePath): string;
  /** The whole object, published; another version than `from.etag`: `precondition`. */
  copy(
    from: WholeSource,
    path: StorePath,
    /** `journal`: of the upload that it may take. */
    call: WriteCall & { readonly journal?: UploadJournal },
  ): Promise<FileEntry>;
  /**
   * Begins an upload that is sent by `part` below and goes on as any other (`multipart.parts`, `finish`, `abandon`).
   * One from `multipart.begin` may demand checksums of its parts, which servers do not make for what they copy.
   */
  begin(path: StorePath, call: WriteCall): Promise<Upload>;
  /** `range` of the object, which is all of it or as long as a part may be; another version than `from.etag`: `precondition`. */
  part(
    from: CopySource,
    range: ByteRange,
    upload: Upload,
    part: { readonly number: number; readonly offset: number },
    call: Call,
  ): Promise<Receipt>;
}
