-- Create a record and list it, unless it exists or was created before.
--
-- KEYS[1] record  [2] marker: it was created before, even if it is gone by now  [3] trail
--      [4] its parent, which must exist (the record itself: it has none)
--      [5] its owner, [6] its project is being erased  [7..] lists
-- ARGV[1] the record
-- ARGV[2] seconds that the marker lasts  ('0' = none is set)
-- ARGV[3] the first event of the trail   ('' = none)
-- ARGV[4..] the record's entry in each of the lists
-- returns 1 if it was created, 0 if it was before or has no parent, 2 during an erasure

if redis.call('EXISTS', KEYS[1], KEYS[2]) > 0 then return 0 end
if KEYS[4] ~= KEYS[1] and redis.call('EXISTS', KEYS[4]) == 0 then return 0 end
if redis.call('EXISTS', KEYS[5], KEYS[6]) > 0 then return 2 end

redis.call('SET', KEYS[1], ARGV[1])
if ARGV[2] ~= '0' then redis.call('SET', KEYS[2], 1, 'EX', ARGV[2]) end
if ARGV[3] ~= '' then redis.call('RPUSH', KEYS[3], ARGV[3]) end
for i = 7, #KEYS do redis.call('ZADD', KEYS[i], 0, ARGV[i - 3]) end
return 1
