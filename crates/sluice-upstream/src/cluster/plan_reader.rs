//! The plan of a cluster, as a worker reads it.
//!
//! Owns: the worker's view of the plan in force. Refuses to know: what the plan says. Keeps: a plan that was put in force
//! is read from then on.

use std::cell::Ref;
use std::sync::Arc;

use super::Cluster;
use crate::plan::ClusterPlan;
use crate::published::PublishedView;

/// A worker's view of the plan of one cluster.
#[derive(Debug)]
pub struct PlanReader {
    cluster: Arc<Cluster>,
    plan: PublishedView<ClusterPlan>,
}

impl PlanReader {
    /// The view of a worker.
    pub fn new(cluster: Arc<Cluster>) -> Self {
        let plan = PublishedView::new(&cluster.plan);
        Self { cluster, plan }
    }

    /// The cluster.
    pub const fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// The plan in force, borrowed briefly; not to be held across an await. Within the borrow, it stays the same.
    pub fn get(&self) -> Ref<'_, ClusterPlan> {
        Ref::map(self.plan.get(&self.cluster.plan), |plan| &**plan)
    }
}
