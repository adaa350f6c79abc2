//! Facts about the stream, the log, routes, and the time.
//!
//! Owns: what each fact is called. Refuses to know: where it comes from. Keeps: lines in the log are bounded in number and
//! length, and name the request.

use std::time::Duration;

use mlua::{Lua, LuaString};

use crate::args::{Args, OpResult, nothing, one};
use crate::convert::whole;
use crate::side::ScriptRun;

/// The most lines of one run.
const LINES: u32 = 100;

/// The most bytes of a line.
const LINE_BYTES: usize = 4096;

/// `(name)`.
pub(super) fn info(run: &mut ScriptRun<'_, '_, '_>, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    let (conn, summary) = (run.cx.conn, run.cx.summary);
    let text = match &*args.word(0)? {
        "protocol" => Some(summary.version.word().to_owned()),
        "routeName" => Some(summary.route.as_deref().unwrap_or_default().to_owned()),
        "downstreamLocalAddress" | "downstreamDirectLocalAddress" => Some(conn.local().to_string()),
        "downstreamRemoteAddress" => Some(summary.source.to_string()),
        "downstreamDirectRemoteAddress" => Some(conn.peer().to_string()),
        // There are no virtual clusters.
        "virtualClusterName" => Some(String::new()),
        "requestedServerName" => Some(conn.sni().unwrap_or_default().to_owned()),
        _ => None,
    };
    one(lua, text)
}

/// `(level, message)`, from 1 for trace.
pub(super) fn log(run: &mut ScriptRun<'_, '_, '_>, _: &Lua, args: &mut Args<'_>) -> OpResult {
    let (level, message) = (args.integer(0)?, args.text(1)?);
    write_line(level, &message, &mut run.logged, &run.plan.name, run.cx.summary.id);
    nothing()
}

/// Writes a line of a script about a request or connection, unless it wrote too many.
pub(crate) fn write_line(
    level: i64,
    message: &LuaString,
    logged: &mut u32,
    script: &str,
    request: u64,
) {
    *logged += 1;
    if *logged > LINES {
        return;
    }
    let message = message.as_bytes();
    let text = String::from_utf8_lossy(&message[..message.len().min(LINE_BYTES)]);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = if *logged == LINES { "further lines of this run are left out" } else { &*text };
    match level {
        1 => tracing::trace!(script, request, "{text}"),
        2 => tracing::debug!(script, request, "{text}"),
        3 => tracing::info!(script, request, "{text}"),
        4 => tracing::warn!(script, request, "{text}"),
        _ => tracing::error!(script, request, "{text}"),
    }
}

/// Has the route selected again.
pub(super) fn reroute(run: &mut ScriptRun<'_, '_, '_>, _: &Lua, _: &mut Args<'_>) -> OpResult {
    if run.response || run.head().is_none() {
        return Err("clearRouteCache() is too late: the request has been sent".into());
    }
    run.cx.reroute();
    nothing()
}

fn now(run: &ScriptRun<'_, '_, '_>) -> Duration {
    run.cx.worker.clock.wall(run.cx.worker.now())
}

fn in_micros(args: &mut Args<'_>) -> Result<bool, crate::args::OpError> {
    match args.optional_integer(0)? {
        None | Some(0) => Ok(false),
        Some(1) => Ok(true),
        Some(_) => {
            Err("timestamp format must be MILLISECOND or MICROSECOND of EnvoyTimestampResolution"
                .into())
        }
    }
}

/// `(resolution)`: the time since the Unix epoch.
pub(super) fn timestamp(
    run: &mut ScriptRun<'_, '_, '_>,
    lua: &Lua,
    args: &mut Args<'_>,
) -> OpResult {
    let now = now(run);
    let number = if in_micros(args)? { now.as_micros() } else { now.as_millis() };
    one(lua, whole(number.try_into().unwrap_or(u64::MAX)))
}

/// As [`timestamp`], as a text.
pub(super) fn timestamp_text(
    run: &mut ScriptRun<'_, '_, '_>,
    lua: &Lua,
    args: &mut Args<'_>,
) -> OpResult {
    let now = now(run);
    let number = if in_micros(args)? { now.as_micros() } else { now.as_millis() };
    one(lua, number.to_string())
}
