//! Bodies, and pieces of them.
//!
//! Owns: reading and replacing. Refuses to know: when a body is at hand. Keeps: what is read is copied into the memory of
//! the script, which is bounded.

use bytes::Bytes;
use mlua::Lua;

use crate::args::{Args, OpError, OpResult, one};
use crate::side::ScriptRun;

/// `(number)`, the first argument of all operations of this file.
fn at_hand<'r>(
    run: &'r mut ScriptRun<'_, '_, '_>,
    args: &mut Args<'_>,
) -> Result<&'r mut Bytes, OpError> {
    let number = u32::try_from(args.integer(0)?).unwrap_or(u32::MAX);
    run.body(number).ok_or_else(|| "this part of the body has been sent".into())
}

/// `(number)`: the number of bytes.
pub(super) fn length(run: &mut ScriptRun<'_, '_, '_>, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    one(lua, at_hand(run, args)?.len())
}

/// `(number, index, length)`: bytes from an index on, which begins at 0.
pub(super) fn bytes(run: &mut ScriptRun<'_, '_, '_>, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    let body = at_hand(run, args)?.clone();
    let place = |number: i64| usize::try_from(number).ok();
    let (from, length) = (place(args.integer(1)?), place(args.integer(2)?));
    let end = from.zip(length).and_then(|(from, length)| from.checked_add(length));
    match from.zip(end).and_then(|(from, end)| body.get(from..end)) {
        Some(bytes) => one(lua, lua.create_string(bytes)?),
        None => Err("index/length must be >= 0 and (index + length) must be <= buffer size".into()),
    }
}

/// `(number, bytes)`: replaces all; returns the number of bytes.
pub(super) fn set(run: &mut ScriptRun<'_, '_, '_>, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    let body = at_hand(run, args)?;
    let bytes = args.text(1)?;
    *body = Bytes::copy_from_slice(&bytes.as_bytes());
    one(lua, body.len())
}
