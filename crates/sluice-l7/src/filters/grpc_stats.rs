//! `grpc_stats`: counts gRPC calls and their messages, by method and status.
//!
//! Owns: the series, and which methods have their own. Refuses to know: what messages contain. Keeps: clients choose the
//! names of methods, so only the methods that are listed have series of their own, and only up to a limit.

use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::grpc::GrpcMessageCount;
use sluice_codec::{Body, Head};
use sluice_core::Node;
use sluice_core::limits::Limit;
use sluice_io::WorkerCx;
use sluice_telemetry::metrics::{SeriesLabels, other};
use sluice_telemetry::{Counter, CounterSet, SeriesSet};

use super::{
    BodyAccess, BodyStep, CheckContext, Cx, HeadStep, HttpFilter, HttpFilterPlan, PlanSettings,
    ResponseBodyStep,
};
use crate::grpc_match::GrpcMatch;
use crate::metrics;

sluice_core::section! {
    /// Counts gRPC calls and their messages.
    pub struct GrpcStats {
        /// The methods that have metrics of their own: a service, a service/Method, or * for all; one or a list. Other
        /// calls are counted together, as `other`.
        pub methods: Vec<GrpcMatch>,
    }
}

impl PlanSettings for GrpcStats {
    const NAME: &'static str = "grpc_stats";
    const HELP: &'static str = "Counts gRPC calls and their messages, by method and status.";

    fn plan(
        self,
        _settings: &Node,
        _context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let Self { methods } = self;
        Some(Arc::new(GrpcStatsPlan(methods.into())))
    }
}

#[derive(Debug)]
struct GrpcStatsPlan(Arc<[GrpcMatch]>);

impl HttpFilterPlan for GrpcStatsPlan {
    fn counts_in(&self, series: &SeriesLabels<'_>) -> bool {
        let of_calls = [metrics::GRPC_CALLS.name, metrics::GRPC_MESSAGES.name];
        let name = series.get("service").zip(series.get("method"));
        name.filter(|_| of_calls.contains(&series.metric)).is_some_and(|(service, method)| {
            let shared = service == &*other();
            shared || self.0.iter().any(|of| of.fits_names(Some(service), Some(method)))
        })
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        let bound = worker.limits.size(Limit::GrpcSeries);
        let calls = SeriesSet::bounded(bound, |_| GrpcMethodName::other());
        Rc::new(GrpcStatsFilter { methods: Arc::clone(&self.0), calls })
    }
}

/// A service and a method of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct GrpcMethodName {
    service: Arc<str>,
    method: Arc<str>,
}

impl GrpcMethodName {
    fn other() -> Self {
        Self { service: other(), method: other() }
    }

    /// The names in a path of gRPC; `None` if they are none.
    fn of(path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let fits = |name: &str| {
            (1..=NAME_MAX).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_'))
        };
        (fits(service) && fits(method))
            .then(|| Self { service: service.into(), method: method.into() })
    }
}

/// The longest name that has a series of its own, in bytes.
const NAME_MAX: usize = 200;

/// The counters of a method on one worker.
#[derive(Debug)]
struct MethodCounters {
    name: GrpcMethodName,
    requests: Counter,
    responses: Counter,
    statuses: CounterSet<&'static str>,
}

impl MethodCounters {
    fn new(name: &GrpcMethodName, worker: &WorkerCx) -> Rc<Self> {
        let messages = |direction| {
            let labels = [&*name.service, &*name.method, direction];
            worker.shard.counter(&metrics::GRPC_MESSAGES, &labels)
        };
        Rc::new(Self {
            name: name.clone(),
            requests: messages("request"),
            responses: messages("response"),
            statuses: CounterSet::default(),
        })
    }

    fn count_end(&self, status: Option<u32>, worker: &WorkerCx) {
        self.statuses.count(&status_word(status), |status| {
            let labels = [&*self.name.service, &*self.name.method, *status];
            worker.shard.counter(&metrics::GRPC_CALLS, &labels)
        });
    }
}

/// A status as a label.
fn status_word(status: Option<u32>) -> &'static str {
    const WORDS: [&str; 17] = [
        "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16",
    ];
    match status {
        None => "none",
        Some(status) => WORDS.get(status as usize).copied().unwrap_or("other"),
    }
}

#[derive(Debug)]
struct GrpcStatsFilter {
    methods: Arc<[GrpcMatch]>,
    calls: SeriesSet<GrpcMethodName, Rc<MethodCounters>>,
}

/// A call, as long as it lasts.
struct CountedCall {
    counters: Rc<MethodCounters>,
    sent: GrpcMessageCount,
    received: GrpcMessageCount,
}

impl GrpcStatsFilter {
    /// The counters of the method that a request calls.
    fn counters(&self, head: &Head, worker: &WorkerCx) -> Rc<MethodCounters> {
        let is_listed = self.methods.iter().any(|listed| listed.fits(head));
        let name = is_listed.then(|| GrpcMethodName::of(head.path_only())).flatten();
        let name = name.unwrap_or_else(GrpcMethodName::other);
        self.calls.with(&name, |name| MethodCounters::new(name, worker), Rc::clone)
    }
}

fn call_of<'a>(cx: &'a mut Cx<'_>) -> Option<&'a mut CountedCall> {
    cx.state.as_mut()?.downcast_mut()
}

/// Only the bodies of gRPC are read.
fn access(cx: &Cx<'_>) -> BodyAccess {
    if cx.state.is_some() { BodyAccess::Read } else { BodyAccess::None }
}

impl HttpFilter for GrpcStatsFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        if head.is_grpc() {
            let counters = self.counters(head, cx.worker);
            let (sent, received) = Default::default();
            *cx.state = Some(Box::new(CountedCall { counters, sent, received }));
        }
        HeadStep::Continue
    }

    fn request_body_access(&self, cx: &Cx<'_>) -> BodyAccess {
        access(cx)
    }

    fn request_body(&self, cx: &mut Cx<'_>, body: &mut Body, _last: bool) -> BodyStep {
        if let Some(CountedCall { counters, sent, .. }) = call_of(cx) {
            counters.requests.add(sent.push(body));
        }
        BodyStep::Continue
    }

    fn response_body_access(&self, cx: &Cx<'_>) -> BodyAccess {
        access(cx)
    }

    fn response_body(&self, cx: &mut Cx<'_>, body: &mut Body, _last: bool) -> ResponseBodyStep {
        if let Some(CountedCall { counters, received, .. }) = call_of(cx) {
            counters.responses.add(received.push(body));
        }
        ResponseBodyStep::Continue
    }

    fn ended(&self, cx: &mut Cx<'_>) {
        let (status, worker) = (cx.summary.grpc_status, Rc::clone(cx.worker));
        if let Some(call) = call_of(cx) {
            call.counters.count_end(status, &worker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_grpc_have_series() {
        let of = |path: &str| {
            GrpcMethodName::of(path).map(|name| format!("{}:{}", name.service, name.method))
        };
        assert_eq!(of("/s.v1.S/M").as_deref(), Some("s.v1.S:M"));
        let long = format!("/{}/M", "s".repeat(201));
        for path in ["", "/", "/s", "/s/", "//M", "/s/M/x", "/s/M\"", &long] {
            assert_eq!(of(path), None, "{path}");
        }
        assert_eq!(
            [Some(0), Some(16), Some(17), None].map(status_word),
            ["0", "16", "other", "none"]
        );
    }
}
