//! `health_check`: responds to the probes of a load balancer in front.
//!
//! Owns: which requests are probes, and what they are told. Refuses to know: how endpoints are checked. Keeps: a probe
//! that is answered here is not a request to any service; while the check fails, no endpoint is asked.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use sluice_codec::Head;
use sluice_codec::probe::{DEGRADED_HEADER, FAIL_HEADER};
use sluice_core::settings::{Plain, bind_entries, entries_of};
use sluice_core::value::Percent;
use sluice_core::{Diags, Moment, Name, Node, Path, Setting, Shape, Spanned};
use sluice_io::WorkerCx;
use sluice_upstream::Cluster;

use super::{CheckContext, Cx, HeadStep, HttpFilter, HttpFilterPlan, PlanSettings, ResponseStep};
use crate::reasons;
use crate::reply::Reply;
use crate::runtime::RuntimeKind;
use crate::value_match::Values;
use crate::worker::HttpWorker;

sluice_core::section! {
    /// Responds to probes with 200, or with 503 while Sluice shuts down, while the runtime value that `fail` names is true,
    /// or while clusters have too few healthy endpoints.
    pub struct HealthCheck {
        /// The path of probes, without a query.
        pub path: String = "/healthz",
        /// Headers of probes, matched like those of a rule.
        pub headers: Values,
        /// The name of the runtime value that makes the check fail.
        pub fail: String = "health_check.fail",
        /// Clusters, and the percentage of their endpoints that must be healthy: `{ app: 25% }`.
        pub min_healthy: MinHealthy,
        /// Whether probes go to the endpoints of their route as long as the check does not fail.
        pub pass_through: bool = "false",
        /// With `pass_through`: how long the status of a probe is the response to further probes. If omitted, all are
        /// forwarded.
        pub cache: Option<Duration>,
        /// Whether other responses have `x-envoy-immediate-health-check-fail` while the check fails, so that an Envoy or Sluice
        /// in front need not wait for its next probe.
        pub announce: bool = "false",
    }
}

/// Clusters with the percentage of endpoints that must be healthy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MinHealthy(Vec<(Spanned<Name>, Percent)>);

impl Setting for MinHealthy {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let entries = entries_of(node, at, diags, "a map of clusters to percentages")?;
        bind_entries(entries, at, diags, |entry, here, diags| {
            let percent = Percent::bind(&entry.node, here, diags)?;
            Some((Spanned { value: entry.key.clone(), span: entry.key_span }, percent))
        })
        .map(Self)
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(Percent::shape()))
    }

    fn show(&self) -> Plain {
        Plain::Map(
            self.0.iter().map(|(name, percent)| (name.to_string(), percent.show())).collect(),
        )
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

impl PlanSettings for HealthCheck {
    const NAME: &'static str = "health_check";
    const HELP: &'static str = "Responds to the probes of a load balancer in front of Sluice.";

    fn plan(
        self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let Self { path, headers, fail, min_healthy, pass_through, cache, announce } = self;
        let mut wrong = |code, key, message: &str, help: &str| {
            context.diags.error(code, settings.span, context.at.key(key), message).help(help);
            None
        };
        if !path.starts_with('/') || path.contains(['?', '#']) {
            let message = format!("expected a path that begins with `/`, not `{path}`");
            return wrong(
                "bad-value",
                "path",
                &message,
                "write it without a query: `path: /healthz`",
            );
        }
        if cache.is_some() && !pass_through {
            let message = "`cache` has no effect without `pass_through`";
            return wrong(
                "useless-setting",
                "cache",
                message,
                "add `pass_through: true`, or remove it",
            );
        }
        if pass_through && !min_healthy.0.is_empty() {
            let message = "`min_healthy` has no effect with `pass_through`: the endpoint responds";
            return wrong("useless-setting", "min_healthy", message, "keep one of the two");
        }
        let clusters = min_healthy.0.iter().map(|(name, percent)| {
            Some((context.cluster(name, "min_healthy")?, u64::from(percent.0)))
        });
        let clusters = clusters.collect::<Option<_>>()?;
        let answer = match pass_through {
            true => ProbeAnswer::OfEndpoint(cache.map(ProbeCache::new)),
            false => ProbeAnswer::OfClusters(clusters),
        };
        Some(Arc::new(HealthCheckPlan(Arc::new(ProbeTerms {
            path,
            headers,
            fail,
            answer,
            announce,
        }))))
    }
}

/// What is a probe, and who answers it.
#[derive(Debug)]
struct ProbeTerms {
    path: String,
    headers: Values,
    fail: String,
    answer: ProbeAnswer,
    announce: bool,
}

/// Who answers probes, unless the check fails anyway.
#[derive(Debug)]
enum ProbeAnswer {
    /// Sluice, by the healthy percentages of these clusters.
    OfClusters(Vec<(Arc<Cluster>, u64)>),
    /// The endpoint, or what one said a while ago.
    OfEndpoint(Option<ProbeCache>),
}

/// The status of the last probe that was forwarded, for all workers.
#[derive(Debug)]
struct ProbeCache {
    keep: Duration,
    /// When it is too old, in microseconds; whether the endpoint was degraded; the status. 0 if there is none.
    packed: AtomicU64,
}

const STATUS_BITS: u32 = 10;
const DEGRADED_BIT: u64 = 1 << STATUS_BITS;

impl ProbeCache {
    const fn new(keep: Duration) -> Self {
        Self { keep, packed: AtomicU64::new(0) }
    }

    /// The status, and whether the endpoint was degraded.
    fn get(&self, now: Moment) -> Option<(u16, bool)> {
        let packed = self.packed.load(Relaxed);
        let status = u16::try_from(packed & (DEGRADED_BIT - 1)).ok()?;
        let is_fresh = now.as_micros() < packed >> (STATUS_BITS + 1);
        is_fresh.then_some((status, packed & DEGRADED_BIT != 0))
    }

    fn set(&self, now: Moment, status: u16, degraded: bool) {
        let until = now.after(self.keep).as_micros() << (STATUS_BITS + 1);
        let degraded = if degraded { DEGRADED_BIT } else { 0 };
        self.packed.store(until | degraded | u64::from(status) & (DEGRADED_BIT - 1), Relaxed);
    }
}

/// Why a cluster has too few healthy endpoints, if it has. Those that an operator has withdrawn do not count.
fn shortfall(cluster: &Cluster, percent: u64) -> Option<&'static str> {
    let members = cluster.members();
    let present = members.endpoints.iter().filter(|endpoint| !endpoint.is_withdrawn());
    let (mut all, mut healthy) = (0, 0);
    for endpoint in present {
        all += 1;
        healthy += u64::from(endpoint.is_usable());
    }
    match all {
        0 => (percent > 0).then_some("health_check_cluster_empty"),
        _ => (100 * healthy < percent * all).then_some("health_check_cluster_unhealthy"),
    }
}

#[derive(Debug)]
struct HealthCheckPlan(Arc<ProbeTerms>);

impl HttpFilterPlan for HealthCheckPlan {
    fn runtime_keys(&self) -> Vec<(&str, RuntimeKind)> {
        vec![(&self.0.fail, RuntimeKind::Flag)]
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(ProbeFilter { probes: Arc::clone(&self.0), worker: HttpWorker::of(worker) })
    }
}

#[derive(Debug)]
struct ProbeFilter {
    probes: Arc<ProbeTerms>,
    worker: Rc<HttpWorker>,
}

/// What a probe met; other requests have no state.
enum ProbeState {
    Answered,
    Forwarded,
}

impl ProbeTerms {
    fn includes(&self, head: &Head) -> bool {
        head.path_only() == self.path && self.headers.fit(head)
    }
}

impl ProbeFilter {
    fn fails(&self, cx: &Cx<'_>) -> bool {
        self.worker.is_leaving() || cx.runtime.flag(&self.probes.fail) == Some(true)
    }

    /// The response to a probe; `None` if it is forwarded.
    fn answer(&self, cx: &Cx<'_>) -> Option<Reply> {
        let failing = |details| Reply::new(503, reasons::LOCAL, details, "failing\n");
        if self.fails(cx) {
            return Some(failing("health_check_failed"));
        }
        match &self.probes.answer {
            ProbeAnswer::OfClusters(clusters) => {
                let ok = || Reply::new(200, reasons::LOCAL, "health_check_ok", "ok\n");
                let short =
                    clusters.iter().find_map(|(cluster, percent)| shortfall(cluster, *percent));
                Some(short.map_or_else(ok, failing))
            }
            ProbeAnswer::OfEndpoint(cache) => {
                let (status, degraded) = cache.as_ref()?.get(cx.worker.now())?;
                let reply = Reply::new(status, reasons::LOCAL, "health_check_cached", "");
                Some(if degraded { reply.with("x-envoy-degraded", "true") } else { reply })
            }
        }
    }
}

impl HttpFilter for ProbeFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        if !self.probes.includes(head) {
            return HeadStep::Continue;
        }
        let answer = self.answer(cx);
        let state = if answer.is_some() { ProbeState::Answered } else { ProbeState::Forwarded };
        *cx.state = Some(Box::new(state));
        answer.map_or(HeadStep::Continue, HeadStep::reply)
    }

    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        let state = cx.state.as_ref().and_then(|state| state.downcast_ref::<ProbeState>());
        match (state, &self.probes.answer) {
            (Some(ProbeState::Forwarded), ProbeAnswer::OfEndpoint(Some(cache))) => {
                let degraded = head.get_named(DEGRADED_HEADER).is_some();
                cache.set(cx.worker.now(), head.status(), degraded);
            }
            (None, _) if self.probes.announce && self.fails(cx) => {
                head.set(FAIL_HEADER, b"true");
            }
            _ => {}
        }
        ResponseStep::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cached_status_is_kept_for_its_time() {
        let cache = ProbeCache::new(Duration::from_secs(2));
        let at = |seconds: u64| Moment::from_micros(seconds * 1_000_000);
        assert_eq!(cache.get(at(0)), None);
        for (status, degraded) in [(200, false), (503, false), (999, true)] {
            cache.set(at(7), status, degraded);
            assert_eq!(cache.get(at(8)), Some((status, degraded)));
            assert_eq!(cache.get(at(9)), None);
        }
    }
}
