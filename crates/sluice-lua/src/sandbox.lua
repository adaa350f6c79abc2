-- The library of scripts: what Lua itself has, without what could harm the worker.
--
-- Owns: which functions scripts may call, and what they charge for. Refuses to know: requests. Keeps: no function takes
-- time or memory out of proportion to what it is charged; nothing loads bytecode; errors are plain strings.
local natives = ...
local error, select, type, tonumber = error, select, type, tonumber
local concat, insert, sort = table.concat, table.insert, table.sort
local byte, sub = string.byte, string.sub
local load_text, setmetatable = load, setmetatable
local charge, where = natives.charge, natives.where

local function raise(message)
  error(where() .. message, 0)
end

local function settle(ok, ...)
  if ok then return ... end
  raise((...))
end

-- Small amounts are covered by the instruction itself.
local function pay(bytes)
  if bytes > 2048 then charge(bytes / 32) end
end

local function paid(text)
  pay(#text)
  return text
end

local repeated, format = string.rep, string.format
function string.rep(text, count, separator)
  local times = tonumber(count)
  if times and (type(text) == "string" or type(text) == "number") then
    local length = (#(text .. "") + #((separator or "") .. "")) * times
    if length > natives.string_max then
      raise("string.rep: the result would have more than " .. natives.string_max .. " bytes")
    end
    pay(length)
  end
  return repeated(text, count, separator)
end

function string.format(...) return paid(format(...)) end
function table.concat(...) return paid(concat(...)) end

for _, name in ipairs({ "lower", "upper", "reverse" }) do
  local of = string[name]
  string[name] = function(text) return paid(of(text)) end
end

-- Patterns may take exponential time in C, where no instruction is counted.
function string.find(...) return settle(natives.find(...)) end
function string.match(...) return settle(natives.match(...)) end

function string.gmatch(text, pattern)
  local at = 1
  local function step(ok, next_at, ...)
    if not ok then raise(next_at) end
    at = next_at
    return ...
  end
  step(natives.gmatch(text, pattern, 1, true))
  at = 1
  return function()
    if at then return step(natives.gmatch(text, pattern, at)) end
  end
end
string.gfind = nil

-- With a text to put in place, all is done at once; a table or a function is asked for each match.
function string.gsub(text, pattern, with, max)
  local kind = type(with)
  if kind == "string" or kind == "number" then
    return settle(natives.gsub(text, pattern, with .. "", max))
  elseif kind ~= "table" and kind ~= "function" then
    raise("bad argument #3 to 'gsub' (string/function/table expected, got " .. kind .. ")")
  end
  local parts, count, at, anchored = {}, 0, 1, false
  text = type(text) == "number" and text .. "" or text
  if type(pattern) == "string" and byte(pattern, 1) == 94 then
    anchored, pattern = true, sub(pattern, 2)
  end
  local function put(ok, from, to, ...)
    if not ok then raise(from) end
    if not from then return false end
    count = count + 1
    parts[#parts + 1] = sub(text, at, from - 1)
    local whole = sub(text, from, to)
    local key = ...
    if select("#", ...) == 0 then key = whole end
    local new
    if kind == "table" then new = with[key]
    elseif select("#", ...) == 0 then new = with(whole)
    else new = with(...) end
    if not new then new = whole
    elseif type(new) ~= "string" and type(new) ~= "number" then
      raise("invalid replacement value (a " .. type(new) .. ")")
    end
    parts[#parts + 1] = new
    at = to + 1
    if to < from then
      parts[#parts + 1] = sub(text, at, at)
      at = at + 1
    end
    return at <= #text + 1 and not anchored
  end
  local most = max and tonumber(max) or 1 / 0
  while count < most and put(natives.step(text, pattern, at, anchored)) do end
  parts[#parts + 1] = sub(text, at)
  return paid(concat(parts)), count
end

function table.insert(list, ...)
  if select("#", ...) == 2 then
    local shifted = #list - (tonumber((...)) or 0)
    if shifted > 256 then charge(shifted) end
  end
  return insert(list, ...)
end

-- A comparison in Lua is counted; the one in C is not.
local function before(a, b) return a < b end
function table.sort(list, compare)
  if compare == nil then compare = before end
  return sort(list, compare)
end

function load(chunk, name, _, env)
  if type(chunk) == "function" then
    local parts, piece = {}, nil
    repeat
      piece = chunk()
      if piece ~= nil and type(piece) ~= "string" then raise("reader function must return a string") end
      parts[#parts + 1] = piece
    until piece == nil or piece == ""
    chunk = concat(parts)
  elseif type(chunk) ~= "string" then
    raise("bad argument #1 to 'load' (string expected, got " .. type(chunk) .. ")")
  end
  if byte(chunk, 1) == 27 then return nil, "bytecode cannot be loaded" end
  charge(#chunk * 8)
  name = type(name) == "string" and name or "=(load)"
  if env == nil then return load_text(chunk, name, "t") end
  return load_text(chunk, name, "t", env)
end
function loadstring(chunk, name) return load(chunk, name) end

-- The hook that counts instructions needs room on the stack. Near the end of the stack it could not be called, and what
-- catches errors there would go on for ever: nothing catches errors without the room that this function needs.
local function headroom()
  local _1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, _12, _13, _14, _15, _16, _17, _18, _19, _20, _21, _22, _23,
    _24, _25, _26, _27, _28, _29, _30, _31, _32, _33, _34, _35, _36, _37, _38, _39, _40, _41, _42, _43, _44, _45,
    _46, _47, _48, _49, _50, _51, _52, _53, _54, _55, _56, _57, _58, _59, _60, _61, _62, _63, _64, _65, _66, _67,
    _68, _69, _70, _71, _72, _73, _74, _75, _76, _77, _78, _79, _80, _81, _82, _83, _84, _85, _86, _87, _88, _89,
    _90, _91, _92, _93, _94, _95, _96, _97, _98, _99, _100, _101, _102, _103, _104, _105, _106, _107, _108, _109,
    _110, _111, _112, _113, _114, _115, _116, _117, _118, _119, _120
end

local raw_pcall, raw_resume = pcall, coroutine.resume
function pcall(f, ...)
  headroom()
  return raw_pcall(f, ...)
end
function coroutine.resume(thread, ...)
  headroom()
  return raw_resume(thread, ...)
end

-- The handler of `xpcall` would run where no instruction is counted.
local function handled(handler, ok, ...)
  if ok then return true, ... end
  return false, handler(...)
end
function xpcall(f, handler, ...) return handled(handler, pcall(f, ...)) end

local HELP = {
  collectgarbage = "memory is collected by itself, within the limit of the filter",
  dofile = "put all code into one script",
  getfenv = "environments are fixed; `load` takes one",
  loadfile = "put all code into one script",
  module = "put all code into one script",
  newproxy = "use a table",
  print = "use logInfo() of the handle",
  require = "put all code into one script",
  setfenv = "environments are fixed; `load` takes one",
}
for name, help in pairs(HELP) do
  _G[name] = function() raise(name .. "() is not available to scripts: " .. help) end
end
local LIBRARIES = {
  debug = "errors have file and line by themselves",
  ffi = "scripts cannot call C",
  io = "scripts have no files; use httpCall() or the settings of the filter",
  jit = "set `jit: true` in the settings of the filter",
  os = "use timestamp() of the handle for the time",
  package = "put all code into one script",
}
for name, help in pairs(LIBRARIES) do
  local function missing() raise("the library `" .. name .. "` is not available to scripts: " .. help) end
  _G[name] = setmetatable({}, { __index = missing, __newindex = missing, __metatable = false })
end
string.dump = function() raise("string.dump() is not available to scripts: bytecode cannot be loaded") end
table.maxn = function() raise("table.maxn() is not available to scripts: use #") end
gcinfo = nil
getmetatable("").__metatable = false

local caught, shown = pcall, tostring

-- The text of what was raised; a table may say it itself.
local function text_of(problem)
  if type(problem) == "string" then return problem end
  local ok, text = caught(shown, problem)
  return ok and type(text) == "string" and text or "an error that is no text"
end

-- Runs the script itself.
local function load_script(chunk)
  local ok, problem = caught(chunk)
  if not ok then return text_of(problem) end
end

return raise, settle, text_of, load_script
