-- Read an index from behind a place on, wherever the entry of that place is by now.
--
-- KEYS[1] index
-- ARGV[1] the place's score, [2] and member ('' = from the beginning)
-- ARGV[3] the greatest score   [4] how many
-- returns members and scores in turn, by score and then by member

local first = 0
if ARGV[2] ~= '' then
  first = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[1])
  local behind = redis.call('ZCOUNT', KEYS[1], '-inf', ARGV[1])
  while first < behind do
    local middle = math.floor((first + behind) / 2)
    if redis.call('ZRANGE', KEYS[1], middle, middle)[1] <= ARGV[2] then first = middle + 1 else behind = middle end
  end
end
local last = math.min(first + ARGV[4], redis.call('ZCOUNT', KEYS[1], '-inf', ARGV[3])) - 1
if last < first then return {} end
return redis.call('ZRANGE', KEYS[1], first, last, 'WITHSCORES')
