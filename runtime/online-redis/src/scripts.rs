//! The scripts: what has to be checked and done in one step of the server.
//!
//! Each begins with a mark, a field of the hash `KEYS[1]` named `ARGV[1]`: `<generation> <place>`. The place is a
//! position, or `-<n>` while there is none, where n counts the parts of a rebuild written so far (0: nothing is
//! there). A higher generation than ours (`ARGV[2]`) has taken over; a lower one, or none, means that our claim was
//! lost. Numbers are compared as texts of digits: Lua's are exact to 2^53 only.

/// The scripts, by their index.
pub(crate) const SCRIPTS: [&str; 5] = [WRITE, CLAIM, RESET, REMOVE, REGISTER];

/// The index of each in [`SCRIPTS`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Script {
    Write,
    Claim,
    Reset,
    Remove,
    Register,
}

/// Writes entities and moves the place.
///
/// `KEYS[2..]`: the entities, `ARGV[3]`: what the place must be, `ARGV[4]`: the new place, empty to leave it. Then for
/// each entity a number and so many arguments: of HSET, or of HDEL if the number is negative.
///
/// What the place must be: `=x` exactly x; `>x` x or later, where a position is later than every rebuild (after a
/// write whose reply was lost it may be); `-n` no position, and at least n parts written.
const WRITE: &str = r"
local function fits(place, rule, wanted)
  local function later(a, b) return #a > #b or (#a == #b and a >= b) end
  if rule == '=' then return place == wanted end
  local building = string.sub(place, 1, 1) == '-'
  if rule == '-' then return building and later(string.sub(place, 2), wanted) end
  if string.sub(wanted, 1, 1) == '-' then return not building or later(place, wanted) end
  return not building and later(place, wanted)
end
local mark = redis.call('HGET', KEYS[1], ARGV[1])
if not mark then return 'LOST' end
local gap = string.find(mark, ' ', 1, true)
local generation, place = string.sub(mark, 1, gap - 1), string.sub(mark, gap + 1)
if generation ~= ARGV[2] then
  if #generation > #ARGV[2] or (#generation == #ARGV[2] and generation > ARGV[2]) then return 'FENCED ' .. generation end
  return 'LOST'
end
if not fits(place, string.sub(ARGV[3], 1, 1), string.sub(ARGV[3], 2)) then return 'AT ' .. place end
local key, at, last = 2, 5, #ARGV
while at <= last do
  local count = tonumber(ARGV[at])
  if count == 2 then
    redis.call('HSET', KEYS[key], ARGV[at + 1], ARGV[at + 2])
  elseif count > 0 then
    redis.call('HSET', KEYS[key], unpack(ARGV, at + 1, at + count))
  else
    count = -count
    redis.call('HDEL', KEYS[key], unpack(ARGV, at + 1, at + count))
  end
  at = at + count + 1
  key = key + 1
end
if ARGV[4] ~= '' and ARGV[4] ~= place then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[4]) end
return 'OK'
";

/// Takes over for a generation and returns the place. `ARGV[3]`: the place of a mark that does not exist yet; empty:
/// then it is lost.
const CLAIM: &str = r"
local mark = redis.call('HGET', KEYS[1], ARGV[1])
if not mark then
  if ARGV[3] == '' then return 'LOST' end
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
  return 'AT ' .. ARGV[3]
end
local gap = string.find(mark, ' ', 1, true)
local generation, place = string.sub(mark, 1, gap - 1), string.sub(mark, gap + 1)
if generation ~= ARGV[2] then
  if #generation > #ARGV[2] or (#generation == #ARGV[2] and generation > ARGV[2]) then return 'FENCED ' .. generation end
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. place)
end
return 'AT ' .. place
";

/// Takes over for a generation and sets the place to `ARGV[3]`, whatever it was; returns what it was, or `NEW`.
const RESET: &str = r"
local mark = redis.call('HGET', KEYS[1], ARGV[1])
local was = 'NEW'
if mark then
  local gap = string.find(mark, ' ', 1, true)
  local generation = string.sub(mark, 1, gap - 1)
  if #generation > #ARGV[2] or (#generation == #ARGV[2] and generation > ARGV[2]) then return 'FENCED ' .. generation end
  was = 'AT ' .. string.sub(mark, gap + 1)
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
return was
";

/// Removes a partition's fields of the entities `KEYS[2..]`: the field `ARGV[3]` and those that begin with `ARGV[4]`.
const REMOVE: &str = r"
local mark = redis.call('HGET', KEYS[1], ARGV[1])
if mark then
  local generation = string.sub(mark, 1, string.find(mark, ' ', 1, true) - 1)
  if #generation > #ARGV[2] or (#generation == #ARGV[2] and generation > ARGV[2]) then return 'FENCED ' .. generation end
end
for key = 2, #KEYS do
  local gone = {}
  for _, field in ipairs(redis.call('HKEYS', KEYS[key])) do
    if field == ARGV[3] or string.sub(field, 1, #ARGV[4]) == ARGV[4] then gone[#gone + 1] = field end
  end
  for at = 1, #gone, 1000 do
    redis.call('HDEL', KEYS[key], unpack(gone, at, math.min(at + 999, #gone)))
  end
end
return 'OK'
";

/// Notes in `KEYS[1]`, beside the mark, that a partition writes an entity: the field `ARGV[3]`.
const REGISTER: &str = r"
local mark = redis.call('HGET', KEYS[1], ARGV[1])
if not mark then return 'LOST' end
local generation = string.sub(mark, 1, string.find(mark, ' ', 1, true) - 1)
if generation ~= ARGV[2] then
  if #generation > #ARGV[2] or (#generation == #ARGV[2] and generation > ARGV[2]) then return 'FENCED ' .. generation end
  return 'LOST'
end
redis.call('HSET', KEYS[1], ARGV[3], '1')
return 'OK'
";
