//! `rbac`: which requests are served, by policies over who asks and what for.
//!
//! Owns: the filter for requests. Refuses to know: how policies are evaluated, and how a client proved who it is. Keeps:
//! a client learns that it is refused, never by which policy; what is judged is what is forwarded, before the rule's own
//! rewrite.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::Head;
use sluice_core::{Node, ValueDef};
use sluice_io::WorkerCx;
use sluice_l4::rbac::settings::RbacSettings;
use sluice_l4::rbac::{Rbac, RbacCounters, RbacJudgement, decisions};
use sluice_telemetry::metrics::SeriesLabels;

use self::request::{RequestCondition, RequestMatch, RequestSubject};
use super::{
    CheckContext, Cx, FilterRuling, HeadStep, HttpFilter, HttpFilterPlan, PlanSettings,
    TriedRequest,
};
use crate::reasons;
use crate::reply::Reply;

pub(super) mod request;
#[cfg(test)]
mod tests;

/// Policies for requests.
pub(super) type RequestPolicies = RbacSettings<RequestCondition>;

impl PlanSettings for RequestPolicies {
    const NAME: &'static str = "rbac";
    const HELP: &'static str = "Which requests are served, by policies over who asks (addresses, certificates, shared values) and what for.";

    fn values() -> &'static [ValueDef] {
        decisions::VALUES
    }

    fn plan(
        self,
        _settings: &Node,
        _context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        Some(Arc::new(RbacPlan(Arc::new(self.compile()))))
    }
}

/// The status of the response to a request that is refused.
const STATUS: u16 = 403;

#[derive(Debug)]
struct RbacPlan(Arc<Rbac<RequestMatch>>);

impl HttpFilterPlan for RbacPlan {
    fn counts_in(&self, series: &SeriesLabels<'_>) -> bool {
        self.0.counts_in(series)
    }

    fn is_guard(&self) -> bool {
        true
    }

    fn judges_target(&self) -> bool {
        true
    }

    fn would_decide(&self, request: &TriedRequest<'_>) -> Option<FilterRuling> {
        let TriedRequest { conn, head, values } = *request;
        let subject = RequestSubject { conn, head, values, readings: OnceCell::new() };
        let RbacJudgement { logged, shadow, enforced } = self.0.judge(&subject);
        let mut notes = vec![(decisions::POLICY.name(), enforced.by().to_owned())];
        if let Some(ruling) = shadow {
            notes.push((decisions::SHADOW.name(), format!("{} by {}", ruling.word(), ruling.by())));
        }
        if let Some(policy) = logged {
            notes.push((decisions::LOG.name(), policy.to_string()));
        }
        Some(FilterRuling { refused: enforced.refused.then_some(STATUS), notes })
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter> {
        let counters = RbacCounters::new(worker, owner);
        Rc::new(RbacFilter { rbac: Arc::clone(&self.0), counters })
    }
}

#[derive(Debug)]
struct RbacFilter {
    rbac: Arc<Rbac<RequestMatch>>,
    counters: RbacCounters,
}

impl HttpFilter for RbacFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        let mut notes = Vec::new();
        let subject = RequestSubject {
            conn: cx.conn.subject(cx.summary.source, cx.conn_values),
            head,
            values: cx.values,
            readings: OnceCell::new(),
        };
        let ruling = self.counters.judge(&self.rbac, &subject, cx.worker, |key, value| {
            notes.push((key, value));
        });
        let reply = ruling.refused.then(|| {
            let details = format!("rbac_access_denied_matched_policy[{}]", ruling.by());
            Reply::new(STATUS, reasons::DENIED, details, "RBAC: access denied\n")
        });
        for (key, value) in notes {
            cx.values.set(key, value);
        }
        reply.map_or(HeadStep::Continue, HeadStep::reply)
    }
}
