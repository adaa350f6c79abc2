//! `global_rate_limit`: asks a service that counts for a whole fleet whether a request is within its limits.
//!
//! Owns: the settings, and how those of rules go with those of the chain. Refuses to know: limits, which the service has.
//! Keeps: a request waits for the service no longer than the time-out; the default lets it pass then, since a limit that
//! is not known protects nobody.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::settings::Short;
use sluice_core::value::Rate;
use sluice_core::values::ValueFamily;
use sluice_core::{Name, Node, Plain, Setting, Shape, Span, Spanned, ValueDef};
use sluice_io::WorkerCx;
use sluice_l4::filters::buckets::{LockedRates, PerOwner};
use sluice_telemetry::CounterSet;

use self::descriptors::RateDescriptor;
use self::filter::{Asking, GlobalRateFilter};
use self::service::{LocalBuckets, RateService};
use super::rate_limit::WithoutDecision;
use super::{CheckContext, FilterFactory, FilterOwner, HttpFilter, HttpFilterPlan, long_form_of};

mod answer;
pub(crate) mod descriptors;
mod filter;
pub(crate) mod messages;
pub(crate) mod service;
#[cfg(test)]
mod tests;

sluice_core::values! {
    DECISION: &'static str = "global_rate_limit.decision", "What the service of the filter `global_rate_limit` decided: `allowed` or `limited`; `failed` if it did not.";
    METADATA: ValueFamily = "global_rate_limit.metadata.*", "What the service of the filter `global_rate_limit` tells of the request (dynamic metadata), by the names in it.";
}

sluice_core::section! {
    /// Asks a service for rate limits, over gRPC (`envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`).
    pub struct GlobalRateLimit {
        /// The cluster of the service. In a rule or virtual host, settings without it are about the same service as those of
        /// the chain, and replace its descriptors.
        pub service: Option<Spanned<Name>>,
        /// What the service calls this set of limits.
        pub domain: Option<String>,
        /// What the service counts; a request is asked about with all of those that it has. One without any is not.
        pub descriptors: Vec<Short<RateDescriptor>>,
        /// Whether the descriptors of a rule or virtual host add to those around it, in place of replacing them.
        pub add: bool = "false",
        /// The time for the answer.
        pub timeout: Duration = "20ms",
        /// What becomes of requests that the service does not decide about.
        pub on_error: WithoutDecision = "allow",
        /// With `on_error: local`, the rate that each descriptor has in this process meanwhile.
        pub local: Option<Rate>,
        /// The status of the response to a request that is refused because there is no decision, from 400 to 599.
        pub error_status: u16 = "500",
        /// The status of the response to a request beyond a limit, from 400 to 599.
        pub status: u16 = "429",
        /// Whether responses say how much is left, in the headers of the IETF draft: `RateLimit` and `RateLimit-Policy`.
        pub fields: bool = "false",
        /// Whether responses to requests beyond a limit have the header `x-envoy-ratelimited: true`.
        pub envoy_header: bool = "false",
    }
}

/// The factory; holds the buckets that stand in for the services.
#[derive(Debug, Default)]
pub struct GlobalRateLimitFactory {
    buckets: PerOwner<LockedRates<u128>>,
}

impl FilterFactory<dyn HttpFilterPlan> for GlobalRateLimitFactory {
    fn name(&self) -> &'static str {
        "global_rate_limit"
    }

    fn help(&self) -> &'static str {
        "Asks a service that counts for a whole fleet whether a request is within its limits."
    }

    fn shape(&self) -> Shape {
        GlobalRateLimit::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<GlobalRateLimit>(settings)
    }

    fn values(&self) -> &'static [ValueDef] {
        VALUES
    }

    fn check(
        &self,
        node: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let settings = context.bind::<GlobalRateLimit>(node)?;
        if let Some((key, message)) = settings.mistake(node, context.owner) {
            let (span, at) = match key {
                "" => (Some(node.span), None),
                key => (span_of(node, key), Some(context.at.key(key))),
            };
            let at = at.as_ref().unwrap_or(context.at);
            context.diags.error("bad-value", span.unwrap_or(node.span), at, message);
            return None;
        }
        let service = match &settings.service {
            Some(name) => Some(context.cluster(name, "service")?),
            None => None,
        };
        let GlobalRateLimit { domain, timeout, on_error, local, .. } = &settings;
        let service = service.map(|cluster| {
            Arc::new(HttpRateService {
                service: RateService {
                    cluster,
                    domain: domain.clone().unwrap_or_default(),
                    timeout: *timeout,
                    on_error: *on_error,
                    local: *local,
                },
                error_status: settings.error_status,
                status: settings.status,
                fields: settings.fields,
                envoy_header: settings.envoy_header,
            })
        });
        Some(Arc::new(GlobalRatePlan {
            service,
            descriptors: settings.descriptors.iter().map(|one| Arc::new(one.0.clone())).collect(),
            add: settings.add,
            buckets: self.buckets.clone(),
        }))
    }
}

fn span_of(node: &Node, key: &str) -> Option<Span> {
    let mut entries = node.entries().unwrap_or_default().iter();
    entries.find(|entry| &*entry.key == key).map(|entry| entry.key_span)
}

impl GlobalRateLimit {
    /// The first mistake: the field, and what is wrong.
    fn mistake(&self, node: &Node, owner: FilterOwner<'_>) -> Option<(&'static str, &'static str)> {
        let of_routes = matches!(owner, FilterOwner::Routes(_));
        if self.service.is_none() && !of_routes {
            return Some(("", "`global_rate_limit` needs the cluster of the `service`"));
        }
        if self.service.is_none() {
            let written = |key: &&str| span_of(node, key).is_some();
            let others = ["domain", "timeout", "on_error", "local", "error_status", "status"];
            let mut others = others.into_iter().chain(["fields", "envoy_header"]);
            if let Some(key) = others.find(written) {
                return Some((
                    key,
                    "without a `service`, the settings of a rule have only `descriptors` and `add`",
                ));
            }
            if self.descriptors.is_empty() {
                return Some((
                    "",
                    "`descriptors` are missing; write `skip` for a rule without limits",
                ));
            }
        }
        if self.service.is_some() && self.domain.as_ref().is_none_or(String::is_empty) {
            return Some((
                "",
                "`global_rate_limit` needs the `domain` that the service has limits for",
            ));
        }
        if self.add && (self.service.is_some() || !of_routes) {
            return Some(("add", "`add` is for rules without a `service` of their own"));
        }
        if let Some(mistake) = self.descriptors.iter().find_map(|one| one.mistake()) {
            return Some(("descriptors", mistake));
        }
        match (self.on_error, self.local) {
            (WithoutDecision::Local, None) => {
                return Some(("on_error", "`on_error: local` needs the rate in `local`"));
            }
            (WithoutDecision::Allow | WithoutDecision::Deny, Some(_)) => {
                return Some(("local", "`local` has an effect only with `on_error: local`"));
            }
            _ => {}
        }
        if self.on_error != WithoutDecision::Deny && span_of(node, "error_status").is_some() {
            return Some((
                "error_status",
                "`error_status` has an effect only with `on_error: deny`",
            ));
        }
        let is_error = |status: u16| (400..600).contains(&status);
        if !is_error(self.error_status) {
            return Some(("error_status", "`error_status` must be from 400 to 599"));
        }
        (!is_error(self.status)).then_some(("status", "`status` must be from 400 to 599"))
    }
}

/// The service, and what clients hear.
#[derive(Debug)]
struct HttpRateService {
    service: RateService,
    error_status: u16,
    status: u16,
    fields: bool,
    envoy_header: bool,
}

#[derive(Clone, Debug)]
struct GlobalRatePlan {
    /// `None` in a rule that has the service of its chain.
    service: Option<Arc<HttpRateService>>,
    descriptors: Vec<Arc<RateDescriptor>>,
    add: bool,
    buckets: PerOwner<LockedRates<u128>>,
}

impl HttpFilterPlan for GlobalRatePlan {
    fn on_top_of(&self, under: &dyn HttpFilterPlan) -> Option<Arc<dyn HttpFilterPlan>> {
        let under: &dyn Any = under;
        let under = under.downcast_ref::<Self>().filter(|_| self.service.is_none())?;
        let inherited = under.descriptors.iter().filter(|_| self.add);
        Some(Arc::new(Self {
            service: under.service.clone(),
            descriptors: inherited.chain(&self.descriptors).cloned().collect(),
            add: self.add && under.add,
            buckets: self.buckets.clone(),
        }))
    }

    fn lacks(&self) -> Option<String> {
        self.service.is_none().then(|| "the `service`".to_owned())
    }

    fn is_guard(&self) -> bool {
        true
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(GlobalRateFilter(Rc::new(Asking {
            service: self.service.clone(),
            descriptors: self.descriptors.clone(),
            buckets: LocalBuckets::of(&self.buckets, owner, worker),
            listener: owner.split('/').next().unwrap_or_default().into(),
            counters: CounterSet::default(),
        })))
    }
}
