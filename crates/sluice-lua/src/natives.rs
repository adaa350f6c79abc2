//! The functions of the sandbox that are not written in Lua.
//!
//! Owns: patterns, charging, places of errors, base64 and signatures. Refuses to know: requests. Keeps: each takes time that
//! is charged to the budget of the run, and reports mistakes as [`settled`] does.

use std::rc::Rc;

use data_encoding::BASE64;
use mlua::{Lua, LuaString, MultiValue, Table, Value};

use crate::args::{Args, OpError, OpResult, one, settled};
use crate::budget::{ScriptBudget, script_place};
use crate::convert::whole;
use crate::pattern::{Capture, Matcher, PatternError, PatternMatch};

mod signatures;

/// Characters with a meaning in patterns.
const SPECIAL: &[u8] = b"^$*+?.([%-";

/// What the functions know of their state.
#[derive(Debug)]
struct Natives {
    budget: Rc<ScriptBudget>,
    string_max: usize,
}

type Native = fn(&Natives, &Lua, &mut Args<'_>) -> OpResult;

const NATIVES: &[(&str, Native)] = &[
    ("find", find),
    ("match", match_once),
    ("gmatch", gmatch),
    ("step", step),
    ("gsub", gsub),
    ("base64", base64),
    ("import_key", signatures::import_key),
    ("verify", signatures::verify),
];

/// The table of these functions; no string that they return has more than `string_max` bytes.
pub(crate) fn table(
    lua: &Lua,
    budget: &Rc<ScriptBudget>,
    string_max: usize,
) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let natives = Rc::new(Natives { budget: Rc::clone(budget), string_max });
    for (name, native) in NATIVES {
        let natives = Rc::clone(&natives);
        let function = lua.create_function(move |lua, values: MultiValue| {
            let mut args = Args::new(lua, name, values.into_vec());
            settled(lua, native(&natives, lua, &mut args))
        })?;
        table.raw_set(*name, function)?;
    }
    table.raw_set("string_max", string_max)?;
    let budget = Rc::clone(budget);
    let charge = lua.create_function(move |lua, amount: f64| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        budget.charge(lua, amount as u64)
    })?;
    table.raw_set("charge", charge)?;
    let place = |lua: &Lua, ()| Ok(script_place(lua).map_or_else(String::new, |at| at + ": "));
    table.raw_set("where", lua.create_function(place)?)?;
    Ok(table)
}

impl Natives {
    /// Matches with the steps that are left, and charges those that it took.
    fn matching<T>(
        &self,
        lua: &Lua,
        text: &[u8],
        pattern: &[u8],
        run: impl FnOnce(&mut Matcher<'_>) -> Result<T, PatternError>,
    ) -> Result<T, OpError> {
        let left = self.budget.left();
        let mut matcher = Matcher::new(text, pattern, left);
        let result = run(&mut matcher);
        self.budget.charge(lua, left - matcher.steps())?;
        result.map_err(|error| match error {
            PatternError::Malformed(what) => OpError::Said(what.into()),
            PatternError::OutOfSteps => "the pattern takes too long".into(),
        })
    }
}

/// A place in a text from Lua's count, which begins at 1 and may be from the end; `None` behind the end.
fn place(init: Option<i64>, length: usize) -> Option<usize> {
    let length_signed = i64::try_from(length).unwrap_or(i64::MAX);
    let at = match init.unwrap_or(1) {
        at if at > 0 => at - 1,
        0 => 0,
        at => (length_signed + at).max(0),
    };
    usize::try_from(at).ok().filter(|at| *at <= length)
}

fn anchor(pattern: &[u8]) -> (&[u8], bool) {
    match pattern.strip_prefix(b"^") {
        Some(rest) => (rest, true),
        None => (pattern, false),
    }
}

fn capture(lua: &Lua, text: &[u8], capture: Capture) -> mlua::Result<Value> {
    Ok(match capture {
        Capture::Text(from, to) => Value::String(lua.create_string(&text[from..to])?),
        Capture::Place(at) => Value::Integer(at as i64 + 1),
    })
}

/// The captures of a match, or all of it if it has none and `whole`.
fn captures(
    lua: &Lua,
    text: &[u8],
    found: &PatternMatch,
    whole: bool,
    values: &mut MultiValue,
) -> mlua::Result<()> {
    if whole && found.captures.is_empty() {
        values.push_back(capture(lua, text, Capture::Text(found.start, found.end))?);
    }
    for of in &found.captures {
        values.push_back(capture(lua, text, *of)?);
    }
    Ok(())
}

fn nil() -> OpResult {
    Ok(MultiValue::from_vec(vec![Value::Nil]))
}

fn find(natives: &Natives, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    let (text, pattern) = (args.text(0)?, args.text(1)?);
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let Some(from) = place(args.optional_integer(2)?, text.len()) else { return nil() };
    if args.is_true(3) || !pattern.iter().any(|byte| SPECIAL.contains(byte)) {
        natives.budget.charge(lua, (text.len() - from) as u64 / 8)?;
        let Some(at) = memchr::memmem::find(&text[from..], &pattern) else { return nil() };
        let (start, end) = (from + at + 1, from + at + pattern.len());
        return Ok(MultiValue::from_vec(vec![
            Value::Integer(start as i64),
            Value::Integer(end as i64),
        ]));
    }
    let (pattern, anchored) = anchor(&pattern);
    let found = natives.matching(lua, &text, pattern, |matcher| matcher.find(from, anchored))?;
    let Some(found) = found else { return nil() };
    let mut values = MultiValue::from_vec(vec![
        Value::Integer(found.start as i64 + 1),
        Value::Integer(found.end as i64),
    ]);
    captures(lua, &text, &found, false, &mut values)?;
    Ok(values)
}

fn match_once(natives: &Natives, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    let (text, pattern) = (args.text(0)?, args.text(1)?);
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let Some(from) = place(args.optional_integer(2)?, text.len()) else { return nil() };
    let (pattern, anchored) = anchor(&pattern);
    let found = natives.matching(lua, &text, pattern, |matcher| matcher.find(from, anchored))?;
    let Some(found) = found else { return nil() };
    let mut values = MultiValue::new();
    captures(lua, &text, &found, true, &mut values)?;
    Ok(values)
}

/// `(text, pattern, at)`: the captures of the next match, after the place to go on from; nil at the end. With a fourth
/// argument, only the types of the first two are checked.
fn gmatch(natives: &Natives, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    let (text, pattern) = (args.text(0)?, args.text(1)?);
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let from = place(Some(args.integer(2)?), text.len());
    let (Some(from), false) = (from, args.is_true(3)) else { return nil() };
    let found = natives.matching(lua, &text, &pattern, |matcher| matcher.find(from, false))?;
    let Some(found) = found else { return nil() };
    let next = if found.end == found.start { found.end + 1 } else { found.end };
    let mut values = MultiValue::from_vec(vec![Value::Integer(next as i64 + 1)]);
    captures(lua, &text, &found, true, &mut values)?;
    Ok(values)
}

/// `(text, pattern, at)`: beginning, end and captures of the next match.
fn step(natives: &Natives, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    let (text, pattern) = (args.text(0)?, args.text(1)?);
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let Some(from) = place(Some(args.integer(2)?), text.len()) else { return nil() };
    let found = natives.matching(lua, &text, &pattern, |matcher| matcher.find(from, false))?;
    let Some(found) = found else { return nil() };
    let (start, end) = (Value::Integer(found.start as i64 + 1), Value::Integer(found.end as i64));
    let mut values = MultiValue::from_vec(vec![start, end]);
    captures(lua, &text, &found, false, &mut values)?;
    Ok(values)
}

/// `(text, pattern, with, max)`, where `with` is a text.
fn gsub(natives: &Natives, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    let (text, pattern, with) = (args.text(0)?, args.text(1)?, args.text(2)?);
    let max = args.optional_integer(3)?.map_or(u64::MAX, |max| u64::try_from(max).unwrap_or(0));
    let (text, pattern, with) = (text.as_bytes(), pattern.as_bytes(), with.as_bytes());
    let (pattern, anchored) = anchor(&pattern);
    let (mut result, mut at, mut count) = (Vec::new(), 0, 0);
    while count < max {
        let found = natives.matching(lua, &text, pattern, |matcher| matcher.find(at, anchored))?;
        let Some(found) = found else { break };
        count += 1;
        result.extend_from_slice(&text[at..found.start]);
        replace(&text, &found, &with, &mut result)?;
        at = found.end;
        if found.end == found.start {
            result.extend(text.get(at));
            at += 1;
        }
        if result.len() > natives.string_max {
            let max = natives.string_max;
            return Err(format!("gsub: the result would have more than {max} bytes").into());
        }
        if anchored || at > text.len() {
            break;
        }
    }
    result.extend_from_slice(text.get(at..).unwrap_or_default());
    natives.budget.charge(lua, result.len() as u64 / 8)?;
    let result = Value::String(lua.create_string(result)?);
    Ok(MultiValue::from_vec(vec![result, Value::Integer(whole(count))]))
}

fn replace(
    text: &[u8],
    found: &PatternMatch,
    with: &[u8],
    result: &mut Vec<u8>,
) -> Result<(), OpError> {
    let mut rest = with.iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            result.push(byte);
            continue;
        }
        let Some(named) = rest.next() else {
            return Err("malformed replacement (ends with '%')".into());
        };
        let index = usize::from(named.wrapping_sub(b'0'));
        let whole = Capture::Text(found.start, found.end);
        let capture = match index {
            0 => whole,
            1 if found.captures.is_empty() => whole,
            1..=9 => *found
                .captures
                .get(index - 1)
                .ok_or_else(|| OpError::from(format!("invalid capture index %{index}")))?,
            _ => {
                result.push(named);
                continue;
            }
        };
        match capture {
            Capture::Text(from, to) => result.extend_from_slice(&text[from..to]),
            Capture::Place(at) => result.extend_from_slice((at + 1).to_string().as_bytes()),
        }
    }
    Ok(())
}

fn base64(natives: &Natives, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    let text = args.text(0)?;
    let text = text.as_bytes();
    natives.budget.charge(lua, text.len() as u64 / 8)?;
    if BASE64.encode_len(text.len()) > natives.string_max {
        return Err("base64Escape: the text is too long".into());
    }
    one(lua, BASE64.encode(&text))
}

/// A text of which only so many bytes count.
fn cut(text: &LuaString, length: Option<i64>) -> Vec<u8> {
    let bytes = text.as_bytes();
    let length = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(bytes.len());
    bytes[..length.min(bytes.len())].to_vec()
}
