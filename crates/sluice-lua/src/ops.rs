//! What methods of the handle do.
//!
//! Owns: the operations by name. Refuses to know: how scripts call them. Keeps: each checks its arguments and the state of
//! the message, since a script may call any at any time.

use mlua::Lua;

use crate::args::{Args, OpResult};
use crate::side::ScriptRun;

mod body;
mod call;
mod head;
pub(crate) mod info;
pub(crate) mod shared;
pub(crate) mod tls;

pub(crate) use shared::{ERROR, VALUES};

/// An operation.
pub(crate) type HandleOp = fn(&mut ScriptRun<'_, '_, '_>, &Lua, &mut Args<'_>) -> OpResult;

/// The operations; scripts call them by their index.
pub(crate) const OPS: &[(&str, HandleOp)] = &[
    ("get", head::get),
    ("get_at", head::get_at),
    ("count", head::count),
    ("add", head::add),
    ("replace", head::replace),
    ("remove", head::remove),
    ("all", head::all),
    ("phrase", head::phrase),
    ("body_length", body::length),
    ("body_bytes", body::bytes),
    ("body_set", body::set),
    ("respond", call::respond),
    ("call", call::call),
    ("metadata", shared::metadata),
    ("context", shared::context),
    ("metadata_get", shared::get),
    ("metadata_set", shared::set),
    ("metadata_all", shared::all),
    ("value", shared::value),
    ("info", info::info),
    ("is_tls", tls::is_tls),
    ("ssl", tls::ssl),
    ("log", info::log),
    ("reroute", info::reroute),
    ("timestamp", info::timestamp),
    ("timestamp_text", info::timestamp_text),
];
