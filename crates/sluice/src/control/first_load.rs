//! When the process is ready: at once, or once control planes have sent the first resources.
//!
//! Owns: the begin of planes, and the moment of readiness. Refuses to know: what is waited for. Keeps: without planes,
//! nothing is waited for.

use std::rc::Rc;

use sluice_model::model::Kind;
use tokio::sync::Notify;

use super::{Control, Options, Stage};

impl Control {
    /// Asks control planes for resources; `first_load` is told once the first are there, at once without planes.
    pub(super) fn begin_planes(self: &Rc<Self>, options: &mut Options, first_load: &Rc<Notify>) {
        #[cfg(feature = "envoy")]
        if let Some(plan) = options.planes.take() {
            let planes = Rc::new(super::Planes::new(plan, self.clock.clone()));
            *self.planes.borrow_mut() = Some(Rc::clone(&planes));
            let (control, ready) = (Rc::clone(self), Rc::clone(first_load));
            tokio::task::spawn_local(async move { planes.run(control, ready).await });
            return;
        }
        // Without the feature, there are no planes to take from them.
        let _ = options;
        first_load.notify_one();
    }

    pub(super) fn now_ready(&self) {
        self.stage.set(Stage::Ready);
        tracing::info!(
            workers = self.workers.len(),
            listeners = self.store.borrow().names(Kind::Listener).len(),
            "ready"
        );
        // After the line in the log: what waits for this may read the log.
        self.report.ready();
    }

    /// Says what a reload does not reach.
    pub(super) fn tell_of_planes(&self) {
        #[cfg(feature = "envoy")]
        if matches!(self.builder.form, super::ConfigForm::EnvoyPart(_)) {
            tracing::info!(
                "listeners of the file, and what it says of control planes, take effect after a restart"
            );
        }
    }

    /// Counts the resources of planes.
    pub(super) fn measure_planes(&self) {
        #[cfg(feature = "envoy")]
        if let Some(planes) = &*self.planes.borrow() {
            planes.measure(&self.shard);
        }
    }
}
