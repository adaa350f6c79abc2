//! A use of a connection filter with a label, beside others of the same filter.
//!
//! Owns: the owner under which such a use keeps its state. Refuses to know: what the filter does. Keeps: two uses of one
//! filter share no state.

use std::rc::Rc;
use std::sync::Arc;

use sluice_io::{ConnectionFilter, ConnectionFilterPlan, WorkerCx};
use sluice_telemetry::metrics::SeriesLabels;

use super::{owner_of_use, split_key};

/// The plan of the use with that key.
pub fn plan_of_use(
    key: &str,
    plan: Arc<dyn ConnectionFilterPlan>,
) -> Arc<dyn ConnectionFilterPlan> {
    match split_key(key) {
        (_, None) => plan,
        (_, Some(_)) => Arc::new(LabelledUse { key: key.into(), plan }),
    }
}

#[derive(Debug)]
struct LabelledUse {
    key: Box<str>,
    plan: Arc<dyn ConnectionFilterPlan>,
}

impl ConnectionFilterPlan for LabelledUse {
    fn filters_bytes(&self) -> bool {
        self.plan.filters_bytes()
    }

    fn filters_datagrams(&self) -> bool {
        self.plan.filters_datagrams()
    }

    fn is_for_datagrams_only(&self) -> bool {
        self.plan.is_for_datagrams_only()
    }

    fn counts_in(&self, series: &SeriesLabels<'_>) -> bool {
        self.plan.counts_in(series)
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn ConnectionFilter> {
        self.plan.on_worker(worker, &owner_of_use(owner, &self.key))
    }
}
