-- wrk: PUT 64 KiB bodies to ever new paths (thread id and counter), or GET what an earlier run put.
local prefix, method, files = os.getenv("BENCH_PREFIX"), os.getenv("BENCH_METHOD"), tonumber(os.getenv("BENCH_FILES") or "0")
local body = string.rep("0123456789abcdef", 4096)
local threads = 0
function setup(thread)
  thread:set("id", threads)
  threads = threads + 1
end
local n = 0
function request()
  n = n + 1
  local name = method == "PUT" and n or (n % files) + 1
  local path = prefix .. "/" .. id .. "-" .. name
  if method == "PUT" then
    return wrk.format("PUT", path, nil, body)
  end
  return wrk.format("GET", path)
end
local bad = 0
function response(status)
  if status ~= 200 then bad = bad + 1 end
end
function done(summary, latency)
  io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests, summary.duration, summary.errors.status + summary.errors.read + summary.errors.write + summary.errors.timeout + summary.errors.connect, latency:percentile(50), latency:percentile(99)))
end
