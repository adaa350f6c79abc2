//! Calls of clusters.
//!
//! Owns: the request that a guest describes. Refuses to know: how a call is made, and who learns of its end. Keeps: a guest calls
//! only clusters that the settings name; no header is sent that frames a message.

use std::rc::Rc;
use std::time::Duration;

use sluice_codec::names::{is_field_value, is_token};
use sluice_core::Moment;
use sluice_io::WorkerCx;
use sluice_l7::words::is_editable;
use sluice_l7::{SideCalls, SideRequest};

use crate::abi::Status;
use crate::events;
use crate::guest::{Guest, HostResult};
use crate::limits::CALLS_IN_FLIGHT;
use crate::pairs::{self, FieldPair};
use crate::state::HostState;

/// `proxy_http_call`. Trailers of requests are not sent.
#[allow(clippy::too_many_arguments, reason = "the form is that of the interface")]
pub(super) fn http(
    guest: &mut Guest<'_, '_>,
    cluster: u32,
    cluster_length: u32,
    fields: u32,
    fields_length: u32,
    body: u32,
    body_length: u32,
    trailers: u32,
    trailers_length: u32,
    millis: u32,
    token_at: u32,
) -> HostResult {
    let name = guest.text(cluster, cluster_length)?;
    let fields = pairs::decode(guest.bytes(fields, fields_length)?)?;
    let body = guest.bytes(body, body_length)?.to_vec();
    if !pairs::decode(guest.bytes(trailers, trailers_length)?)?.is_empty() {
        return Err(Status::Unimplemented.into());
    }
    // Before anything is sent.
    guest.write_u32(token_at, 0)?;
    let state = guest.state_mut();
    let cell = state.context()?.clone();
    let plugin = cell.plugin();
    let known = plugin.cluster(&name).ok_or(Status::BadArgument)?;
    if body.len() > plugin.body_max {
        state.count_limit("body_max");
        return Err(Status::BadArgument.into());
    }
    if cell.calls.get() >= CALLS_IN_FLIGHT {
        state.count_limit("calls");
        return Err(Status::InternalFailure.into());
    }
    let request = request(&fields, body)?;
    let token = state.new_token();
    // While a configuration is checked, nothing is sent, and no call ends.
    let Some(worker) = state.worker.clone() else { return guest.write_u32(token_at, token) };
    let (calls, by) = bounded(state, &worker, millis);
    events::call(&worker, &state.events, &cell, token, calls.call(known, request, by));
    guest.write_u32(token_at, token)
}

/// What makes a call that ends after `millis`, and with the message at hand if there is one; 0 is for no time of its own.
pub(super) fn bounded(
    state: &mut HostState,
    worker: &Rc<WorkerCx>,
    millis: u32,
) -> (SideCalls, Moment) {
    let of_request = state.with_call(|call| call.side_calls()).flatten();
    let calls = of_request.unwrap_or_else(|| SideCalls::of_worker(worker));
    let by = match millis {
        0 => Moment::NEVER,
        millis => worker.now().after(Duration::from_millis(millis.into())),
    };
    (calls, by)
}

fn request(fields: &[FieldPair], body: Vec<u8>) -> Result<SideRequest, Status> {
    let pseudo = |name: &[u8]| {
        let (_, value) = fields.iter().find(|(of, _)| of.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok().filter(|text| !text.is_empty())
    };
    let (Some(method), Some(path), Some(host)) =
        (pseudo(b":method"), pseudo(b":path"), pseudo(b":authority"))
    else {
        return Err(Status::BadArgument);
    };
    let is_target = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    let is_host = sluice_codec::h1::parse::is_authority(host.as_bytes());
    if !is_token(method.as_bytes()) || method == "CONNECT" || !is_target || !is_host {
        return Err(Status::BadArgument);
    }
    let mut request = SideRequest::new(method, path).host(host);
    for (name, value) in fields {
        let name = std::str::from_utf8(name).map_err(|_| Status::BadArgument)?;
        let name = name.to_ascii_lowercase();
        match &*name {
            // The length follows from the body.
            ":method" | ":path" | ":authority" | ":scheme" | "host" | "content-length" => {}
            _ if is_editable(&name) && is_field_value(value) => {
                request = request.with(&name, value);
            }
            _ => return Err(Status::BadArgument),
        }
    }
    Ok(if body.is_empty() { request } else { request.body(body) })
}

/// `proxy_get_status`: that of the gRPC call that ended last.
pub(super) fn status(
    guest: &mut Guest<'_, '_>,
    status_at: u32,
    text_at: u32,
    length_at: u32,
) -> HostResult {
    let (status, text) = guest.state().grpc_status.clone();
    guest.write_u32(status_at, status)?;
    guest.give(text.as_bytes(), text_at, length_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &[(&str, &str)]) -> Result<(), Status> {
        let pair = |(name, value): &(&str, &str)| (name.as_bytes().into(), value.as_bytes().into());
        let fields: Vec<FieldPair> = fields.iter().map(pair).collect();
        request(&fields, Vec::new()).map(drop)
    }

    #[test]
    fn a_request_has_method_path_and_host_and_no_header_that_frames_it() {
        let [method, path, host] =
            [(":method", "GET"), (":path", "/a?b"), (":authority", "a.test")];
        assert_eq!(of(&[method, path, host, ("X-A", "1")]), Ok(()));
        for wrong in [
            vec![method, path],
            vec![method, host],
            vec![path, host],
            vec![(":method", "CONNECT"), path, host],
            vec![method, (":path", "a"), host],
            vec![method, path, (":authority", "a b")],
            vec![method, path, host, ("transfer-encoding", "chunked")],
            vec![method, path, host, ("x-a", "1\r\nb: 2")],
        ] {
            assert_eq!(of(&wrong), Err(Status::BadArgument), "{wrong:?}");
        }
    }
}
