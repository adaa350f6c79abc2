//! A request that belongs to no exchange, for tests of filters in other crates.
//!
//! Owns: what a hook may use, without a connection, a route or a client. Refuses to know: any filter, and what becomes of its
//! decisions. Keeps: what a filter shares and remembers stays from hook to hook, as in a request.

use std::any::Any;
use std::rc::Rc;

use sluice_codec::Head;
use sluice_core::connection::{ConnInfo, Peer};
use sluice_core::{ConnValues, Moment, SharedValues};
use sluice_io::WorkerCx;

use super::{CallScope, Cx, HookScope};
use crate::hop_count::HopCount;
use crate::record::{ConnFacts, Summary};
use crate::runtime::Runtime;
use crate::side_calls::SideCallLog;

/// A request over a connection between unix sockets, without anything else that is known of it.
#[derive(Debug)]
pub struct SolitaryRequest {
    worker: Rc<WorkerCx>,
    conn: ConnFacts,
    summary: Summary,
    values: SharedValues,
    conn_values: ConnValues,
    runtime: Runtime,
    state: Option<Box<dyn Any>>,
    calls: Option<SideCallLog>,
    reroutes: bool,
    hook: HookScope,
}

impl SolitaryRequest {
    /// A request that has just begun.
    pub fn new(worker: &Rc<WorkerCx>, request: &Head) -> Self {
        let now = worker.now();
        let info = ConnInfo::new(1, "solitary".into(), Peer::Unix, Peer::Unix, now);
        Self {
            worker: Rc::clone(worker),
            conn: ConnFacts::of(&info),
            summary: Summary::begun(1, worker.clock.wall(now), request.version(), Peer::Unix),
            values: SharedValues::default(),
            conn_values: info.values,
            runtime: Runtime::default(),
            state: None,
            calls: None,
            reroutes: false,
            hook: HookScope::default(),
        }
    }

    /// Runs a hook. `request` is the head of the request, unless the hook is itself passed it; `ends` is whether the message
    /// ends with its head.
    pub fn hook<R>(
        &mut self,
        request: Option<&Head>,
        ends: bool,
        hook: impl FnOnce(&mut Cx<'_>) -> R,
    ) -> R {
        self.hook.ends = ends;
        hook(&mut Cx {
            worker: &self.worker,
            conn: &self.conn,
            summary: &self.summary,
            request,
            values: &mut self.values,
            conn_values: &self.conn_values,
            runtime: &self.runtime,
            state: &mut self.state,
            calls: CallScope { hops: HopCount::default(), by: Moment::NEVER, log: &mut self.calls },
            reroutes: &mut self.reroutes,
            hook: &mut self.hook,
        })
    }

    /// What filters share about it.
    pub const fn values(&self) -> &SharedValues {
        &self.values
    }
}
