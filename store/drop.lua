-- Drop an index entry, if it is still the one that the caller has seen: a claim that was made or changed
-- since then has an entry with another time, which must stay.
--
-- KEYS[1] index   ARGV[1] job id   ARGV[2] score

local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score and tonumber(score) == tonumber(ARGV[2]) then return redis.call('ZREM', KEYS[1], ARGV[1]) end
return 0
