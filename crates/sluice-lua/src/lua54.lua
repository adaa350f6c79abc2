-- Lua 5.4 as scripts for LuaJIT know it.
--
-- Owns: what LuaJIT has and Lua 5.4 has not, and what must not be there. Refuses to know: requests. Keeps: no function in C
-- takes its number of steps from a metamethod or an argument, and nothing runs where no instruction is counted.
local error, floor, getmetatable, rawget, select, tonumber, type =
  error, math.floor, getmetatable, rawget, select, tonumber, type
local tointeger, format, raw_setmetatable = math.tointeger, string.format, setmetatable

unpack = table.unpack
math.pow = function(x, y) return x ^ y end
math.log10 = function(x) return math.log(x, 10) end
math.atan2 = function(y, x) return math.atan(y, x) end
math.ldexp = function(m, e) return m * 2.0 ^ e end

-- 32 bits of a number, which is rounded.
local function bits(value)
  local number = tonumber(value)
  if not number then error("bad argument to a function of 'bit' (number expected, got " .. type(value) .. ")", 3) end
  return (tointeger(number) or tointeger(floor(number + 0.5)) or 0) & 0xffffffff
end

local function signed(number)
  number = number & 0xffffffff
  return number < 0x80000000 and number or number - 0x100000000
end

local function each(join)
  return function(first, ...)
    local result = bits(first)
    for place = 1, select("#", ...) do result = join(result, bits((select(place, ...)))) end
    return signed(result)
  end
end

local function rotated(value, count)
  count = bits(count) & 31
  value = bits(value)
  return signed(value << count | value >> (32 - count))
end

bit = {
  tobit = function(value) return signed(bits(value)) end,
  bnot = function(value) return signed(~bits(value)) end,
  band = each(function(a, b) return a & b end),
  bor = each(function(a, b) return a | b end),
  bxor = each(function(a, b) return a ~ b end),
  lshift = function(value, count) return signed(bits(value) << (bits(count) & 31)) end,
  rshift = function(value, count) return signed(bits(value) >> (bits(count) & 31)) end,
  arshift = function(value, count) return signed(signed(bits(value)) // (1 << (bits(count) & 31))) end,
  rol = rotated,
  ror = function(value, count) return rotated(value, -(bits(count) & 31)) end,
  bswap = function(value)
    value = bits(value)
    return signed(value << 24 | (value & 0xff00) << 8 | value >> 8 & 0xff00 | value >> 24)
  end,
  tohex = function(value, count)
    count = tointeger(count or 8) or 8
    local digits = format(count < 0 and "%08X" or "%08x", bits(value))
    count = count < 0 and -count or count
    return count < 8 and digits:sub(9 - count) or digits
  end,
}

-- Finalizers would run where no instruction is counted.
function setmetatable(object, metatable)
  if type(metatable) == "table" and rawget(metatable, "__gc") ~= nil then
    error("setmetatable(): `__gc` is not available to scripts", 2)
  end
  return raw_setmetatable(object, metatable)
end

-- These ask metamethods for the length and for elements.
for _, name in ipairs({ "insert", "remove", "concat", "sort", "unpack" }) do
  local of = table[name]
  table[name] = function(list, ...)
    if type(list) == "table" and getmetatable(list) ~= nil then
      error("bad argument #1 to '" .. name .. "' (a table without a metatable expected)", 2)
    end
    return of(list, ...)
  end
end
unpack = table.unpack

-- What LuaJIT has not, and could not be charged for.
table.move, string.pack, string.unpack, string.packsize, coroutine.close, warn = nil, nil, nil, nil, nil, nil
