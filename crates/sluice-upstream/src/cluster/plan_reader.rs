//! The plan of a cluster, as a worker reads it.
//!
//! Owns: the worker's reference to the plan in force. Refuses to know: what the plan says. Keeps: a plan is read without
//! a write to memory that workers share, unless it has changed since.

use std::cell::{Cell, Ref, RefCell};
use std::sync::Arc;

use super::Cluster;
use crate::plan::ClusterPlan;

/// A worker's view of the plan of one cluster. A request reads the plan several times, which [`Cluster::peek_plan`] would
/// pay for with two atomic writes each.
#[derive(Debug)]
pub struct PlanReader {
    cluster: Arc<Cluster>,
    plan: RefCell<Arc<ClusterPlan>>,
    version: Cell<u64>,
}

impl PlanReader {
    /// The view of a worker.
    pub fn new(cluster: Arc<Cluster>) -> Self {
        // In this order: a plan that is put in force in between is read again.
        let version = Cell::new(cluster.plan_version());
        let plan = RefCell::new(cluster.plan());
        Self { cluster, plan, version }
    }

    /// The cluster.
    pub const fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// The plan in force, borrowed briefly; not to be held across an await. Within the borrow, it stays the same.
    pub fn get(&self) -> Ref<'_, ClusterPlan> {
        let version = self.cluster.plan_version();
        if version != self.version.get()
            && let Ok(mut plan) = self.plan.try_borrow_mut()
        {
            *plan = self.cluster.plan();
            self.version.set(version);
        }
        Ref::map(self.plan.borrow(), |plan| &**plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::ClusterSettings;

    fn plan(attempts: u32) -> Arc<ClusterPlan> {
        let mut settings = ClusterSettings::bare();
        Arc::make_mut(&mut settings).connect_attempts = attempts;
        Arc::new(ClusterPlan { name: "up".into(), settings, tls: None })
    }

    #[test]
    fn a_plan_that_was_put_in_force_is_read_from_then_on() {
        let cluster = Arc::new(Cluster::new(plan(1)));
        let reader = PlanReader::new(Arc::clone(&cluster));
        assert_eq!(reader.get().connect_attempts, 1);
        for attempts in 2..5 {
            cluster.set_plan(plan(attempts));
            assert_eq!(reader.get().connect_attempts, attempts);
            assert_eq!(reader.get().connect_attempts, attempts);
        }
        let before = reader.get();
        cluster.set_plan(plan(9));
        assert_eq!(reader.get().connect_attempts, 4, "while it is borrowed");
        drop(before);
        assert_eq!(reader.get().connect_attempts, 9);
    }
}
