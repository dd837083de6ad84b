-- Take the next message: of the first queue that has one.
--
-- KEYS[1..] queues, in the order to look in
-- returns the message, nil if there is none

for i = 1, #KEYS do
  local message = redis.call('RPOP', KEYS[i])
  if message then return message end
end
return nil
