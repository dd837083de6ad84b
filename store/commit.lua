-- Commit a change of one job, if the job and its claim are still as they were read.
-- It knows no states: the rules are in Python.
--
-- KEYS[1] job  [2] claim  [3] trail  [4] callbacks  [5..8] indexes
--      [9] pause  [10] the owner's jobs by change  [11] jobs in the old state  [12] jobs in the new state
--      [13..] queues (may be absent)
-- ARGV[1] the job as it was read
-- ARGV[2] the claim as it was read   ('' = there was none)
-- ARGV[3] the new job                ('' = unchanged)
-- ARGV[4] the new claim              ('' = unchanged, '-' = delete it)
-- ARGV[5] job id                     [6..9] its score in each index ('' = not listed)
-- ARGV[10] channel to notify on      ('' = no notification)
-- ARGV[11] event_id  [12] its digest and dispatch     ('' = not a callback)
-- ARGV[13] message for the shortest of the queues     ('' = none)
-- ARGV[14] '1': not while dispatching is paused
-- ARGV[15] the job's old entry by change, [16] the new one
-- ARGV[17] its old entry in its state's list, [18] the new one     ('' = no list)
-- ARGV[19] milliseconds after which all keys of the job expire     ('' = never)
-- ARGV[20..] events for the trail
-- returns 1 if committed, 0 if job or claim had changed, 2 if dispatching is paused

if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if (redis.call('GET', KEYS[2]) or '') ~= ARGV[2] then return 0 end
if ARGV[14] ~= '' and redis.call('EXISTS', KEYS[9]) == 1 then return 2 end

if ARGV[4] ~= '' then
  if ARGV[4] == '-' then
    redis.call('DEL', KEYS[2])
  elseif ARGV[2] ~= '' then
    redis.call('SET', KEYS[2], ARGV[4])
  elseif not redis.call('SET', KEYS[2], ARGV[4], 'NX') then
    return 0
  end
end
for i = 5, 8 do
  local score = ARGV[i + 1]
  if score == '' then redis.call('ZREM', KEYS[i], ARGV[5]) else redis.call('ZADD', KEYS[i], score, ARGV[5]) end
end
if ARGV[3] ~= '' then
  redis.call('SET', KEYS[1], ARGV[3])
  redis.call('ZREM', KEYS[10], ARGV[15])
  redis.call('ZADD', KEYS[10], 0, ARGV[16])
  redis.call('ZREM', KEYS[11], ARGV[17])
  if ARGV[18] ~= '' then
    redis.call('ZADD', KEYS[12], 0, ARGV[18])
    -- Failed jobs may be kept for ever: the oldest leave the list.
    redis.call('ZREMRANGEBYRANK', KEYS[12], 0, -100001)
  end
end
if ARGV[11] ~= '' then redis.call('HSET', KEYS[4], ARGV[11], ARGV[12]) end
-- The trail of a job that is retried for weeks would fill the store: the oldest events are removed. Their number is
-- kept under a key that is no event_id, since positions in the trail count from its first event.
local most_events = 10000
local excess = #ARGV > 19 and redis.call('RPUSH', KEYS[3], unpack(ARGV, 20)) - most_events or 0
if excess > 0 then
  redis.call('LTRIM', KEYS[3], excess, -1)
  redis.call('HINCRBY', KEYS[4], '', excess)
end
-- The job's own key first: the job must never be there while its claim has expired.
for i = 1, 4 do
  if ARGV[19] == '' then redis.call('PERSIST', KEYS[i]) else redis.call('PEXPIRE', KEYS[i], ARGV[19]) end
end
if ARGV[13] ~= '' then
  local shortest = KEYS[13]
  for i = 14, #KEYS do
    if redis.call('LLEN', KEYS[i]) < redis.call('LLEN', shortest) then shortest = KEYS[i] end
  end
  redis.call('LPUSH', shortest, ARGV[13])
end
if ARGV[10] ~= '' then
  redis.call('PUBLISH', ARGV[10], ARGV[5])
  -- The topic of callers who wait for any of the owner's jobs.
  if ARGV[3] ~= '' then redis.call('PUBLISH', ARGV[10], KEYS[10]) end
end
return 1
