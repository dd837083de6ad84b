-- Read a part of a job's trail. Positions count from its first event, even once the oldest are gone.
--
-- KEYS[1] trail  [2] callbacks, which hold under '' how many events are gone
-- ARGV[1] the position to begin at (below 0: counted from the end)  [2] how many events
-- returns the position of the first event returned, the position behind the last one kept, and the events

local gone = tonumber(redis.call('HGET', KEYS[2], '') or 0)
local size, first = redis.call('LLEN', KEYS[1]), tonumber(ARGV[1])
first = math.max(first < 0 and size + first or first - gone, 0)
return {gone + first, gone + size, redis.call('LRANGE', KEYS[1], first, first + ARGV[2] - 1)}
