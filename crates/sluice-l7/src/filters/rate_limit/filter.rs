//! The filter on a worker: counts a request for each limit, and refuses it.
//!
//! Owns: the order of limits, buckets of this process, the refusal. Refuses to know: how Redis counts. Keeps: limits of this
//! process are asked first, so that a request that they refuse costs the fleet nothing; those in Redis are asked all at once.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_codec::Head;
use sluice_core::value::Rate;
use sluice_core::{Moment, Reason};
use sluice_io::WorkerCx;
use sluice_l4::filters::buckets::{LockedRates, PerOwner, RateTable, forgotten};
use sluice_telemetry::{Counter, CounterSet};

use super::fields::{RateFields, seconds};
use super::keys::{KeyText, text_of};
use super::shared::{FleetAnswer, SharedCounter, all_of};
use super::{Counted, FALLBACK, RateLimit, RateWindow, SHADOWED, WithoutDecision};
use crate::filters::{Cx, HeadStep, HttpFilter, ResponseStep};
use crate::metrics;
use crate::reasons;
use crate::reply::Reply;
use crate::side_calls::redis::line::RedisServer;

/// A limit on a worker.
#[derive(Debug)]
struct LimitOnWorker {
    settings: RateLimit,
    name: Arc<str>,
    buckets: Arc<Mutex<RateTable<u128>>>,
    /// The count of the fleet.
    shared: Option<SharedCounter>,
}

#[derive(Debug)]
pub(super) struct RateLimitFilter(Rc<LimitsOnWorker>);

#[derive(Debug)]
struct LimitsOnWorker {
    limits: Vec<LimitOnWorker>,
    forgotten: Counter,
    shadowed: CounterSet<Arc<str>>,
    listener: Box<str>,
}

impl RateLimitFilter {
    pub(super) fn new(
        limits: &[(RateLimit, Option<RedisServer>)],
        buckets: &PerOwner<LockedRates<u128>>,
        worker: &Rc<WorkerCx>,
        owner: &str,
    ) -> Self {
        let limit = |(settings, server): &(RateLimit, Option<RedisServer>)| {
            let name: Arc<str> = settings.name().into();
            let shared = server
                .as_ref()
                .map(|server| SharedCounter::new(server, settings, &name, owner, worker));
            // A limit keeps its buckets if others are added or removed.
            let owner = format!("{owner}#{name}");
            let buckets = buckets.of(&owner, worker, RateTable::locked);
            LimitOnWorker { settings: settings.clone(), name, buckets, shared }
        };
        Self(Rc::new(LimitsOnWorker {
            limits: limits.iter().map(limit).collect(),
            forgotten: forgotten(worker),
            shadowed: CounterSet::default(),
            listener: owner.split('/').next().unwrap_or_default().into(),
        }))
    }
}

impl HttpFilter for RateLimitFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        let mut fields = RateFields::default();
        let own = self.0.limits.iter().filter(|limit| limit.shared.is_none());
        for limit in own {
            let count = limit.count(cx);
            let counted = self.0.count_here(limit, count, cx, head);
            if let Some(reply) = self.0.judge(limit, count, counted, cx, &mut fields) {
                return HeadStep::reply(reply);
            }
        }
        let asked: Vec<_> = self.0.limits.iter().filter_map(|limit| limit.ask(cx, head)).collect();
        if asked.is_empty() {
            keep(fields, cx);
            return HeadStep::Continue;
        }
        let limits = Rc::clone(&self.0);
        HeadStep::wait(async move {
            let answers = all_of(asked).await;
            move |cx: &mut Cx<'_>, head: &mut Head| {
                let shared = limits.limits.iter().filter(|limit| limit.shared.is_some());
                for (limit, answer) in shared.zip(answers) {
                    let count = limit.count(cx);
                    let counted = match answer {
                        Ok(counted) => counted,
                        Err(why) => {
                            cx.values.set(&FALLBACK, Arc::clone(&limit.name));
                            match limit.without_decision() {
                                WithoutDecision::Local => limits.count_here(limit, count, cx, head),
                                WithoutDecision::Allow => continue,
                                WithoutDecision::Deny => return HeadStep::reply(undecided(why)),
                            }
                        }
                    };
                    if let Some(reply) = limits.judge(limit, count, counted, cx, &mut fields) {
                        return HeadStep::reply(reply);
                    }
                }
                keep(fields, cx);
                HeadStep::Continue
            }
        })
    }

    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        let fields = cx.state.as_ref().and_then(|state| state.downcast_ref::<RateFields>());
        if let Some(fields) = fields {
            for (name, value) in fields.headers() {
                head.append(name.as_bytes(), value.as_bytes());
            }
        }
        ResponseStep::Continue
    }
}

/// Keeps what the response is to say.
fn keep(fields: RateFields, cx: &mut Cx<'_>) {
    if !fields.is_empty() {
        *cx.state = Some(Box::new(fields));
    }
}

/// The reply to a request that is not let through because Redis did not decide.
fn undecided(why: Reason) -> Reply {
    Reply::new(503, why, "rate_limit_error", "no decision about rate limits\n")
}

impl LimitsOnWorker {
    /// Counts a request in this process.
    fn count_here(&self, limit: &LimitOnWorker, count: u32, cx: &Cx<'_>, head: &Head) -> Counted {
        let settings = &limit.settings;
        let per = settings.requests.per;
        if count == 0 {
            return Counted { excess: Some(per), left: 0, reset: per };
        }
        let text = limit.key(cx, head);
        let clock = limit.clock(cx.worker);
        let mut buckets = limit.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if text.is_empty() { 0 } else { buckets.number_of(&text) };
        let burst = limit.burst(count);
        let (counted, forgot) = clock.count(&mut buckets, key, (per / count, burst));
        if forgot {
            self.forgotten.increment();
        }
        counted
    }

    /// What becomes of a request that was counted; returns the reply if it is refused.
    fn judge(
        &self,
        limit: &LimitOnWorker,
        count: u32,
        counted: Counted,
        cx: &mut Cx<'_>,
        fields: &mut RateFields,
    ) -> Option<Reply> {
        let settings = &limit.settings;
        if settings.fields && count > 0 {
            let burst = limit.burst(count);
            let window = seconds((settings.requests.per / count).saturating_mul(burst)).max(1);
            let left = (counted.left, seconds(counted.reset));
            fields.put(&limit.name, (burst, window), left);
        }
        let wait = counted.excess?;
        if cx.worker.random_below(100) < usize::from(settings.enforce.0) {
            return Some(limit.refusal(wait, fields));
        }
        cx.values.set(&SHADOWED, Arc::clone(&limit.name));
        self.shadowed.count(&limit.name, |name| {
            cx.worker.shard.counter(&metrics::RATE_SHADOWED, &[&self.listener, name])
        });
        None
    }
}

impl LimitOnWorker {
    /// How many requests the period allows now.
    fn count(&self, cx: &Cx<'_>) -> u32 {
        let Rate { count, .. } = self.settings.requests;
        let live = self.settings.runtime.as_deref().and_then(|key| cx.runtime.number(key));
        live.map_or(count, |live| u32::try_from(live).unwrap_or(u32::MAX))
    }

    fn burst(&self, count: u32) -> u32 {
        self.settings.burst.unwrap_or(count).max(1)
    }

    /// What the request has in common with others that share its bucket; empty if all do.
    fn key(&self, cx: &Cx<'_>, head: &Head) -> KeyText {
        text_of(&self.settings.per, &cx.view(head))
    }

    fn clock(&self, worker: &WorkerCx) -> BucketClock {
        let now = worker.now();
        match self.settings.window {
            RateWindow::Sliding => BucketClock::Sliding(now),
            RateWindow::Aligned => {
                BucketClock::aligned(worker.clock.wall(now), self.settings.requests.per)
            }
        }
    }

    /// Asks the fleet, if the limit is shared.
    fn ask(&self, cx: &mut Cx<'_>, head: &Head) -> Option<FleetAnswer> {
        let shared = self.shared.as_ref()?;
        let (count, key) = (self.count(cx), self.key(cx, head));
        Some(shared.ask(&cx.side_calls(), cx.worker.now(), count, &key))
    }

    fn without_decision(&self) -> WithoutDecision {
        self.settings.redis.as_ref().map_or(WithoutDecision::Local, |redis| redis.on_error)
    }

    /// Refuses a request and tells the client when to retry.
    fn refusal(&self, wait: Duration, fields: &RateFields) -> Reply {
        let status = self.settings.status;
        let details =
            if self.shared.is_some() { "request_rate_limited" } else { "local_rate_limited" };
        let reply = Reply::new(status, reasons::RATE, details, "too many requests\n");
        let reply = reply.with("retry-after", (wait.as_secs() + 1).to_string());
        fields.headers().into_iter().fold(reply, |reply, (name, value)| reply.with(name, value))
    }
}

/// The time by which a bucket is counted.
#[derive(Clone, Copy, Debug)]
enum BucketClock {
    /// As it goes.
    Sliding(Moment),
    /// As of the beginning of the window, by wall time: a bucket that was full then loses a token per request and gains
    /// none before the next window.
    Aligned { start: Moment, ends_in: Duration },
}

impl BucketClock {
    fn aligned(wall: Duration, window: Duration) -> Self {
        let passed = wall.as_micros() % window.as_micros().max(1);
        let passed = Duration::from_micros(u64::try_from(passed).unwrap_or(0));
        let start = wall.saturating_sub(passed).as_micros();
        let start = Moment::from_micros(u64::try_from(start).unwrap_or(u64::MAX));
        Self::Aligned { start, ends_in: window.saturating_sub(passed) }
    }

    /// Counts a request; returns also whether other keys were forgotten.
    fn count(
        self,
        buckets: &mut RateTable<u128>,
        key: u128,
        (every, burst): (Duration, u32),
    ) -> (Counted, bool) {
        let (now, ends_in) = match self {
            Self::Sliding(now) => (now, None),
            Self::Aligned { start, ends_in } => (start, Some(ends_in)),
        };
        let (bucket, taken, forgot) = buckets.take(key, now, every, burst);
        let wait = ends_in.unwrap_or_else(|| bucket.wait(now, every, burst));
        let counted = Counted {
            excess: (!taken).then_some(wait),
            left: bucket.left(now, every, burst),
            reset: ends_in.unwrap_or_else(|| bucket.full_at().since(now)),
        };
        (counted, forgot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aligned_window_ends_at_midnight_and_not_before() {
        let day = Duration::from_secs(86_400);
        let mut buckets = RateTable::new(100);
        let mut passed = |wall: Duration, tries: u32| {
            let clock = BucketClock::aligned(wall, day);
            let count = |_: &u32| clock.count(&mut buckets, 7, (day / 10, 10)).0.excess.is_none();
            (0..tries).filter(count).count()
        };
        let evening = day * 20_000 + day * 23 / 24;
        assert_eq!(passed(evening, 7), 7);
        assert_eq!(passed(evening + day / 48, 7), 3);
        assert_eq!(passed(day * 20_001 - Duration::from_micros(1), 7), 0);
        assert_eq!(passed(day * 20_001, 20), 10);
        assert_eq!(passed(day * 20_003 + day / 2, 20), 10);
        let clock = BucketClock::aligned(evening, day);
        let (counted, _) = clock.count(&mut buckets, 8, (day / 10, 10));
        assert_eq!((counted.left, counted.reset), (9, day / 24));
    }

    #[test]
    fn aligned_windows_count_as_a_plain_counter_does() {
        let mut random = fastrand::Rng::with_seed(3);
        for (window, limit) in [(1_u64, 3_u32), (60, 7), (3600, 1000)] {
            let (window, mut wall) = (Duration::from_secs(window), Duration::from_secs(1_000_000));
            let mut buckets = RateTable::new(100);
            let (mut index, mut used) = (0, 0);
            for step in 0..20_000 {
                wall += window.mul_f64(random.f64() * 2.0 / f64::from(limit));
                let now = wall.as_micros() / window.as_micros();
                if now != index {
                    (index, used) = (now, 0);
                }
                let (counted, _) = BucketClock::aligned(wall, window).count(
                    &mut buckets,
                    1,
                    (window / limit, limit),
                );
                let expected = used < limit;
                used += u32::from(expected);
                assert_eq!(counted.excess.is_none(), expected, "step {step} of {window:?}");
                assert_eq!(counted.left, limit - used, "step {step} of {window:?}");
            }
        }
    }
}
