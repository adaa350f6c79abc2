-- What a script is given: the handle of a request or response, and what it returns.
--
-- Owns: the names and arguments of Envoy's interface. Refuses to know: how anything is done; each method passes a number
-- of an operation to the host. Keeps: an object carries the number of its run, which the host compares, so that one that
-- is kept for later is an error; only the coroutine of the request itself waits.
local natives, op, TOKEN, raise, settle, text_of, own = ...
local pcall, type, tostring, pairs, rawget = pcall, type, tostring, pairs, rawget
local setmetatable, yield, running = setmetatable, coroutine.yield, coroutine.running
local ID, PART, CACHE, id_of, host, class, facts = own.ID, own.PART, own.CACHE, own.id_of, own.host, own.class, own.facts
local MetadataClass, SslClass, object = own.MetadataClass, own.SslClass, own.object

EnvoyTimestampResolution = { MILLISECOND = 0, MICROSECOND = 1 }

local THREAD = {}

local function own_thread(self, name)
  if running() ~= rawget(self, THREAD) then
    raise(name .. "() cannot wait inside coroutine.create or coroutine.wrap; call it from the function of the request")
  end
end

local function wait(self, name, what, ...)
  own_thread(self, name)
  return settle(yield(TOKEN, what, ...))
end

-- Headers and trailers.
local Headers = {}
local HeadersClass = class("the object of headers", Headers)

function Headers:get(name) return host(op.get, id_of(self, "get"), self[PART], name) end
function Headers:getAtIndex(name, index) return host(op.get_at, id_of(self, "getAtIndex"), self[PART], name, index) end
function Headers:getNumValues(name) return host(op.count, id_of(self, "getNumValues"), self[PART], name) end
function Headers:add(name, value) return host(op.add, id_of(self, "add"), self[PART], name, value) end
function Headers:replace(name, value) return host(op.replace, id_of(self, "replace"), self[PART], name, value) end
function Headers:remove(name) return host(op.remove, id_of(self, "remove"), self[PART], name) end
function Headers:setHttp1ReasonPhrase(phrase)
  return host(op.phrase, id_of(self, "setHttp1ReasonPhrase"), self[PART], phrase)
end
function HeadersClass:__pairs()
  local all, at = host(op.all, id_of(self, "pairs"), self[PART]), -1
  return function()
    at = at + 2
    return all[at], all[at + 1]
  end
end

-- A body, or a piece of one.
local Body = {}
local BodyClass = class("the object of a body", Body)

function Body:length() return host(op.body_length, id_of(self, "length"), self[PART]) end
function Body:getBytes(index, length) return host(op.body_bytes, id_of(self, "getBytes"), self[PART], index, length) end
function Body:setBytes(bytes) return host(op.body_set, id_of(self, "setBytes"), self[PART], bytes) end

-- Values that the filters of a request share.
local Dynamic = {}
local DynamicClass = class("dynamicMetadata()", Dynamic)

function Dynamic:get(filter) return host(op.metadata_get, id_of(self, "get"), filter) end
function Dynamic:set(filter, key, value) return host(op.metadata_set, id_of(self, "set"), filter, key, value) end
function DynamicClass:__pairs() return pairs(host(op.metadata_all, id_of(self, "pairs"))) end

local function ssl_of(self)
  return host(op.is_tls, id_of(self, "ssl")) and object(SslClass, self) or nil
end

local ConnectionClass = class("connection()", { ssl = ssl_of })

local InfoClass = facts("streamInfo()", op.info, [[
  protocol routeName virtualClusterName downstreamLocalAddress downstreamDirectLocalAddress downstreamRemoteAddress
  downstreamDirectRemoteAddress requestedServerName]], {
  dynamicMetadata = function(self) return object(DynamicClass, self) end,
  downstreamSslConnection = ssl_of,
  value = function(self, name) return host(op.value, id_of(self, "value"), name) end,
})

-- Headers as a list of names and values.
local function flat(headers, name)
  if type(headers) ~= "table" then raise(name .. "(): the headers must be a table") end
  local list = {}
  for key, value in pairs(headers) do
    if type(value) ~= "table" then value = { value } end
    for index = 1, #value do
      list[#list + 1] = key
      list[#list + 1] = value[index]
    end
  end
  return list
end

local Handle = {}
local HandleClass = class("the handle", Handle)

local function cached(name, make)
  Handle[name] = function(self, ...)
    id_of(self, name)
    local known = self[CACHE][name]
    if known == nil then
      known = make(self, ...)
      self[CACHE][name] = known
    end
    return known
  end
end

cached("headers", function(self) return object(HeadersClass, self, "headers") end)
cached("streamInfo", function(self) return object(InfoClass, self) end)
cached("connection", function(self) return object(ConnectionClass, self) end)
for name, code in pairs({ metadata = op.metadata, filterContext = op.context }) do
  cached(name, function(self)
    local id = id_of(self, name)
    return setmetatable({ [ID] = id, [CACHE] = host(code, id) }, MetadataClass)
  end)
end

function Handle:body(always)
  id_of(self, "body")
  local cache = self[CACHE]
  if wait(self, "body", "body") then
    cache.seen = true
  elseif not always then
    return nil
  end
  cache.body = cache.body or object(BodyClass, self, 0)
  return cache.body
end

function Handle:bodyChunks()
  id_of(self, "bodyChunks")
  if self[CACHE].seen then raise("bodyChunks() cannot follow body(), which has all of it") end
  return function()
    local number = wait(self, "bodyChunks", "chunk")
    return number and object(BodyClass, self, number)
  end
end

function Handle:trailers()
  id_of(self, "trailers")
  return wait(self, "trailers", "trailers") and object(HeadersClass, self, "trailers") or nil
end

function Handle:respond(headers, body)
  local id = id_of(self, "respond")
  own_thread(self, "respond")
  host(op.respond, id, flat(headers, "respond"), body)
  yield(TOKEN, "respond")
end

-- Whether there are spans is not up to scripts: `trace_sampled` has no effect.
local CALL_OPTIONS =
  { asynchronous = true, timeout_ms = true, return_duplicate_headers = true, send_xff = true, trace_sampled = true }

function Handle:httpCall(cluster, headers, body, timeout, asynchronous)
  local id = id_of(self, "httpCall")
  local options = { timeout_ms = timeout, asynchronous = asynchronous }
  if type(timeout) == "table" then
    options = timeout
    for name in pairs(options) do
      if not CALL_OPTIONS[name] then raise("httpCall(): the option " .. tostring(name) .. " is not supported") end
    end
    if options.send_xff then raise("httpCall(): send_xff is not supported; add x-forwarded-for to the headers") end
  end
  local async = options.asynchronous
  if async ~= nil and type(async) ~= "boolean" then
    raise("httpCall(): whether it is asynchronous must be true or false")
  end
  if not async then own_thread(self, "httpCall") end
  host(op.call, id, cluster, flat(headers, "httpCall"), body, options.timeout_ms or 0, async or false)
  if async then return end
  local list, text = wait(self, "httpCall", "call")
  local response = {}
  for at = 1, #list, 2 do
    local name, value = list[at], list[at + 1]
    local earlier = response[name]
    if earlier ~= nil and options.return_duplicate_headers then
      if type(earlier) ~= "table" then earlier = { earlier } end
      earlier[#earlier + 1] = value
      value = earlier
    end
    response[name] = value
  end
  return response, text
end

own.logs(Handle, op.log)

function Handle:clearRouteCache() return host(op.reroute, id_of(self, "clearRouteCache")) end
function Handle:timestamp(resolution) return host(op.timestamp, id_of(self, "timestamp"), resolution) end
function Handle:timestampString(resolution)
  return host(op.timestamp_text, id_of(self, "timestampString"), resolution)
end
function Handle:base64Escape(text)
  id_of(self, "base64Escape")
  return settle(natives.base64(text))
end

-- A public key that can be used.
local Key = {}
local KeyClass = class("a public key", Key)

function Key:get() return rawget(self, PART) end

function Handle:importPublicKey(der, length)
  id_of(self, "importPublicKey")
  return setmetatable({ [PART] = settle(natives.import_key(der, length)) }, KeyClass)
end
function Handle:verifySignature(hash, key, signature, signature_length, data, data_length)
  id_of(self, "verifySignature")
  local der = type(key) == "table" and rawget(key, PART) or key
  if type(der) ~= "string" then raise("verifySignature(): the key must come from importPublicKey()") end
  return settle(natives.verify(hash, der, signature, signature_length, data, data_length))
end

-- The function of a request's coroutine.
local function start(hook, id)
  local handle = setmetatable({ [ID] = id, [THREAD] = running(), [CACHE] = {} }, HandleClass)
  local ok, problem = pcall(hook, handle)
  if ok then return TOKEN, "done" end
  return TOKEN, "error", text_of(problem)
end

return start
