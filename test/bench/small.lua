-- wrk: PUT 64 KiB bodies to ever new paths (thread id and counter), GET what an earlier run put, or POST submits of
-- copies of one object to ever new paths. Names count from 2: wrk asks each script for a first request that it never sends.
local prefix, method = os.getenv("BENCH_PREFIX"), os.getenv("BENCH_METHOD")
local files = tonumber(os.getenv("BENCH_FILES"))
local from = os.getenv("BENCH_FROM")
local body = string.rep("0123456789abcdef", 4096)
local threads = {}
n = 0
answered = 0

function setup(thread)
  thread:set("id", #threads)
  table.insert(threads, thread)
end

function request()
  n = n + 1
  if method == "POST" then
    local copy = string.format('{"kind":"copy","from":"%s","to":"%s/%d-%d"}', from, prefix, id, n)
    return wrk.format("POST", "/api/v1/transfers", { ["Content-Type"] = "application/json" }, copy)
  end
  if method == "PUT" then
    return wrk.format("PUT", prefix .. "/" .. id .. "-" .. n, nil, body)
  end
  return wrk.format("GET", prefix .. "/" .. id .. "-" .. (n % files) + 2)
end

-- what was asked for last may not have been answered: the last 200 do not count
function response()
  answered = answered + 1
end

function done(summary, latency)
  local least = math.huge
  for _, thread in ipairs(threads) do
    least = math.min(least, thread:get("answered"))
  end
  local e = summary.errors
  local errors = e.status + e.read + e.write + e.timeout + e.connect
  io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests, summary.duration, errors, latency:percentile(99), math.max(1, least - 200)))
end
