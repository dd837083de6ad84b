-- Read a part of a job's trail by place: places count from its first event, also once the oldest are gone.
--
-- KEYS[1] trail  [2] callbacks, which hold under '' how many events are gone
-- ARGV[1] the place to begin at  [2] how many events
-- returns the place of the first event that is there from ARGV[1] on, and the events

local gone = tonumber(redis.call('HGET', KEYS[2], '') or 0)
local first = math.max(tonumber(ARGV[1]) - gone, 0)
return {gone + first, redis.call('LRANGE', KEYS[1], first, first + ARGV[2] - 1)}
