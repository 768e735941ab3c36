/**
 * Objects in this process's memory: for tests of everything above a driver, and the plainest example of one. Keeps
 * nothing; two processes see two stores.
 */
import { randomUUID } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { Failure, type FailureKind } from '../../errors.ts';
import { isWithin, type StorePath } from '../../path.ts';
import { ATTRIBUTE_NAMES } from '../attributes.ts';
import type {
  Body,
  Call,
  Classified,
  CopySource,
  Driver,
  Entry,
  FileEntry,
  ListCall,
  Multipart,
  PendingUpload,
  ReadCall,
  Reading,
  Receipt,
  RemoveFailure,
  ServerCopy,
  Traits,
  Upload,
  WriteCall,
} from '../driver.ts';

const PAGE = 1000;
const CHUNK_BYTES = 256 * 1024;
const MIB = 1024 * 1024;

interface Stored {
  readonly entry: FileEntry;
  readonly bytes: Buffer;
  readonly tags: Readonly<Record<string, string>>;
}
interface PendingParts {
  readonly path: StorePath;
  readonly begunMs: number;
  /** What the whole shall carry was said when it was begun. */
  readonly carried: Pick<WriteCall, 'attributes' | 'mediaType'>;
  readonly parts: Map<number, { readonly receipt: Receipt; readonly bytes: Buffer }>;
}

class MemoryError extends Error {
  readonly kind: FailureKind;
  constructor(kind: FailureKind, message: string) {
    super(message);
    this.kind = kind;
  }
}

/** Drivers of one of these can copy from each other, as stores of one server can. */
export class MemoryServer {
  readonly realm = `memory-${randomUUID()}`;
  readonly drivers = new Map<string, MemoryDriver>();
}

export class MemoryDriver implements Driver {
  readonly traits: Traits = {
    replace: 'atomic',
    createOnly: true,
    conditionalWrite: true,
    rangedRead: true,
    namespace: 'flat',
    fileAndDir: true,
    lateParts: 'refused',
    checksWrites: true,
    keeps: ATTRIBUTE_NAMES,
    maxPathBytes: 4096,
    maxNameBytes: 255,
    connections: 64,
  };
  readonly multipart: Multipart;
  readonly serverCopy: ServerCopy;
  readonly #name = randomUUID();
  readonly #objects = new Map<StorePath, Stored>();
  readonly #uploads = new Map<string, PendingParts>();
  #version = 0;

  constructor({ goodBytes = 8 * MIB, server = new MemoryServer() } = {}) {
    this.multipart = this.#multipart(goodBytes);
    this.serverCopy = this.#serverCopy(server);
    server.drivers.set(this.#name, this);
  }

  refuses(): undefined {
    return undefined;
  }

  async head(path: StorePath, call: Call): Promise<FileEntry> {
    call.signal.throwIfAborted();
    return this.#get(path).entry;
  }

  async read(
    path: StorePath,
    range: { start: number; end: number } | undefined,
    call: ReadCall,
  ): Promise<Reading> {
    call.signal.throwIfAborted();
    const { entry, bytes } = this.#get(path);
    if (call.ifMatch !== undefined && call.ifMatch !== entry.etag) throw changed(path);
    const start = Math.min(range?.start ?? 0, entry.size);
    const end = Math.min(range?.end ?? entry.size, entry.size);
    return { entry, range: { start, end }, bytes: chunksOf(bytes.subarray(start, end), call.signal) };
  }

  async tags(path: StorePath, call: Call): Promise<Readonly<Record<string, string>>> {
    call.signal.throwIfAborted();
    return this.#get(path).tags;
  }

  async write(path: StorePath, body: Body, call: WriteCall): Promise<FileEntry> {
    const bytes = await collect(body, call.signal);
    return this.#put(path, bytes, call);
  }

  async *list(dir: StorePath, call: ListCall): AsyncGenerator<readonly Entry[]> {
    const below = [...this.#objects.values()]
      .map(({ entry }) => entry)
      .filter((e) => e.path !== dir && isWithin(e.path, dir));
    const entries = call.deep ? below : shallow(below, dir);
    for (let at = 0; at < entries.length; at += PAGE) {
      call.signal.throwIfAborted();
      yield entries.slice(at, at + PAGE);
    }
  }

  async remove(paths: readonly StorePath[], call: Call): Promise<readonly RemoveFailure[]> {
    call.signal.throwIfAborted();
    for (const path of paths) this.#objects.delete(path);
    return [];
  }

  async close(): Promise<void> {}

  classify(error: unknown): Classified {
    return { kind: error instanceof MemoryError ? error.kind : 'bug' };
  }

  #get(path: StorePath): Stored {
    const stored = this.#objects.get(path);
    if (!stored) throw new MemoryError('not-found', 'no such object');
    return stored;
  }

  #put(path: StorePath, bytes: Buffer, call: WriteCall): FileEntry {
    call.signal.throwIfAborted();
    const there = this.#objects.get(path);
    if (call.mode === 'create' && there)
      throw new MemoryError('already-exists', 'there is an object already');
    if (call.ifMatch !== undefined && call.ifMatch !== there?.entry.etag) throw changed(path);
    const { tags = {}, ...rest } = call.attributes ?? {};
    const tagCount = Object.keys(tags).length;
    const mediaType = call.mediaType;
    const entry: FileEntry = {
      kind: 'file',
      path,
      attributes: { ...rest, ...(mediaType !== undefined && { mediaType }) },
      ...(tagCount > 0 && { tagCount }),
      size: bytes.length,
      etag: `v${++this.#version}`,
      modifiedMs: call.attributes?.modified ?? Date.now(),
      token: call.token,
      crc32: crc32(bytes),
    };
    this.#objects.set(path, { entry, bytes, tags });
    return entry;
  }

  #serverCopy(server: MemoryServer): ServerCopy {
    const find = ({ source, etag }: CopySource): Stored => {
      const [name = '', path = ''] = JSON.parse(source) as string[];
      const keeper = server.drivers.get(name) ?? this;
      const stored = keeper.#objects.get(path as StorePath);
      if (stored?.entry.etag !== etag) throw changed(path as StorePath);
      return stored;
    };
    return {
      realm: server.realm,
      maxBytes: 5 * 1024 * MIB,
      carries: async () => true,
      source: (path) => JSON.stringify([this.#name, path]),
      copy: async (from, path, call) => {
        const { bytes, entry, tags } = find(from);
        const { mediaType, ...rest } = entry.attributes ?? {};
        const attributes = { ...rest, tags, ...call.attributes };
        const carried = { attributes, ...(mediaType !== undefined && { mediaType }) };
        return this.#put(path, bytes, from.carries ? { ...call, ...carried } : call);
      },
      begin: (path, call) => this.multipart.begin(path, call),
      part: async (from, range, upload, part, call) =>
        this.multipart.part(upload, part, bodyOf(find(from).bytes.subarray(range.start, range.end)), call),
    };
  }

  #multipart(goodBytes: number): Multipart {
    const uploads = this.#uploads;
    const minBytes = Math.min(goodBytes, 5 * MIB);
    const find = (upload: Upload) => {
      const found = uploads.get(upload.id);
      if (!found || found.path !== upload.path) throw new MemoryError('not-found', 'no such upload');
      return found;
    };
    return {
      provesOwner: true,
      limits: {
        minBytes,
        maxBytes: 5 * 1024 * MIB,
        maxParts: 10_000,
        goodBytes,
        order: 'any',
      },
      begin: async (path, call) => {
        call.signal.throwIfAborted();
        const id = randomUUID();
        const { attributes = {}, mediaType } = call;
        const carried = { attributes, ...(mediaType !== undefined && { mediaType }) };
        uploads.set(id, { path, begunMs: Date.now(), carried, parts: new Map() });
        return { path, id };
      },
      part: async (upload, { number }, body, call) => {
        find(upload);
        const bytes = await collect(body, call.signal);
        const crc = crc32(bytes);
        const receipt = { number, size: bytes.length, etag: `"${crc.toString(16)}"`, crc32: crc };
        find(upload).parts.set(number, { receipt, bytes });
        return receipt;
      },
      async *parts(upload, call) {
        call.signal.throwIfAborted();
        yield [...find(upload).parts.values()]
          .map(({ receipt }) => receipt)
          .toSorted((a, b) => a.number - b.number);
      },
      finish: async (upload, receipts, whole, call) => {
        const { parts, carried } = find(upload);
        if (receipts.slice(0, -1).some(({ size }) => size < minBytes))
          throw new MemoryError('invalid', `a part that is not the last has fewer than ${minBytes} bytes`);
        const bytes = Buffer.concat(
          receipts.map(({ number, etag }) => {
            const part = parts.get(number);
            if (part?.receipt.etag !== etag)
              throw new MemoryError('invalid', `part ${number} was not sent, or differs`);
            return part.bytes;
          }),
        );
        if (bytes.length !== whole.size || (whole.crc32 !== undefined && crc32(bytes) !== whole.crc32))
          throw new MemoryError('corrupt', 'the parts together are not the whole');
        const entry = this.#put(upload.path, bytes, { ...call, ...carried });
        uploads.delete(upload.id);
        return entry;
      },
      abandon: async (upload) => void uploads.delete(upload.id),
      async *pending(path) {
        const found = [...uploads].filter(([, upload]) => path === '' || upload.path === path);
        yield found.map(
          ([id, upload]): PendingUpload => ({ id, path: upload.path, begunMs: upload.begunMs }),
        );
      },
    };
  }
}

/** All of a body at once, its CRC32 known. */
const bodyOf = (bytes: Buffer): Body => ({ size: bytes.length, crc32: crc32(bytes), open: () => [bytes] });

const changed = (path: StorePath) =>
  new Failure('precondition', `${path} is not the version that was asked for`, { path });

/** Files right below `dir`, and the directories that files further down are in. */
function shallow(below: readonly FileEntry[], dir: StorePath): readonly Entry[] {
  const from = dir === '' ? 0 : dir.length + 1;
  const dirs = new Set<string>();
  const files: Entry[] = [];
  for (const entry of below) {
    const slash = entry.path.indexOf('/', from);
    if (slash === -1) files.push(entry);
    else dirs.add(entry.path.slice(0, slash));
  }
  return [...files, ...[...dirs].map((path): Entry => ({ kind: 'dir', path: path as StorePath }))];
}

async function collect(body: Body, signal: AbortSignal): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of body.open()) {
    signal.throwIfAborted();
    chunks.push(Buffer.from(chunk)); // chunks are lent
  }
  const bytes = Buffer.concat(chunks);
  if (bytes.length !== body.size)
    throw new MemoryError('corrupt', `${bytes.length} bytes came of ${body.size}`);
  if (body.crc32 !== undefined && crc32(bytes) !== body.crc32)
    throw new MemoryError('corrupt', 'the CRC32 differs');
  return bytes;
}

async function* chunksOf(bytes: Buffer, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
    signal.throwIfAborted();
    yield bytes.subarray(at, at + CHUNK_BYTES);
  }
}
