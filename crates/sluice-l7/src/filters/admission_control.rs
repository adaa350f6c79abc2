//! `admission_control`: refuses a part of the requests while many fail, so that the service behind can recover.
//!
//! Owns: the settings, and the results of a chain or rule, across all workers and reloads. Refuses to know: how the part is
//! found. Keeps: only what became of a request behind the filter is a result: neither what filters refuse, nor what clients
//! cancel.

use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_codec::Head;
use sluice_core::reason::Side;
use sluice_core::settings::StatusRange;
use sluice_core::value::{Decimal, Percent};
use sluice_core::{Node, Plain, Setting, Shape};
use sluice_io::WorkerCx;
use sluice_l4::filters::buckets::PerOwner;
use sluice_telemetry::CounterSet;

use self::results::{AdmissionPlan, RecentResults};
use super::{CheckContext, Cx, FilterFactory, HeadStep, HttpFilter, HttpFilterPlan, long_form_of};
use crate::metrics;
use crate::reasons;
use crate::record::Summary;
use crate::reply::Reply;

mod results;

sluice_core::section! {
    /// Refuses a part of the requests while the success rate is low.
    pub struct AdmissionControl {
        /// The time whose results count, in whole seconds from 1s to 5m.
        pub window: Duration = "30s",
        /// The success rate below which requests are refused.
        pub threshold: Percent = "95%",
        /// How fast the refused part grows below it: 1 for in proportion, more for faster.
        pub aggression: Decimal = "1",
        /// The largest part that is refused.
        pub max_refused: Percent = "80%",
        /// Requests per second, on average over the window, below which none is refused.
        pub min_rate: Option<NonZeroU32>,
        /// Statuses below 500 that count as failures, too; ranges such as 400-499 are possible.
        pub failures: Vec<StatusRange>,
        /// The statuses of gRPC that count as failures, in place of DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, INTERNAL,
        /// UNAVAILABLE and DATA_LOSS; numbers from 1 to 16.
        pub grpc_failures: Vec<u32>,
        /// The status of the response to a refused request, from 400 to 599.
        pub status: u16 = "503",
    }
}

/// The factory; holds the results of every chain and rule that uses the filter.
#[derive(Debug, Default)]
pub struct AdmissionControlFactory {
    results: PerOwner<RecentResults>,
}

impl FilterFactory<dyn HttpFilterPlan> for AdmissionControlFactory {
    fn name(&self) -> &'static str {
        "admission_control"
    }

    fn help(&self) -> &'static str {
        "Refuses a part of the requests while many fail, so that the service behind can recover."
    }

    fn shape(&self) -> Shape {
        AdmissionControl::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<AdmissionControl>(settings)
    }

    fn check(
        &self,
        node: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let settings = context.bind::<AdmissionControl>(node)?;
        super::check_error_status(settings.status, node, context.at, context.diags)?;
        if let Some((key, message)) = settings.mistake() {
            context.diags.error("bad-value", node.span, context.at.key(key), message);
            return None;
        }
        let plan = AdmissionPlan {
            window: settings.window.as_secs(),
            threshold: f64::from(settings.threshold.0) / 100.0,
            aggression: f64::from(settings.aggression.0) / 1000.0,
            max_refused: f64::from(settings.max_refused.0) / 100.0,
            min_rate: settings.min_rate.map_or(0, NonZeroU32::get),
        };
        let results = self.results.clone();
        Some(Arc::new(AdmissionControlPlan { settings, plan, results }))
    }
}

impl AdmissionControl {
    fn mistake(&self) -> Option<(&'static str, &'static str)> {
        if self.window.subsec_nanos() > 0
            || !(1..=results::WINDOW_MAX).contains(&self.window.as_secs())
        {
            return Some(("window", "`window` must be whole seconds, from 1s to 5m"));
        }
        if self.threshold.0 == 0 {
            return Some(("threshold", "a `threshold` of 0% is never missed"));
        }
        if self.max_refused.0 == 0 {
            return Some((
                "max_refused",
                "`max_refused: 0%` refuses nothing; leave the filter out",
            ));
        }
        if self.aggression.0 < 1000 {
            return Some(("aggression", "`aggression` must be at least 1"));
        }
        if self.grpc_failures.iter().any(|status| !(1..=16).contains(status)) {
            return Some(("grpc_failures", "`grpc_failures` are numbers from 1 to 16"));
        }
        let wrong = self.failures.iter().any(|range| range.high >= 500);
        let why = "`failures` are statuses below 500; those from 500 count anyway";
        wrong.then_some(("failures", why))
    }
}

#[derive(Debug)]
struct AdmissionControlPlan {
    settings: AdmissionControl,
    plan: AdmissionPlan,
    results: PerOwner<RecentResults>,
}

impl HttpFilterPlan for AdmissionControlPlan {
    fn is_guard(&self) -> bool {
        true
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(AdmissionControlFilter {
            status: self.settings.status,
            failures: self.settings.failures.clone(),
            grpc_failures: match &*self.settings.grpc_failures {
                [] => GRPC_FAILURES.to_vec(),
                own => own.to_vec(),
            },
            plan: self.plan,
            results: self.results.of(owner, worker, |_| RecentResults::default()),
            counted: CounterSet::default(),
            listener: owner.split('/').next().unwrap_or_default().into(),
        })
    }
}

#[derive(Debug)]
struct AdmissionControlFilter {
    status: u16,
    failures: Vec<StatusRange>,
    grpc_failures: Vec<u32>,
    plan: AdmissionPlan,
    results: Arc<RecentResults>,
    counted: CounterSet<&'static str>,
    listener: Box<str>,
}

/// Marks a request that was let in.
struct LetIn;

/// The statuses of gRPC that count as failures unless others are listed: DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED,
/// INTERNAL, UNAVAILABLE and DATA_LOSS.
const GRPC_FAILURES: [u32; 6] = [4, 8, 10, 13, 14, 15];

/// A random number has so many steps.
const STEPS: u32 = 1 << 20;

impl AdmissionControlFilter {
    fn second(worker: &WorkerCx) -> u64 {
        worker.now().as_micros() / 1_000_000
    }

    fn count(&self, cx: &Cx<'_>, result: &'static str) {
        self.counted.count(&result, |result| {
            cx.worker.shard.counter(&metrics::ADMISSION, &[&self.listener, result])
        });
    }

    /// Whether a request succeeded; `None` if it says nothing about the service behind: it got no further than to
    /// another filter or a rule that responds itself, or its client left.
    fn result(&self, summary: &Summary) -> Option<bool> {
        let side = summary.reason.map_or(Side::Downstream, |why| why.def().side);
        if side == Side::Upstream && summary.reason != Some(reasons::VIA_UPSTREAM) {
            return Some(false);
        }
        if summary.attempts.is_empty() || (summary.status == 0 && side == Side::Downstream) {
            return None;
        }
        if let Some(status) = summary.grpc_status {
            return Some(!self.grpc_failures.contains(&status));
        }
        let succeeded = (1..500).contains(&summary.status);
        let fails = |range: &StatusRange| (range.low..=range.high).contains(&summary.status);
        Some(succeeded && !self.failures.iter().any(fails))
    }
}

impl HttpFilter for AdmissionControlFilter {
    fn request_head(&self, cx: &mut Cx<'_>, _: &mut Head) -> HeadStep {
        *cx.state = None;
        let part = self.results.refused_part(&self.plan, Self::second(cx.worker));
        let random = u32::try_from(cx.worker.random_below(STEPS as usize)).unwrap_or(0);
        if f64::from(random) < part * f64::from(STEPS) {
            // What is refused here is no result.
            self.count(cx, "refused");
            let details = format!("denied_by_admission_control[{:.0}%]", part * 100.0);
            let (status, why) = (self.status, reasons::OVERLOAD);
            return HeadStep::reply(Reply::new(status, why, details, "overloaded\n"));
        }
        *cx.state = Some(Box::new(LetIn));
        HeadStep::Continue
    }

    fn ended(&self, cx: &mut Cx<'_>) {
        if cx.state.take().is_some()
            && let Some(success) = self.result(cx.summary)
        {
            self.count(cx, if success { "success" } else { "failure" });
            self.results.add(Self::second(cx.worker), success);
        }
    }
}
