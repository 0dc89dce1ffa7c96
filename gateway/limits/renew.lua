-- Keeps a lease's stream for another lease time. A lease that was lost stays lost: its place may
-- be taken, and a renewal that overtakes the settling must not bring it back.
--
-- KEYS  1 streams: sorted set, lease by time of expiry
-- ARGV  1 time in ms, or '' for this server's   2 lease   3 lease time in ms
-- gives 1, or 0 if the lease is not there
if not redis.call('ZSCORE', KEYS[1], ARGV[2]) then
  return 0
end
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
redis.call('ZADD', KEYS[1], 'XX', now + ARGV[3], ARGV[2])
redis.call('PEXPIRE', KEYS[1], 2 * ARGV[3])
return 1
