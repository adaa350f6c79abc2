//! `rate_limit`: limits the rate of requests, in total or by parts of them.
//!
//! Owns: the settings, and the buckets across all workers and reloads. Refuses to know: how a part of a request is read.
//! Keeps: the table of buckets is bounded, and no flood of other requests gives a client back what it has used; a client
//! that has waited long enough is let in, and none is faster than the rate.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::settings::{Plain, Short, ShortForm};
use sluice_core::value::{Percent, Rate};
use sluice_core::{Diags, Name, Node, Path, SecretSource, Setting, Shape, Spanned, ValueDef};
use sluice_io::WorkerCx;
use sluice_l4::filters::buckets::{LockedRates, PerOwner};
use sluice_telemetry::metrics::SeriesLabels;

use self::filter::RateLimitFilter;
use self::keys::{RateKey, name_of};
use super::{CheckContext, FilterFactory, HttpFilter, HttpFilterPlan, long_form_of};
use crate::metrics;
use crate::runtime::RuntimeKind;
use crate::side_calls::redis::line::RedisServer;

pub(super) mod fields;
mod filter;
pub mod keys;
mod shared;

sluice_core::values! {
    SHADOWED: Arc<str> = "rate_limit.shadow", "The limit of the filter `rate_limit` that the request exceeds, and that is not enforced for it.";
    FALLBACK: Arc<str> = "rate_limit.fallback", "The limit of the filter `rate_limit` that is counted in Redis and could not be asked about this request.";
}

sluice_core::choice! {
    /// When what was counted is forgotten.
    pub enum RateWindow {
        /// Bit by bit.
        Sliding = "sliding",
        /// All of it at each full second, minute, hour or day (UTC): a quota.
        Aligned = "aligned",
    }
}

sluice_core::choice! {
    /// What becomes of what a counter of a fleet does not decide about: it cannot be reached, is late, or fails.
    pub enum WithoutDecision {
        /// It passes.
        Allow = "allow",
        /// It is refused.
        Deny = "deny",
        /// It is counted in this process.
        Local = "local",
    }
}

sluice_core::section! {
    /// Limits the rate of requests.
    pub struct RateLimit {
        /// The name in records and fields; if omitted, that of its keys.
        pub name: Option<Name>,
        /// The sustained rate.
        pub requests: Rate,
        /// How many requests may arrive at once; the count of the rate by default.
        pub burst: Option<u32>,
        /// When what was counted is forgotten.
        pub window: RateWindow = "sliding",
        /// Which requests share a bucket: all, source_ip, source_ip/BITS, identity, header:NAME, cookie:NAME, query:NAME,
        /// value:NAME, cel:EXPRESSION, path, path/SEGMENTS, host, method, route or cluster; of a list, those that are alike in all.
        pub per: Vec<RateKey>,
        /// The Redis server that counts for a whole fleet.
        pub redis: Option<Short<RedisCounter>>,
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

sluice_core::section! {
    /// A Redis server that counts.
    pub struct RedisCounter {
        /// The cluster of the server.
        pub cluster: Spanned<Name>,
        /// The user, if it is not the default one.
        pub user: Option<String>,
        /// The password.
        pub password: Option<SecretSource>,
        /// What the keys begin with.
        pub prefix: String = "sluice",
        /// The time for the reply.
        pub timeout: Duration = "20ms",
        /// What becomes of a request that the server does not decide about: `local` counts it in this process, at the same
        /// rate.
        pub on_error: WithoutDecision = "local",
    }
}

impl ShortForm for RedisCounter {
    const KEY: &'static str = "cluster";
}

/// What became of a request at a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    /// How long the request would have to wait, if it exceeds the limit.
    excess: Option<Duration>,
    /// How many more requests may follow at once.
    left: u32,
    /// After how long nothing counts any more.
    reset: Duration,
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
        for limit in &all {
            super::check_error_status(limit.status, node, at, diags)?;
        }
        if let Some((key, message)) = all.iter().find_map(RateLimit::mistake) {
            diags.error("bad-value", node.span, at.key(key), message);
            return None;
        }
        super::check_names(all.iter().map(RateLimit::name), node, at, diags)?;
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
    fn mistake(&self) -> Option<(&'static str, &'static str)> {
        let aligned = self.window == RateWindow::Aligned;
        if self.burst.is_some() && aligned {
            return Some((
                "burst",
                "`burst` has no effect on a window that is aligned: all of it may be used at once",
            ));
        }
        if self.burst.is_some() && self.redis.is_some() {
            return Some((
                "burst",
                "`burst` has no effect on a limit in Redis, where all of a window may be used at once",
            ));
        }
        let redis = self.redis.as_ref()?;
        let nameless = redis.user.is_some() && redis.password.is_none();
        nameless.then_some(("redis", "`user` needs the `password`"))
    }

    fn name(&self) -> String {
        name_of(self.name.as_ref(), &self.per)
    }
}

/// The factory; holds the buckets of every chain and rule that uses the filter.
#[derive(Debug, Default)]
pub struct RateLimitFactory {
    buckets: PerOwner<LockedRates<u128>>,
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

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<RateLimits>(settings)
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
        let with_servers = limits.into_iter().map(|limit| {
            let server = match limit.redis.as_deref() {
                Some(redis) => Some(server(redis, context)?),
                None => None,
            };
            Some((limit, server))
        });
        let limits = with_servers.collect::<Option<_>>()?;
        Some(Arc::new(RateLimitPlan { limits, buckets: self.buckets.clone() }))
    }
}

/// The server that a limit is counted at.
fn server(settings: &RedisCounter, context: &mut CheckContext<'_>) -> Option<RedisServer> {
    let at = context.at.key("redis");
    let mut context = context.within(&at);
    let cluster = context.cluster(&settings.cluster, "cluster")?;
    let password = match &settings.password {
        Some(source) => Some(context.secret(source, "password")?),
        None => None,
    };
    Some(RedisServer { cluster, user: settings.user.clone(), password })
}

#[derive(Debug)]
struct RateLimitPlan {
    limits: Vec<(RateLimit, Option<RedisServer>)>,
    buckets: PerOwner<LockedRates<u128>>,
}

impl HttpFilterPlan for RateLimitPlan {
    fn counts_in(&self, series: &SeriesLabels<'_>) -> bool {
        series.metric == metrics::RATE_SHADOWED.name
            && self.limits.iter().any(|(limit, _)| series.get("limit") == Some(&*limit.name()))
    }

    fn is_guard(&self) -> bool {
        true
    }

    fn runtime_keys(&self) -> Vec<(&str, RuntimeKind)> {
        let keys = self.limits.iter().filter_map(|(limit, _)| limit.runtime.as_deref());
        keys.map(|key| (key, RuntimeKind::Number)).collect()
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(RateLimitFilter::new(&self.limits, &self.buckets, worker, owner))
    }
}
