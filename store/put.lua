-- Make a record, or list one that stands, where it is still what was read.
--
-- KEYS[1] record  [2] marker: it was made before, even if it is gone by now  [3] trail
--      [4] what it is made in, which must be there (the record itself: in nothing)
--      [5] its owner, [6] its project is being erased  [7..] lists
-- ARGV[1] the record as it was read      ('' = there was none)
-- ARGV[2] the new record                 ('' = unchanged)
-- ARGV[3] seconds that the marker lasts  ('0' = none is set)
-- ARGV[4] the first event of the trail   ('' = none)
-- ARGV[5..] the record's place in each of the lists
-- returns 1 if done, 0 if the record is another, was made before, or has nothing to be made in, 2 if it is
-- not made because of an erasure

if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if ARGV[2] ~= '' and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
if ARGV[2] ~= '' and KEYS[4] ~= KEYS[1] and redis.call('EXISTS', KEYS[4]) == 0 then return 0 end
if ARGV[2] ~= '' and redis.call('EXISTS', KEYS[5], KEYS[6]) > 0 then return 2 end

for i = 7, #KEYS do redis.call('ZADD', KEYS[i], 0, ARGV[i - 2]) end
if ARGV[2] == '' then return 1 end
if ARGV[3] ~= '0' then redis.call('SET', KEYS[2], 1, 'EX', ARGV[3]) end
if ARGV[4] ~= '' then redis.call('RPUSH', KEYS[3], ARGV[4]) end
redis.call('SET', KEYS[1], ARGV[2])
return 1
