//! What becomes of a request or connection.
//!
//! Owns: responses of guests, and what goes on or is closed. Refuses to know: how either is carried out. Keeps: a response has a status
//! and headers that a response can have.

use sluice_codec::grpc::GrpcCode;
use sluice_codec::names::is_field_value;
use sluice_l7::words::is_editable;
use sluice_l7::{Reply, reasons};

use crate::abi::Status;
use crate::failure::one_line;
use crate::guest::{Guest, HostResult};
use crate::pairs::{self, FieldPair};

/// The most bytes of what a guest says about its response.
const DETAILS_BYTES: usize = 256;

/// `proxy_continue_stream`: 0 is the request, 1 the response, 2 what a client sends on its connection, 3 what is sent to it. One
/// that the context has not is left out.
pub(super) fn go_on(guest: &mut Guest<'_, '_>, kind: u32) -> HostResult {
    let cell = guest.state().context()?;
    match (kind, &cell.connection) {
        (0 | 1, None) | (2 | 3, Some(_)) => cell.go_on(kind % 2 == 1),
        (0..=3, _) => {}
        _ => return Err(Status::BadArgument.into()),
    }
    Ok(())
}

/// `proxy_continue_request` of 0.1.0.
pub(super) fn go_on_request(guest: &mut Guest<'_, '_>) -> HostResult {
    go_on(guest, 0)
}

/// `proxy_continue_response` of 0.1.0.
pub(super) fn go_on_response(guest: &mut Guest<'_, '_>) -> HostResult {
    go_on(guest, 1)
}

/// `proxy_close_stream`; both streams of a connection are the connection.
pub(super) fn close(guest: &mut Guest<'_, '_>, kind: u32) -> HostResult {
    let cell = guest.state().context()?;
    match (kind, &cell.connection) {
        (0 | 1, None) => {
            let reply = Reply::new(503, reasons::LOCAL, "wasm_close_stream", "").closing();
            cell.respond(Box::new(reply));
        }
        (2 | 3, Some(_)) => cell.close(),
        (0..=3, _) => {}
        _ => return Err(Status::BadArgument.into()),
    }
    Ok(())
}

/// `proxy_send_local_response`.
#[allow(clippy::too_many_arguments, reason = "the form is that of the interface")]
pub(super) fn respond(
    guest: &mut Guest<'_, '_>,
    status: u32,
    details: u32,
    details_length: u32,
    body: u32,
    body_length: u32,
    fields: u32,
    fields_length: u32,
    grpc: i32,
) -> HostResult {
    let details = guest.short(details, details_length)?;
    let body = guest.bytes(body, body_length)?.to_vec();
    let fields = pairs::decode(guest.bytes(fields, fields_length)?)?;
    let state = guest.state();
    let cell = state.context()?;
    if body.len() > cell.plugin().body_max {
        state.count_limit("body_max");
        return Err(Status::BadArgument.into());
    }
    let here = state.with_call(|call| call.may_respond()).unwrap_or(false);
    if cell.connection.is_some() || !here && !cell.is_waiting() {
        return Err(Status::BadArgument.into());
    }
    let status = u16::try_from(status).ok().filter(|status| (200..=599).contains(status));
    let status = status.ok_or(Status::BadArgument)?;
    let details: Vec<u8> =
        details.iter().map(|byte| if byte.is_ascii_whitespace() { b'_' } else { *byte }).collect();
    let details = match one_line(&String::from_utf8_lossy(&details), DETAILS_BYTES) {
        text if text.is_empty() => "wasm_response".into(),
        text => text,
    };
    let mut reply = Reply::new(status, reasons::LOCAL, details, body);
    reply.content_type = "text/plain".into();
    reply.grpc_code = u32::try_from(grpc).ok().map(GrpcCode::of_number);
    cell.respond(Box::new(with_fields(reply, &fields)?));
    Ok(())
}

fn with_fields(mut reply: Reply, fields: &[FieldPair]) -> Result<Reply, Status> {
    for (name, value) in fields {
        let name = std::str::from_utf8(name).map_err(|_| Status::BadArgument)?;
        let name = name.to_ascii_lowercase();
        let text = std::str::from_utf8(value).map_err(|_| Status::BadArgument)?;
        if !is_field_value(value) {
            return Err(Status::BadArgument);
        }
        match &*name {
            "content-type" => reply.content_type = text.to_owned().into(),
            // The length follows from the body, and the status is an argument.
            "content-length" | ":status" => {}
            _ if is_editable(&name) => reply = reply.with(name, text),
            _ => return Err(Status::BadArgument),
        }
    }
    Ok(reply)
}

/// `proxy_call_foreign_function`, of which there is one: it has the route selected again.
pub(super) fn foreign(
    guest: &mut Guest<'_, '_>,
    name: u32,
    length: u32,
    _args: u32,
    _args_length: u32,
    results_at: u32,
    length_at: u32,
) -> HostResult {
    if guest.short(name, length)? != b"clear_route_cache" {
        return Err(Status::NotFound.into());
    }
    let done = guest.state().with_call(|call| call.reroute());
    done.unwrap_or(Err(Status::BadArgument))?;
    // A guest may leave out where nothing would be written to.
    if results_at != 0 && length_at != 0 {
        guest.give(b"", results_at, length_at)?;
    }
    Ok(())
}

/// `proxy_set_effective_context`.
pub(super) fn set_effective(guest: &mut Guest<'_, '_>, context: u32) -> HostResult {
    let state = guest.state_mut();
    if !state.contexts.contains_key(&context) {
        return Err(Status::BadArgument.into());
    }
    state.effective = context;
    Ok(())
}

/// `proxy_done`: contexts end when their request does, so that there is nothing left to do.
pub(super) fn done(guest: &mut Guest<'_, '_>) -> HostResult {
    guest.state().context()?;
    Ok(())
}
