//! `adaptive_concurrency`: limits the requests in flight to as many as the service behind handles without getting slower.
//!
//! Owns: the settings, the requests in flight, and the controller of a chain or rule, across all workers and reloads. Refuses
//! to know: how the limit is found. Keeps: no more requests are let in than the limit says; a request is counted out when it
//! ends, however it ends; only responses of endpoints tell anything about latency, and a slow client tells nothing.

use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use sluice_codec::Head;
use sluice_core::value::Percent;
use sluice_core::{Moment, Node, Plain, Setting, Shape, ValueDef};
use sluice_io::WorkerCx;
use sluice_l4::filters::buckets::PerOwner;
use sluice_telemetry::CounterSet;

use self::gradient::{Gradient, GradientPlan, GradientStep};
use super::{
    CheckContext, Cx, FilterFactory, HeadStep, HttpFilter, HttpFilterPlan, ResponseStep,
    long_form_of,
};
use crate::metrics;
use crate::reasons;
use crate::reply::Reply;

mod gradient;

sluice_core::values! {
    LIMIT: u32 = "adaptive_concurrency.limit", "The most requests in flight that the filter `adaptive_concurrency` allowed when the request began.";
}

sluice_core::section! {
    /// Limits the requests in flight by their latency: the limit rises as long as requests take as long as they did when
    /// there were few, and falls when they take longer.
    pub struct AdaptiveConcurrency {
        /// The highest limit.
        pub max: NonZeroU32 = "1000",
        /// The lowest limit, which also holds while the ideal latency is measured.
        pub min: NonZeroU32 = "3",
        /// The latency that counts, of those in an interval.
        pub percentile: Percent = "50%",
        /// How often the limit is adapted.
        pub interval: Duration = "100ms",
        /// By how much latencies may exceed the ideal one before the limit falls.
        pub tolerance: Percent = "25%",
        /// The ideal latency, if it is known; otherwise it is measured.
        pub ideal: Option<Duration>,
        /// How the ideal latency is measured.
        pub measure: Option<IdealMeasurement>,
        /// The status of the response to a refused request, from 400 to 599.
        pub status: u16 = "503",
    }
}

sluice_core::section! {
    /// How the ideal latency is measured.
    pub struct IdealMeasurement {
        /// How often.
        pub every: Duration = "60s",
        /// A random part of that time that is added to it, so that processes do not measure at the same time.
        pub jitter: Percent = "15%",
        /// By how many requests.
        pub requests: NonZeroU32 = "50",
    }
}

/// The factory; holds the controller of every chain and rule that uses the filter.
#[derive(Debug, Default)]
pub struct AdaptiveConcurrencyFactory {
    controllers: PerOwner<AdaptiveState>,
}

impl FilterFactory<dyn HttpFilterPlan> for AdaptiveConcurrencyFactory {
    fn name(&self) -> &'static str {
        "adaptive_concurrency"
    }

    fn help(&self) -> &'static str {
        "Limits the requests in flight to as many as the service behind handles without getting slower."
    }

    fn shape(&self) -> Shape {
        AdaptiveConcurrency::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<AdaptiveConcurrency>(settings)
    }

    fn values(&self) -> &'static [ValueDef] {
        VALUES
    }

    fn check(
        &self,
        node: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let settings = context.bind::<AdaptiveConcurrency>(node)?;
        super::check_error_status(settings.status, node, context.at, context.diags)?;
        if settings.min > settings.max {
            let (at, message) = (context.at.key("min"), "`min` is larger than `max`");
            context.diags.error("bad-value", node.span, at, message);
            return None;
        }
        if settings.ideal.is_some() && settings.measure.is_some() {
            let at = context.at.key("measure");
            let message = "`measure` has no effect beside `ideal`, which is not measured";
            context.diags.error("bad-value", node.span, at, message).help("write one of them");
            return None;
        }
        let measure = settings.measure.or_else(IdealMeasurement::absent)?;
        let part = |percent: Percent| f64::from(percent.0) / 100.0;
        let plan = GradientPlan {
            max: settings.max.get(),
            min: settings.min.get(),
            percentile: part(settings.percentile),
            interval: settings.interval,
            ideal: settings.ideal,
            measure_requests: measure.requests.get(),
            tolerance: part(settings.tolerance),
        };
        Some(Arc::new(AdaptiveConcurrencyPlan {
            plan,
            every: measure.every,
            jitter: measure.jitter.0,
            status: settings.status,
            controllers: self.controllers.clone(),
        }))
    }
}

#[derive(Debug)]
struct AdaptiveConcurrencyPlan {
    plan: GradientPlan,
    every: Duration,
    jitter: u8,
    status: u16,
    controllers: PerOwner<AdaptiveState>,
}

impl HttpFilterPlan for AdaptiveConcurrencyPlan {
    fn is_guard(&self) -> bool {
        true
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter> {
        let state = self.controllers.of(owner, worker, |_| AdaptiveState::new(self.plan));
        state.configure(self.plan);
        Rc::new(AdaptiveConcurrencyFilter {
            state,
            every: self.every,
            jitter: self.jitter,
            status: self.status,
            steps: CounterSet::default(),
            listener: owner.split('/').next().unwrap_or_default().into(),
        })
    }
}

/// The limit and the requests in flight, for all workers.
#[derive(Debug)]
struct AdaptiveState {
    /// Only ever tried while requests are served: a latency that comes while another worker notes one is left out.
    controller: Mutex<Gradient>,
    limit: AtomicU32,
    in_flight: AtomicU32,
    /// When time alone changes the limit, in microseconds.
    due: AtomicU64,
}

impl AdaptiveState {
    fn new(plan: GradientPlan) -> Self {
        let controller = Gradient::new(plan);
        let (limit, due) = (controller.limit().into(), controller.due().as_micros().into());
        Self { controller: Mutex::new(controller), limit, in_flight: AtomicU32::new(0), due }
    }

    fn configure(&self, plan: GradientPlan) {
        let mut controller = self.controller.lock().unwrap_or_else(PoisonError::into_inner);
        controller.configure(plan);
        self.publish(&controller);
    }

    fn publish(&self, controller: &Gradient) {
        self.limit.store(controller.limit(), Relaxed);
        self.due.store(controller.due().as_micros(), Relaxed);
    }

    /// Counts a request in, if the limit allows it.
    fn enter(self: &Arc<Self>, began: Moment, waited: Duration) -> Option<AdaptiveSlot> {
        let more = |count: u32| (count < self.limit.load(Relaxed)).then_some(count + 1);
        self.in_flight.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(AdaptiveSlot { state: Arc::clone(self), began, entered: waited, is_noted: false })
    }

    /// Notes a latency, if there is one, and adapts the limit if it is time for that.
    fn adapt(
        &self,
        now: Moment,
        latency: Option<(Moment, Duration)>,
        pause: impl FnOnce() -> Duration,
    ) -> Option<GradientStep> {
        let mut controller = match self.controller.try_lock() {
            Ok(controller) => controller,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        if let Some((began, took)) = latency {
            controller.sample(began, took);
        }
        let step = controller.adapt(now, pause);
        self.publish(&controller);
        step
    }
}

/// A request that was counted in; counted out on drop.
#[derive(Debug)]
struct AdaptiveSlot {
    state: Arc<AdaptiveState>,
    began: Moment,
    /// When it got here, since the beginning of the request.
    entered: Duration,
    /// Whether its latency was noted.
    is_noted: bool,
}

impl Drop for AdaptiveSlot {
    fn drop(&mut self) {
        self.state.in_flight.fetch_sub(1, Relaxed);
    }
}

#[derive(Debug)]
struct AdaptiveConcurrencyFilter {
    state: Arc<AdaptiveState>,
    every: Duration,
    jitter: u8,
    status: u16,
    steps: CounterSet<&'static str>,
    listener: Box<str>,
}

impl AdaptiveConcurrencyFilter {
    fn adapt(&self, cx: &Cx<'_>, latency: Option<(Moment, Duration)>) {
        let pause = || cx.worker.jittered(self.every, self.jitter);
        let Some(step) = self.state.adapt(cx.worker.now(), latency, pause) else { return };
        self.steps.count(&step.label(), |step| {
            cx.worker.shard.counter(&metrics::ADAPTIVE_STEPS, &[&self.listener, step])
        });
    }
}

impl HttpFilter for AdaptiveConcurrencyFilter {
    fn request_head(&self, cx: &mut Cx<'_>, _: &mut Head) -> HeadStep {
        // A guard that judges the request once more counts it once.
        *cx.state = None;
        let now = cx.worker.now();
        if now.as_micros() >= self.state.due.load(Relaxed) {
            self.adapt(cx, None);
        }
        cx.values.set(&LIMIT, self.state.limit.load(Relaxed));
        let waited = cx.worker.clock.wall(now).saturating_sub(cx.summary.started);
        let Some(slot) = self.state.enter(now, waited) else {
            let (status, why) = (self.status, reasons::OVERLOAD);
            let body = "too many requests at once\n";
            return HeadStep::reply(Reply::new(status, why, "reached_concurrency_limit", body));
        };
        *cx.state = Some(Box::new(slot));
        HeadStep::Continue
    }

    fn response_head(&self, cx: &mut Cx<'_>, _: &mut Head) -> ResponseStep {
        let (received, responded) = (cx.summary.request_end, cx.summary.response_start);
        let slot = cx.state.as_mut().and_then(|state| state.downcast_mut::<AdaptiveSlot>());
        // A response that came before the request was complete says nothing about how long the service took.
        if let (Some(slot), Some(received), Some(responded)) = (slot, received, responded)
            && !std::mem::replace(&mut slot.is_noted, true)
            && received <= responded
        {
            let took = responded.saturating_sub(received.max(slot.entered));
            let latency = (slot.began, took);
            self.adapt(cx, Some(latency));
        }
        ResponseStep::Continue
    }

    fn ended(&self, cx: &mut Cx<'_>) {
        *cx.state = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_never_have_more_requests_in_flight_than_the_limit() {
        let ideal = Some(Duration::from_millis(10));
        let plan = GradientPlan {
            max: 5,
            min: 2,
            percentile: 0.5,
            interval: Duration::from_millis(1),
            ideal,
            measure_requests: 50,
            tolerance: 0.25,
        };
        let state = Arc::new(AdaptiveState::new(plan));
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let state = &state;
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    let mut slots = Vec::new();
                    for step in 0..2_000_u64 {
                        let now = Moment::from_micros(step * 100);
                        slots.extend(state.enter(now, Duration::ZERO));
                        assert!(state.in_flight.load(Relaxed) <= 5);
                        let took = Duration::from_millis(random.u64(1..100));
                        state.adapt(now, Some((now, took)), || unreachable!("it is known"));
                        assert!((2..=5).contains(&state.limit.load(Relaxed)));
                        if random.bool() {
                            slots.clear();
                        }
                    }
                });
            }
        });
        assert_eq!(state.in_flight.load(Relaxed), 0, "all are counted out");
    }
}
