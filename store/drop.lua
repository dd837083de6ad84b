-- Drop index entries, each only if it is still the one that the caller knows: a claim that was settled
-- and made anew in between has an entry of its own, with another time, which must stay.
--
-- KEYS[1] index   ARGV[1], ARGV[2], … job id and score, in turn
-- returns how many were dropped

local dropped = 0
for i = 1, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if score and tonumber(score) == tonumber(ARGV[i + 1]) then
    dropped = dropped + redis.call('ZREM', KEYS[1], ARGV[i])
  end
end
return dropped
