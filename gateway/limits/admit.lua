-- Lets one request in or refuses it: all limits checked and taken together, or nothing.
--
-- A sliding window is a hash of BUCKETS + 1 counters, field = floor(time / width). A bucket counts
-- until the whole of it has left the window, so no window of that length, wherever it starts, ever
-- holds more than the limit; what was taken is free again after at most one width more.
--
-- KEYS  1 requests, 2 tokens, 4 blocks: hashes   3 streams: sorted set, lease by time of expiry
-- ARGV  1 time in ms, or '' for this server's   2 lease   3 lease time in ms   4 tokens to reserve
--       5 minute, 6 hour: window lengths in ms   7..10 limits in the order of KEYS, '' for none
-- gives {1 let in | 0 refused, bucket of the minute, then for each limit: used, reset, retry}
--       used counts this request if let in; reset and retry in ms, retry -1 for never;
--       all three -1 where there is no limit
local BUCKETS = 60
local STREAM_RETRY = 1000 -- nobody knows when a stream ends

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local lease, lease_time, tokens = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local minute, hour = tonumber(ARGV[5]), tonumber(ARGV[6])

local function bucket_at(length)
  return math.floor(now * BUCKETS / length)
end

-- ms from now until `bucket` counts no more
local function leaves(bucket, length)
  return math.ceil((bucket + BUCKETS + 1) * length / BUCKETS - now)
end

local function window(key, limit, amount, length)
  local oldest = bucket_at(length) - BUCKETS
  local fields = redis.call('HGETALL', key)
  local used, counts, gone = 0, {}, {}
  for i = 1, #fields, 2 do
    local bucket, count = tonumber(fields[i]), tonumber(fields[i + 1])
    if bucket < oldest or count <= 0 then
      gone[#gone + 1] = fields[i]
    else
      used = used + count
      counts[#counts + 1] = {bucket, count}
    end
  end
  if #gone > 0 then
    redis.call('HDEL', key, unpack(gone))
  end
  table.sort(counts, function(a, b) return a[1] < b[1] end)

  local reset, retry = 0, 0
  if #counts > 0 then
    reset = leaves(counts[#counts][1], length)
  end
  if used + amount > limit then
    retry = -1
    local left = used
    for _, entry in ipairs(counts) do
      left = left - entry[2]
      if left + amount <= limit then
        retry = leaves(entry[1], length)
        break
      end
    end
  end
  return {used, reset, retry}
end

local function streams(key, limit)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  local used = redis.call('ZCARD', key)
  return {used, 0, used + 1 > limit and STREAM_RETRY or 0}
end

local function add(key, amount, length)
  redis.call('HINCRBY', key, string.format('%.0f', bucket_at(length)), amount)
  redis.call('PEXPIRE', key, 2 * length)
end

local limits = {tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])}
local found = {
  limits[1] and window(KEYS[1], limits[1], 1, minute) or {-1, -1, -1},
  limits[2] and window(KEYS[2], limits[2], tokens, minute) or {-1, -1, -1},
  limits[3] and streams(KEYS[3], limits[3]) or {-1, -1, -1},
  -- Nothing to reserve: only its end shows whether a request is blocked.
  limits[4] and window(KEYS[4], limits[4], 1, hour) or {-1, -1, -1},
}

local admitted = 1
for kind = 1, 4 do
  if limits[kind] and found[kind][3] ~= 0 then
    admitted = 0
  end
end

if admitted == 1 then
  if limits[1] then
    add(KEYS[1], 1, minute)
    found[1] = {found[1][1] + 1, leaves(bucket_at(minute), minute), 0}
  end
  if limits[2] and tokens > 0 then
    add(KEYS[2], tokens, minute)
    found[2] = {found[2][1] + tokens, leaves(bucket_at(minute), minute), 0}
  end
  if limits[3] then
    redis.call('ZADD', KEYS[3], now + lease_time, lease)
    redis.call('PEXPIRE', KEYS[3], 2 * lease_time)
    found[3][1] = found[3][1] + 1
  end
end

local result = {admitted, bucket_at(minute)}
for kind = 1, 4 do
  for i = 1, 3 do
    result[#result + 1] = found[kind][i]
  end
end
return result
