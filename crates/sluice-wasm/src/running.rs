//! The guest of a filter on a worker, and calls of it about a request or connection.
//!
//! Owns: the instance in which requests begin, what a call comes to, and what becomes of its failures. Refuses to know: which
//! function runs when. Keeps: after a call that failed, a guest is not called about its request again.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use sluice_io::WorkerCx;
use sluice_l7::filters::{BodyAccess, Cx};
use sluice_l7::{Reply, reasons};

use crate::conn_facts::GuestConnFacts;
use crate::failure::{GuestFailure, GuestFailureKind};
use crate::held::{GuestRequest, of_request, take};
use crate::hooks::GuestHook;
use crate::in_use::{GuestBodies, GuestUse, OnGuestError};
use crate::message::{GuestHookCall, GuestMessage};
use crate::metrics::{GuestCounts, GuestInstance};
use crate::module::CompiledModule;
use crate::stream::StreamCell;
use crate::values;
use crate::vm::Vm;
use crate::vms::Vms;

/// What a request that waits needs of the filter.
#[derive(Debug)]
pub(crate) struct RunningGuest {
    pub(crate) plan: GuestUse,
    counts: GuestCounts,
    /// The instance that requests begin in.
    current: RefCell<Option<CurrentVm>>,
}

#[derive(Clone, Debug)]
pub(crate) struct CurrentVm {
    module: Arc<CompiledModule>,
    vm: Rc<Vm>,
    root: Rc<StreamCell>,
}

/// The context of a connection.
#[derive(Debug)]
pub(crate) struct GuestConnContext {
    pub(crate) vm: Rc<Vm>,
    pub(crate) cell: Rc<StreamCell>,
    _instance: GuestInstance,
}

/// What a call of the guest came to.
pub(crate) enum GuestVerdict {
    Continue,
    Pause,
    Reply(Box<Reply>),
}

impl RunningGuest {
    /// `listener` and name of the guest are those of its plan.
    pub(crate) fn new(plan: GuestUse, worker: &Rc<WorkerCx>) -> Self {
        let counts = GuestCounts::new(worker, &plan.plugin.listener, &plan.plugin.name);
        Self { plan, counts, current: RefCell::default() }
    }

    /// The instance in which requests begin.
    pub(crate) fn current(&self, worker: &Rc<WorkerCx>) -> Result<CurrentVm, GuestFailure> {
        let down = |why: &str| GuestFailure::new(GuestFailureKind::Down, why);
        let source = self.plan.module.as_ref().map_err(|why| down(why))?;
        let module = source.current().ok_or_else(|| down("the module was not read yet"))?;
        let known = self.current.borrow().clone();
        let known = known.filter(|of| Arc::ptr_eq(&of.module, &module));
        if let Some(known) = known.filter(|of| of.vm.failure().is_none()) {
            return Ok(known);
        }
        let vm = Vms::of(worker).get(worker, &module, &self.plan.setup)?;
        let root = vm.root(&self.plan.plugin)?;
        let current = CurrentVm { module, vm, root };
        *self.current.borrow_mut() = Some(current.clone());
        Ok(current)
    }

    /// Begins the context of a request.
    pub(crate) fn create(&self, cx: &mut Cx<'_>, response: bool) -> Result<(), GuestFailure> {
        let current = self.current(cx.worker)?;
        let message = &mut GuestMessage::Nothing;
        let vm = Rc::clone(&current.vm);
        let cell = vm.stream(&current.root, &mut GuestHookCall { cx, message, response })?;
        *cx.state = Some(Box::new(GuestRequest::new(vm, cell, self.counts.instance())));
        Ok(())
    }

    /// Begins the context of a connection.
    pub(crate) fn connect(
        &self,
        worker: &Rc<WorkerCx>,
        facts: &Rc<GuestConnFacts>,
    ) -> Result<GuestConnContext, GuestFailure> {
        let current = self.current(worker)?;
        let cell = current.vm.connection(&current.root, facts)?;
        Ok(GuestConnContext { vm: current.vm, cell, _instance: self.counts.instance() })
    }

    /// Counts a call of the guest.
    pub(crate) fn counted<T>(&self, vm: &Vm, call: impl FnOnce() -> T) -> T {
        self.counts.run(call, || vm.memory_used())
    }

    /// What the guest does with a body.
    pub(crate) fn access(&self, cx: &Cx<'_>, response: bool) -> BodyAccess {
        let Some(of) = of_request(cx).filter(|of| !of.failed) else { return BodyAccess::None };
        let hooks = match response {
            false => [GuestHook::RequestBody, GuestHook::RequestTrailers],
            true => [GuestHook::ResponseBody, GuestHook::ResponseTrailers],
        };
        match self.plan.bodies {
            _ if !hooks.into_iter().any(|hook| of.vm.has(hook)) => BodyAccess::None,
            GuestBodies::Skip => BodyAccess::None,
            GuestBodies::Read => BodyAccess::Read,
            GuestBodies::Edit => BodyAccess::Edit,
        }
    }

    /// Calls a function about a message; `args` are those after the context.
    pub(crate) fn run(
        &self,
        cx: &mut Cx<'_>,
        message: &mut GuestMessage<'_>,
        response: bool,
        hook: GuestHook,
        args: [usize; 2],
    ) -> GuestVerdict {
        let Some(of) = take(cx) else { return GuestVerdict::Continue };
        if of.failed {
            *cx.state = Some(of);
            return GuestVerdict::Continue;
        }
        of.cell.begin(response);
        let [first, second] = args.map(|arg| u32::try_from(arg).unwrap_or(u32::MAX));
        let args = [of.cell.id, first, second];
        let mut call = GuestHookCall { cx, message, response };
        let returned = self
            .counts
            .run(|| of.vm.call(of.cell.id, hook, &args, &mut call), || of.vm.memory_used());
        self.settle(cx, of, response, returned.map(|of| of.unwrap_or(0) != 0))
    }

    /// Tells a guest what it waited for.
    pub(crate) fn woken(
        &self,
        cx: &mut Cx<'_>,
        message: &mut GuestMessage<'_>,
        response: bool,
    ) -> GuestVerdict {
        let Some(of) = take(cx) else { return GuestVerdict::Continue };
        if of.failed {
            *cx.state = Some(of);
            return GuestVerdict::Continue;
        }
        let mut done = Ok(());
        while done.is_ok()
            && let Some(arrived) = of.cell.take_arrived()
        {
            let mut call = GuestHookCall { cx, message, response };
            done = self
                .counts
                .run(|| of.vm.deliver(of.cell.id, arrived, &mut call), || of.vm.memory_used());
        }
        self.settle(cx, of, response, done.map(|()| true))
    }

    /// What a call came to; `pauses` unless the guest said otherwise meanwhile.
    fn settle(
        &self,
        cx: &mut Cx<'_>,
        mut of: Box<GuestRequest>,
        response: bool,
        pauses: Result<bool, GuestFailure>,
    ) -> GuestVerdict {
        let (reply, goes_on) = (of.cell.take_reply(), of.cell.goes_on(response));
        of.failed = pauses.is_err();
        *cx.state = Some(of);
        match (pauses, reply) {
            (Err(failure), _) => {
                self.failed(cx, failure).map_or(GuestVerdict::Continue, GuestVerdict::Reply)
            }
            (Ok(_), Some(reply)) => GuestVerdict::Reply(reply),
            (Ok(true), None) if !goes_on => GuestVerdict::Pause,
            (Ok(_), None) => GuestVerdict::Continue,
        }
    }

    /// Counts and logs a failure; returns the reply, if the request fails with it.
    pub(crate) fn failed(&self, cx: &mut Cx<'_>, failure: GuestFailure) -> Option<Box<Reply>> {
        self.note(&failure, cx.summary.id);
        match self.plan.on_error {
            OnGuestError::Fail => Some(Box::new(failure.reply(&self.plan.plugin.name))),
            OnGuestError::Continue => {
                cx.values.set(&values::ERROR, failure.message);
                None
            }
        }
    }

    pub(crate) fn note(&self, failure: &GuestFailure, request: u64) {
        self.counts.failure(failure);
        let plugin = &*self.plan.plugin.name;
        tracing::warn!(plugin, request, reason = failure.reason().code(), "{}", failure.message);
    }

    /// What the record of a connection says of a failure.
    pub(crate) fn said(&self, failure: &GuestFailure) -> String {
        format!("wasm[{}: {}]", self.plan.plugin.name, failure.message)
    }

    pub(crate) fn count_limit(&self, limit: &'static str) {
        self.counts.limit(limit);
    }

    /// The end of a message of which the guest holds more than it may.
    pub(crate) fn too_large(&self, response: bool) -> Reply {
        let details = format!("wasm_held_too_much[{}]", self.plan.plugin.name);
        if response {
            return Reply::new(500, reasons::RESPONSE_TOO_LARGE, details, "");
        }
        Reply::new(413, reasons::BODY_TOO_LARGE, details, "the request body is too large\n")
    }
}
