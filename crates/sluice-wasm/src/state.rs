//! What an instance keeps beside its memory.
//!
//! Owns: the contexts of an instance, its bounds, and what of the call at hand its functions need. Refuses to know: which functions
//! there are. Keeps: a guest reaches the message at hand only as the context that it belongs to.

use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use sluice_io::WorkerCx;
use sluice_sys::loan::Loan;
use sluice_sys::process::thread_cpu;
use wasmtime::{Memory, ResourceLimiter, TypedFunc};

use crate::abi::{AbiVersion, Status};
use crate::call::{CallResult, Calls, GuestCall};
use crate::grpc_link::GrpcLink;
use crate::limits::TABLE_ENTRIES;
use crate::pairs::FieldPair;
use crate::plugin::{PluginFacts, VmSetup};
use crate::stream::{ArrivedCall, StreamCell};

/// What the tasks of an instance call, and what asks for them.
pub(crate) trait GuestEvents {
    /// Something of a call has arrived for which no message waits.
    fn arrived(&self, context: u32, call: ArrivedCall);

    /// The period of a root context has passed; returns the next one, if there is one.
    fn ticked(&self, root: u32) -> Option<Duration>;

    /// Something was put into a queue that a root context registered; returns whether the context is still there.
    fn queue_filled(&self, root: u32, queue: u32) -> bool;
}

/// The response to a call, as the guest reads it.
#[derive(Debug, Default)]
pub(crate) struct SideCallAnswer {
    pub(crate) headers: Vec<FieldPair>,
    pub(crate) body: bytes::Bytes,
    pub(crate) trailers: Vec<FieldPair>,
}

/// What an instance keeps.
pub(crate) struct HostState {
    pub(crate) loan: Rc<Loan<Calls>>,
    pub(crate) setup: Arc<VmSetup>,
    /// `None` while a configuration is checked.
    pub(crate) worker: Option<Rc<WorkerCx>>,
    pub(crate) events: Weak<dyn GuestEvents>,
    pub(crate) version: AbiVersion,
    pub(crate) memory: Option<Memory>,
    pub(crate) allocate: Option<TypedFunc<u32, u32>>,
    pub(crate) bounds: MemoryBounds,
    /// Contexts by number; root contexts are their own roots.
    pub(crate) contexts: HashMap<u32, Rc<StreamCell>>,
    /// The periods of ticks, by root context; none where the last tick was called off and has not passed.
    pub(crate) ticks: HashMap<u32, Option<Duration>>,
    /// The context that the message at hand belongs to.
    lent_to: u32,
    /// The context that operations are about.
    pub(crate) effective: u32,
    pub(crate) answer: Option<SideCallAnswer>,
    /// What arrived of a gRPC call, as the guest reads it.
    pub(crate) grpc: Option<SideCallAnswer>,
    /// The status of the gRPC call that ended last, and its text.
    pub(crate) grpc_status: (u32, String),
    /// gRPC calls that are open, by their numbers.
    pub(crate) grpc_calls: HashMap<u32, Rc<GrpcLink>>,
    next_token: u32,
    /// Lines that this call wrote to the log.
    pub(crate) lines: u32,
    /// What a guest wrote to a standard stream, up to the end of the line.
    pub(crate) written: Vec<u8>,
    /// Processor time at the first look at this call.
    began: Option<Duration>,
}

impl HostState {
    pub(crate) fn new(
        loan: &Rc<Loan<Calls>>,
        setup: &Arc<VmSetup>,
        worker: Option<&Rc<WorkerCx>>,
        events: Weak<dyn GuestEvents>,
        version: AbiVersion,
    ) -> Self {
        Self {
            loan: Rc::clone(loan),
            setup: Arc::clone(setup),
            worker: worker.cloned(),
            events,
            version,
            memory: None,
            allocate: None,
            bounds: MemoryBounds { bytes: setup.limits.memory, used: 0, reached: false },
            contexts: HashMap::new(),
            ticks: HashMap::new(),
            lent_to: 0,
            effective: 0,
            answer: None,
            grpc: None,
            grpc_status: Default::default(),
            grpc_calls: HashMap::new(),
            next_token: 0,
            lines: 0,
            written: Vec::new(),
            began: None,
        }
    }

    /// A call of the guest about `context` begins.
    pub(crate) fn begin(&mut self, context: u32) {
        (self.lent_to, self.effective) = (context, context);
        (self.lines, self.began) = (0, None);
    }

    /// Looks at the processor time of the call; returns whether it is used up.
    pub(crate) fn is_late(&mut self) -> bool {
        let now = thread_cpu();
        match self.began {
            Some(began) => now.saturating_sub(began) > self.setup.limits.cpu,
            None => {
                self.began = Some(now);
                false
            }
        }
    }

    /// The number of a new call.
    pub(crate) fn new_token(&mut self) -> u32 {
        // Those that are left from before the numbers began again are few.
        loop {
            self.next_token = self.next_token.wrapping_add(1).max(1);
            if !self.grpc_calls.contains_key(&self.next_token) {
                return self.next_token;
            }
        }
    }

    /// The context that operations are about.
    pub(crate) fn context(&self) -> CallResult<&Rc<StreamCell>> {
        self.contexts.get(&self.effective).ok_or(Status::BadArgument)
    }

    /// The use that it belongs to.
    pub(crate) fn plugin(&self) -> CallResult<Arc<PluginFacts>> {
        self.context().map(|cell| cell.plugin())
    }

    /// Uses the message at hand, if it is of the context that operations are about.
    pub(crate) fn with_call<R>(&self, then: impl FnOnce(&mut dyn GuestCall) -> R) -> Option<R> {
        if self.effective != self.lent_to {
            return None;
        }
        self.loan.with(|call| then(call))
    }

    /// Counts that a bound was reached.
    pub(crate) fn count_limit(&self, limit: &'static str) {
        let (Some(worker), Ok(plugin)) = (&self.worker, self.plugin()) else { return };
        let labels = [&*plugin.listener, &*plugin.name, limit];
        worker.shard.counter(&crate::metrics::LIMITS, &labels).increment();
    }
}

/// Bounds the memory of an instance.
#[derive(Debug)]
pub(crate) struct MemoryBounds {
    bytes: usize,
    pub(crate) used: usize,
    /// Whether the guest asked for more.
    pub(crate) reached: bool,
}

impl ResourceLimiter for MemoryBounds {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let used = self.used.saturating_sub(current).saturating_add(desired);
        if used > self.bytes {
            self.reached = true;
            return Ok(false);
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ENTRIES)
    }
}
