/**
 * Start-time fair queueing, carried out by Redis so that producers need not agree on anything. A band of priorities has
 * a virtual time: the tag of the first job that waits in it. A job's tag is the virtual time, or that of the job before
 * it in its line and a little more, whichever is later: lines take turns, and who comes late owes nothing. Who was given a tag
 * adds the job a moment later: until then it is among those on their way, which count as waiting.
 *
 * KEYS: the queue's prioritized and delayed sets; the band's state (`v`: virtual time, `shift` and `shifted`: see
 * below), lines (by name, the tag of the last job; those behind the virtual time are forgotten) and what is on its way.
 * ARGV: what a job's key begins with, band, the job (or '') that is put off and whose priority is to be the tag, a name
 * of its own for what is on its way from now on, how many names of what has arrived follow, those names, and then lines,
 * each with how many tags it is to have.
 * Answers under which name it is on its way, and as many BullMQ priorities, line by line. All of it may be lost: the
 * virtual time is then that of what waits.
 */

/** In BullMQ's priorities, 0 to 2^21 - 1, each band has so many. */
export const TAGS = 2 ** 17;
/** The band's first tag is for jobs that go before all of it. 0 would be none of BullMQ's priorities. */
export const FRONT_TAG = 1;
const FIRST_TAG = 2;
/** Jobs of a line in one tag. */
const QUANTUM = 8;
/**
 * From this virtual time on tags are taken down again, so that a band that is never empty does not run out of them.
 * The waiting jobs follow, some with each call: those that have not yet are the ones above this.
 */
const RENEW_AT = (TAGS / 4) * 3;
const MOVED_AT_ONCE = 250;
/** Delayed jobs whose tag is of no use any more when tags are taken down, and that go first instead. */
const RECALLED = 10_000;
const KEPT_SECONDS = 86_400;
/** What has not arrived by then was lost with its producer, who gives up after a second. */
const ON_THE_WAY_MS = 3000;

export const TAKE_TURNS = `
local prioritized, delayed, state, lines, coming = unpack(KEYS)
local jobKeys, base, again, arrived = ARGV[1], tonumber(ARGV[2]) * ${TAGS}, ARGV[3], tonumber(ARGV[5])
local COUNTER = 4294967296 -- a score is priority * 2^32 + counter
local function text(number) return string.format('%.0f', number) end
local function scoreOf(tag) return text((base + tag) * COUNTER) end
local function between(from, limit)
  return redis.call('ZRANGEBYSCORE', prioritized, scoreOf(from), '(' .. scoreOf(${TAGS}), 'WITHSCORES', 'LIMIT', 0, limit)
end
local function setPriority(id, priority)
  local key = jobKeys .. id
  if redis.call('EXISTS', key) == 1 then redis.call('HSET', key, 'priority', text(priority)) end
end
local function recallDelayed()
  for _, id in ipairs(redis.call('ZRANGE', delayed, 0, ${RECALLED - 1})) do
    local priority = tonumber(redis.call('HGET', jobKeys .. id, 'priority')) or 0
    if priority > base and priority < base + ${TAGS} then setPriority(id, base + ${FRONT_TAG}) end
  end
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for n = 6, 5 + arrived do redis.call('ZREM', coming, ARGV[n]) end
local function firstComing()
  while true do
    local head = redis.call('ZRANGE', coming, 0, 0, 'WITHSCORES')
    if not head[1] then return end
    if tonumber(string.match(head[1], '^%d+')) > now then return tonumber(head[2]) end
    redis.call('ZREM', coming, head[1])
  end
end

local known = redis.call('HMGET', state, 'v', 'shift', 'shifted')
local was, shift = tonumber(known[1] or nil), tonumber(known[2] or nil)
if shift then
  local jobs = between(${RENEW_AT}, ${MOVED_AT_ONCE})
  for n = 1, #jobs, 2 do
    local score = math.max(tonumber(jobs[n + 1]) - shift * COUNTER, (base + ${FIRST_TAG}) * COUNTER)
    redis.call('ZADD', prioritized, text(score), jobs[n])
    setPriority(jobs[n], math.floor(score / COUNTER))
  end
  if #jobs < ${2 * MOVED_AT_ONCE} and now > tonumber(known[3]) + ${2 * ON_THE_WAY_MS} then
    redis.call('HDEL', state, 'shift', 'shifted')
  end
end

local v = was
local score = between(${FIRST_TAG}, 1)[2]
local first = score and math.floor(tonumber(score) / COUNTER) - base
local nearest = firstComing()
if nearest and not (first and first < nearest) then first = nearest end
if not v then
  v = first or ${FIRST_TAG}
  recallDelayed()
elseif first then
  v = math.max(v, first)
else
  local last = redis.call('ZREVRANGE', lines, 0, 0, 'WITHSCORES')[2]
  v = math.max(v, math.floor(tonumber(last or 0)))
  redis.call('DEL', lines)
end
if v >= ${RENEW_AT} then
  shift = v - ${FIRST_TAG}
  local all = redis.call('ZRANGE', lines, 0, -1)
  for _, name in ipairs(all) do redis.call('ZINCRBY', lines, -shift, name) end
  redis.call('HSET', state, 'shift', shift, 'shifted', text(now))
  redis.call('DEL', coming)
  v = ${FIRST_TAG}
  recallDelayed()
end

if v ~= was then
  redis.call('ZREMRANGEBYSCORE', lines, '-inf', '(' .. text(v - 1))
  redis.call('HSET', state, 'v', v)
  redis.call('EXPIRE', state, ${KEPT_SECONDS})
  redis.call('EXPIRE', lines, ${KEPT_SECONDS})
end
local priorities, nearestTag = {}, ${TAGS}
for n = 6 + arrived, #ARGV, 2 do
  local line = ARGV[n]
  local last = tonumber(redis.call('ZSCORE', lines, line) or nil)
  for _ = 1, tonumber(ARGV[n + 1]) do
    last = math.min(math.max(v, last and last + ${1 / QUANTUM} or 0), ${TAGS - 1})
    nearestTag = math.min(nearestTag, math.floor(last))
    table.insert(priorities, base + math.floor(last))
  end
  if redis.call('ZADD', lines, string.format('%.17g', last), line) == 1 then
    redis.call('EXPIRE', lines, ${KEPT_SECONDS})
  end
end
local name = text(now + ${ON_THE_WAY_MS}) .. ' ' .. ARGV[4]
if again ~= '' then
  setPriority(again, priorities[1])
else
  redis.call('ZADD', coming, nearestTag, name)
  redis.call('PEXPIRE', coming, ${2 * ON_THE_WAY_MS})
end
table.insert(priorities, 1, name)
return priorities
`;

/**
 * When the job was added that waits longest; false: none does. The oldest of a line is its first one, and the firsts of
 * all lines are among the first of a band.
 * KEYS: the queue's plain list and its prioritized set. ARGV: what a job's key begins with, how many bands, how many
 * jobs of each are looked at.
 */
export const OLDEST_WAITING = `
local oldest
local function look(id)
  local added = tonumber(redis.call('HGET', ARGV[1] .. id, 'timestamp') or nil)
  if added and (not oldest or added < oldest) then oldest = added end
end
local next = redis.call('LINDEX', KEYS[1], -1)
if next then look(next) end
local size = ${TAGS} * 4294967296
for band = 0, tonumber(ARGV[2]) - 1 do
  local from, to = string.format('%.0f', band * size), string.format('(%.0f', (band + 1) * size)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], from, to, 'LIMIT', 0, ARGV[3])) do look(id) end
end
return oldest and string.format('%.0f', oldest)
`;

/**
 * For jobs that were taken out of the queue before their turn: their line's next ones need not wait for those turns.
 * KEYS: the band's state and lines. ARGV: line, how many jobs.
 */
export const GIVE_BACK_TURNS = `
local state, lines = unpack(KEYS)
local last = tonumber(redis.call('ZSCORE', lines, ARGV[1]) or nil)
if not last then return end
local v = tonumber(redis.call('HGET', state, 'v') or nil) or ${FIRST_TAG}
last = math.max(v, last - tonumber(ARGV[2]) / ${QUANTUM})
redis.call('ZADD', lines, string.format('%.17g', last), ARGV[1])
`;
