/**
 * What the jobs of one parted upload tell each other, in Redis only: how far they are together, and why one was given
 * up. All of it may be lost: the store says which parts it has, and the ledger how the transfer ended.
 */
import type { Redis } from 'ioredis';
import { z } from 'zod';
import { FAILURE_KINDS, Failure, type FailureKind } from '../errors.ts';
import { channelOf, keyOf } from './progress.ts';
import { askRedis } from './redis.ts';

/** Longer than parts wait for a worker without a word of any other one. */
const KEPT_SECONDS = 86_400;
const EVERY_MS = 1000;
/** Pairs in one call. */
const AT_ONCE = 1000;

/** The queue, or anything with its connection. */
interface Connected {
  readonly redis: Redis;
  readonly prefix: string;
}

const gaveUpNote = z.object({
  kind: z.enum(FAILURE_KINDS as [FailureKind, ...FailureKind[]]),
  message: z.string(),
});

/** One for the whole upload: the first part that is given up keeps the others from being sent in vain. */
const gaveUpKey = (prefix: string, upload: string): string => `${prefix}:gave-up:${upload}`;
const sumsKey = (prefix: string, transfer: string): string => `${prefix}:parts:${transfer}`;

/** @throws Failure `unavailable` where Redis is away: then nobody would know, and the job shall come back */
export async function giveUpPart(
  { redis, prefix }: Connected,
  upload: string,
  { kind, message }: Pick<Failure, 'kind' | 'message'>,
): Promise<void> {
  const text = JSON.stringify({ kind, message });
  await askRedis('give up a part', () =>
    redis.set(gaveUpKey(prefix, upload), text, 'EX', KEPT_SECONDS, 'NX'),
  );
}

/** @throws Failure `unavailable` */
export async function isGivenUp({ redis, prefix }: Connected, upload: string): Promise<boolean> {
  return (await askRedis('look for a part', () => redis.exists(gaveUpKey(prefix, upload)))) === 1;
}

/** Why a part was given up since this was last asked. @throws Failure `unavailable` */
export async function takeGivenUp(
  { redis, prefix }: Connected,
  upload: string,
): Promise<Failure | undefined> {
  const text = await askRedis('look for parts', () => redis.getdel(gaveUpKey(prefix, upload)));
  const note = text === null ? undefined : gaveUpNote.safeParse(JSON.parse(text)).data;
  return note && new Failure(note.kind, note.message);
}

/**
 * Bytes of all parts together, each part counted as far as it ever was, so that the sum never runs backward; told as the
 * transfer's progress once a second, whoever of them asks first.
 * KEYS: sums by part, the transfer's progress, its channel. ARGV: transfer, epoch, bytes of the whole, now in ms, then
 * part and bytes in turn.
 */
const ADD_UP = `
local sums, progress, channel = KEYS[1], KEYS[2], KEYS[3]
local function text(number) return string.format('%.0f', number) end
if redis.call('HGET', sums, 'total') ~= ARGV[3] then
  redis.call('DEL', sums)
  redis.call('HSET', sums, 'total', ARGV[3])
end
local done = tonumber(redis.call('HGET', sums, 'done') or '0')
for n = 5, #ARGV, 2 do
  local part, bytes = ARGV[n], tonumber(ARGV[n + 1])
  local before = tonumber(redis.call('HGET', sums, part) or '0')
  if bytes > before then
    redis.call('HSET', sums, part, ARGV[n + 1])
    done = done + bytes - before
  end
end
local now = tonumber(ARGV[4])
local told = redis.call('HMGET', sums, 'atMs', 'told', 'rate')
redis.call('HSET', sums, 'done', text(done))
redis.call('EXPIRE', sums, ${KEPT_SECONDS})
local elapsed = told[1] and now - tonumber(told[1]) or ${EVERY_MS}
if elapsed < ${EVERY_MS} then return end
local rate = 0
if told[1] then
  rate = math.max(0, done - tonumber(told[2])) * 1000 / elapsed
  local before = tonumber(told[3])
  if before > 0 then rate = 0.7 * before + 0.3 * rate end
end
redis.call('HSET', sums, 'atMs', ARGV[4], 'told', text(done), 'rate', text(rate))
local note = '{"transfer":' .. cjson.encode(ARGV[1]) .. ',"epoch":' .. ARGV[2] .. ',"done":' .. text(done) ..
  ',"total":' .. ARGV[3] .. ',"bytesPerSecond":' .. text(rate) .. ',"atMs":' .. ARGV[4] .. '}'
redis.call('SET', progress, note, 'EX', ${KEPT_SECONDS})
redis.call('PUBLISH', channel, note)
`;

export interface PartedProgress {
  readonly transfer: string;
  readonly epoch: number;
  /** Bytes of the whole. */
  readonly total: number;
}

/** Bytes that parts have so far, by number. Never throws, and nobody need wait for it. */
export async function reportParts(
  { redis, prefix }: Connected,
  { transfer, epoch, total }: PartedProgress,
  parts: readonly (readonly [number: number, bytes: number])[],
): Promise<void> {
  const keys = [sumsKey(prefix, transfer), keyOf(prefix, transfer), channelOf(prefix)];
  try {
    for (let at = 0; at < parts.length; at += AT_ONCE)
      await redis.eval(
        ADD_UP,
        keys.length,
        ...keys,
        ...[transfer, epoch, total, Date.now()],
        ...parts.slice(at, at + AT_ONCE).flat(),
      );
  } catch {} // lost without harm
}

/** Forgets all that was told of it and of its uploads. Never throws. */
export async function forgetParts(
  { redis, prefix }: Connected,
  transfer: string,
  uploads: readonly string[],
): Promise<void> {
  const keys = uploads.map((upload) => gaveUpKey(prefix, upload));
  await redis.del(sumsKey(prefix, transfer), keyOf(prefix, transfer), ...keys).catch(() => 0);
}

/** Of one part that is on its way: told of every chunk, it tells Redis now and then. */
export class PartReporter {
  readonly #queue: Connected;
  readonly #whole: PartedProgress;
  readonly #number: number;
  #toldMs = Date.now();
  #bytes = 0;

  constructor(queue: Connected, whole: PartedProgress, number: number) {
    this.#queue = queue;
    this.#whole = whole;
    this.#number = number;
  }

  /** Cheap but once a second. */
  report(bytes: number): void {
    this.#bytes = bytes;
    const now = Date.now();
    if (now - this.#toldMs < EVERY_MS) return;
    this.#toldMs = now;
    void this.#tell();
  }

  #tell(): Promise<void> {
    return reportParts(this.#queue, this.#whole, [[this.#number, this.#bytes]]);
  }

  /** The store has it all. */
  async done(size: number): Promise<void> {
    this.#bytes = size;
    await this.#tell();
  }
}
