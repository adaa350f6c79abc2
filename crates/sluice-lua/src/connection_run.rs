//! What a script sees of a connection while one of its functions runs.
//!
//! Owns: the facts of a connection, the operations, and what a script decides. Refuses to know: when a function runs. Keeps:
//! what is shared about a connection is written once, by the function for connections.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use mlua::{Lua, MultiValue, Value};
use sluice_core::connection::{ConnInfo, TlsFacts};
use sluice_core::values::{SharedValue, ValueFamily, ValueParts};
use sluice_core::{ConnValues, Name};
use sluice_io::WorkerCx;
use sluice_l4::rbac::conn::ConnSubject;
use sluice_telemetry::Counter;

use crate::args::{Args, OpResult, nothing, one, settled};
use crate::convert::{self, whole};
use crate::exposed::FreeValues;
use crate::ops::info::write_line;
use crate::ops::shared::{BYTES, SharedJson};
use crate::ops::tls;

sluice_core::values! {
    CONN_VALUES: ValueFamily = "lua.connection.*", "What a script of the connection filter `lua` shared about the connection (`set`), by key.";
}

/// The most bytes of what a script says about closing a connection.
const WHY_BYTES: usize = 256;

/// What is known of a connection. Copied: a function for bytes runs where the connection itself is not at hand.
#[derive(Debug)]
pub(crate) struct ScriptedConn {
    pub(crate) id: u64,
    texts: BTreeMap<&'static str, String>,
    tls: Option<Box<TlsFacts>>,
    values: ConnValues,
}

impl ScriptedConn {
    pub(crate) fn of(info: &ConnInfo) -> Self {
        let ConnSubject { source, peer, local, sni, .. } = ConnSubject::of(info);
        let protocol = info.nearest_facts().and_then(|facts| facts.protocol);
        let known = [
            ("listener", Some(info.listener.to_string())),
            ("chain", info.chain.get().map(ToString::to_string)),
            ("peer", Some(peer.to_string())),
            ("source", Some(source.to_string())),
            ("destination", Some(local.to_string())),
            ("serverName", sni.map(str::to_owned)),
            ("protocol", protocol.map(|protocol| protocol.word().to_owned())),
        ];
        Self {
            id: info.id,
            texts: known.into_iter().filter_map(|(name, text)| Some((name, text?))).collect(),
            tls: info.tls.get().cloned(),
            values: info.values.clone(),
        }
    }
}

/// What scripts set about a connection, by key.
#[derive(Clone, Debug, Default)]
struct OfConnection(BTreeMap<String, SharedJson>);

impl fmt::Display for OfConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(key, value)| write!(f, "{key}={value} "))
    }
}

impl ValueParts for OfConnection {
    fn part(&self, name: &str) -> Option<&dyn SharedValue> {
        self.0.get(name).map(|value| value as &dyn SharedValue)
    }
}

/// What the settings give to a run.
#[derive(Clone, Copy)]
pub(crate) struct ConnExposed<'a> {
    pub(crate) script: &'a str,
    pub(crate) context: &'a FreeValues,
    pub(crate) names: &'a [Name],
    pub(crate) counters: &'a [Counter],
    pub(crate) worker: &'a WorkerCx,
}

/// A run of a function, and what it decided.
pub(crate) struct ConnRun<'a> {
    /// The number of the run, which objects carry.
    pub(crate) id: u64,
    pub(crate) conn: &'a ScriptedConn,
    pub(crate) with: ConnExposed<'a>,
    /// Whether it is the function for connections.
    pub(crate) first: bool,
    pub(crate) closed: Option<String>,
    pub(crate) cluster: Option<String>,
    values: BTreeMap<String, SharedJson>,
    room: usize,
    logged: u32,
}

impl<'a> ConnRun<'a> {
    pub(crate) fn new(conn: &'a ScriptedConn, with: ConnExposed<'a>, first: bool) -> Self {
        let (closed, cluster, values, logged) = Default::default();
        Self { id: 0, conn, with, first, closed, cluster, values, room: BYTES, logged }
    }

    /// What it shares about the connection, if anything.
    pub(crate) fn shared(&mut self) -> Option<ValueFamily> {
        let values = std::mem::take(&mut self.values);
        (!values.is_empty()).then(|| ValueFamily(Arc::new(OfConnection(values))))
    }

    /// Runs an operation: its number, the number of the run that the object belongs to, and its arguments.
    pub(crate) fn call(&mut self, lua: &Lua, mut values: Vec<Value>) -> mlua::Result<MultiValue> {
        let take = |index: usize| values.get(index).and_then(Value::as_i64);
        let (op, id) = (take(0), take(1));
        let op = op.and_then(|op| usize::try_from(op).ok()).and_then(|op| CONN_OPS.get(op));
        let Some((name, op)) = op else { return settled(lua, Err("no such operation".into())) };
        if id.and_then(|id| u64::try_from(id).ok()) != Some(self.id) {
            let message = format!("{name}: the object belongs to a function that has ended");
            return settled(lua, Err(message.into()));
        }
        let mut args = Args::new(lua, name, values.split_off(2));
        settled(lua, op(self, lua, &mut args))
    }
}

type ConnOp = fn(&mut ConnRun<'_>, &Lua, &mut Args<'_>) -> OpResult;

/// The operations; scripts call them by their index.
pub(crate) const CONN_OPS: &[(&str, ConnOp)] = &[
    ("fact", fact),
    ("is_tls", is_tls),
    ("ssl", ssl),
    ("context", context),
    ("value", value),
    ("set", set),
    ("set_cluster", set_cluster),
    ("close", close),
    ("count", count),
    ("log", log),
    ("timestamp", timestamp),
];

fn fact(run: &mut ConnRun<'_>, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    let name = args.word(0)?;
    match &*name {
        "id" => one(lua, whole(run.conn.id)),
        name => one(lua, run.conn.texts.get(name).map(String::as_str)),
    }
}

fn is_tls(run: &mut ConnRun<'_>, lua: &Lua, _: &mut Args<'_>) -> OpResult {
    one(lua, run.conn.tls.is_some())
}

fn ssl(run: &mut ConnRun<'_>, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    match &run.conn.tls {
        Some(facts) => tls::fact(lua, facts, &args.word(0)?),
        None => one(lua, Value::Nil),
    }
}

fn context(run: &mut ConnRun<'_>, lua: &Lua, _: &mut Args<'_>) -> OpResult {
    one(lua, convert::to_table(lua, &run.with.context.0)?)
}

/// `(name)`: a value that any filter shares about the connection.
fn value(run: &mut ConnRun<'_>, lua: &Lua, args: &mut Args<'_>) -> OpResult {
    one(lua, run.conn.values.named(&args.word(0)?).map(ToString::to_string))
}

fn only_first(run: &ConnRun<'_>, name: &str) -> Result<(), crate::args::OpError> {
    if run.first { Ok(()) } else { Err(format!("{name}() is for on_connection").into()) }
}

/// `(key, value)`.
fn set(run: &mut ConnRun<'_>, _: &Lua, args: &mut Args<'_>) -> OpResult {
    only_first(run, "set")?;
    let (key, value) = (args.word(0)?, args.value(1));
    let earlier = run.values.remove(&key).map_or(0, |earlier| earlier.bytes);
    let before = run.room + earlier;
    let room = before.checked_sub(key.len());
    let mut room = room.ok_or_else(|| format!("a connection has room for {BYTES} bytes"))?;
    let json = convert::from_lua(&value, &mut room)?;
    run.values.insert(key, SharedJson { json, bytes: before - room });
    run.room = room;
    nothing()
}

/// `(name)`: the cluster of a relay with `cluster_from: filter`.
fn set_cluster(run: &mut ConnRun<'_>, _: &Lua, args: &mut Args<'_>) -> OpResult {
    only_first(run, "setCluster")?;
    run.cluster = Some(args.word(0)?);
    nothing()
}

/// `(why)`: the connection ends when the function returns.
fn close(run: &mut ConnRun<'_>, _: &Lua, args: &mut Args<'_>) -> OpResult {
    let why = args.optional_text(0)?.map(|why| why.to_string_lossy()).unwrap_or_default();
    let why = why.char_indices().take_while(|(at, _)| *at < WHY_BYTES);
    let printable = why.map(|(_, c)| if c.is_control() { ' ' } else { c }).collect::<String>();
    run.closed.get_or_insert(printable);
    nothing()
}

/// `(name, amount)`.
fn count(run: &mut ConnRun<'_>, _: &Lua, args: &mut Args<'_>) -> OpResult {
    let (name, amount) = (args.word(0)?, args.optional_integer(1)?.unwrap_or(1));
    let place = run.with.names.iter().position(|of| **of == *name);
    let counter = place.and_then(|place| run.with.counters.get(place));
    let counter = counter.ok_or_else(|| {
        format!("count(): `{name}` is not in `counters` of the settings, which lists what scripts may count")
    })?;
    let amount = u64::try_from(amount).map_err(|_| "count(): the amount must be >= 0")?;
    counter.add(amount);
    nothing()
}

/// `(level, message)`, from 1 for trace.
fn log(run: &mut ConnRun<'_>, _: &Lua, args: &mut Args<'_>) -> OpResult {
    let (level, message) = (args.integer(0)?, args.text(1)?);
    write_line(level, &message, &mut run.logged, run.with.script, run.conn.id);
    nothing()
}

/// The time since the Unix epoch, in milliseconds.
fn timestamp(run: &mut ConnRun<'_>, lua: &Lua, _: &mut Args<'_>) -> OpResult {
    let worker = run.with.worker;
    let millis = worker.clock.wall(worker.now()).as_millis();
    one(lua, whole(millis.try_into().unwrap_or(u64::MAX)))
}
