//! A Lua state: the sandbox, one script, and the coroutines of requests.
//!
//! Owns: what is loaded into a state, how a coroutine is resumed, and when a state is given up. Refuses to know: requests
//! and responses. Keeps: memory is bounded by LuaJIT's allocator; when it has run out, the state is given up, and its
//! coroutines fail; no coroutine runs beside another.

use std::cell::Cell;
use std::rc::Rc;

use mlua::chunk::ChunkMode;
use mlua::state::{GcIncParams, GcMode};
use mlua::{Function, Lua, LuaOptions, LuaString, MultiValue, StdLib, Table, Thread, Value};

use crate::args::{Args, OpResult, settled};
use crate::budget::{OWN_CHUNK, ScriptBudget, UsedUp};
use crate::connection_run::ConnRun;
use crate::convert::whole;
use crate::failure::{FailureKind, ScriptFailure, text_of};
use crate::kind::ScriptKind;
use crate::limits::ScriptLimits;
use crate::natives;
use crate::ops::OPS;
use crate::side::{Input, ScriptRun};

const SANDBOX: &str = include_str!("sandbox.lua");
const OBJECTS: &str = include_str!("objects.lua");

/// The share of the memory of a state that the largest string may take.
const STRING_SHARE: usize = 4;

/// The message of LuaJIT when memory has run out, which a script can catch.
const NO_MEMORY: &str = "not enough memory";

/// One script in a Lua state of its own.
#[derive(Debug)]
pub(crate) struct LuaState {
    lua: Lua,
    budget: Rc<ScriptBudget>,
    /// Of the script.
    name: String,
    memory: usize,
    /// The function of every coroutine; of scripts for connections, what calls their functions.
    start: Function,
    /// Has the function of the host at 1, while a coroutine runs.
    slot: Table,
    /// What a coroutine yields first if it waits, which no script can get hold of.
    token: Table,
    /// Those that the script defines, by [`ScriptKind::hooks`].
    hooks: [Option<Function>; 2],
    runs: Cell<u64>,
    gone: Cell<bool>,
    nearly_full: Cell<bool>,
}

/// What a coroutine came to.
#[derive(Debug)]
pub(crate) enum RunOutcome {
    /// Its function has ended.
    Done,
    /// It responds itself.
    Respond,
    /// It waits for something.
    Wait(WaitedFor),
    /// It failed.
    Failed(ScriptFailure),
}

/// What a coroutine waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitedFor {
    Body,
    Chunk,
    Trailers,
    Call,
}

impl LuaState {
    /// Loads a script and runs it once, so that its functions are defined.
    ///
    /// # Errors
    /// The script cannot be loaded, fails, or defines none of the functions of its kind.
    pub(crate) fn load(
        kind: ScriptKind,
        name: &str,
        text: &[u8],
        limits: ScriptLimits,
    ) -> Result<Self, ScriptFailure> {
        Self::try_load(kind, name, text, limits)
            .map_err(|error| ScriptFailure::of_lua(&error))
            .and_then(|(state, loaded)| match (state.budget.exhausted(), loaded) {
                (Some(used), _) => {
                    let message =
                        format!("{}: it used {} when it was loaded", used.place, used.what);
                    Err(ScriptFailure::new(FailureKind::Budget, &message))
                }
                (None, Err(error)) => Err(state.failed(&error)),
                (None, Ok(())) => state.with_hooks(kind),
            })
    }

    fn try_load(
        kind: ScriptKind,
        name: &str,
        text: &[u8],
        limits: ScriptLimits,
    ) -> mlua::Result<(Self, mlua::Result<()>)> {
        // Without its library, the compiler stays off.
        let compiler = if limits.jit { StdLib::JIT } else { StdLib::NONE };
        let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::BIT | compiler;
        let lua = Lua::new_with(libraries, LuaOptions::default())?;
        // LuaJIT does not collect when memory runs out: it must not fall behind large strings.
        let pace = GcIncParams::default().pause(150).step_multiplier(100_000);
        lua.gc_set_mode(GcMode::Incremental(pace));
        let budget = ScriptBudget::new(limits);
        budget.begin(&lua)?;
        let natives = natives::table(&lua, &budget, limits.memory / STRING_SHARE)?;
        let sandbox = lua.load(SANDBOX).set_name(OWN_CHUNK).set_mode(ChunkMode::Text);
        let (raise, settle, text_of, load_script) =
            sandbox.call::<(Function, Function, Function, Function)>(&natives)?;
        let ops = lua.create_table()?;
        for (index, name) in kind.operations().into_iter().enumerate() {
            ops.raw_set(name, index)?;
        }
        let (token, slot) = (lua.create_table()?, lua.create_table()?);
        slot.raw_set(1, lua.create_function(|lua, _: MultiValue| settled(lua, no_request()))?)?;
        let objects = lua.load(OBJECTS).set_name(OWN_CHUNK).set_mode(ChunkMode::Text);
        let own = objects.call::<Table>((&ops, &slot, &raise, &settle))?;
        let interface = lua.load(kind.interface()).set_name(OWN_CHUNK).set_mode(ChunkMode::Text);
        let start =
            interface.call::<Function>((natives, ops, &token, raise, settle, text_of, own))?;
        if lua.used_memory() > limits.memory / 2 {
            return Err(mlua::Error::runtime("`memory` is too small for any script"));
        }
        lua.set_memory_limit(limits.memory)?;
        budget.begin(&lua)?;
        let chunk = lua.load(text).set_name(format!("@{name}")).set_mode(ChunkMode::Text);
        let run = |chunk| load_script.call::<Option<LuaString>>(chunk);
        let loaded = chunk.into_function().and_then(run).and_then(|problem| match problem {
            Some(problem) => Err(mlua::Error::runtime(problem.to_string_lossy())),
            None => Ok(()),
        });
        let state = Self {
            lua,
            budget,
            name: name.to_owned(),
            memory: limits.memory,
            start,
            slot,
            token,
            hooks: [None, None],
            runs: Cell::new(0),
            gone: Cell::new(false),
            nearly_full: Cell::new(false),
        };
        Ok((state, loaded))
    }

    fn with_hooks(mut self, kind: ScriptKind) -> Result<Self, ScriptFailure> {
        let hook = |name| self.lua.globals().raw_get::<Option<Function>>(name).ok().flatten();
        let [first, second] = kind.hooks();
        self.hooks = [hook(first), hook(second)];
        if self.hooks.iter().all(Option::is_none) {
            let message = format!("it defines neither {first} nor {second} as a function");
            return Err(ScriptFailure::new(FailureKind::Error, &message));
        }
        Ok(self)
    }

    /// Whether the script has the first or the `second` function of its kind: that for responses, or for bytes.
    pub(crate) fn has_hook(&self, second: bool) -> bool {
        self.hooks[usize::from(second)].is_some()
    }

    fn hook(&self, second: bool) -> Value {
        self.hooks[usize::from(second)].clone().map_or(Value::Nil, Value::Function)
    }

    /// A table for what a script keeps of a connection.
    pub(crate) fn table(&self) -> Result<Table, ScriptFailure> {
        self.lua.create_table().map_err(|error| self.failed(&error))
    }

    /// The keys of a global table that are texts.
    #[cfg(any(test, feature = "hostile"))]
    pub(crate) fn names(&self, table: &str) -> std::collections::BTreeSet<String> {
        let table = self.lua.globals().raw_get::<Option<Table>>(table).ok().flatten();
        let keys = table.iter().flat_map(Table::pairs::<String, Value>);
        keys.filter_map(|entry| entry.ok().map(|(key, _)| key)).collect()
    }

    /// The bytes in use.
    pub(crate) fn memory_used(&self) -> usize {
        self.lua.used_memory()
    }

    /// Why no request may begin in it any more.
    pub(crate) const fn retired(&self) -> Option<&'static str> {
        if self.gone.get() {
            Some("out_of_memory")
        } else if self.nearly_full.get() {
            Some("nearly_full")
        } else {
            None
        }
    }

    /// Creates the coroutine of a request or response, and its number.
    pub(crate) fn coroutine(&self) -> Result<(Thread, u64), ScriptFailure> {
        let thread = self.lua.create_thread(self.start.clone());
        let thread = thread.map_err(|error| self.failed(&error))?;
        self.runs.set(self.runs.get() + 1);
        Ok((thread, self.runs.get()))
    }

    /// Resumes a coroutine until it waits or ends.
    pub(crate) fn resume(
        &self,
        thread: &Thread,
        input: Input,
        run: &mut ScriptRun<'_, '_, '_>,
    ) -> RunOutcome {
        if self.gone.get() {
            let message = "the memory of the script was used up by another request";
            return RunOutcome::Failed(ScriptFailure::new(FailureKind::Memory, message));
        }
        let resumed = self.with_host(
            |lua, values| call(run, lua, values),
            || thread.resume::<MultiValue>(self.input(input)?),
        );
        let outcome = self.outcome(thread, resumed);
        self.look_after_memory();
        outcome
    }

    /// Calls a function of a script for connections: with the bytes if it is the one for them. Returns the text that
    /// it returned, if it did.
    ///
    /// # Errors
    /// It failed.
    pub(crate) fn call_hook(
        &self,
        bytes: Option<&[u8]>,
        kept: &Table,
        run: &mut ConnRun<'_>,
    ) -> Result<Option<LuaString>, ScriptFailure> {
        if self.gone.get() {
            let message = "the memory of the script was used up by another connection";
            return Err(ScriptFailure::new(FailureKind::Memory, message));
        }
        self.runs.set(self.runs.get() + 1);
        let id = whole(self.runs.get());
        run.id = self.runs.get();
        let called = self.with_host(
            |lua, values| run.call(lua, values),
            || {
                let text = bytes.map(|bytes| self.lua.create_string(bytes)).transpose()?;
                let arguments = (self.hook(bytes.is_some()), id, kept, text);
                self.start.call::<(bool, Option<LuaString>)>(arguments)
            },
        );
        let result = match (self.budget.exhausted(), called) {
            (Some(used), _) => Err(used_up(&used)),
            (None, Ok((true, text))) => Ok(text),
            (None, Ok((false, problem))) => {
                let message = problem.map_or_else(|| "an error".into(), |of| of.to_string_lossy());
                Err(self.raised(&message))
            }
            (None, Err(error)) => Err(self.failed(&error)),
        };
        self.look_after_memory();
        result
    }

    /// Runs with a function of the host, which exists as long as the run.
    fn with_host<R>(
        &self,
        mut host: impl FnMut(&Lua, Vec<Value>) -> mlua::Result<MultiValue>,
        run: impl FnOnce() -> mlua::Result<R>,
    ) -> mlua::Result<R> {
        self.budget.begin(&self.lua)?;
        self.lua.scope(|scope| {
            let host = scope
                .create_function_mut(|lua, values: MultiValue| host(lua, values.into_vec()))?;
            self.slot.raw_set(1, host)?;
            run()
        })
    }

    fn input(&self, input: Input) -> mlua::Result<MultiValue> {
        let ok = Value::Boolean(true);
        let lua = &self.lua;
        Ok(MultiValue::from_vec(match input {
            Input::Start { response, id } => {
                let hook = self.hook(response);
                vec![hook, Value::Integer(whole(id))]
            }
            Input::Nothing => vec![ok, Value::Nil],
            Input::Present(is) => vec![ok, Value::Boolean(is)],
            Input::Chunk(number) => vec![ok, Value::Integer(number.into())],
            Input::Refused(why) => {
                vec![Value::Boolean(false), Value::String(lua.create_string(why)?)]
            }
            Input::Called { headers, body } => {
                let list = lua.create_table_with_capacity(headers.len() * 2, 0)?;
                for (name, value) in headers {
                    list.raw_push(lua.create_string(name)?)?;
                    list.raw_push(lua.create_string(value)?)?;
                }
                let body = match body.is_empty() {
                    true => Value::Nil,
                    false => Value::String(lua.create_string(body)?),
                };
                vec![ok, Value::Table(list), body]
            }
        }))
    }

    fn outcome(&self, thread: &Thread, resumed: mlua::Result<MultiValue>) -> RunOutcome {
        if let Some(used) = self.budget.exhausted() {
            return RunOutcome::Failed(used_up(&used));
        }
        let values = match resumed {
            Ok(values) => values.into_vec(),
            Err(error) => return RunOutcome::Failed(self.failed(&error)),
        };
        let ours = matches!(values.first(), Some(Value::Table(first)) if *first == self.token);
        let word = values.get(1).and_then(Value::as_string).map(LuaString::to_string_lossy);
        let failed = |message: &str| RunOutcome::Failed(self.raised(message));
        match (ours, word.as_deref(), thread.is_resumable()) {
            (true, Some("done"), false) => RunOutcome::Done,
            (true, Some("error"), false) => {
                let message = values.get(2).and_then(Value::as_string);
                failed(&message.map_or_else(|| "an error".into(), |text| text.to_string_lossy()))
            }
            (true, Some("respond"), true) => RunOutcome::Respond,
            (true, Some("body"), true) => RunOutcome::Wait(WaitedFor::Body),
            (true, Some("chunk"), true) => RunOutcome::Wait(WaitedFor::Chunk),
            (true, Some("trailers"), true) => RunOutcome::Wait(WaitedFor::Trailers),
            (true, Some("call"), true) => RunOutcome::Wait(WaitedFor::Call),
            _ => failed("it called coroutine.yield() outside of a coroutine of its own"),
        }
    }

    /// What a script raised itself, or did not catch.
    fn raised(&self, message: &str) -> ScriptFailure {
        if !message.ends_with(NO_MEMORY) {
            return ScriptFailure::new(FailureKind::Error, message);
        }
        self.gone.set(true);
        self.out_of_memory()
    }

    fn failed(&self, error: &mlua::Error) -> ScriptFailure {
        let failure = ScriptFailure::of_lua(error);
        let memory = failure.kind == FailureKind::Memory || text_of(error).ends_with(NO_MEMORY);
        if !memory {
            return failure;
        }
        self.gone.set(true);
        self.out_of_memory()
    }

    /// The error itself has no place any more.
    fn out_of_memory(&self) -> ScriptFailure {
        let place = self.budget.near();
        let place = place.map_or_else(|| self.name.clone(), |place| format!("near {place}"));
        ScriptFailure::new(FailureKind::Memory, &format!("{place}: {NO_MEMORY}"))
    }

    /// Collects what is not used before it is in the way, and gives the state up before it is full.
    fn look_after_memory(&self) {
        let enough = self.memory - self.memory / 4;
        if self.gone.get() || self.lua.used_memory() <= enough {
            return;
        }
        if self.lua.gc_collect().is_err() || self.lua.used_memory() > enough {
            self.nearly_full.set(true);
        }
    }
}

fn used_up(used: &UsedUp) -> ScriptFailure {
    let message = format!("{}: it used {} without waiting", used.place, used.what);
    ScriptFailure::new(FailureKind::Budget, &message)
}

fn no_request() -> OpResult {
    Err("nothing is at hand yet: call this in a function that Sluice calls, such as envoy_on_request".into())
}

/// Runs an operation of the host: its number, the number of the run that the object belongs to, and its arguments.
fn call(
    run: &mut ScriptRun<'_, '_, '_>,
    lua: &Lua,
    mut values: Vec<Value>,
) -> mlua::Result<MultiValue> {
    let take = |index: usize| values.get(index).and_then(Value::as_i64);
    let (op, id) = (take(0), take(1));
    let op = op.and_then(|op| usize::try_from(op).ok()).and_then(|op| OPS.get(op));
    let Some((name, op)) = op else { return settled(lua, Err("no such operation".into())) };
    if id.and_then(|id| u64::try_from(id).ok()) != Some(run.id) {
        let message =
            format!("{name}: the object belongs to another request, or to one that has ended");
        return settled(lua, Err(message.into()));
    }
    let mut args = Args::new(lua, name, values.split_off(2));
    settled(lua, op(run, lua, &mut args))
}
