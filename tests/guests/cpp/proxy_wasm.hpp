// The interface of proxy-wasm 0.2.1, as much of it as guests of these tests use.
//
// Owns: the declarations of the host's functions, and texts in place of pointers and lengths. Refuses to know: what a guest is for.
// Keeps: what the host allocates is freed exactly once.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#define PROXY_WASM_IMPORT(name) __attribute__((import_module("env"), import_name(#name)))
#define PROXY_WASM_EXPORT(name) extern "C" __attribute__((export_name(#name)))

extern "C" {
PROXY_WASM_IMPORT(proxy_log) int32_t proxy_log(uint32_t level, const char *text, size_t size);
PROXY_WASM_IMPORT(proxy_get_property)
int32_t proxy_get_property(const char *path, size_t size, char **value, size_t *value_size);
PROXY_WASM_IMPORT(proxy_get_header_map_value)
int32_t proxy_get_header_map_value(uint32_t map, const char *name, size_t size, char **value, size_t *value_size);
PROXY_WASM_IMPORT(proxy_replace_header_map_value)
int32_t proxy_replace_header_map_value(uint32_t map, const char *name, size_t size, const char *value, size_t value_size);
PROXY_WASM_IMPORT(proxy_remove_header_map_value)
int32_t proxy_remove_header_map_value(uint32_t map, const char *name, size_t size);
PROXY_WASM_IMPORT(proxy_get_buffer_bytes)
int32_t proxy_get_buffer_bytes(uint32_t buffer, uint32_t start, uint32_t length, char **bytes, size_t *size);
PROXY_WASM_IMPORT(proxy_set_buffer_bytes)
int32_t proxy_set_buffer_bytes(uint32_t buffer, uint32_t start, uint32_t length, const char *bytes, size_t size);
PROXY_WASM_IMPORT(proxy_get_shared_data)
int32_t proxy_get_shared_data(const char *key, size_t size, char **value, size_t *value_size, uint32_t *cas);
PROXY_WASM_IMPORT(proxy_set_shared_data)
int32_t proxy_set_shared_data(const char *key, size_t size, const char *value, size_t value_size, uint32_t cas);
PROXY_WASM_IMPORT(proxy_http_call)
int32_t proxy_http_call(const char *cluster, size_t size, const char *headers, size_t headers_size, const char *body, size_t body_size,
                        const char *trailers, size_t trailers_size, uint32_t millis, uint32_t *token);
PROXY_WASM_IMPORT(proxy_send_local_response)
int32_t proxy_send_local_response(uint32_t status, const char *details, size_t details_size, const char *body, size_t body_size,
                                  const char *headers, size_t headers_size, int32_t grpc_status);
PROXY_WASM_IMPORT(proxy_set_effective_context) int32_t proxy_set_effective_context(uint32_t context);
PROXY_WASM_IMPORT(proxy_continue_stream) int32_t proxy_continue_stream(uint32_t stream);
}

namespace proxy_wasm {

enum Map : uint32_t { RequestHeaders = 0, ResponseHeaders = 2, CallHeaders = 6 };
enum Buffer : uint32_t { RequestBody = 0, ResponseBody = 1, CallBody = 4, Configuration = 7 };
enum Status : int32_t { Ok = 0, NotFound = 1, CasMismatch = 8 };
enum Action : uint32_t { Continue = 0, Pause = 1 };

using Pairs = std::vector<std::pair<std::string_view, std::string_view>>;

// A text that the host allocated by `malloc` of this module.
inline std::string taken(char *bytes, size_t size) {
  std::string text(bytes, size);
  std::free(bytes);
  return text;
}

inline std::optional<std::string> header(Map map, std::string_view name) {
  char *value = nullptr;
  size_t size = 0;
  if (proxy_get_header_map_value(map, name.data(), name.size(), &value, &size) != Ok) {
    return std::nullopt;
  }
  return taken(value, size);
}

inline void set_header(Map map, std::string_view name, std::string_view value) {
  proxy_replace_header_map_value(map, name.data(), name.size(), value.data(), value.size());
}

inline void remove_header(Map map, std::string_view name) {
  proxy_remove_header_map_value(map, name.data(), name.size());
}

inline std::string buffer(Buffer of, size_t size) {
  char *bytes = nullptr;
  size_t length = 0;
  if (proxy_get_buffer_bytes(of, 0, static_cast<uint32_t>(size), &bytes, &length) != Ok) {
    return {};
  }
  return taken(bytes, length);
}

inline void set_buffer(Buffer of, size_t size, std::string_view bytes) {
  proxy_set_buffer_bytes(of, 0, static_cast<uint32_t>(size), bytes.data(), bytes.size());
}

// The parts of a path are separated by zero bytes.
inline std::string property(std::string_view path) {
  char *value = nullptr;
  size_t size = 0;
  if (proxy_get_property(path.data(), path.size(), &value, &size) != Ok) {
    return {};
  }
  return taken(value, size);
}

// Pairs as the host reads them: their number, the lengths of each, and the texts with a zero byte behind each.
inline std::string serialised(const Pairs &pairs) {
  std::string out;
  auto number = [&out](size_t of) {
    auto value = static_cast<uint32_t>(of);
    out.append(reinterpret_cast<const char *>(&value), sizeof value);
  };
  number(pairs.size());
  for (const auto &[name, value] : pairs) {
    number(name.size());
    number(value.size());
  }
  for (const auto &[name, value] : pairs) {
    out.append(name).push_back('\0');
    out.append(value).push_back('\0');
  }
  return out;
}

inline void respond(uint32_t status, const Pairs &headers, std::string_view body) {
  auto pairs = serialised(headers);
  proxy_send_local_response(status, "", 0, body.data(), body.size(), pairs.data(), pairs.size(), -1);
}

}  // namespace proxy_wasm
