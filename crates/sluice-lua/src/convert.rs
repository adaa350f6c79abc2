//! Values between Lua and the configuration or other filters.
//!
//! Owns: the conversion in both directions. Refuses to know: what a value is for. Keeps: depth and size are bounded, so that
//! a table that contains itself is an error.

use mlua::{Lua, Table, Value};
use serde_json::{Map, Number, Value as Json};

use crate::args::OpError;

/// The depth of tables within tables.
const DEPTH: usize = 16;

/// A number that Lua has exactly: all of ours are fewer than 2^53.
pub(crate) fn whole(number: u64) -> mlua::Integer {
    number.try_into().unwrap_or(mlua::Integer::MAX)
}

/// Makes a value of Lua.
pub(crate) fn to_lua(lua: &Lua, json: &Json) -> mlua::Result<Value> {
    Ok(match json {
        Json::Null => Value::Nil,
        Json::Bool(value) => Value::Boolean(*value),
        Json::Number(number) => number_to_lua(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Value::String(lua.create_string(text)?),
        Json::Array(items) => {
            let list = lua.create_table_with_capacity(items.len(), 0)?;
            for item in items {
                list.raw_push(to_lua(lua, item)?)?;
            }
            Value::Table(list)
        }
        Json::Object(entries) => Value::Table(to_table(lua, entries)?),
    })
}

/// What is whole has no fraction when it is shown.
fn number_to_lua(number: f64) -> Value {
    #[allow(clippy::cast_possible_truncation, reason = "it is compared")]
    let whole = number as i64;
    #[allow(clippy::cast_precision_loss, reason = "it is compared")]
    let is_whole = whole as f64 == number && whole.unsigned_abs() < 1 << 53;
    if is_whole { Value::Integer(whole) } else { Value::Number(number) }
}

/// Makes a table of Lua.
pub(crate) fn to_table(lua: &Lua, entries: &Map<String, Json>) -> mlua::Result<Table> {
    let table = lua.create_table_with_capacity(0, entries.len())?;
    for (key, value) in entries {
        table.raw_set(key.as_str(), to_lua(lua, value)?)?;
    }
    Ok(table)
}

/// Makes a value that filters share; `room` is how many bytes it may still take, roughly.
pub(crate) fn from_lua(value: &Value, room: &mut usize) -> Result<Json, OpError> {
    within(value, room, DEPTH)
}

fn within(value: &Value, room: &mut usize, depth: usize) -> Result<Json, OpError> {
    let mut take = |bytes: usize| {
        *room = room.checked_sub(bytes + 8).ok_or("the value is too large to share")?;
        Ok::<_, OpError>(())
    };
    Ok(match value {
        Value::Nil => Json::Null,
        Value::Boolean(value) => Json::Bool(*value),
        Value::Integer(number) => {
            take(8)?;
            Json::Number((*number).into())
        }
        Value::Number(number) => {
            take(8)?;
            Json::Number(Number::from_f64(*number).ok_or("a number to share must be finite")?)
        }
        Value::String(text) => {
            take(text.as_bytes().len())?;
            Json::String(text.to_string_lossy())
        }
        Value::Table(_) if depth == 0 => return Err("the table to share is too deep".into()),
        Value::Table(table) if table.raw_len() > 0 => {
            let mut items = Vec::new();
            for index in 1..=table.raw_len() {
                items.push(within(&table.raw_get::<Value>(index)?, room, depth - 1)?);
            }
            Json::Array(items)
        }
        Value::Table(table) => {
            let mut entries = Map::new();
            for entry in table.pairs::<Value, Value>() {
                let (key, value) = entry?;
                let Value::String(key) = key else {
                    return Err("the keys of a table to share must be strings".into());
                };
                *room = room
                    .checked_sub(key.as_bytes().len())
                    .ok_or("the value is too large to share")?;
                entries.insert(key.to_string_lossy(), within(&value, room, depth - 1)?);
            }
            Json::Object(entries)
        }
        other => return Err(format!("a {} cannot be shared", other.type_name()).into()),
    })
}
