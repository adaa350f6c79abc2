-- What a hostile script has at hand: objects of this run and of earlier ones, odd values, and calls of anything with anything.
--
-- Owns: the values, and what is kept of what calls return. Refuses to know: what is called; the lines that are put behind
-- this say it. Keeps: only an error that is no text ends the script, and says so.
kept, objects, iterators, succeeded = {}, {}, {}, {}

function nothing() end
cyclic = {}
cyclic[1], cyclic.a = cyclic, cyclic
deep = {}
for _ = 1, 40 do deep = { deep } end
odd = setmetatable({}, {
  __index = function() error("odd") end,
  __newindex = function() error("odd") end,
  __call = function() error("odd") end,
  __pairs = function() error("odd") end,
  __tostring = function() return 5 end,
})
key = (
  "3059301306072a8648ce3d020106082a8648ce3d0301070342000408967e7fbf5dd79e31d5418fd8a3b66b8713ed079ac5beeb8bbfb89fcb3537ac1eeb97cf6148e774075bc621d8524449af1474a21e12fbdfe09363a915f56363"
):gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end)

local function keep(list, value)
  if #list < 40 then list[#list + 1] = value end
end

local function take(name, ok, ...)
  if not ok then
    local problem = ...
    if type(problem) ~= "string" then error("an error that is no text: " .. tostring(problem), 0) end
    return
  end
  succeeded[name] = true
  for place = 1, math.min(select("#", ...), 4) do
    local value = select(place, ...)
    if type(value) == "table" then
      keep(objects, value)
      keep(kept, value)
    elseif type(value) == "function" then
      keep(iterators, value)
    end
  end
end

local function member(object, name) return object[name] end
local function call(object, name, ...) return object[name](object, ...) end
local function visit(object)
  local count = 0
  for name, value in pairs(object) do
    count = count + 1
    if count > 20 then break end
    if count % 3 == 0 and type(name) == "string" then object:remove(name) end
  end
end

-- An object of a list that has a method, from a place on.
local function with_method(list, name, from)
  for place = 0, #list - 1 do
    local object = list[(from + place) % #list + 1]
    local ok, method = pcall(member, object, name)
    if ok and type(method) == "function" then return object end
  end
  return list[1]
end

function current(name, from) return with_method(objects, name, from) end
function stale(name, from) return with_method(kept, name, from) end
function object(from) return objects[from % #objects + 1] end
function try(receiver, name, ...) take(name, pcall(call, receiver, name, ...)) end
function each(receiver) take("pairs", pcall(visit, receiver)) end
function step(from)
  if #iterators > 0 then take("next", pcall(iterators[from % #iterators + 1])) end
end
function begin(handle)
  objects, iterators = { handle }, {}
  keep(kept, handle)
end
