//! Properties.
//!
//! Owns: paths of names between zero bytes, and what there is without a request. Refuses to know: requests. Keeps: what there is
//! not is not found.

use crate::abi::Status;
use crate::guest::{Guest, HostResult};

/// The most names in a path.
const PARTS: usize = 16;

fn path_of(bytes: Vec<u8>) -> Result<String, Status> {
    let text = String::from_utf8(bytes).map_err(|_| Status::BadArgument)?;
    let trimmed = text.strip_suffix('\0').unwrap_or(&text);
    if trimmed.is_empty() || trimmed.split('\0').count() > PARTS {
        return Err(Status::BadArgument);
    }
    Ok(trimmed.to_owned())
}

/// `proxy_get_property`.
pub(super) fn get(
    guest: &mut Guest<'_, '_>,
    path: u32,
    length: u32,
    value_at: u32,
    length_at: u32,
) -> HostResult {
    let path = path_of(guest.short(path, length)?)?;
    let parts: Vec<&str> = path.split('\0').collect();
    let state = guest.state();
    let plugin = state.plugin()?;
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let value = match parts[..] {
        ["plugin_name"] => text(&plugin.name),
        ["plugin_root_id"] => text(&plugin.root_id),
        ["plugin_vm_id"] => text(&state.setup.id),
        ["listener_name"] => text(&plugin.listener),
        _ => state.with_call(|call| call.property(&parts)).flatten(),
    };
    let value = value.ok_or(Status::NotFound)?;
    guest.give(&value, value_at, length_at)
}

/// `proxy_set_property`.
pub(super) fn set(
    guest: &mut Guest<'_, '_>,
    path: u32,
    length: u32,
    value: u32,
    value_length: u32,
) -> HostResult {
    let path = path_of(guest.short(path, length)?)?;
    let value = guest.short(value, value_length)?;
    let parts: Vec<&str> = path.split('\0').collect();
    let done = guest.state().with_call(|call| call.set_property(&parts, &value));
    Ok(done.unwrap_or(Err(Status::NotFound))?)
}
