"""What happens in Redis in one step: scripts that Redis runs, each on keys that lie in one slot of a cluster.

Times are the server's, in microseconds since the epoch.
"""

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""

# A process is in ``members`` with the time of its latest renewal, or in ``joining`` until it is known whether others
# are in. ``run`` is this run of the application. After a clean end it holds nothing but ``ended``: who comes next is
# the first. Otherwise a newcomer waits until one of the others renews its row, which only a living process does.
JOIN = (
    _NOW
    + """
local members, joining, run = KEYS[1], KEYS[2], KEYS[3]
local me, candidate, started, looked = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local gone, every, settle = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

local function join(unfinished)
  redis.call('ZREM', joining, me)
  redis.call('ZADD', members, now, me)
  local found = redis.call('HMGET', run, 'id', 'started', 'first')
  return {'joined', found[3] == me and '1' or '', found[2], found[1], unfinished[1], unfinished[2], unfinished[3]}
end

local function begin(unfinished)
  redis.call('DEL', run, members)
  redis.call('HSET', run, 'id', candidate, 'started', started, 'first', me)
  return join(unfinished)
end

local id = redis.call('HGET', run, 'id')
if id and redis.call('ZSCORE', members, me) then return join({}) end
if not id and redis.call('HEXISTS', run, 'ended') == 1 then return begin({}) end
redis.call('ZADD', joining, now, me)
looked = looked or now
local left = tonumber(redis.call('HGET', run, 'left') or 0)
if id then
  if left > looked or redis.call('ZCOUNT', members, looked - every / 6, '+inf') > 0 then return join({}) end
  if redis.call('ZCOUNT', members, now - gone, '+inf') > 0 then return {'wait', looked} end
end
if now < looked + settle then return {'wait', looked} end
local latest = redis.call('ZRANGE', members, -1, -1, 'WITHSCORES')
local was_leaving = latest[1] and redis.call('HEXISTS', run, 'leaving:' .. latest[1]) == 1
if id and (was_leaving or left > tonumber(latest[2] or 0) + every) then
  return begin({id, redis.call('HGET', run, 'started'), redis.call('HGET', run, 'last')})
end
return begin({})
"""
)

# Who finds its row old was cut off, and so may the others have been: for a while none is taken for gone.
# What was claimed and not handed over for five seconds is returned, to be handed over by the caller.
RENEW = (
    _NOW
    + """
local members, joining, run, waiting, orders = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local me, id, started = ARGV[1], ARGV[2], ARGV[3]
local gone, every, settle = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local lost = 0
if id ~= '' then
  local renewed = tonumber(redis.call('ZSCORE', members, me) or 0)
  redis.call('ZADD', members, now, me)
  if redis.call('HSETNX', run, 'id', id) == 1 then
    redis.call('HSET', run, 'started', started)
    redis.call('HDEL', run, 'ended', 'ended_by')
    lost = 1
  end
  if now - renewed > 3 * every then redis.call('HSET', run, 'calm', now + settle) end
  if now > tonumber(redis.call('HGET', run, 'calm') or 0) then
    redis.call('ZREMRANGEBYSCORE', members, '-inf', now - gone)
    redis.call('ZREMRANGEBYSCORE', joining, '-inf', now - gone)
  end
end
local again = redis.call('ZRANGEBYSCORE', waiting, '-inf', now - 5000000, 'LIMIT', 0, tonumber(ARGV[7]))
for _, member in ipairs(again) do redis.call('ZADD', waiting, now, member) end
return {lost, again, unpack(redis.call('HGETALL', orders))}
"""
)

# Should it be killed before it has left, that was an end.
BEGIN_TO_LEAVE = """
local members, run, me = KEYS[1], KEYS[2], ARGV[1]
if redis.call('ZSCORE', members, me) then redis.call('HSET', run, 'leaving:' .. me, 1, 'last', ARGV[2]) end
"""

LEAVE = (
    _NOW
    + """
local members, joining, run = KEYS[1], KEYS[2], KEYS[3]
local me, last, gone, every = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
redis.call('ZREM', joining, me)
local renewed = tonumber(redis.call('ZSCORE', members, me) or 0)
if renewed == 0 then return redis.call('HGET', run, 'ended_by') == me and 1 or 0 end
redis.call('ZREM', members, me)
redis.call('HDEL', run, 'leaving:' .. me)
local since = now - gone
if now - renewed > 3 * every then since = renewed - gone end
if now < tonumber(redis.call('HGET', run, 'calm') or 0) then since = '-inf' end
if redis.call('ZCOUNT', members, since, '+inf') + redis.call('ZCOUNT', joining, now - gone, '+inf') > 0 then
  redis.call('HSET', run, 'left', now, 'last', last)
  return 0
end
redis.call('DEL', run, members, joining)
redis.call('HSET', run, 'ended', now, 'ended_by', me)
return 1
"""
)

# The latest claims of a job are kept, and what is older is refused. Instants to come do not count: a clock that was
# ahead must not stop a job.
CLAIM = (
    _NOW
    + """
local claims, waiting, last = KEYS[1], KEYS[2], KEYS[3]
local member, instant, kept = ARGV[1], ARGV[2], tonumber(ARGV[3])
local past = redis.call('ZCOUNT', claims, '-inf', now)
if past >= kept and tonumber(instant) < tonumber(redis.call('ZRANGE', claims, 0, 0)[1]) then return 0 end
if redis.call('ZADD', claims, 'NX', instant, instant) == 0 then return 0 end
if past > kept then redis.call('ZREMRANGEBYRANK', claims, 0, past - kept - 1) end
redis.call('EXPIRE', claims, ARGV[4])
redis.call('SET', last, member)
if ARGV[5] == '1' then redis.call('ZADD', waiting, now, member) end
return 1
"""
)

# Kombu takes a task out of a queue of Redis, and then notes that it has it: a worker that is killed in between has lost
# it. So what has not begun by the time of a redelivery waits again; should it only be late, a repeat does nothing.
NOTE_HANDED_OVER = (
    _NOW
    + """
redis.call('ZADD', KEYS[1], 'XX', now + tonumber(ARGV[2]), ARGV[1])
"""
)

# A delivery is the same one again after its worker has died, and another if the instant was handed over twice.
# Of a job that coalesces an instant is over when another of its runs has begun since. Returns the attempt, 0 for none.
BEGIN = (
    _NOW
    + """
local run, begun, waiting = KEYS[1], KEYS[2], KEYS[3]
local member, instant, delivery, coalesce = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
redis.call('ZREM', waiting, member)
local found = redis.call('HMGET', run, 'delivery', 'ended')
if found[2] or (found[1] and found[1] ~= delivery) then return 0 end
local last = redis.call('HMGET', begun, 'at', 'instant')
if coalesce == '1' and last[1] and tonumber(last[1]) >= tonumber(instant) and last[2] ~= instant then return 0 end
redis.call('HSET', begun, 'at', now, 'instant', instant)
redis.call('EXPIRE', begun, ARGV[6])
redis.call('HSET', run, 'delivery', delivery)
redis.call('EXPIRE', run, ARGV[5])
return redis.call('HINCRBY', run, 'attempts', 1)
"""
)
