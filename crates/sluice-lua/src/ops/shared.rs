//! Values of the configuration, and those that filters share.
//!
//! Owns: the dynamic metadata that scripts set. Refuses to know: who reads it. Keeps: what scripts share about a request
//! takes a bounded number of bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use mlua::{Lua, Value};
use serde_json::Value as Json;
use sluice_core::values::{SharedValue, ValueFamily, ValueParts};

use crate::args::{Args, OpResult, nothing, one};
use crate::convert;
use crate::side::ScriptRun;

/// The most bytes that scripts share about one request.
pub(crate) const BYTES: usize = 64 * 1024;

sluice_core::values! {
    METADATA: ValueFamily = "lua.metadata.*", "What scripts of the filter `lua` shared about the request (`streamInfo():dynamicMetadata():set`), by `FILTER.KEY`.";
    ERROR: String = "lua.error", "How a script of the filter `lua` failed, if the request passed nevertheless (`on_error: continue`).";
}

/// A value, as records show it.
#[derive(Clone, Debug)]
pub(crate) struct SharedJson {
    pub(crate) json: Json,
    /// What it takes of [`BYTES`].
    pub(crate) bytes: usize,
}

impl fmt::Display for SharedJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.json {
            Json::String(text) => f.write_str(text),
            other => write!(f, "{other}"),
        }
    }
}

/// What scripts set, by filter and key.
#[derive(Clone, Debug, Default)]
struct Dynamic {
    filters: BTreeMap<String, BTreeMap<String, SharedJson>>,
    bytes: usize,
}

impl fmt::Display for Dynamic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (filter, values) in &self.filters {
            for (key, value) in values {
                write!(f, "{filter}.{key}={value} ")?;
            }
        }
        Ok(())
    }
}

impl ValueParts for Dynamic {
    fn part(&self, name: &str) -> Option<&dyn SharedValue> {
        self.filters.iter().find_map(|(filter, values)| {
            let key = name.strip_prefix(&**filter)?.strip_prefix('.')?;
            values.get(key).map(|value| value as &dyn SharedValue)
        })
    }
}

fn dynamic<'r>(run: &'r ScriptRun<'_, '_, '_>) -> Option<&'r Dynamic> {
    let family: &dyn std::any::Any = &*run.cx.values.get(&METADATA)?.0;
    family.downcast_ref()
}

/// `metadata` of the settings.
pub(super) fn metadata(run: &mut ScriptRun<'_, '_, '_>, lua: &Lua, _: &mut Args<'_>) -> OpResult {
    one(lua, convert::to_table(lua, &run.plan.metadata.0)?)
}

/// `context` of the settings.
pub(super) fn context(run: &mut ScriptRun<'_, '_, '_>, lua: &Lua, _: &mut Args<'_>) -> OpResult {
    one(lua, convert::to_table(lua, &run.plan.context.0)?)
}

fn table_of(lua: &Lua, values: &BTreeMap<String, SharedJson>) -> mlua::Result<mlua::Table> {
    let table = lua.create_table_with_capacity(0, values.len())?;
    for (key, value) in values {
        table.raw_set(key.as_str(), convert::to_lua(lua, &value.json)?)?;
    }
    Ok(table)
}

/// `(filter)`: what was set for it, by key; nil if nothing was.
pub(super) fn get(run: &mut ScriptRun<'_, '_, '_>, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    let filter = args.word(0)?;
    match dynamic(run).and_then(|dynamic| dynamic.filters.get(&filter)) {
        Some(values) => one(lua, table_of(lua, values)?),
        None => one(lua, Value::Nil),
    }
}

/// All, by filter.
pub(super) fn all(run: &mut ScriptRun<'_, '_, '_>, lua: &Lua, _: &mut Args<'_>) -> OpResult {
    let all = lua.create_table()?;
    for (filter, values) in dynamic(run).into_iter().flat_map(|dynamic| &dynamic.filters) {
        all.raw_set(filter.as_str(), table_of(lua, values)?)?;
    }
    one(lua, all)
}

/// `(filter, key, value)`.
pub(super) fn set(run: &mut ScriptRun<'_, '_, '_>, _: &Lua, args: &mut Args<'_>) -> OpResult {
    let (filter, key, value) = (args.word(0)?, args.word(1)?, args.value(2));
    let mut dynamic = dynamic(run).cloned().unwrap_or_default();
    let names = filter.len() + key.len();
    let values = dynamic.filters.entry(filter).or_default();
    dynamic.bytes -= values.remove(&key).map_or(0, |earlier| earlier.bytes);
    let Some(before) = BYTES.checked_sub(dynamic.bytes + names) else {
        return Err(format!("a request has room for {BYTES} bytes of dynamic metadata").into());
    };
    let mut room = before;
    let json = convert::from_lua(&value, &mut room)?;
    let bytes = names + before - room;
    dynamic.bytes += bytes;
    values.insert(key, SharedJson { json, bytes });
    run.cx.values.set(&METADATA, ValueFamily(Arc::new(dynamic)));
    nothing()
}

/// `(name)`: a value that any filter shares, as `%VALUE(NAME)%` prints it.
pub(super) fn value(run: &mut ScriptRun<'_, '_, '_>, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    let name = args.word(0)?;
    let of_request = run.cx.values.named(&name);
    let value = of_request.or_else(|| run.cx.conn_values.named(&name));
    one(lua, value.map(ToString::to_string))
}
