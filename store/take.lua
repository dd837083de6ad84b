-- Take the next message: of the first queue that has one.
--
-- KEYS[1..] queues, in the order to look in
-- returns the queue's place in that order (from 1) and the message; nil if there is none

for place = 1, #KEYS do
  local message = redis.call('RPOP', KEYS[place])
  if message then return {place, message} end
end
return nil
