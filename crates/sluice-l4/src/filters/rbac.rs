//! `rbac`: which connections are served, by policies over their addresses, server name and certificate.
//!
//! Owns: the filter for connections. Refuses to know: how policies are evaluated. Keeps: a condition that could never be
//! known where the filter stands is refused.

use std::rc::Rc;
use std::sync::Arc;

use sluice_core::{ConnInfo, Node, Plain, Setting, Shape, ValueDef, Verdict};
use sluice_io::{Admit, ConnectionFilter, ConnectionFilterPlan, WorkerCx};
use sluice_telemetry::metrics::SeriesLabels;

use super::{CheckContext, FilterFactory, FilterOwner, long_form_of};
use crate::rbac::conn::{ConnCondition, ConnSubject, ConnectionCondition};
use crate::rbac::settings::RbacSettings;
use crate::rbac::{Rbac, RbacCounters, decisions};
use crate::reasons;

/// The factory.
#[derive(Debug)]
pub struct ConnectionRbacFactory;

impl FilterFactory<dyn ConnectionFilterPlan> for ConnectionRbacFactory {
    fn name(&self) -> &'static str {
        "rbac"
    }

    fn help(&self) -> &'static str {
        "Which connections are served, by policies over addresses, server name and client certificate."
    }

    fn shape(&self) -> Shape {
        RbacSettings::<ConnectionCondition>::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<RbacSettings<ConnectionCondition>>(settings)
    }

    fn values(&self) -> &'static [ValueDef] {
        decisions::VALUES
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn ConnectionFilterPlan>> {
        let rbac = context.bind::<RbacSettings<ConnectionCondition>>(settings)?.compile();
        if matches!(context.owner, FilterOwner::Listener(_))
            && rbac.contains(ConnCondition::needs_chain)
        {
            let message =
                "the server name and certificates are not known before a chain is selected";
            let finding = context.diags.error("bad-value", settings.span, context.at, message);
            finding.help("move the filter from the listener to the `filters` of its chains");
            return None;
        }
        Some(Arc::new(ConnectionRbacPlan(Arc::new(rbac))))
    }
}

#[derive(Debug)]
struct ConnectionRbacPlan(Arc<Rbac<ConnCondition>>);

impl ConnectionFilterPlan for ConnectionRbacPlan {
    fn counts_in(&self, series: &SeriesLabels<'_>) -> bool {
        self.0.counts_in(series)
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn ConnectionFilter> {
        Rc::new(ConnectionRbacFilter {
            rbac: Arc::clone(&self.0),
            judges_certificate: self.0.contains(ConnCondition::is_of_certificate),
            counters: RbacCounters::new(worker, owner),
            worker: Rc::clone(worker),
        })
    }
}

#[derive(Debug)]
struct ConnectionRbacFilter {
    rbac: Arc<Rbac<ConnCondition>>,
    judges_certificate: bool,
    counters: RbacCounters,
    worker: Rc<WorkerCx>,
}

impl ConnectionFilter for ConnectionRbacFilter {
    fn judges_certificate(&self) -> bool {
        self.judges_certificate
    }

    fn admit(&self, conn: &ConnInfo) -> Admit {
        let ruling =
            self.counters.judge(&self.rbac, &ConnSubject::of(conn), &self.worker, |key, value| {
                conn.values.set(key, value);
            });
        if !ruling.refused {
            return Admit::Now(Verdict::Continue);
        }
        match ruling.policy {
            Some(policy) => conn.note(format_args!("rbac: denied by the policy {policy}")),
            None => conn.note("rbac: no policy allows it"),
        }
        Admit::Now(Verdict::Reject(reasons::DENIED))
    }
}
