-- Ends a lease: frees its stream, gives back tokens or charges more, counts a block. Once only.
--
-- Unused tokens go back to the bucket that they were taken from, if it still counts; tokens used
-- beyond the reservation count from now, for that is when they were used.
--
-- KEYS  1 tokens, 3 blocks: hashes   2 streams: sorted set   4 mark that this lease is settled
-- ARGV  1 time in ms, or '' for this server's   2 lease   3 bucket of the reservation
--       4 tokens reserved, 5 tokens used: '' where tokens are not limited   6 '1' to count a block
--       7 minute, 8 hour: window lengths in ms
-- gives 1, or 0 if it was settled before
local BUCKETS = 60

if not redis.call('SET', KEYS[4], '1', 'NX', 'PX', ARGV[7]) then
  return 0
end

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local minute, hour = tonumber(ARGV[7]), tonumber(ARGV[8])

local function add(key, amount, length)
  local bucket = math.floor(now * BUCKETS / length)
  redis.call('HINCRBY', key, string.format('%.0f', bucket), amount)
  redis.call('PEXPIRE', key, 2 * length)
end

redis.call('ZREM', KEYS[2], ARGV[2])

local reserved, used = tonumber(ARGV[4]), tonumber(ARGV[5])
if reserved and used > reserved then
  add(KEYS[1], used - reserved, minute)
elseif reserved and used < reserved then
  -- It may be gone: aged out, or Redis has lost its data. Never below nothing.
  local count = tonumber(redis.call('HGET', KEYS[1], ARGV[3]) or 0)
  if count > 0 then
    redis.call('HINCRBY', KEYS[1], ARGV[3], -math.min(reserved - used, count))
  end
end

if ARGV[6] == '1' then
  add(KEYS[3], 1, hour)
end
return 1
