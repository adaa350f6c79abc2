//! What a library has of one connection.
//!
//! Owns: which hook runs when, what is made of what it returns, and what becomes of failures. Refuses to know: what libraries may do
//! within. Keeps: a library sees no hook of a connection after one that failed, and always the end.

use std::rc::Rc;

use sluice_abi::step;
use sluice_core::{ConnInfo, Reason, SharedValues, Verdict};
use sluice_io::{DatagramStep, WorkerCx};
use sluice_l7::reasons;
use sluice_sys::module::{ConnectionHook, DatagramHook, ModuleConnection};
use sluice_telemetry::{Counter, Gauge};

use super::ConnectionUse;
use super::datagram_step;
use super::run::{ConnectionFacts, ConnectionPlace, ConnectionRun, OfConnections};
use crate::in_use::OnModuleError;
use crate::waits::{ModuleWait, Waits};
use crate::{metrics, values};

/// What connections need of the filter of a worker.
#[derive(Debug)]
pub(super) struct RunningConnections {
    pub(super) plan: ConnectionUse,
    of: OfConnections,
    active: Gauge,
    failures: Counter,
}

/// What a library has of a connection.
#[derive(Debug)]
pub(super) struct ConnectionInstance {
    running: Rc<RunningConnections>,
    facts: ConnectionFacts,
    /// Until the end.
    connection: Option<ModuleConnection>,
    failed: bool,
    /// Why it ends, as the library says.
    note: Option<String>,
}

/// How a connection begins.
#[derive(Debug)]
pub(super) enum Opening {
    /// It is served or not; with what the library has of it if it is.
    Decided(Option<ConnectionInstance>, Verdict),
    /// The library has to wait first.
    Waits(ConnectionInstance, ModuleWait),
}

/// What a hook decided.
#[derive(Debug)]
pub(super) enum ConnectionVerdict {
    Continue,
    Close(Reason),
    Wait(ModuleWait),
}

impl Drop for ConnectionInstance {
    fn drop(&mut self) {
        self.running.active.decrement();
    }
}

impl RunningConnections {
    /// `owner` begins with the name of the listener.
    pub(super) fn new(plan: ConnectionUse, worker: &Rc<WorkerCx>, owner: &str) -> Self {
        let listener = owner.split('/').next().unwrap_or_default();
        let filter = plan.filter.clone();
        let counter = |name: &String| worker.shard.counter(&metrics::COUNTS, &[&filter, name]);
        let counters = plan.made.declared.counters.iter().map(counter).collect();
        let labels = [listener, &*filter];
        let active = worker.shard.gauge(&metrics::CONNECTIONS, &labels);
        let failures = worker.shard.counter(&metrics::FAILURES, &labels);
        let waits = Waits::of(worker);
        let (listener, worker) = (listener.to_owned(), Rc::clone(worker));
        let of = OfConnections { filter, listener, counters, waits, worker };
        Self { plan, of, active, failures }
    }

    /// Begins a connection.
    pub(super) fn begin(self: &Rc<Self>, conn: &ConnInfo) -> Opening {
        let facts = ConnectionFacts::of(conn);
        let (mut shared, mut note) = (SharedValues::default(), None);
        let place = ConnectionPlace::Opened(conn, &mut shared);
        let mut run = ConnectionRun::new(&self.of, &facts, place, &mut note);
        let begun = self.plan.made.object.connect(self.of.waits.next_request(), &mut run);
        drop(run);
        self.active.increment();
        let mut part = ConnectionInstance {
            running: Rc::clone(self),
            facts,
            connection: None,
            failed: false,
            note,
        };
        match begun {
            Ok(connection) => part.connection = Some(connection),
            Err(code) => {
                let verdict = part.failure(&format!("connection_new returned {code}"));
                return part.decided(conn, verdict);
            }
        }
        let verdict = part.open(conn, &mut shared, false);
        part.decided(conn, verdict)
    }

    /// Counts and logs a failure.
    fn failed(&self, connection: u64, problem: &str) {
        self.failures.increment();
        let filter = &*self.of.filter;
        tracing::warn!(filter, connection, reason = reasons::MODULE_ERROR.code(), "{problem}");
    }
}

impl ConnectionInstance {
    /// Runs the hook for the beginning, or what resumes it; shares what the library does.
    fn open(
        &mut self,
        conn: &ConnInfo,
        shared: &mut SharedValues,
        resumed: bool,
    ) -> ConnectionVerdict {
        let place = ConnectionPlace::Opened(conn, &mut *shared);
        let how = if resumed { None } else { Some(false) };
        let verdict = self.run(ConnectionHook::Opened, how, place);
        if let Some(family) = shared.get(&values::SHARED) {
            conn.values.set(&values::SHARED, family.clone());
        }
        verdict
    }

    /// Decides what the library left open.
    pub(super) fn resume(mut self, conn: &ConnInfo) -> (Option<Self>, Verdict) {
        let mut shared = SharedValues::default();
        let verdict = match self.open(conn, &mut shared, true) {
            ConnectionVerdict::Wait(_) => self.failure(
                "connection_resumed returned SLUICE_WAIT; a connection that begins waits once",
            ),
            verdict => verdict,
        };
        match self.decided(conn, verdict) {
            Opening::Decided(part, verdict) => (part, verdict),
            // It is none.
            Opening::Waits(part, _) => (Some(part), Verdict::Reject(reasons::MODULE_ERROR)),
        }
    }

    fn decided(mut self, conn: &ConnInfo, verdict: ConnectionVerdict) -> Opening {
        match verdict {
            ConnectionVerdict::Continue => Opening::Decided(Some(self), Verdict::Continue),
            ConnectionVerdict::Wait(wait) => Opening::Waits(self, wait),
            ConnectionVerdict::Close(reason) => {
                self.end(conn);
                Opening::Decided(None, Verdict::Reject(reason))
            }
        }
    }

    /// Runs a hook with bytes; `last` if none follow, `None` once what it waited for has happened.
    pub(super) fn bytes(
        &mut self,
        hook: ConnectionHook,
        bytes: &mut Vec<u8>,
        last: Option<bool>,
    ) -> ConnectionVerdict {
        self.run(hook, last, ConnectionPlace::Bytes(bytes))
    }

    /// Runs a hook with a datagram.
    pub(super) fn datagram(&mut self, hook: DatagramHook, datagram: &mut Vec<u8>) -> DatagramStep {
        let Some(connection) = self.connection.as_mut().filter(|_| !self.failed) else {
            return DatagramStep::Forward;
        };
        let place = ConnectionPlace::Datagram(datagram);
        let mut run = ConnectionRun::new(&self.running.of, &self.facts, place, &mut self.note);
        let returned = connection.datagram(hook, &mut run);
        drop(run);
        let Some(returned) = returned else { return DatagramStep::Forward };
        match datagram_step::judged(returned, hook) {
            Ok(step) => step,
            Err(problem) => match self.failure(&problem) {
                ConnectionVerdict::Close(reason) => DatagramStep::End(reason),
                ConnectionVerdict::Continue | ConnectionVerdict::Wait(_) => DatagramStep::Forward,
            },
        }
    }

    /// The flow continues as another.
    pub(super) const fn moved(&mut self, to: &ConnInfo) {
        self.facts.id = to.id;
    }

    fn run(
        &mut self,
        hook: ConnectionHook,
        end: Option<bool>,
        place: ConnectionPlace<'_>,
    ) -> ConnectionVerdict {
        let Some(connection) = self.connection.as_mut().filter(|_| !self.failed) else {
            return ConnectionVerdict::Continue;
        };
        let mut run = ConnectionRun::new(&self.running.of, &self.facts, place, &mut self.note);
        let returned = match end {
            Some(end) => connection.hook(hook, &mut run, end),
            None => connection.resumed(hook, &mut run),
        };
        let wait = run.wait.take();
        drop(run);
        let Some(returned) = returned else { return ConnectionVerdict::Continue };
        match judged(returned, hook, wait) {
            Ok(verdict) => verdict,
            Err(problem) => self.failure(&problem),
        }
    }

    /// What becomes of a connection for which the library failed.
    fn failure(&mut self, problem: &str) -> ConnectionVerdict {
        self.failed = true;
        self.running.failed(self.facts.id, problem);
        match self.running.plan.on_error {
            OnModuleError::Continue => ConnectionVerdict::Continue,
            OnModuleError::Fail => {
                self.note = Some(problem.to_owned());
                ConnectionVerdict::Close(reasons::MODULE_ERROR)
            }
        }
    }

    /// Ends the connection for the library, and notes for the record what it said.
    pub(super) fn end(&mut self, conn: &ConnInfo) {
        if let Some(connection) = self.connection.take() {
            let place = ConnectionPlace::Ended(conn);
            let mut run = ConnectionRun::new(&self.running.of, &self.facts, place, &mut self.note);
            connection.end(&mut run);
        }
        if let Some(note) = &self.note {
            conn.note(format_args!("module[{}: {note}]", self.running.of.filter));
        }
    }
}

/// Judges what a hook returned, and what it made before.
///
/// # Errors
/// It may not return that here.
fn judged(
    returned: i32,
    hook: ConnectionHook,
    wait: Option<ModuleWait>,
) -> Result<ConnectionVerdict, String> {
    let name = match hook {
        ConnectionHook::Opened => "connection_opened",
        ConnectionHook::Received => "connection_received",
        ConnectionHook::Sent => "connection_sent",
    };
    match returned {
        step::CONTINUE => Ok(ConnectionVerdict::Continue),
        step::CLOSE => Ok(ConnectionVerdict::Close(reasons::MODULE_CLOSED)),
        step::WAIT => match wait {
            Some(wait) => Ok(ConnectionVerdict::Wait(wait)),
            None => Err(format!("{name} returned SLUICE_WAIT without a ticket")),
        },
        step::FAIL => Err(format!("{name} returned SLUICE_FAIL")),
        other => Err(format!("{name} returned {other}, which is no step of a connection")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_is_none_of_a_connection_is_a_failure() {
        let of = |returned| judged(returned, ConnectionHook::Received, None);
        assert!(matches!(of(step::CONTINUE), Ok(ConnectionVerdict::Continue)));
        assert!(matches!(of(step::CLOSE), Ok(ConnectionVerdict::Close(_))));
        for (returned, why) in [
            (step::WAIT, "connection_received returned SLUICE_WAIT without a ticket"),
            (step::FAIL, "connection_received returned SLUICE_FAIL"),
            (step::RESPOND, "connection_received returned 1, which is no step of a connection"),
            (step::BUFFER, "which is no step"),
            (i32::MIN, "which is no step"),
        ] {
            let said = of(returned).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
