//! `global_rate_limit`: asks a service that counts for a whole fleet whether a connection is within its limits.
//!
//! Owns: the settings, and the descriptors of a connection. Refuses to know: limits, which the service has. Keeps: a
//! connection waits for the service no longer than the time-out.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::settings::{Short, ShortForm};
use sluice_core::value::Rate;
use sluice_core::{ConnInfo, Name, Node, Plain, Setting, Shape, Spanned, Verdict};
use sluice_io::{Admit, ConnectionFilter, ConnectionFilterPlan, WorkerCx};
use sluice_l4::filters::buckets::{LockedRates, PerOwner};
use sluice_l4::filters::{CheckContext, FilterFactory, long_form_of};
use sluice_l4::rbac::conn::ConnSubject;
use sluice_l4::reasons;
use sluice_telemetry::CounterSet;

use crate::filters::global_rate_limit::descriptors::limit_override;
use crate::filters::global_rate_limit::messages::{DescriptorMessage, EntryMessage};
use crate::filters::global_rate_limit::service::{Fallback, LocalBuckets, RateService};
use crate::filters::rate_limit::WithoutDecision;
use crate::filters::rate_limit::keys::source_text;
use crate::identity::name_of;
use crate::metrics;
use crate::side_calls::SideCalls;

sluice_core::choice! {
    /// A part of a connection.
    pub enum ConnectionPart {
        /// The client: an IPv4 address, or the /64 of an IPv6 address.
        SourceIp = "source_ip",
        /// The port that the client connected to.
        Port = "port",
        /// The server name of the client's TLS handshake.
        Sni = "sni",
        /// The name in the client's certificate.
        Certificate = "certificate",
    }
}

sluice_core::section! {
    /// An entry of a descriptor of connections.
    pub struct ConnectionEntry {
        /// The key. If omitted, Envoy's name for what it is: `remote_address` for `source_ip`, `generic_key` for a `value`;
        /// otherwise the name of the part.
        pub key: Option<String>,
        /// A part of the connection.
        pub of: Option<ConnectionPart>,
        /// A fixed value.
        pub value: Option<String>,
    }
}

sluice_core::section! {
    /// What the service counts of connections.
    pub struct ConnectionDescriptor {
        /// Its entries, in this order. A connection that lacks one of them does not have the descriptor.
        pub entries: Vec<Short<ConnectionEntry>>,
        /// How many connections this one counts as (`hits_addend`).
        pub hits: Option<u64>,
        /// A limit in place of the one that the service has, if the service allows that.
        pub limit: Option<Rate>,
    }
}

impl ShortForm for ConnectionEntry {
    const KEY: &'static str = "of";
}

impl ShortForm for ConnectionDescriptor {
    const KEY: &'static str = "entries";
    const KEYS_OF_SHORT: &'static [&'static str] = ConnectionEntry::KEYS;
}

sluice_core::section! {
    /// Asks a service for rate limits, over gRPC (`envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`).
    pub struct ConnectionGlobalRateLimit {
        /// The cluster of the service.
        pub service: Spanned<Name>,
        /// What the service calls this set of limits.
        pub domain: String,
        /// What the service counts.
        pub descriptors: Vec<Short<ConnectionDescriptor>>,
        /// The time for the answer.
        pub timeout: Duration = "20ms",
        /// What becomes of connections that the service does not decide about.
        pub on_error: WithoutDecision = "allow",
        /// With `on_error: local`, the rate that each descriptor has in this process meanwhile.
        pub local: Option<Rate>,
    }
}

/// The factory; holds the buckets that stand in for the services.
#[derive(Debug, Default)]
pub struct ConnectionGlobalRateLimitFactory {
    buckets: PerOwner<LockedRates<u128>>,
}

impl FilterFactory<dyn ConnectionFilterPlan> for ConnectionGlobalRateLimitFactory {
    fn name(&self) -> &'static str {
        "global_rate_limit"
    }

    fn help(&self) -> &'static str {
        "Asks a service that counts for a whole fleet whether a connection is within its limits."
    }

    fn shape(&self) -> Shape {
        ConnectionGlobalRateLimit::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<ConnectionGlobalRateLimit>(settings)
    }

    fn check(
        &self,
        node: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn ConnectionFilterPlan>> {
        let settings = context.bind::<ConnectionGlobalRateLimit>(node)?;
        if let Some(message) = settings.mistake() {
            context.diags.error("bad-value", node.span, context.at, message);
            return None;
        }
        let service = RateService {
            cluster: context.cluster(&settings.service, "service")?,
            domain: settings.domain,
            timeout: settings.timeout,
            on_error: settings.on_error,
            local: settings.local,
        };
        let descriptors = settings.descriptors.into_iter().map(|one| one.0).collect();
        Some(Arc::new(ConnectionGlobalRatePlan {
            service: Arc::new(service),
            descriptors,
            buckets: self.buckets.clone(),
        }))
    }
}

impl ConnectionGlobalRateLimit {
    fn mistake(&self) -> Option<&'static str> {
        let entries = || self.descriptors.iter().flat_map(|one| &one.entries);
        if self.domain.is_empty() {
            return Some("the `domain` is empty");
        }
        if self.descriptors.is_empty() || self.descriptors.iter().any(|one| one.entries.is_empty())
        {
            return Some("a descriptor needs entries, and the filter a descriptor");
        }
        if entries().any(|entry| entry.of.is_some() == entry.value.is_some()) {
            return Some("an entry has `of`, a part of the connection, or a fixed `value`");
        }
        if entries().flat_map(|entry| [&entry.key, &entry.value]).flatten().any(String::is_empty) {
            return Some("keys and values of a descriptor are not empty");
        }
        match (self.on_error, self.local) {
            (WithoutDecision::Local, None) => Some("`on_error: local` needs the rate in `local`"),
            (WithoutDecision::Allow | WithoutDecision::Deny, Some(_)) => {
                Some("`local` has an effect only with `on_error: local`")
            }
            _ => None,
        }
    }
}

impl ConnectionDescriptor {
    /// The descriptor of a connection, if it has one.
    fn of_connection(&self, conn: &ConnSubject<'_>) -> Option<DescriptorMessage> {
        let entries = self.entries.iter().map(|entry| {
            let key = entry.key.as_deref().unwrap_or_else(|| entry.own_key()).to_owned();
            Some(EntryMessage { key, value: entry.value_of(conn)? })
        });
        Some(DescriptorMessage {
            entries: entries.collect::<Option<_>>()?,
            limit: self.limit.map(limit_override),
            hits_addend: self.hits,
        })
    }
}

impl ConnectionEntry {
    fn own_key(&self) -> &'static str {
        match self.of {
            None => "generic_key",
            Some(ConnectionPart::SourceIp) => "remote_address",
            Some(part) => part.word(),
        }
    }

    fn value_of(&self, conn: &ConnSubject<'_>) -> Option<String> {
        match self.of {
            None => self.value.clone(),
            Some(ConnectionPart::SourceIp) => conn.source.ip().map(source_text),
            Some(ConnectionPart::Port) => Some(conn.local.socket()?.port().to_string()),
            Some(ConnectionPart::Sni) => conn.sni.map(str::to_owned),
            Some(ConnectionPart::Certificate) => {
                name_of(conn.tls?.client.as_deref()?).map(String::from)
            }
        }
    }
}

#[derive(Clone, Debug)]
struct ConnectionGlobalRatePlan {
    service: Arc<RateService>,
    descriptors: Vec<ConnectionDescriptor>,
    buckets: PerOwner<LockedRates<u128>>,
}

impl ConnectionFilterPlan for ConnectionGlobalRatePlan {
    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn ConnectionFilter> {
        Rc::new(ConnectionGlobalRateFilter(Rc::new(ConnectionsCounted {
            plan: self.clone(),
            worker: Rc::clone(worker),
            buckets: LocalBuckets::of(&self.buckets, owner, worker),
            listener: owner.split('/').next().unwrap_or_default().into(),
            counters: CounterSet::default(),
        })))
    }
}

#[derive(Debug)]
struct ConnectionGlobalRateFilter(Rc<ConnectionsCounted>);

/// What a connection that waits for the answer needs of the filter.
#[derive(Debug)]
struct ConnectionsCounted {
    plan: ConnectionGlobalRatePlan,
    worker: Rc<WorkerCx>,
    buckets: LocalBuckets,
    listener: Box<str>,
    counters: CounterSet<&'static str>,
}

impl ConnectionFilter for ConnectionGlobalRateFilter {
    fn judges_certificate(&self) -> bool {
        let mut entries = self.0.plan.descriptors.iter().flat_map(|one| &one.entries);
        entries.any(|entry| entry.of == Some(ConnectionPart::Certificate))
    }

    fn admit(&self, conn: &ConnInfo) -> Admit {
        let counted = Rc::clone(&self.0);
        let (subject, service) = (ConnSubject::of(conn), &counted.plan.service);
        let descriptors = counted.plan.descriptors.iter();
        let descriptors: Vec<_> =
            descriptors.filter_map(|descriptor| descriptor.of_connection(&subject)).collect();
        if descriptors.is_empty() {
            return Admit::Now(Verdict::Continue);
        }
        let keys = service.keys(&counted.buckets, &descriptors);
        let calls = SideCalls::of_worker(&counted.worker);
        let called = service.ask(&calls, counted.worker.now(), descriptors);
        Admit::wait(async move {
            let answer = called.await;
            move |conn: &ConnInfo| match answer {
                Ok(answer) if answer.overall_code == 1 => {
                    counted.count("allowed");
                    Verdict::Continue
                }
                Ok(answer) if answer.overall_code == 2 => {
                    counted.count("limited");
                    conn.note("global_rate_limit: the service says so");
                    Verdict::Reject(reasons::RATE)
                }
                Ok(_) => {
                    let why = crate::reasons::SIDE_CALL_MALFORMED;
                    counted.without_decision(conn, &keys, why, "an answer without a decision")
                }
                Err(error) => {
                    counted.without_decision(conn, &keys, error.why(), &error.to_string())
                }
            }
        })
    }
}

impl ConnectionsCounted {
    fn without_decision(
        &self,
        conn: &ConnInfo,
        keys: &[u128],
        why: sluice_core::Reason,
        detail: &str,
    ) -> Verdict {
        self.count("failed");
        match self.plan.service.without_decision(&self.worker, &self.buckets, keys) {
            Fallback::Pass => Verdict::Continue,
            Fallback::Refuse => {
                conn.note(format_args!("global_rate_limit: {detail}"));
                Verdict::Reject(why)
            }
            Fallback::Limited(_) => {
                conn.note(format_args!("global_rate_limit: local, since {detail}"));
                Verdict::Reject(reasons::RATE)
            }
        }
    }

    fn count(&self, decision: &'static str) {
        self.counters.count(&decision, |decision| {
            self.worker.shard.counter(&metrics::GLOBAL_RATE, &[&self.listener, decision])
        });
    }
}
