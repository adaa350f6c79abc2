//! One use of `ext_proc` in a configuration.
//!
//! Owns: what is made of settings, and how those of rules and chains come together. Refuses to know: requests. Keeps: a rule changes what it
//! names, and nothing else.

use std::rc::Rc;
use std::sync::Arc;

use sluice_core::{Node, ValueDef};
use sluice_io::WorkerCx;
use sluice_upstream::Cluster;

use super::filter::ProcFilter;
use super::messages::PROCESS;
use super::settings::{ExtProc, ProcSettings, method};
use super::state::VALUES;
use crate::GrpcMethod;
use crate::filters::{CheckContext, HttpFilter, HttpFilterPlan, PlanSettings};

/// The settings of a chain, or of a rule.
#[derive(Clone, Debug)]
pub(super) struct ProcPlan {
    pub(super) written: Arc<ExtProc>,
    /// `None` in a rule that adds to the settings of its chain.
    pub(super) cluster: Option<Arc<Cluster>>,
    /// `None` if the settings have no metadata for calls.
    pub(super) method: Option<GrpcMethod>,
}

impl PlanSettings for ExtProc {
    const NAME: &'static str = "ext_proc";
    const HELP: &'static str = "Has a service change requests and responses.";

    fn values() -> &'static [ValueDef] {
        VALUES
    }

    fn plan(self, node: &Node, context: &mut CheckContext<'_>) -> Option<Arc<dyn HttpFilterPlan>> {
        if !self.is_usable(node, context) {
            return None;
        }
        let cluster = match &self.cluster {
            Some(name) => Some(context.cluster(name, "cluster")?),
            None => None,
        };
        let method = match &self.call_metadata {
            Some(texts) => Some(method(PROCESS, texts, node, context)?),
            None => None,
        };
        Some(Arc::new(ProcPlan { written: Arc::new(self), cluster, method }))
    }
}

impl HttpFilterPlan for ProcPlan {
    fn on_top_of(&self, under: &dyn HttpFilterPlan) -> Option<Arc<dyn HttpFilterPlan>> {
        let under: &dyn std::any::Any = under;
        let under = under.downcast_ref::<Self>()?;
        Some(Arc::new(Self {
            written: Arc::new(self.written.over(&under.written)),
            cluster: self.cluster.clone().or_else(|| under.cluster.clone()),
            method: self.method.clone().or_else(|| under.method.clone()),
        }))
    }

    fn lacks(&self) -> Option<String> {
        if self.cluster.is_none() {
            return Some("the `cluster` of the service".to_owned());
        }
        // One of the settings is of a rule, the other one of the chain around it.
        let what = "bodies that are `streamed` or `none`, or `observe: false`,";
        (!self.written.bodies_fit()).then(|| what.to_owned())
    }

    fn edits_target(&self) -> bool {
        true
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter> {
        let cluster = self.cluster.clone().filter(|_| self.lacks().is_none());
        let settings = cluster.map(|cluster| {
            Arc::new(ProcSettings::new(&self.written, cluster, self.method.clone()))
        });
        Rc::new(ProcFilter::new(settings, worker, owner))
    }
}
