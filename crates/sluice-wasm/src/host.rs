//! The functions that a guest calls.
//!
//! Owns: their names, and how their arguments arrive. Refuses to know: when a guest calls them. Keeps: each checks all of its
//! arguments; what a guest gets wrong is a status, and only what it brings on itself is a trap.

use wasmtime::{Caller, Engine, Linker};

use crate::abi::Status;
use crate::guest::{Guest, HostFault, HostResult};
use crate::state::HostState;

mod buffers;
mod calls;
mod grpc;
mod log;
mod maps;
mod properties;
mod sharing;
mod streams;
mod time;
pub(crate) mod wasi;

/// What a function returns to its guest.
fn settle(done: HostResult) -> wasmtime::Result<i32> {
    match done {
        Ok(()) => Ok(Status::Ok.number()),
        Err(HostFault::Status(status)) => Ok(status.number()),
        Err(HostFault::Trap(error)) => Err(error),
    }
}

macro_rules! functions {
    ($linker:ident; $($name:literal = $path:path, ($($arg:ident: $ty:ty),*);)+) => {
        $($linker.func_wrap(
            "env",
            $name,
            |mut caller: Caller<'_, HostState>, $($arg: $ty),*| {
                settle($path(&mut Guest(&mut caller), $($arg),*))
            },
        )?;)+
    };
}

/// All functions.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    functions! { linker;
        "proxy_log" = log::line, (level: u32, at: u32, length: u32);
        "proxy_get_log_level" = log::level, (level_at: u32);
        "proxy_get_current_time_nanoseconds" = time::now, (time_at: u32);
        "proxy_set_tick_period_milliseconds" = time::set_tick, (millis: u32);
        "proxy_get_property" = properties::get, (path: u32, length: u32, value_at: u32, length_at: u32);
        "proxy_set_property" = properties::set, (path: u32, length: u32, value: u32, value_length: u32);
        "proxy_continue_stream" = streams::go_on, (kind: u32);
        "proxy_continue_request" = streams::go_on_request, ();
        "proxy_continue_response" = streams::go_on_response, ();
        "proxy_close_stream" = streams::close, (kind: u32);
        "proxy_send_local_response" = streams::respond, (status: u32, details: u32, details_length: u32, body: u32, body_length: u32, fields: u32, fields_length: u32, grpc: i32);
        "proxy_set_effective_context" = streams::set_effective, (context: u32);
        "proxy_done" = streams::done, ();
        "proxy_get_header_map_value" = maps::value, (kind: u32, name: u32, length: u32, value_at: u32, length_at: u32);
        "proxy_add_header_map_value" = maps::add, (kind: u32, name: u32, length: u32, value: u32, value_length: u32);
        "proxy_replace_header_map_value" = maps::replace, (kind: u32, name: u32, length: u32, value: u32, value_length: u32);
        "proxy_remove_header_map_value" = maps::remove, (kind: u32, name: u32, length: u32);
        "proxy_get_header_map_pairs" = maps::pairs, (kind: u32, pairs_at: u32, length_at: u32);
        "proxy_set_header_map_pairs" = maps::set_pairs, (kind: u32, pairs: u32, length: u32);
        "proxy_get_header_map_size" = maps::size, (kind: u32, size_at: u32);
        "proxy_get_buffer_bytes" = buffers::bytes, (kind: u32, start: u32, length: u32, bytes_at: u32, length_at: u32);
        "proxy_get_buffer_status" = buffers::status, (kind: u32, length_at: u32, flags_at: u32);
        "proxy_set_buffer_bytes" = buffers::set, (kind: u32, start: u32, length: u32, bytes: u32, bytes_length: u32);
        "proxy_get_configuration" = buffers::configuration, (bytes_at: u32, length_at: u32);
        "proxy_http_call" = calls::http, (cluster: u32, cluster_length: u32, fields: u32, fields_length: u32, body: u32, body_length: u32, trailers: u32, trailers_length: u32, millis: u32, token_at: u32);
        "proxy_get_status" = calls::status, (status_at: u32, text_at: u32, length_at: u32);
        "proxy_grpc_call" = grpc::call, (service: u32, service_length: u32, name: u32, name_length: u32, method: u32, method_length: u32, metadata: u32, metadata_length: u32, message: u32, message_length: u32, millis: u32, token_at: u32);
        "proxy_grpc_stream" = grpc::stream, (service: u32, service_length: u32, name: u32, name_length: u32, method: u32, method_length: u32, metadata: u32, metadata_length: u32, token_at: u32);
        "proxy_grpc_send" = grpc::send, (token: u32, message: u32, length: u32, last: u32);
        "proxy_grpc_cancel" = grpc::cancel, (token: u32);
        "proxy_grpc_close" = grpc::close, (token: u32);
        "proxy_call_foreign_function" = streams::foreign, (name: u32, length: u32, args: u32, args_length: u32, results_at: u32, length_at: u32);
        "proxy_get_shared_data" = sharing::data, (key: u32, length: u32, value_at: u32, length_at: u32, cas_at: u32);
        "proxy_set_shared_data" = sharing::set_data, (key: u32, length: u32, value: u32, value_length: u32, cas: u32);
        "proxy_register_shared_queue" = sharing::register, (name: u32, length: u32, queue_at: u32);
        "proxy_resolve_shared_queue" = sharing::resolve, (vm: u32, vm_length: u32, name: u32, length: u32, queue_at: u32);
        "proxy_enqueue_shared_queue" = sharing::enqueue, (queue: u32, bytes: u32, length: u32);
        "proxy_dequeue_shared_queue" = sharing::dequeue, (queue: u32, bytes_at: u32, length_at: u32);
        "proxy_define_metric" = sharing::define_metric, (kind: u32, name: u32, length: u32, metric_at: u32);
        "proxy_increment_metric" = sharing::increment_metric, (metric: u32, by: i64);
        "proxy_record_metric" = sharing::record_metric, (metric: u32, value: u64);
        "proxy_get_metric" = sharing::metric, (metric: u32, value_at: u32);
    }
    wasi::link(&mut linker)?;
    Ok(linker)
}
