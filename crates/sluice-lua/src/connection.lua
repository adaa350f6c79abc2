-- What a script for connections is given, and how its functions are called.
--
-- Owns: the names and arguments of the object of a connection. Refuses to know: how anything is done. Keeps: nothing waits; the
-- object carries the number of its run, so that one that is kept for later is an error.
local natives, op, _, raise, settle, text_of, own = ...
local pcall, type, tonumber, setmetatable, rawget = pcall, type, tonumber, setmetatable, rawget
local ID, CACHE, id_of, host = own.ID, own.CACHE, own.id_of, own.host

local STATE = {}
local Conn = {}

function Conn:ssl()
  return host(op.is_tls, id_of(self, "ssl")) and own.object(own.SslClass, self) or nil
end
function Conn:state()
  id_of(self, "state")
  return rawget(self, STATE)
end
function Conn:filterContext()
  local id = id_of(self, "filterContext")
  return setmetatable({ [ID] = id, [CACHE] = host(op.context, id) }, own.MetadataClass)
end
function Conn:value(name) return host(op.value, id_of(self, "value"), name) end
function Conn:set(key, value) return host(op.set, id_of(self, "set"), key, value) end
function Conn:setCluster(name) return host(op.set_cluster, id_of(self, "setCluster"), name) end
function Conn:close(why) return host(op.close, id_of(self, "close"), why) end
function Conn:count(name, amount) return host(op.count, id_of(self, "count"), name, amount) end
function Conn:timestamp() return host(op.timestamp, id_of(self, "timestamp")) end
function Conn:base64Escape(text)
  id_of(self, "base64Escape")
  return settle(natives.base64(text))
end
own.logs(Conn, op.log)

local ConnClass = own.facts("the connection", op.fact, "id listener chain peer source destination serverName protocol", Conn)

-- Runs a function of the script; what it returned counts if it is a text.
return function(hook, id, state, bytes)
  local conn = setmetatable({ [ID] = id, [STATE] = state }, ConnClass)
  local ok, result = pcall(hook, conn, bytes)
  if not ok then return false, text_of(result) end
  if result ~= nil and type(result) ~= "string" then
    return false, "the function must return a string or nothing, not a " .. type(result)
  end
  return true, result
end
