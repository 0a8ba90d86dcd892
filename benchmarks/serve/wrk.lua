-- wrk ... -- FILE...: sends the files in turn, and tells what came of it as a line of JSON
local contents, at = {}, 0

function init(files)
  for _, name in ipairs(files) do
    local file = assert(io.open(name, "rb"))
    contents[#contents + 1] = file:read("*a")
    file:close()
  end
end

function request()
  at = at % #contents + 1
  return wrk.format("POST", "/predict", { ["Content-Type"] = "image/jpeg" }, contents[at])
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('{"requests":%d,"seconds":%f,"p50":%f,"p99":%f,"errors":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
