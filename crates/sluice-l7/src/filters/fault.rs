//! `fault`: delays requests, aborts them and slows their responses down, to try out how clients bear it.
//!
//! Owns: which requests get a fault, and how many at once. Refuses to know: what a real fault looks like. Keeps: a request
//! is delayed before it is aborted; a request that gets no fault is not touched; what a client may ask for by a header
//! never exceeds the settings.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use sluice_codec::grpc::GrpcCode;
use sluice_codec::{Body, Head};
use sluice_core::value::Percent;
use sluice_core::{Node, ValueDef};
use sluice_io::WorkerCx;
use sluice_telemetry::{CounterSet, MetricDef};

use self::settings::{AbortWith, FaultInjection, FaultShare};
use super::{
    BodyAccess, CheckContext, Cx, HeadStep, HttpFilter, HttpFilterPlan, PlanSettings,
    ResponseBodyStep, pause,
};
use crate::metrics;
use crate::reasons;
use crate::reply::Reply;
use crate::runtime::RuntimeKind;

pub mod settings;

sluice_core::values! {
    DELAYED: String = "fault.delay", "For how long the filter `fault` delays the request, in milliseconds.";
}

/// The header that asks for a delay in milliseconds, and those of the other faults: Envoy's.
const DELAY: &str = "x-envoy-fault-delay-request";
const DELAY_PERCENT: &str = "x-envoy-fault-delay-request-percentage";
const ABORT: &str = "x-envoy-fault-abort-request";
const ABORT_GRPC: &str = "x-envoy-fault-abort-grpc-request";
const ABORT_PERCENT: &str = "x-envoy-fault-abort-request-percentage";
const RATE: &str = "x-envoy-fault-throughput-response";
const RATE_PERCENT: &str = "x-envoy-fault-throughput-response-percentage";

impl PlanSettings for FaultInjection {
    const NAME: &'static str = "fault";
    const HELP: &'static str =
        "Delays and aborts requests, and slows responses down, to try out how clients bear it.";

    fn values() -> &'static [ValueDef] {
        VALUES
    }

    fn plan(
        self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        self.check(settings.span, context)?;
        Some(Arc::new(FaultPlan { settings: Arc::new(self), active: Arc::default() }))
    }
}

#[derive(Debug)]
struct FaultPlan {
    settings: Arc<FaultInjection>,
    /// The requests that have a fault now, of all workers.
    active: Arc<AtomicU32>,
}

impl HttpFilterPlan for FaultPlan {
    fn runtime_keys(&self) -> Vec<(&str, RuntimeKind)> {
        let keys = self.settings.shares().filter_map(|share| share.runtime);
        keys.map(|key| (key, RuntimeKind::Percent)).collect()
    }

    fn on_worker(&self, _worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(FaultFilter {
            settings: Arc::clone(&self.settings),
            active: Arc::clone(&self.active),
            counted: CounterSet::default(),
            listener: owner.split('/').next().unwrap_or_default().into(),
        })
    }
}

#[derive(Debug)]
struct FaultFilter {
    settings: Arc<FaultInjection>,
    active: Arc<AtomicU32>,
    counted: CounterSet<&'static str>,
    listener: Box<str>,
}

/// The faults that a request gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Faults {
    delay: Option<Duration>,
    abort: Option<AbortWith>,
    /// Bytes per second of its response.
    rate: Option<u64>,
}

/// What is remembered of a request with a fault.
#[derive(Debug)]
struct FaultState {
    rate: Option<u64>,
    _active: ActiveFault,
}

/// Counts a request with a fault as long as it lasts.
#[derive(Debug)]
struct ActiveFault(Arc<AtomicU32>);

impl ActiveFault {
    /// Counts one more, unless there are `max`.
    fn begin(active: &Arc<AtomicU32>, max: Option<u32>) -> Option<Self> {
        let more = |count: u32| (count < max.unwrap_or(u32::MAX)).then_some(count + 1);
        active.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Self(Arc::clone(active)))
    }
}

impl Drop for ActiveFault {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl HttpFilter for FaultFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        if !self.settings.headers.fit(head) {
            return HeadStep::Continue;
        }
        let drawn = |share: &FaultShare<'_>, asked: Option<u64>| {
            let set = share.runtime.and_then(|key| cx.runtime.number(key));
            cx.worker.random_below(100) < percent_of(share.percent, set, asked)
        };
        let faults = self.settings.faults_of(head, drawn);
        if faults == Faults::default() {
            return HeadStep::Continue;
        }
        let Some(active) = ActiveFault::begin(&self.active, self.settings.max_active) else {
            self.count(cx, "limit");
            return HeadStep::Continue;
        };
        if faults.rate.is_some() {
            self.count(cx, "response_rate");
        }
        *cx.state = Some(Box::new(FaultState { rate: faults.rate, _active: active }));
        let abort = faults.abort.map(|abort| {
            self.count(cx, "abort");
            refusal(abort)
        });
        let end = |abort: Option<Reply>| abort.map_or(HeadStep::Continue, HeadStep::reply);
        let Some(delay) = faults.delay else { return end(abort) };
        self.count(cx, "delay");
        cx.values.set(&DELAYED, delay.as_millis().to_string());
        let slice = pause::slice_of(cx.worker);
        delayed(Rc::clone(cx.worker), delay, slice, Box::new(move || end(abort)))
    }

    fn response_body_access(&self, cx: &Cx<'_>) -> BodyAccess {
        match rate_of(cx) {
            Some(_) => BodyAccess::Read,
            None => BodyAccess::None,
        }
    }

    fn response_body(&self, cx: &mut Cx<'_>, body: &mut Body, _last: bool) -> ResponseBodyStep {
        let (Some(rate), length) = (rate_of(cx), body.len() as u64) else {
            return ResponseBodyStep::Continue;
        };
        let nanos = u128::from(length) * 1_000_000_000 / u128::from(rate.max(1));
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        pause::hold(Rc::clone(cx.worker), cx.worker.now().after(time), || ())
    }
}

impl FaultFilter {
    fn count(&self, cx: &Cx<'_>, fault: &'static str) {
        const OF: &MetricDef = &metrics::INJECTED_FAULTS;
        self.counted.count(&fault, |fault| cx.worker.shard.counter(OF, &[&self.listener, fault]));
    }
}

fn rate_of(cx: &Cx<'_>) -> Option<u64> {
    cx.state.as_ref()?.downcast_ref::<FaultState>()?.rate
}

/// The percentage of requests that get a fault: as set, or as the runtime value says; a request may ask for less.
fn percent_of(set: Percent, runtime: Option<u64>, asked: Option<u64>) -> usize {
    let percent = runtime.unwrap_or_else(|| set.0.into()).min(asked.unwrap_or(u64::MAX)).min(100);
    usize::try_from(percent).unwrap_or(100)
}

/// Waits for `time`, at most `slice` at once; then `end` says how the request continues.
fn delayed(
    worker: Rc<WorkerCx>,
    time: Duration,
    slice: Duration,
    end: Box<dyn FnOnce() -> HeadStep>,
) -> HeadStep {
    HeadStep::wait(async move {
        pause::until(&worker, worker.now().after(time.min(slice))).await;
        move |_: &mut Cx<'_>, _: &mut Head| match time.saturating_sub(slice) {
            Duration::ZERO => end(),
            rest => delayed(worker, rest, slice, end),
        }
    })
}

fn refusal(abort: AbortWith) -> Reply {
    let (status, grpc) = match abort {
        AbortWith::Status(status) => (status, None),
        AbortWith::Grpc(code) => (http_status(code), Some(code)),
    };
    let reply =
        Reply::new(status, reasons::FAULT_ABORT, "fault_filter_abort", "fault filter abort");
    Reply { grpc_code: grpc, ..reply }
}

/// The status for clients that do not speak gRPC, as in google/rpc/code.proto.
const fn http_status(code: GrpcCode) -> u16 {
    match code {
        GrpcCode::Ok => 200,
        GrpcCode::InvalidArgument | GrpcCode::FailedPrecondition | GrpcCode::OutOfRange => 400,
        GrpcCode::Unauthenticated => 401,
        GrpcCode::PermissionDenied => 403,
        GrpcCode::NotFound => 404,
        GrpcCode::AlreadyExists | GrpcCode::Aborted => 409,
        GrpcCode::ResourceExhausted => 429,
        GrpcCode::Cancelled => 499,
        GrpcCode::Unimplemented => 501,
        GrpcCode::Unavailable => 503,
        GrpcCode::DeadlineExceeded => 504,
        GrpcCode::Unknown | GrpcCode::Internal | GrpcCode::DataLoss => 500,
    }
}

#[cfg(test)]
mod tests;
