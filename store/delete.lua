-- Delete a job, and its entries in lists and indexes, if the job and its claim are still as they were read.
--
-- KEYS[1] job  [2] claim  [3] trail  [4] callbacks  [5..] lists and indexes
-- ARGV[1] the job as it was read  [2] the claim as it was read ('' = there was none)
-- ARGV[3..] the job's entry in each of the lists and indexes
-- returns 1 if deleted, 0 if job or claim had changed

if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if (redis.call('GET', KEYS[2]) or '') ~= ARGV[2] then return 0 end

redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
for i = 5, #KEYS do redis.call('ZREM', KEYS[i], ARGV[i - 2]) end
return 1
