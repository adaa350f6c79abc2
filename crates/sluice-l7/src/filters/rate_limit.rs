//! `rate_limit`: limits the rate of requests, in total, per client or per value of a header.
//!
//! Owns: the buckets, across all workers and reloads. Keeps: the table of clients is bounded; a client that has waited
//! long enough is let in, and none is faster than the rate.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_codec::Head;
use sluice_core::connection::Peer;
use sluice_core::settings::{Plain, bind_scalar};
use sluice_core::value::Rate;
use sluice_core::{Diags, Node, Path, Setting, Shape};
use sluice_io::WorkerCx;
use sluice_l4::filters::buckets::{Bucket, BucketTable, PerOwner, forgotten, source_of};
use sluice_telemetry::Counter;
use xxhash_rust::xxh3::xxh3_64;

use super::{CheckContext, Cx, FilterFactory, HeadStep, HttpFilter, HttpFilterPlan};
use crate::reasons;
use crate::reply::Reply;
use crate::runtime::RuntimeKind;

/// Which requests share a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateKey {
    /// All requests that the filter sees.
    All,
    /// The requests of each client: an IPv4 address or an IPv6 /64.
    SourceIp,
    /// The requests with each value of a header; requests without the header share one bucket.
    Header(String),
}

impl Setting for RateKey {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_scalar(node, at, diags, "all, source_ip or header:NAME", |text| match text {
            "all" => Ok(Self::All),
            "source_ip" => Ok(Self::SourceIp),
            _ => match text.strip_prefix("header:").map(str::trim) {
                Some(name) if sluice_codec::names::is_token(name.as_bytes()) => {
                    Ok(Self::Header(name.to_ascii_lowercase()))
                }
                _ => Err(format!("expected all, source_ip or header:NAME, not `{text}`")),
            },
        })
    }

    fn shape() -> Shape {
        Shape::Text { what: "all, source_ip or header:NAME", example: "source_ip" }
    }

    fn show(&self) -> Plain {
        Plain::Text(match self {
            Self::All => "all".into(),
            Self::SourceIp => "source_ip".into(),
            Self::Header(name) => format!("header:{name}"),
        })
    }
}

sluice_core::section! {
    /// Limits the rate of requests.
    pub struct RateLimit {
        /// The sustained rate.
        pub requests: Rate,
        /// How many requests may arrive at once; the count of the rate by default.
        pub burst: Option<u32>,
        /// Which requests share a bucket: all, source_ip or header:NAME.
        pub per: RateKey = "all",
        /// The name of a runtime value that overrides the count in `requests` if it is set, for the same period; 0
        /// refuses all requests.
        pub runtime: Option<String>,
        /// The status of the response to a refused request, from 400 to 599.
        pub status: u16 = "429",
    }
}

/// The factory; holds the buckets of every chain and rule that uses the filter.
#[derive(Debug, Default)]
pub struct RateLimitFactory {
    buckets: PerOwner<BucketTable<Bucket, u64>>,
}

impl FilterFactory<dyn HttpFilterPlan> for RateLimitFactory {
    fn name(&self) -> &'static str {
        "rate_limit"
    }

    fn help(&self) -> &'static str {
        "Limits the rate of requests: in total, per client, or per value of a header."
    }

    fn shape(&self) -> Shape {
        RateLimit::shape()
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let span = settings.span;
        let settings = context.bind::<RateLimit>(settings)?;
        if !(400..600).contains(&settings.status) {
            let at = context.at.key("status");
            context.diags.error("bad-value", span, at, "`status` must be from 400 to 599");
            return None;
        }
        Some(Arc::new(RateLimitPlan { settings, buckets: self.buckets.clone() }))
    }
}

#[derive(Debug)]
struct RateLimitPlan {
    settings: RateLimit,
    buckets: PerOwner<BucketTable<Bucket, u64>>,
}

impl HttpFilterPlan for RateLimitPlan {
    fn is_guard(&self) -> bool {
        true
    }

    fn runtime_keys(&self) -> Vec<(&str, RuntimeKind)> {
        self.settings.runtime.iter().map(|key| (key.as_str(), RuntimeKind::Number)).collect()
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(RateLimitFilter {
            settings: self.settings.clone(),
            buckets: self.buckets.of(owner, worker, BucketTable::new),
            forgotten: forgotten(worker),
        })
    }
}

#[derive(Debug)]
struct RateLimitFilter {
    settings: RateLimit,
    buckets: Arc<Mutex<BucketTable<Bucket, u64>>>,
    forgotten: Counter,
}

impl HttpFilter for RateLimitFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        let Rate { mut count, per } = self.settings.requests;
        let live = self.settings.runtime.as_deref().and_then(|key| cx.runtime.number(key));
        if let Some(live) = live {
            count = u32::try_from(live).unwrap_or(u32::MAX);
        }
        if count == 0 {
            return self.refuse(per);
        }
        let key = match &self.settings.per {
            RateKey::All => 0,
            RateKey::SourceIp => key_of(cx.summary.source),
            RateKey::Header(name) => {
                head.get_named(name.as_bytes()).map_or(0, |value| xxh3_64(value) | 1)
            }
        };
        let burst = self.settings.burst.unwrap_or(count).max(1);
        let now = cx.worker.now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let (bucket, forgot) = buckets.entry(key);
        if forgot {
            self.forgotten.increment();
        }
        if bucket.take(now, per / count, burst) {
            return HeadStep::Continue;
        }
        self.refuse(bucket.wait(now, per / count, burst))
    }
}

impl RateLimitFilter {
    /// Refuses a request and tells the client when to retry.
    fn refuse(&self, wait: Duration) -> HeadStep {
        let status = self.settings.status;
        let body = "too many requests\n";
        let reply = Reply::new(status, reasons::RATE, "local_rate_limited", body);
        HeadStep::reply(reply.with("retry-after", (wait.as_secs() + 1).to_string()))
    }
}

fn key_of(source: Peer) -> u64 {
    xxh3_64(source_of(source).to_string().as_bytes())
}
