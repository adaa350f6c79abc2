//! Lines in the process log.
//!
//! Owns: levels, and how a line is named. Refuses to know: who reads it. Keeps: lines are bounded in number and length, and name
//! the guest and the request.

use crate::abi::Status;
use crate::failure::one_line;
use crate::guest::{Guest, HostResult};
use crate::limits::{LOG_LINE_BYTES, LOG_LINES};
use crate::state::HostState;

/// Everything is passed on; the process log selects.
const TRACE: u32 = 0;

/// `proxy_log`.
pub(super) fn line(guest: &mut Guest<'_, '_>, level: u32, at: u32, length: u32) -> HostResult {
    if level > 5 {
        return Err(Status::BadArgument.into());
    }
    let bytes = guest.bytes(at, length)?;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LOG_LINE_BYTES)]).into_owned();
    write(guest.state_mut(), level, &text);
    Ok(())
}

/// `proxy_get_log_level`.
pub(super) fn level(guest: &mut Guest<'_, '_>, level_at: u32) -> HostResult {
    guest.write_u32(level_at, TRACE)
}

/// Writes a line, unless this call wrote too many.
pub(super) fn write(state: &mut HostState, level: u32, text: &str) {
    state.lines += 1;
    if state.lines > LOG_LINES {
        return;
    }
    let text = one_line(text, LOG_LINE_BYTES);
    let text =
        if state.lines == LOG_LINES { "further lines of this call are left out" } else { &*text };
    let plugin = state.plugin().map(|plugin| plugin.name.clone()).unwrap_or_default();
    let request = state.with_call(|call| call.request()).unwrap_or_default();
    match level {
        0 => tracing::trace!(plugin, request, "{text}"),
        1 => tracing::debug!(plugin, request, "{text}"),
        2 => tracing::info!(plugin, request, "{text}"),
        3 => tracing::warn!(plugin, request, "{text}"),
        _ => tracing::error!(plugin, request, "{text}"),
    }
}
