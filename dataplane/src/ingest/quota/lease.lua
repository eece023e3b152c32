-- One App's token bucket, shared by the pods of its pipelines.
--
-- KEYS: the bucket, the limits that the operator wrote
-- ARGV: pod, tokens the pod holds, tokens it wants (negative: gives back), and from apps.yaml: events per second,
--       burst, events per day, bytes per day; an empty string is no limit
-- Returns what was granted (negative: taken back), then the limits in force, as strings.
--
-- Tokens that pods hold count against the burst, so that all of them together never exceed it. A pod that has not
-- been heard of for five seconds holds nothing. A pod that is new here brings tokens it gave itself; they are paid
-- from the bucket.
local limits = redis.call('HMGET', KEYS[2], 'events_per_second', 'burst', 'events_per_day', 'bytes_per_day')
if not (limits[1] or limits[2] or limits[3] or limits[4]) then
  limits = {ARGV[4], ARGV[5], ARGV[6], ARGV[7]}
end
for i = 1, 4 do
  limits[i] = limits[i] or ''
end
local rate = tonumber(limits[1])
if not rate then
  redis.call('DEL', KEYS[1])
  return {'0', limits[1], limits[2], limits[3], limits[4]}
end
local burst = math.max(tonumber(limits[2]) or rate, 1000)
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local pod, held, want = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local bucket = redis.call('HGETALL', KEYS[1])
local tokens, at, elsewhere, known = burst, now, 0, false
for i = 1, #bucket, 2 do
  local name, value = bucket[i], bucket[i + 1]
  if name == 'tokens' then
    tokens = tonumber(value)
  elseif name == 'at' then
    at = tonumber(value)
  else
    local amount, expires = string.match(value, '^(-?%d+):(%d+)$')
    if not amount or tonumber(expires) <= now then
      redis.call('HDEL', KEYS[1], name)
    elseif name == pod then
      known = true
    else
      elsewhere = elsewhere + tonumber(amount)
    end
  end
end
tokens = tokens + rate * math.max(now - at, 0) / 1000
if not known then
  tokens = tokens - held
end
tokens = math.min(tokens, burst - elsewhere - held)
local granted = want
if want > 0 then
  granted = math.max(math.min(want, math.floor(tokens)), 0)
end
tokens = math.max(tokens - granted, -burst)
redis.call('HSET', KEYS[1], 'tokens', string.format('%.3f', tokens), 'at', string.format('%.0f', now),
  pod, string.format('%.0f:%.0f', math.max(held + granted, 0), now + 5000))
redis.call('PEXPIRE', KEYS[1], 3600000)
return {string.format('%.0f', granted), limits[1], limits[2], limits[3], limits[4]}
