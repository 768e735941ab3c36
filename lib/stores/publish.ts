/** The end of a draft, however its bytes came: publish, settle a lost reply, compare with what the store says it has. */
import { type Digests, type DigestsTaken, digestsOf, type ExpectedDigests, wholeCrc } from '../digests.ts';
import { Failure } from '../errors.ts';
import { lacking, without } from './attributes.ts';
import type { Draft, DraftTarget, MismatchKind, PrepareOptions, Published } from './draft.ts';
import type { Body, FileEntry, WriteCall } from './driver.ts';

/** Bytes that are all in memory already. @throws Failure where length or digests are not as declared */
export function draftOf(target: DraftTarget, content: Uint8Array, opts: PrepareOptions): Draft {
  const { size = content.length, expected } = opts;
  if (content.length !== size)
    throw mismatched(target, opts, 'size', `the body has ${count(content.length)} of ${count(size)}`);
  const digests = demanded(target, opts, digestsOf(content, expected));
  opts.onProgress?.(size);
  const body: Body = { size, crc32: wholeCrc(digests), open: () => [content] };
  return {
    digests,
    publish: ({ signal }) => {
      const write = () => target.driver.write(target.path, body, writeCall(opts, signal));
      return publishAndVerify(target, opts, digests, write, signal);
    },
    discard: async () => {},
  };
}

/** What was taken, where it is what the caller demands. @throws Failure */
export function demanded(target: DraftTarget, opts: PrepareOptions, taken: DigestsTaken): Digests {
  const { digests, mismatch } = taken;
  if (!mismatch) return digests;
  const { name, actual, expected } = mismatch;
  throw mismatched(target, opts, name, `its ${name} is ${actual}, not ${expected} as was declared`);
}

export const mismatched = (
  { path }: DraftTarget,
  opts: PrepareOptions,
  what: Parameters<MismatchKind>[0],
  why: string,
): Failure =>
  new Failure(opts.mismatch?.(what) ?? 'invalid', `nothing was stored: ${why}`, { op: 'put', path });

export function writeCall(
  { mode = 'replace', ifMatch, mediaType, attributes, token }: PrepareOptions,
  signal: AbortSignal,
): WriteCall {
  return {
    signal,
    mode,
    token,
    ...(ifMatch === undefined ? {} : { ifMatch }),
    ...(mediaType === undefined ? {} : { mediaType }),
    ...(attributes === undefined ? {} : { attributes }),
  };
}

/** @throws Failure `corrupt` where the store has something else than was sent */
export async function publishAndVerify(
  target: DraftTarget,
  opts: PrepareOptions,
  digests: Digests,
  publish: () => Promise<FileEntry>,
  signal: AbortSignal,
): Promise<Published> {
  const { driver, path } = target;
  const entry = await target.attempt('publish', signal, async () => {
    try {
      return await publish();
    } catch (error) {
      const found = await ours(target, opts, digests, signal);
      if (found)
        return {
          ...found,
          notKept: lacking(without(opts.attributes ?? {}, ['tags']), found.attributes ?? {}),
        };
      throw error;
    }
  });
  const crc = wholeCrc(digests);
  if (entry.size !== digests.size || (entry.crc32 !== undefined && entry.crc32 !== crc))
    throw new Failure(
      'corrupt',
      `${path} was published with ${count(entry.size)}, but ${count(digests.size)} were sent, or its CRC32 differs; send it again`,
      { op: 'publish', path },
    );
  const verified = [{ check: 'size', by: 'store' }];
  if (driver.traits.checksWrites || entry.crc32 !== undefined) verified.push({ check: 'crc32', by: 'store' });
  const { expected = {} } = opts;
  for (const check in expected)
    if (expected[check as keyof ExpectedDigests] !== undefined) verified.push({ check, by: 'client' });
  return { entry, verified };
}

/**
 * A lost reply is settled by looking: a target that carries our token is ours, however the call seemed to end.
 * Without a token, the store's own CRC32 and size of the whole must be ours, and nobody may have asked for `create`.
 */
async function ours(
  { driver, path }: DraftTarget,
  { token, mode, ifMatch }: PrepareOptions,
  digests: Digests,
  signal: AbortSignal,
): Promise<FileEntry | undefined> {
  if (signal.aborted) return undefined;
  const entry = await driver.head(path, { signal }).catch(() => undefined);
  if (!entry || entry.size !== digests.size) return undefined;
  if (entry.token !== undefined) return entry.token === token ? entry : undefined;
  const replaced = mode !== 'create' && ifMatch === undefined;
  return replaced && entry.crc32 === wholeCrc(digests) ? entry : undefined;
}

export const count = (bytes: number): string => `${bytes.toLocaleString('en-US')} bytes`;
