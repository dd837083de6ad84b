-- Remember what an idempotency key stands for, if it is not known.
--
-- KEYS[1] key  [2] its user is being erased
-- ARGV[1] what it is to stand for  [2] for how many seconds
-- returns what it stands for, nil if it is not remembered because of the erasure

if redis.call('EXISTS', KEYS[2]) == 1 then return false end
redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2])
return redis.call('GET', KEYS[1])
