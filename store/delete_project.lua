-- Delete a project in which no job is listed.
--
-- KEYS[1] project  [2] its jobs  [3] its owner's projects
-- ARGV[1] its entry among them
-- returns 1 if it is gone, 0 if it has jobs

if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return 1
