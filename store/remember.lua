-- Store what an idempotency key stands for, unless it is known.
--
-- KEYS[1] key  [2] its user is being erased
-- ARGV[1] the value  [2] for how many seconds
-- returns the stored value, nil during an erasure

if redis.call('EXISTS', KEYS[2]) == 1 then return false end
redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2])
return redis.call('GET', KEYS[1])
