//! `bandwidth_limit`: how fast the bodies of requests and responses pass, of each, or of all that have parts in common.
//!
//! Owns: the settings, and the rates across all workers and reloads. Refuses to know: how bytes are counted over time. Keeps:
//! bytes pass in order and unchanged, and no request is refused; who sends is not read from until what was read may go; a
//! request that ends gives back the time that its bytes would have taken.

use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use sluice_codec::{Body, Head};
use sluice_core::settings::{Plain, Size};
use sluice_core::value::ByteRate;
use sluice_core::{Diags, Moment, Name, Node, Path, Setting, Shape, ValueDef};
use sluice_io::WorkerCx;
use sluice_l4::filters::bandwidth_limit::{PortionPlan, check_interval};
use sluice_l4::filters::buckets::{
    BytePace, BytesDue, KeyedTable, LockedTable, PerOwner, forgotten,
};
use sluice_l4::metrics;
use sluice_telemetry::Counter;

use super::rate_limit::keys::{RateKey, name_of, text_of};
use super::{
    BodyAccess, BodyStep, CheckContext, Cx, FilterFactory, HeadStep, HttpFilter, HttpFilterPlan,
    PieceStep, ResponseBodyStep, long_form_of, pause,
};

sluice_core::values! {
    REQUEST_HELD: String = "bandwidth_limit.request", "For how long the filter `bandwidth_limit` held up the body of the request, in milliseconds.";
    RESPONSE_HELD: String = "bandwidth_limit.response", "For how long the filter `bandwidth_limit` held up the body of the response, in milliseconds.";
}

sluice_core::section! {
    /// Limits how fast bodies pass. At least one of `request` and `response` is required.
    pub struct BandwidthLimit {
        /// The name under which the rate is kept; if omitted, that of its keys.
        pub name: Option<Name>,
        /// The rate of the bodies of requests.
        pub request: Option<ByteRate>,
        /// The rate of the bodies of responses.
        pub response: Option<ByteRate>,
        /// Which requests share a rate: as of `rate_limit`, or `request` for a rate of each request's own.
        pub per: BandwidthKeys,
        /// The bytes of each body that pass before the limit applies.
        pub after: Size = "0",
        /// The bytes that may pass at once after a pause; by default what the rate allows in `interval`.
        pub burst: Option<Size>,
        /// In portions for how much time bytes pass; shorter is smoother, longer takes less work. From 1ms to 1s.
        pub interval: Duration = "50ms",
    }
}

/// Which requests share a rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BandwidthKeys {
    /// None: each has its own.
    Each,
    /// Those that are alike in these parts.
    Alike(Vec<RateKey>),
}

impl Setting for BandwidthKeys {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        if node.text() == Some("request") {
            return Some(Self::Each);
        }
        Vec::<RateKey>::bind(node, at, diags).map(Self::Alike)
    }

    fn shape() -> Shape {
        let each = Shape::Text { what: "`request`", example: "request" };
        Shape::Either(vec![each, Vec::<RateKey>::shape()])
    }

    fn show(&self) -> Plain {
        match self {
            Self::Each => Plain::Text("request".into()),
            Self::Alike(keys) => keys.show(),
        }
    }

    fn absent() -> Option<Self> {
        Some(Self::Alike(Vec::new()))
    }
}

/// One limit or several, each of which a body must keep.
#[derive(Clone, Debug)]
struct BandwidthLimits(Vec<BandwidthLimit>);

impl Setting for BandwidthLimits {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let all = Vec::<BandwidthLimit>::bind(node, at, diags)?;
        let idle = |limit: &BandwidthLimit| limit.request.is_none() && limit.response.is_none();
        if all.is_empty() || all.iter().any(idle) {
            diags
                .error("missing-field", node.span, at, "this filter limits nothing")
                .help("set `request`, `response` or both, such as `response: 1MiB/s`");
            return None;
        }
        super::check_names(all.iter().map(BandwidthLimit::name), node, at, diags)?;
        Some(Self(all))
    }

    fn shape() -> Shape {
        Vec::<BandwidthLimit>::shape()
    }

    fn show(&self) -> Plain {
        self.0.show()
    }
}

impl BandwidthLimit {
    fn name(&self) -> String {
        match &self.per {
            BandwidthKeys::Each => name_of(self.name.as_ref(), &[]),
            BandwidthKeys::Alike(keys) => name_of(self.name.as_ref(), keys),
        }
    }
}

/// The factory; holds the rates of every chain and rule that uses the filter.
#[derive(Debug, Default)]
pub struct BandwidthLimitFactory {
    paces: PerOwner<LockedTable<BytePace>>,
}

impl FilterFactory<dyn HttpFilterPlan> for BandwidthLimitFactory {
    fn name(&self) -> &'static str {
        "bandwidth_limit"
    }

    fn help(&self) -> &'static str {
        "Limits how fast the bodies of requests and responses pass: of each, or by client, identity, header, path and so on."
    }

    fn shape(&self) -> Shape {
        BandwidthLimits::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<BandwidthLimits>(settings)
    }

    fn values(&self) -> &'static [ValueDef] {
        VALUES
    }

    fn check(
        &self,
        node: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let BandwidthLimits(limits) = context.bind(node)?;
        for limit in &limits {
            check_interval(limit.interval, node, context)?;
        }
        Some(Arc::new(BandwidthLimitPlan { limits, paces: self.paces.clone() }))
    }
}

#[derive(Debug)]
struct BandwidthLimitPlan {
    limits: Vec<BandwidthLimit>,
    paces: PerOwner<LockedTable<BytePace>>,
}

impl HttpFilterPlan for BandwidthLimitPlan {
    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter> {
        let direction = |name: &'static str, rate: fn(&BandwidthLimit) -> Option<ByteRate>| {
            let limits = self.limits.iter().filter_map(|limit| {
                let plan = PortionPlan::new(rate(limit)?, limit.burst, limit.interval);
                // A limit keeps its rate if others are added or removed.
                let owner = format!("{owner}#{}#{name}", limit.name());
                let table = self.paces.of(&owner, worker, KeyedTable::locked);
                let (keys, after) = (limit.per.clone(), limit.after.0);
                Some(BandwidthOnWorker { keys, plan, after, table })
            });
            let limits: Rc<[_]> = limits.collect();
            let listener = owner.split('/').next().unwrap_or_default();
            let portion = limits.iter().map(|limit| limit.plan.portion).min();
            let held = worker.shard.counter(&metrics::BANDWIDTH, &[listener, name]);
            PacedBodies { limits, portion, held }
        };
        Rc::new(BandwidthLimitFilter {
            request: direction("request", |limit| limit.request),
            response: direction("response", |limit| limit.response),
            forgotten: forgotten(worker),
        })
    }
}

/// A limit of a direction on a worker.
#[derive(Debug)]
struct BandwidthOnWorker {
    keys: BandwidthKeys,
    plan: PortionPlan,
    after: u64,
    table: Arc<LockedTable<BytePace>>,
}

/// A direction on a worker.
#[derive(Debug)]
struct PacedBodies {
    limits: Rc<[BandwidthOnWorker]>,
    /// The smallest portion; `None` without limits.
    portion: Option<usize>,
    held: Counter,
}

#[derive(Debug)]
struct BandwidthLimitFilter {
    request: PacedBodies,
    response: PacedBodies,
    forgotten: Counter,
}

/// What is remembered of a request.
#[derive(Debug)]
struct PacedMessages {
    request: PacedBody,
    response: PacedBody,
}

/// A body on its way.
#[derive(Debug)]
struct PacedBody {
    /// In the order of the limits.
    paces: Vec<Arc<BytePace>>,
    /// The bytes that have passed.
    passed: u64,
    held: Duration,
}

impl PacedBodies {
    fn begin(&self, cx: &Cx<'_>, head: &Head, forgotten: &Counter) -> PacedBody {
        let pace = |limit: &BandwidthOnWorker| {
            let BandwidthKeys::Alike(keys) = &limit.keys else { return Arc::default() };
            let text = text_of(keys, &cx.view(head));
            let mut table = limit.table.lock().unwrap_or_else(PoisonError::into_inner);
            let (pace, kept) = table.entry(&text, cx.worker.now());
            if !kept {
                forgotten.increment();
            }
            pace
        };
        let paces = self.limits.iter().map(pace).collect();
        PacedBody { paces, passed: 0, held: Duration::ZERO }
    }

    /// Takes the time of a piece at every limit; the piece may go when the last of them is due.
    fn take(&self, body: &mut PacedBody, now: Moment, bytes: usize) -> Vec<BytesDue> {
        let before = body.passed;
        body.passed += bytes as u64;
        let limits = self.limits.iter().zip(&body.paces);
        let due = limits.filter_map(|(limit, pace)| {
            let beyond = body.passed - before.max(limit.after).min(body.passed);
            (beyond > 0).then(|| pace.take(limit.plan.pace, now, beyond))
        });
        due.collect()
    }

    /// Has a piece wait for its time; returns for how long the body has been held up in all, if that is now longer.
    fn pass<E: 'static>(
        &self,
        body: &mut PacedBody,
        worker: &Rc<WorkerCx>,
        bytes: usize,
    ) -> (PieceStep<Body, E>, Option<Duration>) {
        let now = worker.now();
        let due = self.take(body, now, bytes);
        let at = due.iter().map(BytesDue::at).max().unwrap_or(now);
        let wait = at.since(now);
        if !wait.is_zero() && body.held.is_zero() {
            self.held.increment();
        }
        body.held += wait;
        let go = move || due.into_iter().for_each(BytesDue::go);
        (pause::hold(Rc::clone(worker), at, go), (!wait.is_zero()).then_some(body.held))
    }

    fn access(&self) -> BodyAccess {
        if self.limits.is_empty() { BodyAccess::None } else { BodyAccess::Read }
    }
}

fn state<'c>(cx: &'c mut Cx<'_>) -> Option<&'c mut PacedMessages> {
    cx.state.as_mut()?.downcast_mut()
}

impl HttpFilter for BandwidthLimitFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        let request = self.request.begin(cx, head, &self.forgotten);
        let response = self.response.begin(cx, head, &self.forgotten);
        *cx.state = Some(Box::new(PacedMessages { request, response }));
        HeadStep::Continue
    }

    fn request_body_access(&self, _: &Cx<'_>) -> BodyAccess {
        self.request.access()
    }

    fn request_piece_max(&self, _: &Cx<'_>) -> usize {
        self.request.portion.unwrap_or(usize::MAX)
    }

    fn request_body(&self, cx: &mut Cx<'_>, body: &mut Body, _: bool) -> BodyStep {
        let worker = cx.worker;
        let Some(paced) = state(cx) else { return BodyStep::Continue };
        let (step, held) = self.request.pass(&mut paced.request, worker, body.len());
        if let Some(held) = held {
            cx.values.set(&REQUEST_HELD, held.as_millis().to_string());
        }
        step
    }

    fn response_body_access(&self, _: &Cx<'_>) -> BodyAccess {
        self.response.access()
    }

    fn response_piece_max(&self, _: &Cx<'_>) -> usize {
        self.response.portion.unwrap_or(usize::MAX)
    }

    fn response_body(&self, cx: &mut Cx<'_>, body: &mut Body, _: bool) -> ResponseBodyStep {
        let worker = cx.worker;
        let Some(paced) = state(cx) else { return ResponseBodyStep::Continue };
        let (step, held) = self.response.pass(&mut paced.response, worker, body.len());
        if let Some(held) = held {
            cx.values.set(&RESPONSE_HELD, held.as_millis().to_string());
        }
        step
    }

    fn ended(&self, cx: &mut Cx<'_>) {
        *cx.state = None;
    }
}
