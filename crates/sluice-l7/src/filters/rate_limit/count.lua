-- Counts a request: within a window that is aligned, or in a sliding window, which is estimated from the counts of this
-- window and of the one before, of which the part counts that the window still covers. The time is that of the server, so
-- that all processes agree.
--
-- KEYS[1]: a hash of the number of the window, its count, and the count before
-- ARGV: the limit, the window in microseconds, whether it slides
-- Returns whether the request is within the limit, how many more are, after how many microseconds one more would be, and
-- after how many nothing counts any more.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local limit, window, sliding = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local index = math.floor(now / window)
local held = redis.call('HMGET', KEYS[1], 'w', 'c', 'p')
local at, count, before = tonumber(held[1]) or index, tonumber(held[2]) or 0, tonumber(held[3]) or 0
if at ~= index then
  before = at == index - 1 and count or 0
  count = 0
end
local rest = (index + 1) * window - now
local old = sliding and before * rest / window or 0
local allowed = old + count + 1 <= limit
if allowed then
  count = count + 1
  redis.call('HSET', KEYS[1], 'w', index, 'c', count, 'p', before)
  redis.call('PEXPIRE', KEYS[1], math.ceil(window / 500))
end
local left = math.max(0, math.floor(limit - old - count))
local wait = 0
if not allowed then
  if not sliding then
    wait = rest
  elseif count + 1 <= limit then
    wait = rest - (limit - 1 - count) * window / before
  else
    wait = rest + window - (limit - 1) * window / count
  end
end
return {allowed and 1 or 0, left, math.ceil(wait), sliding and rest + window or rest}
