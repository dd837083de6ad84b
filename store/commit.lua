-- Commit a decided change of one job, if the job and its claim are still what the decision was made on.
-- Knows no states: it compares, writes, and says whether it did.
--
-- KEYS[1] job   KEYS[2] claim   KEYS[3] trail   KEYS[4] callbacks   KEYS[5..] queues (may be absent)
-- ARGV[1] the job as it was read     ('' = there was none)
-- ARGV[2] the claim as it was read   ('' = there was none)
-- ARGV[3] the new job                ('' = unchanged)
-- ARGV[4] the new claim              ('' = unchanged, '-' = free the key)
-- ARGV[5] channel   ARGV[6] what to publish on it   ('' = nothing)
-- ARGV[7] event_id  ARGV[8] digest                  ('' = not a callback)
-- ARGV[9] message for the shortest of the queues    ('' = none)
-- ARGV[10..] lines for the trail
-- returns 1 if committed, 0 if job or claim had changed

if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if (redis.call('GET', KEYS[2]) or '') ~= ARGV[2] then return 0 end

if ARGV[4] == '-' then
  redis.call('DEL', KEYS[2])
elseif ARGV[4] ~= '' and ARGV[2] == '' then
  if not redis.call('SET', KEYS[2], ARGV[4], 'NX') then return 0 end
elseif ARGV[4] ~= '' then
  redis.call('SET', KEYS[2], ARGV[4])
end
if ARGV[3] ~= '' then redis.call('SET', KEYS[1], ARGV[3]) end
if ARGV[7] ~= '' then redis.call('HSET', KEYS[4], ARGV[7], ARGV[8]) end
if #ARGV > 9 then redis.call('RPUSH', KEYS[3], unpack(ARGV, 10)) end
if ARGV[9] ~= '' then
  local shortest = KEYS[5]
  for i = 6, #KEYS do
    if redis.call('LLEN', KEYS[i]) < redis.call('LLEN', shortest) then shortest = KEYS[i] end
  end
  redis.call('LPUSH', shortest, ARGV[9])
end
if ARGV[6] ~= '' then redis.call('PUBLISH', ARGV[5], ARGV[6]) end
return 1
