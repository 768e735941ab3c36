/**
 * One process's exchange with the book that Redis keeps of a store's limits: it says what it holds, wants and gives
 * back, and is told what it holds now. Whatever it says can be said again, so that a lost answer does no harm.
 *
 * KEYS: a hash with `run` (of the Redis that wrote last), `seen` (ms), `calm` (ms: until then nothing new is given out),
 * `tat` (µs: time of the next free slot) and, by process, what it holds and wants: its lease's end (ms), its counter, and
 * for readings and for connections: held, wanted, waiting since (µs).
 * ARGV: process, its counter, the run it knows ('' none), readings and connections in all (0: no limit), µs between two
 * slots (0: no limit), readings held and wanted, connections held and wanted, slots wanted, `bye` or '', and what a
 * channel begins with whose end is a process: on it the book's name is published to who may have what is free now.
 * Answers run; processes, those of them that hold or want something, that want readings, that want connections; readings
 * held, connections held; who comes before it; slots, µs until the first of them (or until one can be had), µs between
 * them. An older counter: nothing.
 *
 * A new `run` or a silence means that the book may be old, or lost: leases begin anew, and nothing is given out until
 * those who hold something had time to say so.
 */

/** A share is gone when its process was not heard of for so long. */
export const LEASE_MS = 10_000;
/** How far ahead slots are given out. */
export const AHEAD_MS = 150;
const SILENCE_MS = 5000;
const CALM_MS = 3000;
/** Who waits asks several times a second; who does not has died or changed its mind. */
const ASKED_MS = 1500;
const KEPT_MS = 60_000;

export const EXCHANGE = `
local book, me, counter, knownRun, bye = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[12]
local limits = { tonumber(ARGV[4]), tonumber(ARGV[5]) }
local spacing, slots = tonumber(ARGV[6]), tonumber(ARGV[11])
local says = { { tonumber(ARGV[7]), tonumber(ARGV[8]) }, { tonumber(ARGV[9]), tonumber(ARGV[10]) } }
local function text(number) return string.format('%.0f', number) end

local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or 'unknown'

local facts, processes, known = {}, {}, 0
local all = redis.call('HGETALL', book)
for n = 1, #all, 2 do
  local name = string.match(all[n], '^p:(.*)$')
  if name then
    local f = {}
    for word in string.gmatch(all[n + 1], '%S+') do f[#f + 1] = tonumber(word) end
    processes[name] = { ends = f[1], counter = f[2], asked = f[3], { f[4], f[5], f[6] }, { f[7], f[8], f[9] } }
    known = known + 1
  else facts[all[n]] = all[n + 1] end
end
local function write(name)
  local p = processes[name]
  redis.call('HSET', book, 'p:' .. name, table.concat({ text(p.ends), text(p.counter), text(p.asked),
    text(p[1][1]), text(p[1][2]), text(p[1][3]), text(p[2][1]), text(p[2][2]), text(p[2][3]) }, ' '))
end

local calm = tonumber(facts.calm or '0')
local silent = now - tonumber(facts.seen or '0') > ${SILENCE_MS}
if facts.run ~= run or silent then
  for name, p in pairs(processes) do
    p.ends = now + ${LEASE_MS}
    if name ~= me then write(name) end
  end
  if known > 0 or knownRun ~= '' then calm = now + ${CALM_MS} end
  facts.tat = text(math.max(tonumber(facts.tat or '0'), us + ${2 * AHEAD_MS * 1000}))
end
for name, p in pairs(processes) do
  if p.ends < now then
    redis.call('HDEL', book, 'p:' .. name)
    processes[name] = nil
  end
end

local mine = processes[me] or { counter = -1, { 0, 0, 0 }, { 0, 0, 0 } }
if counter <= mine.counter then return {} end
mine.ends, mine.counter, mine.asked = now + ${LEASE_MS}, counter, now
processes[me] = mine

local count, busy, hungry, ahead, held = 0, 0, { 0, 0 }, { 0, 0 }, { 0, 0 }
local function waits(p) return now - p.asked < ${ASKED_MS} end
for name, p in pairs(processes) do
  count = count + 1
  if name == me or p[2][1] > 0 or (waits(p) and p[1][2] + p[2][2] > 0) then busy = busy + 1 end
end
for name, p in pairs(processes) do
  for r = 1, name == me and 0 or 2 do
    held[r] = held[r] + p[r][1]
    if waits(p) and p[r][2] > 0 then
      hungry[r] = hungry[r] + 1
      local entitled = p[r][1] < math.ceil(limits[r] / busy)
      if entitled and (mine[r][3] == 0 or p[r][3] < mine[r][3]) then ahead[r] = ahead[r] + 1 end
    end
  end
end

for r = 1, 2 do
  local has, wants = says[r][1], says[r][2]
  if limits[r] > 0 then has = math.min(has, math.max(0, limits[r] - held[r])) end
  local since = mine[r][3]
  if wants == 0 then since = 0
  else
    if since == 0 then since = us end
    local given = wants
    if limits[r] > 0 then
      local free = limits[r] - held[r] - has - ahead[r]
      local fair = wants
      if hungry[r] > 0 then fair = math.ceil(limits[r] / busy) - has end
      given = math.max(0, math.min(wants, free, fair))
      if now < calm then given = 0 end
    end
    has, wants = has + given, wants - given
    if r == 2 then slots = slots + given end -- who gets a connection needs a slot next
    if given > 0 then since = wants > 0 and us or 0 end
  end
  mine[r] = { has, wants, since }
end

for r = 1, 2 do
  local free, line = limits[r] - held[r] - mine[r][1], {}
  if free > 0 and hungry[r] > 0 and now >= calm then
    for name, p in pairs(processes) do
      if name ~= me and p[r][2] > 0 and waits(p) then line[#line + 1] = name end
    end
    table.sort(line, function(a, b) return processes[a][r][3] < processes[b][r][3] end)
    for n = 1, math.min(free, #line) do redis.call('PUBLISH', ARGV[13] .. line[n], book) end
  end
end

local wait = 0
if spacing > 0 then
  if now < calm then spacing = spacing * 2 end
  local first = math.max(tonumber(facts.tat or '0'), us)
  local room = math.max(0, math.floor((us + ${AHEAD_MS * 1000} - first) / spacing) + 1)
  slots = math.min(slots, room, math.max(1, math.floor(${AHEAD_MS * 1000} / spacing / busy)))
  facts.tat = text(first + slots * spacing)
  wait = first - us
else slots = 0 end

if bye == 'bye' then redis.call('HDEL', book, 'p:' .. me) else write(me) end
redis.call('HSET', book, 'run', run, 'seen', text(now), 'calm', text(calm), 'tat', facts.tat or '0')
redis.call('PEXPIRE', book, ${KEPT_MS})
return { run, count, busy, hungry[1], hungry[2], mine[1][1], mine[2][1], math.max(ahead[1], ahead[2]), slots,
  text(wait), text(spacing) }
`;
