// The guest `gate`, by the SDK for AssemblyScript.
//
// Owns: what a request without a user gets, the tier that a user has by a call to `b`, and how often a user was here. Refuses to
// know: which proxy runs it. Keeps: the same as the gates in Rust and C++, so that one set of cases holds for all.

export * from "@solo-io/proxy-runtime/proxy";
import {
  Context,
  continue_request,
  FilterDataStatusValues,
  FilterHeadersStatusValues,
  GrpcStatusValues,
  HeaderPair,
  Headers,
  log,
  LogLevelValues,
  registerRootContext,
  RootContext,
  send_local_response,
  stream_context,
} from "@solo-io/proxy-runtime";
import { BufferTypeValues, get_buffer_bytes, get_property, Reference } from "@solo-io/proxy-runtime/runtime";

// The SDK cannot change bodies, and its functions for shared data have their results as arguments.
@external("env", "proxy_set_buffer_bytes")
declare function set_buffer_bytes(buffer: u32, start: u32, length: u32, bytes: usize, size: usize): u32;
@external("env", "proxy_get_shared_data")
declare function get_shared_data(key: usize, size: usize, value: usize, value_size: usize, cas: usize): u32;
@external("env", "proxy_set_shared_data")
declare function set_shared_data(key: usize, size: usize, value: usize, value_size: usize, cas: u32): u32;

const CAS_MISMATCH: u32 = 8;

function bytes(text: string): ArrayBuffer {
  return String.UTF8.encode(text);
}

function pair(name: string, value: string): HeaderPair {
  return new HeaderPair(bytes(name), bytes(value));
}

// What the host says of a name; the SDK ends the guest if there is nothing.
function property(path: string): ArrayBuffer {
  return get_property(path);
}

function respond(status: u32, why: string, body: string): void {
  let headers: Headers = [];
  headers.push(pair("x-gate", why));
  send_local_response(status, "", bytes(body), headers, -1 as GrpcStatusValues);
}

// Counts a visit of a user, and returns how many there were before.
function visit(user: string): u32 {
  const key = bytes(user);
  const value = new Reference<usize>();
  const size = new Reference<usize>();
  const cas = new Reference<u32>();
  while (true) {
    let before: u32 = 0;
    cas.data = 0;
    const known = get_shared_data(changetype<usize>(key), key.byteLength, value.ptr(), size.ptr(), cas.ptr());
    if (known == 0) {
      before = U32.parseInt(String.UTF8.decodeUnsafe(value.data, size.data));
    }
    const after = bytes((before + 1).toString());
    const done = set_shared_data(changetype<usize>(key), key.byteLength, changetype<usize>(after), after.byteLength, cas.data);
    if (done != CAS_MISMATCH) {
      return before;
    }
  }
  return 0;
}

class GateRoot extends RootContext {
  onConfigure(size: u32): bool {
    super.onConfigure(size);
    return this.getConfiguration() != "";
  }

  createContext(context_id: u32): Context {
    return new Gate(context_id, this);
  }
}

class Gate extends Context {
  onRequestHeaders(count: u32, end: bool): FilterHeadersStatusValues {
    const headers = stream_context.headers.request;
    const user = headers.get("x-user");
    if (user == "") {
      respond(401, "user", "who are you?\n");
      return FilterHeadersStatusValues.StopIteration;
    }
    headers.replace("x-visits", visit(user).toString());
    headers.replace("x-query", String.UTF8.decode(property("request\0query")));
    headers.remove("content-length");
    let call: Headers = [];
    call.push(pair(":method", "GET"));
    call.push(pair(":path", "/tier/" + user));
    call.push(pair(":authority", "tiers"));
    call.push(pair("x-do", headers.get("x-ask")));
    const none: Headers = [];
    const called = this.root_context.httpCall("b", call, new ArrayBuffer(0), none, 5000, this, (context: Context, count: u32, size: usize, trailers: u32) => {
      const status = stream_context.headers.http_callback.get(":status");
      if (status != "200") {
        respond(503, "call", "no tier: " + status + "\n");
        return;
      }
      const tier = String.UTF8.decode(get_buffer_bytes(BufferTypeValues.HttpCallResponseBody, 0, size as u32));
      stream_context.headers.request.replace(context.root_context.getConfiguration(), tier);
      continue_request();
    });
    return called == 0 ? FilterHeadersStatusValues.StopIteration : FilterHeadersStatusValues.Continue;
  }

  onRequestBody(size: usize, end: bool): FilterDataStatusValues {
    if (!end) {
      return FilterDataStatusValues.StopIterationAndBuffer;
    }
    if (size > 0) {
      const body = get_buffer_bytes(BufferTypeValues.HttpRequestBody, 0, size as u32);
      const upper = bytes(String.UTF8.decode(body).toUpperCase());
      set_buffer_bytes(BufferTypeValues.HttpRequestBody, 0, size as u32, changetype<usize>(upper), upper.byteLength);
    }
    return FilterDataStatusValues.Continue;
  }

  onResponseHeaders(count: u32, end: bool): FilterHeadersStatusValues {
    const code = load<u64>(changetype<usize>(property("response\0code")));
    stream_context.headers.response.replace("x-code", code.toString());
    stream_context.headers.response.remove("content-length");
    return FilterHeadersStatusValues.Continue;
  }

  onResponseBody(size: usize, end: bool): FilterDataStatusValues {
    if (!end) {
      return FilterDataStatusValues.StopIterationAndBuffer;
    }
    if (size > 0) {
      const body = get_buffer_bytes(BufferTypeValues.HttpResponseBody, 0, size as u32);
      const out = bytes("[" + String.UTF8.decode(body) + "]");
      set_buffer_bytes(BufferTypeValues.HttpResponseBody, 0, size as u32, changetype<usize>(out), out.byteLength);
    }
    return FilterDataStatusValues.Continue;
  }

  onLog(): void {
    log(LogLevelValues.info, "the gate saw " + String.UTF8.decode(property("request\0path")));
  }
}

registerRootContext((context_id: u32) => new GateRoot(context_id), "gate");
