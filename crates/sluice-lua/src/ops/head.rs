//! Headers and trailers.
//!
//! Owns: how names and values are read and changed, pseudo-headers included. Refuses to know: when. Keeps: no script sets a
//! header that frames a message, or one that is no header.

use mlua::{Lua, Value};
use sluice_codec::Head;
use sluice_codec::names::is_field_value;
use sluice_l7::words::is_editable;

use crate::args::{Args, OpError, OpResult, nothing, one};
use crate::side::ScriptRun;

const LENGTH: &str = "content-length";

/// `(part)`, the first argument of all operations of this file: whether trailers are meant.
fn is_trailers(args: &mut Args<'_>) -> Result<bool, OpError> {
    Ok(&*args.text(0)?.as_bytes() == b"trailers")
}

fn to_read<'r>(
    run: &'r mut ScriptRun<'_, '_, '_>,
    args: &mut Args<'_>,
) -> Result<&'r Head, OpError> {
    if is_trailers(args)? {
        return run
            .trailers()
            .map(|head| &*head)
            .ok_or_else(|| "the trailers are not at hand".into());
    }
    run.sent_head().ok_or_else(|| "the headers of the response have been sent".into())
}

/// A part that may be changed, and whether it is of trailers.
fn to_change<'r>(
    run: &'r mut ScriptRun<'_, '_, '_>,
    args: &mut Args<'_>,
) -> Result<(&'r mut Head, bool), OpError> {
    if is_trailers(args)? {
        let trailers = run.trailers().map(|head| (head, true));
        return trailers.ok_or_else(|| "the trailers have been sent".into());
    }
    let response = run.response;
    if !response && run.plan.reroute && run.head().is_some() {
        run.cx.reroute();
    }
    let head = run.head().map(|head| (head, false));
    head.ok_or_else(|| "the headers can no longer be changed: they have been sent".into())
}

/// The value of a pseudo-header, or of `host`, which is one.
fn pseudo(head: &Head, name: &str, response: bool) -> Option<Option<String>> {
    let text = match (name, response) {
        (":status", true) => head.status().to_string(),
        (":path", false) => head.path().to_owned(),
        (":method", false) => head.method_text().to_owned(),
        (":authority" | "host", false) => head.authority().to_owned(),
        (":scheme", false) => head.scheme().to_owned(),
        _ if name.starts_with(':') => return Some(None),
        _ => return None,
    };
    Some(Some(text).filter(|text| !text.is_empty()))
}

fn name_of(args: &mut Args<'_>, index: usize) -> Result<String, OpError> {
    Ok(args.word(index)?.to_ascii_lowercase())
}

/// `(part, name)`: the values, joined by commas.
pub(super) fn get(run: &mut ScriptRun<'_, '_, '_>, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    let response = run.response;
    let head = to_read(run, args)?;
    let name = name_of(args, 1)?;
    if let Some(value) = pseudo(head, &name, response) {
        return one(lua, value);
    }
    let values: Vec<&[u8]> = head.values(name.as_bytes()).collect();
    match values[..] {
        [] => one(lua, Value::Nil),
        [value] => one(lua, lua.create_string(value)?),
        _ => one(lua, lua.create_string(values.join(&b','))?),
    }
}

/// `(part, name, index)`: the value with that index, which begins at 0.
pub(super) fn get_at(run: &mut ScriptRun<'_, '_, '_>, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    let response = run.response;
    let head = to_read(run, args)?;
    let (name, index) = (name_of(args, 1)?, args.integer(2)?);
    let Ok(index) = usize::try_from(index) else { return one(lua, Value::Nil) };
    if let Some(value) = pseudo(head, &name, response) {
        return one(lua, value.filter(|_| index == 0));
    }
    match head.values(name.as_bytes()).nth(index) {
        Some(value) => one(lua, lua.create_string(value)?),
        None => one(lua, Value::Nil),
    }
}

/// `(part, name)`: the number of values.
pub(super) fn count(run: &mut ScriptRun<'_, '_, '_>, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    let response = run.response;
    let head = to_read(run, args)?;
    let name = name_of(args, 1)?;
    let count = match pseudo(head, &name, response) {
        Some(value) => usize::from(value.is_some()),
        None => head.values(name.as_bytes()).count(),
    };
    one(lua, count)
}

/// `(part)`: names and values in turn.
pub(super) fn all(run: &mut ScriptRun<'_, '_, '_>, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    let response = run.response;
    let trailers = is_trailers(args)?;
    let head = if trailers {
        run.trailers().map(|head| &*head).ok_or("the trailers are not at hand")?
    } else {
        run.sent_head().ok_or("the headers of the response have been sent")?
    };
    let list = lua.create_table_with_capacity(head.len() * 2 + 8, 0)?;
    let names =
        if response { &[":status"][..] } else { &[":path", ":method", ":authority", ":scheme"] };
    for name in names.iter().filter(|_| !trailers) {
        if let Some(Some(value)) = pseudo(head, name, response) {
            list.raw_push(*name)?;
            list.raw_push(value)?;
        }
    }
    for (name, value) in head.fields() {
        list.raw_push(lua.create_string(name.to_ascii_lowercase())?)?;
        list.raw_push(lua.create_string(value)?)?;
    }
    one(lua, list)
}

/// `(part, phrase)`: the reason phrase of a response over HTTP/1.
pub(super) fn phrase(run: &mut ScriptRun<'_, '_, '_>, _: &Lua, args: &mut Args<'_>) -> OpResult {
    let response = run.response;
    let (head, trailers) = to_change(run, args)?;
    if trailers || !response {
        return Err("setHttp1ReasonPhrase() is for responses".into());
    }
    if head.set_reason(&args.text(1)?.as_bytes()) {
        nothing()
    } else {
        Err("the reason phrase must be text without control characters".into())
    }
}

/// A length that a script states. It has no effect: the length of a body is always what it is.
fn stated_length(args: &mut Args<'_>) -> OpResult {
    let stated = args.text(2)?;
    if stated.as_bytes().iter().all(u8::is_ascii_digit) {
        nothing()
    } else {
        Err("content-length must be a number".into())
    }
}

/// A name that scripts may change, and its value.
fn field(args: &mut Args<'_>, name: &str) -> Result<Vec<u8>, OpError> {
    if !is_editable(name) {
        return Err(format!("`{name}` is not a header that a script may change").into());
    }
    let value = args.text(2)?;
    let value = value.as_bytes();
    if !is_field_value(&value) {
        return Err(format!("the value of `{name}` contains control characters").into());
    }
    Ok(value.to_vec())
}

fn sound(head: &Head) -> OpResult {
    if head.is_sound() { nothing() } else { Err("the headers are too large".into()) }
}

/// `(part, name, value)`: one more value.
pub(super) fn add(run: &mut ScriptRun<'_, '_, '_>, _: &Lua, args: &mut Args<'_>) -> OpResult {
    let (head, _) = to_change(run, args)?;
    let name = name_of(args, 1)?;
    let value = field(args, &name)?;
    head.append(name.as_bytes(), &value);
    sound(head)
}

/// `(part, name, value)`: this value in place of all.
pub(super) fn replace(run: &mut ScriptRun<'_, '_, '_>, _: &Lua, args: &mut Args<'_>) -> OpResult {
    let response = run.response;
    let (head, trailers) = to_change(run, args)?;
    let name = name_of(args, 1)?;
    if !trailers && (name.starts_with(':') || name == "host" && !response) {
        return replace_pseudo(head, &name, &args.text(2)?.as_bytes(), response);
    }
    if !trailers && name == LENGTH {
        return stated_length(args);
    }
    let value = field(args, &name)?;
    head.set(name.as_bytes(), &value);
    sound(head)
}

fn replace_pseudo(head: &mut Head, name: &str, value: &[u8], response: bool) -> OpResult {
    let done = match (name, response) {
        (":status", true) => {
            let status = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            let Some(status) = status.filter(|status| (200..=599).contains(status)) else {
                return Err(":status must be from 200 to 599".into());
            };
            head.set_status(status);
            true
        }
        (":path", false) => value.starts_with(b"/") && head.set_path(value),
        (":authority" | "host", false) => head.set_authority(value),
        (":method", false) => {
            sluice_codec::names::is_token(value) && value != b"CONNECT" && head.set_method(value)
        }
        _ => return Err(format!("`{name}` cannot be changed here").into()),
    };
    if done { nothing() } else { Err(format!("the value of `{name}` is not valid").into()) }
}

/// `(part, name)`.
pub(super) fn remove(run: &mut ScriptRun<'_, '_, '_>, _: &Lua, args: &mut Args<'_>) -> OpResult {
    let (head, trailers) = to_change(run, args)?;
    let name = name_of(args, 1)?;
    // A body whose length is not announced is framed without one.
    let is_length = !trailers && name == LENGTH;
    if !is_length && !is_editable(&name) {
        return Err(format!("`{name}` is not a header that a script may remove").into());
    }
    head.remove(name.as_bytes());
    nothing()
}
