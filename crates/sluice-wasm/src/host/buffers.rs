//! Bodies, bytes of connections, and configurations.
//!
//! Owns: how pieces of a buffer are read and replaced. Refuses to know: which body is at hand. Keeps: only what is at hand is
//! changed, and only to something of a bounded size.

use bytes::{Bytes, BytesMut};

use crate::abi::{BufferKind, Status};
use crate::guest::{Guest, HostResult};
use crate::state::HostState;

fn buffer(state: &HostState, kind: BufferKind) -> Result<Bytes, Status> {
    match kind {
        BufferKind::Body { response } => {
            state.with_call(|call| call.body(response)).unwrap_or(Err(Status::NotFound))
        }
        BufferKind::Bytes { sent } => {
            state.with_call(|call| call.bytes(sent)).unwrap_or(Err(Status::NotFound))
        }
        BufferKind::CallBody => {
            state.answer.as_ref().map(|of| of.body.clone()).ok_or(Status::NotFound)
        }
        BufferKind::GrpcMessage => {
            state.grpc.as_ref().map(|of| of.body.clone()).ok_or(Status::NotFound)
        }
        BufferKind::VmConfig => Ok(state.setup.config.clone()),
        BufferKind::PluginConfig => Ok(state.plugin()?.config.clone()),
    }
}

/// `proxy_get_buffer_bytes`: as many as there are from `start`, at most `length`.
pub(super) fn bytes(
    guest: &mut Guest<'_, '_>,
    kind: u32,
    start: u32,
    length: u32,
    bytes_at: u32,
    length_at: u32,
) -> HostResult {
    let buffer = buffer(guest.state(), BufferKind::of(kind)?)?;
    let end = start.checked_add(length).ok_or(Status::BadArgument)?;
    let (start, end) = ((start as usize).min(buffer.len()), (end as usize).min(buffer.len()));
    guest.give(&buffer[start..end], bytes_at, length_at)
}

/// `proxy_get_buffer_status`.
pub(super) fn status(
    guest: &mut Guest<'_, '_>,
    kind: u32,
    length_at: u32,
    flags_at: u32,
) -> HostResult {
    let buffer = buffer(guest.state(), BufferKind::of(kind)?)?;
    let length = u32::try_from(buffer.len()).map_err(|_| Status::InternalFailure)?;
    guest.write_u32(length_at, length)?;
    guest.write_u32(flags_at, 0)
}

/// `proxy_set_buffer_bytes`: replaces what begins at `start`, which is 0 or the end.
pub(super) fn set(
    guest: &mut Guest<'_, '_>,
    kind: u32,
    start: u32,
    length: u32,
    at: u32,
    added: u32,
) -> HostResult {
    let kind = BufferKind::of(kind)?;
    if !matches!(kind, BufferKind::Body { .. } | BufferKind::Bytes { .. }) {
        return Err(Status::BadArgument.into());
    }
    let before = buffer(guest.state(), kind)?;
    let bytes = guest.bytes(at, added)?;
    let after = if start == 0 {
        let rest = before.slice((length as usize).min(before.len())..);
        joined(bytes, &rest)
    } else if start as usize >= before.len() {
        joined(&before, bytes)
    } else {
        return Err(Status::BadArgument.into());
    };
    let state = guest.state();
    if after.len() > state.plugin()?.body_max.max(before.len()) {
        let limit = if matches!(kind, BufferKind::Bytes { .. }) { "held_max" } else { "body_max" };
        state.count_limit(limit);
        return Err(Status::BadArgument.into());
    }
    let done = state.with_call(|call| match kind {
        BufferKind::Body { response } => call.set_body(response, after),
        BufferKind::Bytes { sent } => call.set_bytes(sent, after),
        _ => Err(Status::BadArgument),
    });
    Ok(done.unwrap_or(Err(Status::NotFound))?)
}

fn joined(first: &[u8], second: &[u8]) -> Bytes {
    let mut all = BytesMut::with_capacity(first.len() + second.len());
    all.extend_from_slice(first);
    all.extend_from_slice(second);
    all.freeze()
}

/// `proxy_get_configuration` of 0.1.0.
pub(super) fn configuration(
    guest: &mut Guest<'_, '_>,
    bytes_at: u32,
    length_at: u32,
) -> HostResult {
    let config = buffer(guest.state(), BufferKind::PluginConfig)?;
    guest.give(&config, bytes_at, length_at)
}
