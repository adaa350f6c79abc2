//! `concurrency_limit`: limits the requests in flight, in total or by parts of them.
//!
//! Owns: the settings, and the slots across all workers and reloads. Refuses to know: how a part of a request is read, and who
//! is next when a slot is free. Keeps: a request has its slots until it ends, however it ends; it takes those of several limits
//! in their order, so that no two requests wait for each other.

use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use sluice_codec::Head;
use sluice_core::settings::{Plain, Short, ShortForm};
use sluice_core::{Diags, Moment, Name, Node, Path, Setting, Shape, ValueDef};
use sluice_io::WorkerCx;
use sluice_io::timers::Timer;
use sluice_l4::filters::buckets::{KeyedTable, LockedTable, PerOwner, forgotten};
use sluice_telemetry::metrics::SeriesLabels;
use sluice_telemetry::{Counter, CounterSet};

use self::slots::{SlotWait, Slots, TakenSlot};
use super::rate_limit::keys::{RateKey, name_of, text_of};
use super::{
    CheckContext, Cx, FilterFactory, HeadStep, HttpFilter, HttpFilterPlan, long_form_of, pause,
};
use crate::metrics;
use crate::reasons;
use crate::reply::Reply;

mod slots;

sluice_core::values! {
    WAITED: String = "concurrency_limit.waited", "For how long the filter `concurrency_limit` had the request wait, in milliseconds.";
}

sluice_core::section! {
    /// Limits the requests in flight.
    pub struct ConcurrencyLimit {
        /// The name in records and metrics; if omitted, that of its keys.
        pub name: Option<Name>,
        /// The most requests in flight, over all workers.
        pub max: NonZeroU32,
        /// Which requests are counted together: as of `rate_limit`.
        pub per: Vec<RateKey>,
        /// Whether further requests wait until one ends, rather than being refused at once.
        pub queue: Option<Short<ConcurrencyQueue>>,
        /// The status of the response to a refused request, from 400 to 599.
        pub status: u16 = "429",
    }
}

sluice_core::section! {
    /// The requests that wait for others to end.
    pub struct ConcurrencyQueue {
        /// The most requests that wait, of those that are counted together; a further one is refused.
        pub max: NonZeroU32,
        /// How long one waits before it is refused.
        pub timeout: Duration = "1s",
    }
}

impl ShortForm for ConcurrencyQueue {
    const KEY: &'static str = "max";
}

/// One limit or several, each of which a request must keep.
#[derive(Clone, Debug)]
struct ConcurrencyLimits(Vec<ConcurrencyLimit>);

impl Setting for ConcurrencyLimits {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let all = Vec::<ConcurrencyLimit>::bind(node, at, diags)?;
        if all.is_empty() {
            diags.error("missing-field", node.span, at, "`max` is missing");
            return None;
        }
        for limit in &all {
            super::check_error_status(limit.status, node, at, diags)?;
        }
        super::check_names(all.iter().map(ConcurrencyLimit::name), node, at, diags)?;
        Some(Self(all))
    }

    fn shape() -> Shape {
        Vec::<ConcurrencyLimit>::shape()
    }

    fn show(&self) -> Plain {
        self.0.show()
    }
}

impl ConcurrencyLimit {
    fn name(&self) -> String {
        name_of(self.name.as_ref(), &self.per)
    }
}

/// The factory; holds the slots of every chain and rule that uses the filter.
#[derive(Debug, Default)]
pub struct ConcurrencyLimitFactory {
    slots: PerOwner<LockedTable<Slots>>,
}

impl FilterFactory<dyn HttpFilterPlan> for ConcurrencyLimitFactory {
    fn name(&self) -> &'static str {
        "concurrency_limit"
    }

    fn help(&self) -> &'static str {
        "Limits the requests in flight: in total, or by client, identity, header, path and so on."
    }

    fn shape(&self) -> Shape {
        ConcurrencyLimits::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<ConcurrencyLimits>(settings)
    }

    fn values(&self) -> &'static [ValueDef] {
        VALUES
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let ConcurrencyLimits(limits) = context.bind(settings)?;
        Some(Arc::new(ConcurrencyLimitPlan { limits, slots: self.slots.clone() }))
    }
}

#[derive(Debug)]
struct ConcurrencyLimitPlan {
    limits: Vec<ConcurrencyLimit>,
    slots: PerOwner<LockedTable<Slots>>,
}

impl HttpFilterPlan for ConcurrencyLimitPlan {
    fn counts_in(&self, series: &SeriesLabels<'_>) -> bool {
        series.metric == metrics::CONCURRENCY.name
            && self.limits.iter().any(|limit| series.get("limit") == Some(&*limit.name()))
    }

    fn is_guard(&self) -> bool {
        true
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter> {
        let limit = |settings: &ConcurrencyLimit| {
            let name: Arc<str> = settings.name().into();
            // A limit keeps its slots if others are added or removed.
            let owner = format!("{owner}#{name}");
            let table = self.slots.of(&owner, worker, KeyedTable::locked);
            ConcurrencyOnWorker { settings: settings.clone(), name, table }
        };
        Rc::new(ConcurrencyLimitFilter(Rc::new(ConcurrencyLimitsOnWorker {
            limits: self.limits.iter().map(limit).collect(),
            forgotten: forgotten(worker),
            counted: CounterSet::default(),
            listener: owner.split('/').next().unwrap_or_default().into(),
        })))
    }
}

/// A limit on a worker.
#[derive(Debug)]
struct ConcurrencyOnWorker {
    settings: ConcurrencyLimit,
    name: Arc<str>,
    table: Arc<LockedTable<Slots>>,
}

#[derive(Debug)]
struct ConcurrencyLimitFilter(Rc<ConcurrencyLimitsOnWorker>);

#[derive(Debug)]
struct ConcurrencyLimitsOnWorker {
    limits: Vec<ConcurrencyOnWorker>,
    forgotten: Counter,
    counted: CounterSet<(Arc<str>, &'static str)>,
    listener: Box<str>,
}

/// The slots that a request has.
#[derive(Debug, Default)]
struct SlotsHeld(Vec<TakenSlot>);

impl HttpFilter for ConcurrencyLimitFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        // A guard that judges the request once more counts it once.
        *cx.state = None;
        self.0.enter(SlotsHeld::default(), cx, head)
    }

    fn ended(&self, cx: &mut Cx<'_>) {
        *cx.state = None;
    }
}

impl ConcurrencyLimitsOnWorker {
    /// Takes a slot of each limit but those of which the request has one.
    fn enter(self: &Rc<Self>, mut held: SlotsHeld, cx: &mut Cx<'_>, head: &Head) -> HeadStep {
        while let Some(limit) = self.limits.get(held.0.len()) {
            let slots = limit.slots_of(cx, head, &self.forgotten);
            if let Some(slot) = slots.take(limit.settings.max.get()) {
                held.0.push(slot);
                continue;
            }
            let queue = limit.settings.queue.as_deref();
            let Some((queue, wait)) =
                queue.and_then(|queue| Some((queue, slots.wait(queue.max.get())?)))
            else {
                self.count(cx, limit, "refused");
                return limit.refuse("full");
            };
            self.count(cx, limit, "queued");
            let began = cx.worker.now();
            let queued = Queued { held, wait, began, until: began.after(queue.timeout) };
            return Rc::clone(self).wait(queued, cx.worker);
        }
        *cx.state = Some(Box::new(held));
        HeadStep::Continue
    }

    /// Waits for the slot of the next limit.
    fn wait(self: Rc<Self>, mut queued: Queued, worker: &Rc<WorkerCx>) -> HeadStep {
        let worker = Rc::clone(worker);
        let by = queued.until.min(worker.now().after(pause::slice_of(&worker)));
        HeadStep::wait(async move {
            let slot = Timer::new(&worker.timers).until(by, &mut queued.wait).await;
            move |cx: &mut Cx<'_>, head: &mut Head| {
                let now = cx.worker.now();
                match slot {
                    Ok(slot) => {
                        note_wait(cx, now.since(queued.began));
                        queued.held.0.push(slot);
                        self.enter(queued.held, cx, head)
                    }
                    Err(_) if now < queued.until => self.wait(queued, cx.worker),
                    Err(_) => {
                        note_wait(cx, now.since(queued.began));
                        let limit = &self.limits[queued.held.0.len()];
                        self.count(cx, limit, "timeout");
                        limit.refuse("timeout")
                    }
                }
            }
        })
    }

    fn count(&self, cx: &Cx<'_>, limit: &ConcurrencyOnWorker, result: &'static str) {
        self.counted.count(&(Arc::clone(&limit.name), result), |(name, result)| {
            cx.worker.shard.counter(&metrics::CONCURRENCY, &[&self.listener, name, result])
        });
    }
}

/// A request that waits for a slot of the next limit.
struct Queued {
    held: SlotsHeld,
    wait: SlotWait,
    began: Moment,
    until: Moment,
}

/// Adds to the time that a request has waited.
fn note_wait(cx: &mut Cx<'_>, time: Duration) {
    let before = cx.values.get(&WAITED).and_then(|text| text.parse::<u128>().ok()).unwrap_or(0);
    cx.values.set(&WAITED, (before + time.as_millis()).to_string());
}

impl ConcurrencyOnWorker {
    fn slots_of(&self, cx: &Cx<'_>, head: &Head, forgotten: &Counter) -> Arc<Slots> {
        let text = text_of(&self.settings.per, &cx.view(head));
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let (slots, kept) = table.entry(&text, cx.worker.now());
        if !kept {
            forgotten.increment();
        }
        slots
    }

    fn refuse(&self, why: &str) -> HeadStep {
        let details = format!("concurrency_limited[{}, {why}]", self.name);
        let body = "too many requests at once\n";
        HeadStep::reply(Reply::new(self.settings.status, reasons::CONCURRENCY, details, body))
    }
}
