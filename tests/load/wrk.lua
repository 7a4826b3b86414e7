-- Adds to the published script what tests/load/wrk.py reads: the result as a line of JSON.
dofile("deploy/load/post.lua")

local pause = tonumber(os.getenv("WRK_PAUSE_MS"))
if pause then
   -- Milliseconds before each request; random, so that connections do not march in step.
   function delay() return math.random(0, 2 * pause) end
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '\n{"requests":%d,"microseconds":%d,"p50":%d,"p95":%d,"p99":%d,"non_2xx":%d,"unanswered":%d}\n',
      summary.requests, summary.duration,
      latency:percentile(50), latency:percentile(95), latency:percentile(99),
      errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
