//! Calls of gRPC services.
//!
//! Owns: the call that a guest describes, and what it does with one that is open. Refuses to know: how a call is made, and who learns
//! of what arrives. Keeps: a guest calls only clusters that the settings name, and touches only calls of its own context.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::{BASE64, BASE64_NOPAD};
use sluice_core::Moment;
use sluice_l7::{GrpcMethod, RawMessage, SideCalls};
use sluice_upstream::Cluster;

use super::calls;
use crate::abi::Status;
use crate::events;
use crate::grpc_link::GrpcLink;
use crate::grpc_service;
use crate::guest::{Guest, HostResult};
use crate::limits::CALLS_IN_FLIGHT;
use crate::pairs::{self, FieldPair};
use crate::stream::StreamCell;

/// What a call is made with.
struct DescribedCall {
    cell: Rc<StreamCell>,
    cluster: Arc<Cluster>,
    method: GrpcMethod,
}

/// `proxy_grpc_call`: one message there, one back.
#[allow(clippy::too_many_arguments, reason = "the form is that of the interface")]
pub(super) fn call(
    guest: &mut Guest<'_, '_>,
    service: u32,
    service_length: u32,
    name: u32,
    name_length: u32,
    method: u32,
    method_length: u32,
    metadata: u32,
    metadata_length: u32,
    message: u32,
    message_length: u32,
    millis: u32,
    token_at: u32,
) -> HostResult {
    let names = [(service, service_length), (name, name_length), (method, method_length)];
    let DescribedCall { cell, cluster, method } =
        describe(guest, names, (metadata, metadata_length), token_at)?;
    let message = Bytes::copy_from_slice(guest.bytes(message, message_length)?);
    let state = guest.state_mut();
    if message.len() > cell.plugin().body_max {
        state.count_limit("body_max");
        return Err(Status::BadArgument.into());
    }
    let token = state.new_token();
    // While a configuration is checked, nothing is sent, and no call ends.
    let Some(worker) = state.worker.clone() else { return guest.write_u32(token_at, token) };
    let (calls, by) = calls::bounded(state, &worker, millis);
    let link = Rc::new(GrpcLink::new(cell.id, false));
    state.grpc_calls.insert(token, Rc::clone(&link));
    let calling =
        calls.call_grpc::<RawMessage, RawMessage>(&cluster, method, &RawMessage(message), by);
    events::grpc_call(&worker, &state.events, &cell, token, &link, calling);
    guest.write_u32(token_at, token)
}

/// `proxy_grpc_stream`: several messages in either direction.
#[allow(clippy::too_many_arguments, reason = "the form is that of the interface")]
pub(super) fn stream(
    guest: &mut Guest<'_, '_>,
    service: u32,
    service_length: u32,
    name: u32,
    name_length: u32,
    method: u32,
    method_length: u32,
    metadata: u32,
    metadata_length: u32,
    token_at: u32,
) -> HostResult {
    let names = [(service, service_length), (name, name_length), (method, method_length)];
    let DescribedCall { cell, cluster, method } =
        describe(guest, names, (metadata, metadata_length), token_at)?;
    let state = guest.state_mut();
    let token = state.new_token();
    let Some(worker) = state.worker.clone() else { return guest.write_u32(token_at, token) };
    let link = Rc::new(GrpcLink::new(cell.id, true));
    state.grpc_calls.insert(token, Rc::clone(&link));
    // A stream lasts as long as its context.
    let opening = SideCalls::unbounded(&worker).open_grpc(&cluster, method, Moment::NEVER);
    events::grpc_stream(&worker, &state.events, &cell, token, &link, opening);
    guest.write_u32(token_at, token)
}

/// `proxy_grpc_send`: adds a message to a stream.
pub(super) fn send(
    guest: &mut Guest<'_, '_>,
    token: u32,
    message: u32,
    length: u32,
    last: u32,
) -> HostResult {
    let message = Bytes::copy_from_slice(guest.bytes(message, length)?);
    let state = guest.state();
    let link = own(guest, token)?;
    if !link.is_stream {
        return Err(Status::BadArgument.into());
    }
    if !link.send(message, last != 0, state.plugin()?.body_max) {
        state.count_limit("grpc");
        return Err(Status::InternalFailure.into());
    }
    Ok(())
}

/// `proxy_grpc_close`: the guest sends no more.
pub(super) fn close(guest: &mut Guest<'_, '_>, token: u32) -> HostResult {
    let link = own(guest, token)?;
    if link.is_stream {
        link.finish()
    } else {
        link.cancel()
    }
    Ok(())
}

/// `proxy_grpc_cancel`: nothing more of the call is told.
pub(super) fn cancel(guest: &mut Guest<'_, '_>, token: u32) -> HostResult {
    own(guest, token)?.cancel();
    guest.state_mut().grpc_calls.remove(&token);
    Ok(())
}

/// The call of that number, if it is of the context that operations are about.
fn own(guest: &Guest<'_, '_>, token: u32) -> HostResult<Rc<GrpcLink>> {
    let state = guest.state();
    let link = state.grpc_calls.get(&token).filter(|link| link.context == state.effective);
    Ok(link.cloned().ok_or(Status::NotFound)?)
}

fn describe(
    guest: &mut Guest<'_, '_>,
    names: [(u32, u32); 3],
    metadata: (u32, u32),
    token_at: u32,
) -> HostResult<DescribedCall> {
    let [service, name, method] = names;
    let service = guest.short(service.0, service.1)?;
    let (name, method) = (guest.text(name.0, name.1)?, guest.text(method.0, method.1)?);
    let metadata = pairs::decode(guest.bytes(metadata.0, metadata.1)?)?;
    // Before anything is sent.
    guest.write_u32(token_at, 0)?;
    let state = guest.state();
    let cell = Rc::clone(state.context()?);
    let plugin = cell.plugin();
    let plain = std::str::from_utf8(&service).ok().and_then(|name| plugin.cluster(name));
    let (cluster, authority) = match plain {
        Some(cluster) => (Arc::clone(cluster), String::new()),
        None => {
            let named = grpc_service::parse(&service).ok_or(Status::ParseFailure)?;
            let cluster = plugin.cluster(&named.cluster).ok_or(Status::BadArgument)?;
            (Arc::clone(cluster), named.authority)
        }
    };
    if cell.calls.get() >= CALLS_IN_FLIGHT {
        state.count_limit("calls");
        return Err(Status::InternalFailure.into());
    }
    let method = method_of(&name, &method, &authority, &metadata)?;
    Ok(DescribedCall { cell, cluster, method })
}

fn method_of(
    service: &str,
    method: &str,
    authority: &str,
    metadata: &[FieldPair],
) -> Result<GrpcMethod, Status> {
    let is_name = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
    };
    if !is_name(service) || !is_name(method) {
        return Err(Status::BadArgument);
    }
    let mut of = GrpcMethod::new(&format!("/{service}/{method}"));
    if !authority.is_empty() {
        of = of.authority(authority).map_err(|_| Status::BadArgument)?;
    }
    for (name, value) in metadata {
        let name = std::str::from_utf8(name).map_err(|_| Status::BadArgument)?;
        let name = name.to_ascii_lowercase();
        // Guests encode bytes themselves.
        let decoded = match name.ends_with("-bin") {
            true => BASE64.decode(value).or_else(|_| BASE64_NOPAD.decode(value)),
            false => Ok(value.clone()),
        };
        let value = decoded.map_err(|_| Status::BadArgument)?;
        of = of.with(&name, &value).map_err(|_| Status::BadArgument)?;
    }
    Ok(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_has_names_and_metadata() {
        let of = |service: &str, method: &str, name: &str, value: &str| {
            let pair = (name.as_bytes().to_vec(), value.as_bytes().to_vec());
            method_of(service, method, "", &[pair]).map(drop)
        };
        assert_eq!(of("t.Echo", "Unary", "X-A", "1"), Ok(()));
        assert_eq!(of("t.Echo", "Unary", "x-bin", "AA=="), Ok(()));
        for (service, method, name, value) in [
            ("", "Unary", "a", "1"),
            ("t.Echo", "", "a", "1"),
            ("t/Echo", "Unary", "a", "1"),
            ("t.Echo", "Una ry", "a", "1"),
            ("t.Echo", "Unary", "te", "1"),
            ("t.Echo", "Unary", "a", "1\n"),
            ("t.Echo", "Unary", "a-bin", "*"),
        ] {
            assert_eq!(of(service, method, name, value), Err(Status::BadArgument));
        }
    }
}
