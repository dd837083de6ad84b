-- Read a part of a job's trail by place: places count from its first event, also once the oldest are gone.
--
-- KEYS[1] trail  [2] callbacks, which hold under '' how many events are gone
-- ARGV[1] the place to begin at (below 0: counted from the end)  [2] how many events
-- returns the place of the first event that is there from ARGV[1] on, the place behind the last, and the events

local gone = tonumber(redis.call('HGET', KEYS[2], '') or 0)
local size, first = redis.call('LLEN', KEYS[1]), tonumber(ARGV[1])
first = math.max(first < 0 and size + first or first - gone, 0)
return {gone + first, gone + size, redis.call('LRANGE', KEYS[1], first, first + ARGV[2] - 1)}
