//! `rate_limit`: limits the rate of requests, in total or by parts of them.
//!
//! Owns: the buckets, across all workers and reloads. Refuses to know: how a part of a request is read. Keeps: the table of
//! buckets is bounded, and no flood of other requests gives a client back what it has used; a client that has waited long
//! enough is let in, and none is faster than the rate.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_codec::Head;
use sluice_core::settings::Plain;
use sluice_core::value::{Percent, Rate};
use sluice_core::{Diags, Node, Path, Setting, Shape, ValueDef};
use sluice_io::WorkerCx;
use sluice_l4::filters::buckets::{PerOwner, RateTable, forgotten};
use sluice_telemetry::metrics::SeriesLabels;
use sluice_telemetry::{Counter, CounterSet};

use self::fields::RateFields;
use self::keys::RateKey;
use super::{CheckContext, Cx, FilterFactory, HeadStep, HttpFilter, HttpFilterPlan, ResponseStep};
use crate::metrics;
use crate::reasons;
use crate::reply::Reply;
use crate::runtime::RuntimeKind;

pub(super) mod fields;
pub mod keys;

sluice_core::values! {
    SHADOWED: Arc<str> = "rate_limit.shadow", "The limit of the filter `rate_limit` that the request exceeds, and that is not enforced for it.";
}

sluice_core::section! {
    /// Limits the rate of requests.
    pub struct RateLimit {
        /// The name in records and fields; if omitted, that of its keys.
        pub name: Option<sluice_core::Name>,
        /// The sustained rate.
        pub requests: Rate,
        /// How many requests may arrive at once; the count of the rate by default.
        pub burst: Option<u32>,
        /// Which requests share a bucket: all, source_ip, source_ip/BITS, identity, header:NAME, cookie:NAME, query:NAME,
        /// value:NAME, path, path/SEGMENTS, host, method, route or cluster; of a list, those that are alike in all.
        pub per: Vec<RateKey>,
        /// The share of the requests beyond the rate that is refused; the others are recorded and counted.
        pub enforce: Percent = "100%",
        /// Whether responses say how much is left, in the headers of the IETF draft: `RateLimit` and `RateLimit-Policy`.
        pub fields: bool = "false",
        /// The name of a runtime value that overrides the count in `requests` if it is set, for the same period; 0
        /// refuses all requests.
        pub runtime: Option<String>,
        /// The status of the response to a refused request, from 400 to 599.
        pub status: u16 = "429",
    }
}

/// One limit or several, each of which a request must keep.
#[derive(Clone, Debug)]
struct RateLimits(Vec<RateLimit>);

impl Setting for RateLimits {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let all = Vec::<RateLimit>::bind(node, at, diags)?;
        if all.is_empty() {
            diags.error("missing-field", node.span, at, "`requests` is missing");
            return None;
        }
        if all.iter().any(|limit| !(400..600).contains(&limit.status)) {
            let at = at.key("status");
            diags.error("bad-value", node.span, at, "`status` must be from 400 to 599");
            return None;
        }
        let mut names: Vec<String> = all.iter().map(RateLimit::name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let message = format!("two limits are called `{}`", twice[0]);
            diags.error("duplicate-name", node.span, at, message).help("give each a `name`");
            return None;
        }
        Some(Self(all))
    }

    fn shape() -> Shape {
        Vec::<RateLimit>::shape()
    }

    fn show(&self) -> Plain {
        self.0.show()
    }
}

impl RateLimit {
    fn name(&self) -> String {
        if let Some(name) = &self.name {
            return name.to_string();
        }
        match self.per.as_slice() {
            [] => "all".into(),
            keys => keys.iter().map(ToString::to_string).collect::<Vec<_>>().join("+"),
        }
    }
}

/// The factory; holds the buckets of every chain and rule that uses the filter.
#[derive(Debug, Default)]
pub struct RateLimitFactory {
    buckets: PerOwner<RateTable<u128>>,
}

impl FilterFactory<dyn HttpFilterPlan> for RateLimitFactory {
    fn name(&self) -> &'static str {
        "rate_limit"
    }

    fn help(&self) -> &'static str {
        "Limits the rate of requests: in total, or by client, identity, header, cookie, path and so on."
    }

    fn shape(&self) -> Shape {
        RateLimits::shape()
    }

    fn values(&self) -> &'static [ValueDef] {
        VALUES
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let RateLimits(limits) = context.bind(settings)?;
        Some(Arc::new(RateLimitPlan { limits, buckets: self.buckets.clone() }))
    }
}

#[derive(Debug)]
struct RateLimitPlan {
    limits: Vec<RateLimit>,
    buckets: PerOwner<RateTable<u128>>,
}

impl HttpFilterPlan for RateLimitPlan {
    fn counts_in(&self, series: &SeriesLabels<'_>) -> bool {
        series.metric == metrics::RATE_SHADOWED.name
            && self.limits.iter().any(|limit| series.get("limit") == Some(&*limit.name()))
    }

    fn is_guard(&self) -> bool {
        true
    }

    fn runtime_keys(&self) -> Vec<(&str, RuntimeKind)> {
        let keys = self.limits.iter().filter_map(|limit| limit.runtime.as_deref());
        keys.map(|key| (key, RuntimeKind::Number)).collect()
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter> {
        let limit = |settings: &RateLimit| {
            let name: Arc<str> = settings.name().into();
            // A limit keeps its buckets if others are added or removed.
            let owner = format!("{owner}#{name}");
            let buckets = self.buckets.of(&owner, worker, RateTable::new);
            LimitOnWorker { settings: settings.clone(), name, buckets }
        };
        Rc::new(RateLimitFilter {
            limits: self.limits.iter().map(limit).collect(),
            forgotten: forgotten(worker),
            shadowed: CounterSet::default(),
            listener: owner.split('/').next().unwrap_or_default().into(),
        })
    }
}

#[derive(Debug)]
struct LimitOnWorker {
    settings: RateLimit,
    name: Arc<str>,
    buckets: Arc<Mutex<RateTable<u128>>>,
}

#[derive(Debug)]
struct RateLimitFilter {
    limits: Vec<LimitOnWorker>,
    forgotten: Counter,
    shadowed: CounterSet<Arc<str>>,
    listener: Box<str>,
}

impl HttpFilter for RateLimitFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        let mut fields = RateFields::default();
        for limit in &self.limits {
            let Some(wait) = self.excess(limit, cx, head, &mut fields) else { continue };
            if cx.worker.random_below(100) < usize::from(limit.settings.enforce.0) {
                return HeadStep::reply(limit.refusal(wait, fields));
            }
            cx.values.set(&SHADOWED, Arc::clone(&limit.name));
            self.shadowed.count(&limit.name, |name| {
                cx.worker.shard.counter(&metrics::RATE_SHADOWED, &[&self.listener, name])
            });
        }
        if !fields.is_empty() {
            *cx.state = Some(Box::new(fields));
        }
        HeadStep::Continue
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

impl RateLimitFilter {
    /// Counts a request; returns how long it would have to wait if it exceeds the limit.
    fn excess(
        &self,
        limit: &LimitOnWorker,
        cx: &Cx<'_>,
        head: &Head,
        fields: &mut RateFields,
    ) -> Option<Duration> {
        let settings = &limit.settings;
        let Rate { mut count, per } = settings.requests;
        if let Some(live) = settings.runtime.as_deref().and_then(|key| cx.runtime.number(key)) {
            count = u32::try_from(live).unwrap_or(u32::MAX);
        }
        if count == 0 {
            return Some(per);
        }
        let (every, burst) = (per / count, settings.burst.unwrap_or(count).max(1));
        let mut text = Vec::new();
        settings.per.iter().for_each(|key| key.append(cx, head, &mut text));
        let now = cx.worker.now();
        let mut buckets = limit.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if text.is_empty() { 0 } else { buckets.number_of(&text) };
        let (bucket, taken, forgot) = buckets.take(key, now, every, burst);
        if forgot {
            self.forgotten.increment();
        }
        if settings.fields {
            fields.add(&limit.name, bucket, now, every, burst);
        }
        (!taken).then(|| bucket.wait(now, every, burst))
    }
}

impl LimitOnWorker {
    /// Refuses a request and tells the client when to retry.
    fn refusal(&self, wait: Duration, fields: RateFields) -> Reply {
        let status = self.settings.status;
        let body = "too many requests\n";
        let reply = Reply::new(status, reasons::RATE, "local_rate_limited", body);
        let reply = reply.with("retry-after", (wait.as_secs() + 1).to_string());
        fields.headers().into_iter().fold(reply, |reply, (name, value)| reply.with(name, value))
    }
}
