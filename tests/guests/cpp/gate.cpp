// The guest `gate`, in C++ over the bare interface, with the standard library.
//
// Owns: what a request without a user gets, the tier that a user has by a call to `b`, and how often a user was here. Refuses to
// know: which proxy runs it. Keeps: the same as the gates in Rust and AssemblyScript, so that one set of cases holds for all.

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "proxy_wasm.hpp"

using namespace proxy_wasm;
using namespace std::string_view_literals;

namespace {

// The names of the headers for tiers, by root context. `_initialize` makes it, as each object of a module that has a constructor.
std::map<uint32_t, std::string> configured;

// The contexts that wait for calls: the host tells root contexts how a call ended.
std::map<uint32_t, uint32_t> waiting;

// Counts a visit of a user, and returns how many there were before.
uint32_t count_visit(const std::string &user) {
  for (;;) {
    char *value = nullptr;
    size_t size = 0;
    uint32_t cas = 0;
    uint32_t before = 0;
    if (proxy_get_shared_data(user.data(), user.size(), &value, &size, &cas) == Ok) {
      before = static_cast<uint32_t>(std::strtoul(taken(value, size).c_str(), nullptr, 10));
    }
    auto after = std::to_string(before + 1);
    if (proxy_set_shared_data(user.data(), user.size(), after.data(), after.size(), cas) != CasMismatch) {
      return before;
    }
  }
}

}  // namespace

PROXY_WASM_EXPORT(proxy_abi_version_0_2_1) void abi_version() {}

PROXY_WASM_EXPORT(malloc) void *allocate(size_t size) { return std::malloc(size); }

PROXY_WASM_EXPORT(proxy_on_vm_start) uint32_t vm_start(uint32_t, uint32_t) { return 1; }

PROXY_WASM_EXPORT(proxy_on_configure) uint32_t configure(uint32_t root, uint32_t size) {
  configured[root] = buffer(Configuration, size);
  return configured[root].empty() ? 0 : 1;
}

PROXY_WASM_EXPORT(proxy_on_request_headers) uint32_t request_headers(uint32_t context, uint32_t, uint32_t) {
  auto user = header(RequestHeaders, "x-user");
  if (!user) {
    respond(401, {{"x-gate", "user"}}, "who are you?\n");
    return Pause;
  }
  set_header(RequestHeaders, "x-visits", std::to_string(count_visit(*user)));
  set_header(RequestHeaders, "x-query", property("request\0query"sv));
  remove_header(RequestHeaders, "content-length");
  auto ask = header(RequestHeaders, "x-ask").value_or("");
  auto path = "/tier/" + *user;
  auto pairs = serialised({{":method", "GET"}, {":path", path}, {":authority", "tiers"}, {"x-do", ask}});
  auto none = serialised({});
  uint32_t token = 0;
  auto cluster = "b"sv;
  auto called = proxy_http_call(cluster.data(), cluster.size(), pairs.data(), pairs.size(), nullptr, 0, none.data(), none.size(), 5000, &token);
  if (called != Ok) {
    return Continue;
  }
  waiting[token] = context;
  return Pause;
}

PROXY_WASM_EXPORT(proxy_on_http_call_response)
void http_call_response(uint32_t root, uint32_t token, uint32_t, uint32_t size, uint32_t) {
  auto body = buffer(CallBody, size);
  auto context = waiting.extract(token);
  if (context.empty() || proxy_set_effective_context(context.mapped()) != Ok) {
    return;
  }
  auto status = header(CallHeaders, ":status").value_or("");
  if (status != "200") {
    respond(503, {{"x-gate", "call"}}, "no tier: " + status + "\n");
    return;
  }
  set_header(RequestHeaders, configured[root], body);
  proxy_continue_stream(0);
}

PROXY_WASM_EXPORT(proxy_on_request_body) uint32_t request_body(uint32_t, uint32_t size, uint32_t end) {
  if (!end) {
    return Pause;
  }
  auto body = buffer(RequestBody, size);
  std::transform(body.begin(), body.end(), body.begin(), [](char of) { return of >= 'a' && of <= 'z' ? static_cast<char>(of - 32) : of; });
  if (!body.empty()) {
    set_buffer(RequestBody, size, body);
  }
  return Continue;
}

PROXY_WASM_EXPORT(proxy_on_response_headers) uint32_t response_headers(uint32_t, uint32_t, uint32_t) {
  auto code = property("response\0code"sv);
  uint64_t number = 0;
  std::for_each(code.rbegin(), code.rend(), [&number](char of) { number = number << 8 | static_cast<uint8_t>(of); });
  set_header(ResponseHeaders, "x-code", std::to_string(number));
  remove_header(ResponseHeaders, "content-length");
  return Continue;
}

PROXY_WASM_EXPORT(proxy_on_response_body) uint32_t response_body(uint32_t, uint32_t size, uint32_t end) {
  if (!end) {
    return Pause;
  }
  auto body = buffer(ResponseBody, size);
  if (!body.empty()) {
    set_buffer(ResponseBody, size, "[" + body + "]");
  }
  return Continue;
}

PROXY_WASM_EXPORT(proxy_on_log) void logged(uint32_t) {
  auto text = "the gate saw " + property("request\0path"sv);
  proxy_log(2, text.data(), text.size());
}

PROXY_WASM_EXPORT(proxy_on_delete) void forget(uint32_t context) {
  configured.erase(context);
}
