//! HTTP/1 and HTTP/2: messages, routes, filters, scripts, hostile clients and endpoints.
//!
//! Owns: nothing; each module is a group of tests. Keeps: one binary, so that what all of them use is linked once.

mod cross_origin;
mod filter_labels;
mod forwarding;
mod http1;
mod http2;
mod http2_cases;
mod http_attempts;
mod http_bulk;
mod http_chains;
mod http_filters;
mod http_hostile;
mod http_routes;
mod http_soak;
mod local_replies;
mod lua;
mod module_asan;
mod module_calls;
mod module_logs;
mod module_waf;
mod modules;
mod relays_by_proxy;
mod request_memory;
mod route_matching;
mod script_reloads;
mod taps;
mod values;
mod wasm;
mod wasm_grpc;
