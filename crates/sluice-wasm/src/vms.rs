//! The instances of a worker.
//!
//! Owns: which instance belongs to which module and setup, and when one that failed is replaced. Refuses to know: requests. Keeps:
//! an instance that fails again and again is begun ever more rarely, up to `RESTART_MAX`; instances that no configuration in force
//! names are dropped.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use sluice_core::Moment;
use sluice_io::WorkerCx;

use crate::failure::{GuestFailure, GuestFailureKind};
use crate::limits::RESTART_MAX;
use crate::metrics;
use crate::module::CompiledModule;
use crate::plugin::VmSetup;
use crate::vm::Vm;

/// The instances, by the hash of their module and their setup.
#[derive(Debug, Default)]
pub(crate) struct Vms(RefCell<HashMap<(String, VmSetup), VmSlot>>);

#[derive(Debug)]
struct VmSlot {
    module: Weak<CompiledModule>,
    /// Of the configuration that used it last.
    setup: Weak<VmSetup>,
    vm: Result<Rc<Vm>, GuestFailure>,
    began: Moment,
    /// How often it failed in a row, and when it may begin again.
    failures: u32,
    next: Option<Moment>,
}

impl VmSlot {
    fn failure(&self) -> Option<GuestFailure> {
        self.vm.as_ref().map_or_else(|failure| Some(failure.clone()), |vm| vm.failure())
    }

    /// Notes a failure; returns when the instance may be replaced.
    fn note_failure(&mut self, now: Moment) -> Moment {
        if let Some(next) = self.next {
            return next;
        }
        let restart = self.setup.upgrade().map_or(RESTART_MAX, |setup| setup.limits.restart);
        // It was well for long enough.
        if now.since(self.began) > RESTART_MAX {
            self.failures = 0;
        }
        let wait = restart.saturating_mul(1 << self.failures.min(16)).min(RESTART_MAX.max(restart));
        self.failures += 1;
        let next = now.after(wait);
        self.next = Some(next);
        next
    }
}

impl Vms {
    /// The instances of `worker`.
    pub(crate) fn of(worker: &WorkerCx) -> Rc<Self> {
        worker.local(Self::default)
    }

    /// The instance of a module with a setup.
    ///
    /// # Errors
    /// It failed, and cannot be replaced yet.
    pub(crate) fn get(
        &self,
        worker: &Rc<WorkerCx>,
        module: &Arc<CompiledModule>,
        setup: &Arc<VmSetup>,
    ) -> Result<Rc<Vm>, GuestFailure> {
        let key = (module.sha256.clone(), VmSetup::clone(setup));
        let now = worker.now();
        let mut slots = self.0.borrow_mut();
        let mut failures = 0;
        if let Some(slot) = slots.get_mut(&key) {
            slot.setup = Arc::downgrade(setup);
            slot.module = Arc::downgrade(module);
            let failure = slot.failure();
            if let (None, Ok(vm)) = (&failure, &slot.vm) {
                return Ok(Rc::clone(vm));
            }
            if now < slot.note_failure(now) {
                return Err(waiting(failure.as_ref()));
            }
            failures = slot.failures;
        }
        slots.retain(|_, slot| slot.setup.strong_count() > 0 && slot.module.strong_count() > 0);
        let number = worker.number.to_string();
        worker.shard.counter(&metrics::STARTED, &[&number]).increment();
        let vm = Vm::start(module, setup, Some(worker));
        let (module, setup) = (Arc::downgrade(module), Arc::downgrade(setup));
        let slot = VmSlot { module, setup, vm: vm.clone(), began: now, failures, next: None };
        slots.insert(key, slot);
        vm
    }
}

fn waiting(failure: Option<&GuestFailure>) -> GuestFailure {
    let why = failure.map_or("", |failure| &failure.message);
    let message = format!("the instance failed and is not replaced yet: {why}");
    GuestFailure::new(GuestFailureKind::Down, &message)
}
