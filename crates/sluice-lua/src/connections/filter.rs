//! The filter: a script's functions for connections and for their bytes.
//!
//! Owns: when a function runs, and what becomes of its decisions and failures. Refuses to know: Lua. Keeps: what is held of
//! a connection is forgotten when it ends.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use mlua::Table;
use sluice_core::{ConnInfo, Reason, Verdict};
use sluice_io::{Admit, ByteFilter, ByteStep, ConnectionFilter, ConnectionFilterPlan, WorkerCx};
use sluice_l4::named_clusters;
use sluice_l7::reasons;
use sluice_telemetry::Counter;
use sluice_telemetry::metrics::SeriesLabels;

use super::plan::ConnLuaPlan;
use crate::connection_run::{CONN_VALUES, ConnExposed, ConnRun, ScriptedConn};
use crate::failure::ScriptFailure;
use crate::in_use::OnScriptError;
use crate::metrics::{ScriptCounts, ScriptInstance};
use crate::ops::ERROR;
use crate::script::States;
use crate::state::LuaState;

/// The filter of one worker.
#[derive(Debug)]
pub(crate) struct LuaConnFilter(Rc<ConnScripts>);

/// What connections need of the filter.
#[derive(Debug)]
struct ConnScripts {
    plan: ConnLuaPlan,
    worker: Rc<WorkerCx>,
    counts: ScriptCounts,
    counters: Vec<Counter>,
    /// Connections whose bytes the script sees, by number.
    open: RefCell<HashMap<u64, Rc<OpenConn>>>,
}

/// What a script has of a connection.
#[derive(Debug)]
struct OpenConn {
    conn: ScriptedConn,
    state: Rc<LuaState>,
    _instance: ScriptInstance,
    /// What the script keeps.
    kept: Table,
    /// It sees nothing more of it.
    done: Cell<bool>,
    /// Why it closed the connection, or failed.
    said: RefCell<Option<String>>,
}

/// How the run of a function ended, if the connection is to end with it.
struct EndOfConn {
    reason: Reason,
    said: String,
}

impl LuaConnFilter {
    /// `owner` begins with the name of the listener.
    pub(crate) fn new(plan: ConnLuaPlan, worker: &Rc<WorkerCx>, owner: &str) -> Self {
        let counts = ScriptCounts::new(worker, owner, &plan.script.name);
        let counters = plan.counters.iter().map(|name| counts.own(name)).collect();
        let (worker, open) = (Rc::clone(worker), RefCell::default());
        Self(Rc::new(ConnScripts { plan, worker, counts, counters, open }))
    }
}

impl ConnectionFilter for LuaConnFilter {
    fn admit(&self, conn: &ConnInfo) -> Admit {
        Admit::Now(match self.0.begin(conn) {
            Ok(()) => Verdict::Continue,
            Err(EndOfConn { reason, said }) => {
                conn.note(said);
                Verdict::Reject(reason)
            }
        })
    }

    fn ended(&self, conn: &ConnInfo) {
        let open = self.0.open.borrow_mut().remove(&conn.id);
        if let Some(said) = open.and_then(|open| open.said.take()) {
            conn.note(said);
        }
    }

    fn byte_filter(&self, conn: &ConnInfo) -> Option<Box<dyn ByteFilter>> {
        let open = self.0.open.borrow().get(&conn.id).map(Rc::clone)?;
        Some(Box::new(ScriptedBytes { scripts: Rc::clone(&self.0), open }))
    }
}

/// Shows the bytes of a connection to its script.
#[derive(Debug)]
struct ScriptedBytes {
    scripts: Rc<ConnScripts>,
    open: Rc<OpenConn>,
}

impl ByteFilter for ScriptedBytes {
    fn received(&mut self, bytes: &mut Vec<u8>, _last: bool) -> ByteStep {
        if bytes.is_empty() || self.open.done.get() {
            return ByteStep::Continue;
        }
        match self.scripts.data(&self.open, bytes) {
            Ok(()) => ByteStep::Continue,
            Err(EndOfConn { reason, said }) => {
                self.open.done.set(true);
                self.open.said.replace(Some(said));
                ByteStep::Cut(reason)
            }
        }
    }
}

impl ConnScripts {
    fn exposed(&self) -> ConnExposed<'_> {
        let Self { plan, worker, counters, .. } = self;
        let (script, context) = (&*plan.script.name, &*plan.context);
        ConnExposed { script, context, names: &plan.counters, counters, worker }
    }

    /// Runs the function for connections.
    fn begin(&self, info: &ConnInfo) -> Result<(), EndOfConn> {
        let count = |why| self.counts.replaced(why);
        let states = States::of(&self.worker);
        let state = states.state(&self.plan.script, self.plan.limits, count);
        let begun = state.and_then(|state| Ok((state.table()?, state)));
        let (kept, state) = match begun {
            Ok(begun) => begun,
            Err(failure) => return self.failed(Some(info), info.id, failure),
        };
        let conn = ScriptedConn::of(info);
        if state.has_hook(false) {
            let mut run = ConnRun::new(&conn, self.exposed(), true);
            let called = || state.call_hook(None, &kept, &mut run);
            if let Err(failure) = self.counts.run(called, || state.memory_used()) {
                return self.failed(Some(info), info.id, failure);
            }
            let (shared, cluster) = (run.shared(), run.cluster.take());
            let set = shared.is_none_or(|values| info.values.set(&CONN_VALUES, values));
            if let Some(said) = run.closed {
                return Err(EndOfConn { reason: reasons::SCRIPT_CLOSED, said });
            }
            let chosen = cluster.is_none_or(|name| info.values.set(&named_clusters::CHOSEN, name));
            if !set || !chosen {
                let message = "another filter has set the values or the cluster of the connection";
                let message = format!("{}: {message}", self.plan.script.name);
                let kind = crate::failure::FailureKind::Error;
                return self.failed(Some(info), info.id, ScriptFailure::new(kind, &message));
            }
        }
        if self.plan.sees_bytes && state.has_hook(true) {
            // What was shared just now is known there as well.
            let conn = ScriptedConn::of(info);
            let (done, said) = Default::default();
            let _instance = self.counts.instance();
            let open = Rc::new(OpenConn { conn, state, _instance, kept, done, said });
            self.open.borrow_mut().insert(info.id, open);
        }
        Ok(())
    }

    /// Runs the function for bytes.
    fn data(&self, open: &OpenConn, bytes: &mut Vec<u8>) -> Result<(), EndOfConn> {
        let mut run = ConnRun::new(&open.conn, self.exposed(), false);
        let called = || open.state.call_hook(Some(bytes), &open.kept, &mut run);
        match self.counts.run(called, || open.state.memory_used()) {
            Ok(replaced) => {
                if let Some(text) = replaced {
                    bytes.clear();
                    bytes.extend_from_slice(&text.as_bytes());
                }
                match run.closed {
                    Some(said) => Err(EndOfConn { reason: reasons::SCRIPT_CLOSED, said }),
                    None => Ok(()),
                }
            }
            Err(failure) => {
                open.done.set(true);
                self.failed(None, open.conn.id, failure)
            }
        }
    }

    /// Counts and logs a failure; the connection ends with it, unless it may go on.
    fn failed(
        &self,
        info: Option<&ConnInfo>,
        connection: u64,
        failure: ScriptFailure,
    ) -> Result<(), EndOfConn> {
        let reason = failure.reason();
        self.counts.failure(&failure);
        let script = &*self.plan.script.name;
        tracing::warn!(script, connection, reason = reason.code(), "{}", failure.message);
        match self.plan.on_error {
            OnScriptError::Fail => Err(EndOfConn { reason, said: failure.message }),
            OnScriptError::Continue => {
                if let Some(info) = info {
                    info.values.set(&ERROR, failure.message);
                }
                Ok(())
            }
        }
    }
}

impl ConnectionFilterPlan for ConnLuaPlan {
    fn filters_bytes(&self) -> bool {
        self.sees_bytes
    }

    fn counts_in(&self, _: &SeriesLabels<'_>) -> bool {
        true
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn ConnectionFilter> {
        Rc::new(LuaConnFilter::new(self.clone(), worker, owner))
    }
}
