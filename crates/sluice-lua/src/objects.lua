-- What the objects of scripts have in common.
--
-- Owns: types, the log, and the objects that requests and connections both have. Refuses to know: what a run is. Keeps: an
-- object carries the number of its run, which the host compares; a method that is not there is an error that names it.
local op, slot, raise, settle = ...
local type, tostring, pairs, rawget, setmetatable = type, tostring, pairs, rawget, setmetatable

local own = { ID = {}, PART = {}, CACHE = {} }
local ID, PART, CACHE = own.ID, own.PART, own.CACHE

function own.id_of(self, name)
  local id = type(self) == "table" and rawget(self, ID)
  if not id then raise("call " .. name .. " with a colon, as in handle:" .. name .. "()") end
  return id
end
local id_of = own.id_of

function own.host(code, id, ...)
  return settle(slot[1](code, id, ...))
end
local host = own.host

-- A type of objects; a method that it lacks is an error that names it.
function own.class(kind, methods)
  setmetatable(methods, {
    __index = function(_, name)
      raise(kind .. " has no " .. tostring(name) .. "() in Sluice; docs/lua.md lists what there is")
    end,
  })
  return { __index = methods, __newindex = function() raise(kind .. " cannot be assigned to") end, __metatable = false }
end
local class = own.class

function own.object(of, self, part)
  return setmetatable({ [ID] = id_of(self, "this"), [PART] = part }, of)
end

-- A type whose methods take nothing and ask for a fact of that name.
function own.facts(kind, code, names, more)
  local methods = more or {}
  for name in names:gmatch("%S+") do
    methods[name] = function(self) return host(code, id_of(self, name), name) end
  end
  return class(kind, methods)
end

-- Values of the configuration.
local Metadata = {}
own.MetadataClass = class("the object of metadata", Metadata)

function Metadata:get(name)
  id_of(self, "get")
  return self[CACHE][name]
end
function own.MetadataClass:__pairs() return pairs(self[CACHE]) end
-- What is there is read by get(): an index that is no method has no value.
setmetatable(Metadata, nil)

own.SslClass = own.facts("ssl()", op.ssl, [[
  peerCertificatePresented peerCertificateValidated uriSanPeerCertificate dnsSansPeerCertificate
  subjectPeerCertificate sha256PeerCertificateDigest issuerPeerCertificate serialNumberPeerCertificate
  validFromPeerCertificate expirationPeerCertificate urlEncodedPemEncodedPeerCertificate tlsVersion ciphersuiteString
  alpn]])

-- The methods that write to the log.
function own.logs(methods, code)
  for level, name in pairs({ "Trace", "Debug", "Info", "Warn", "Err", "Critical" }) do
    methods["log" .. name] = function(self, message)
      local kind = type(message)
      if kind ~= "string" and kind ~= "number" then
        raise("bad argument #1 to 'log" .. name .. "' (string expected, got " .. kind .. ")")
      end
      return host(code, id_of(self, "log" .. name), level, message)
    end
  end
end

return own
