//! Names of endpoints, looked up repeatedly.
//!
//! Owns: the last good answer per name and the time of the next look-up. Refuses to know: how a query is sent. Keeps: a
//! failed look-up leaves the last good answer in force (for `serve_stale`, or forever); the TTL of an answer is
//! respected, within bounds; no address is used that the egress policy of the cluster denies.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::Endpoint;
use sluice_core::limits::Limit;
use sluice_telemetry::{CounterSet, Shard};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::hops;
use crate::metrics;
use crate::name_state::{LookupOutcome, NameState};
use crate::plan::{ClusterPlan, DnsPlan, EndpointPlan, ResolutionMode};

mod https;
mod lookup;
mod on_demand;

use lookup::{Answer, LookupFailure, lookup};
pub(crate) use on_demand::serve_hosts;

/// A name that endpoints are looked up by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DnsName {
    /// A host, and the port of its endpoints.
    Host(Arc<str>, u16),
    /// A service: targets with their ports, weights and priorities (SRV records).
    Service(Arc<str>),
}

impl DnsName {
    /// The name in the address of an endpoint, if it has one.
    pub fn of(address: &Endpoint) -> Option<Self> {
        match address {
            Endpoint::Host(host, port) => Some(Self::Host(Arc::clone(host), *port)),
            Endpoint::Service(name) => Some(Self::Service(Arc::clone(name))),
            Endpoint::Ip(_) | Endpoint::Unix(_) => None,
        }
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host, _) => f.write_str(host),
            Self::Service(name) => write!(f, "srv://{name}"),
        }
    }
}

/// Looks a name up once; says why if it does not exist or has no address. Nothing is said of a name server that fails or
/// does not answer. Must run in a `LocalSet`.
pub async fn why_unresolved(plan: &DnsPlan, name: &DnsName) -> Option<String> {
    let failure = lookup(plan, name).await.err()?;
    let is_answer = matches!(failure.outcome, LookupOutcome::NxDomain | LookupOutcome::NoData);
    is_answer.then_some(failure.message)
}

/// The names among `endpoints`.
pub fn names_of(endpoints: &[EndpointPlan]) -> HashSet<DnsName> {
    endpoints.iter().filter_map(|endpoint| DnsName::of(&endpoint.address)).collect()
}

/// An address that a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedAddress {
    /// The address.
    pub address: SocketAddr,
    /// The host: the name itself, or the target of a service.
    pub host: Arc<str>,
    /// A factor of the weight of the endpoint.
    pub weight: u32,
    /// Added to the priority of the endpoint.
    pub priority: u32,
    /// The UDP port on which it speaks HTTP/3, as an HTTPS record says.
    pub http3_port: Option<u16>,
}

/// The last good answers of one cluster.
#[derive(Debug, Default)]
pub struct Resolution {
    good: RefCell<HashMap<DnsName, Vec<ResolvedAddress>>>,
    /// Those that have not been looked up yet.
    waiting: RefCell<HashSet<DnsName>>,
    done: Notify,
}

impl Resolution {
    /// The addresses of a name.
    pub(crate) fn addresses(&self, name: &DnsName) -> Vec<ResolvedAddress> {
        self.good.borrow().get(name).cloned().unwrap_or_default()
    }

    /// Forgets names that are not in `names`.
    pub(crate) fn keep_only(&self, names: &HashSet<DnsName>) {
        self.good.borrow_mut().retain(|name, _| names.contains(name));
        self.waiting.borrow_mut().retain(|name| names.contains(name));
        self.done.notify_waiters();
    }

    /// Expects the first look-up of a name, if there is no answer yet.
    pub(crate) fn expect(&self, name: &DnsName) {
        if !self.good.borrow().contains_key(name) {
            self.waiting.borrow_mut().insert(name.clone());
        }
    }

    /// Whether a name has not been looked up yet.
    pub fn waits(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// Waits until every name has been looked up once, successfully or not.
    pub async fn first_round(&self) {
        while self.waits() {
            self.done.notified().await;
        }
    }

    fn looked_up(&self, name: &DnsName) {
        self.waiting.borrow_mut().remove(name);
        self.done.notify_waiters();
    }
}

/// Looks a name up forever, and calls `publish` when its addresses change.
pub(crate) async fn keep_resolved(
    cluster: Arc<Cluster>,
    resolution: Rc<Resolution>,
    name: DnsName,
    shard: Shard,
    publish: impl Fn(),
) {
    let plan = cluster.plan();
    let lookups: CounterSet<&'static str> = CounterSet::default();
    let count = |result| {
        let new =
            |result: &&'static str| shard.counter(&metrics::LOOKUPS, &[&cluster.name, result]);
        lookups.count(&result, new);
    };
    let shown: Arc<str> = name.to_string().into();
    cluster.note_name(&shown, NameState::waiting());
    let (mut pause, mut answered_at) = (plan.dns.retry, None::<Instant>);
    loop {
        let found = lookup(&plan.dns, &name).await.and_then(|answer| usable(answer, &plan));
        let now = Instant::now();
        let (outcome, message, wait) = match found {
            Ok(Usable { addresses, valid_for, message, too_many }) => {
                count("ok");
                if too_many {
                    count("too_many");
                }
                (pause, answered_at) = (plan.dns.retry, Some(now));
                let changed = resolution.good.borrow().get(&name) != Some(&addresses);
                if changed {
                    let list: Vec<_> = addresses.iter().map(|of| of.address).collect();
                    tracing::info!(cluster = &*cluster.name, host = &*shown, addresses = ?list, "resolved");
                    resolution.good.borrow_mut().insert(name.clone(), addresses);
                    publish();
                }
                let by_ttl = || valid_for.clamp(plan.dns.ttl_min, plan.dns.ttl_max);
                (LookupOutcome::Resolved, message, plan.dns.refresh.unwrap_or_else(by_ttl))
            }
            Err(LookupFailure { outcome, message }) => {
                count(outcome.word());
                let kept = resolution.good.borrow().contains_key(&name);
                let bound = plan.dns.serve_stale;
                let stale = bound.is_some_and(|bound| {
                    answered_at.is_none_or(|answered| answered.elapsed() > bound)
                });
                let denied = outcome == LookupOutcome::Denied;
                if kept && stale {
                    resolution.good.borrow_mut().remove(&name);
                    answered_at = None;
                }
                if kept && (stale || denied) {
                    publish();
                }
                let also = if kept && !stale && !denied {
                    "; the last good answer is still used"
                } else {
                    ""
                };
                let message = format!("{message}{also}");
                tracing::warn!(
                    cluster = &*cluster.name,
                    host = &*shown,
                    "look-up failed: {message}"
                );
                let wait = pause;
                pause = (pause * 2).min(plan.dns.retry_max);
                (outcome, message, wait)
            }
        };
        // Many names with the same TTL must not be looked up in step.
        let wait = wait.mul_f64(0.9 + fastrand::f64() * 0.1);
        let (looked_up_at, next_at) = (Some(now), Some(now + wait));
        let state = NameState { outcome, message, looked_up_at, next_at, answered_at };
        cluster.note_name(&shown, state);
        resolution.looked_up(&name);
        tokio::time::sleep(wait).await;
    }
}

/// The addresses of an answer that are used.
#[derive(Debug)]
struct Usable {
    addresses: Vec<ResolvedAddress>,
    valid_for: Duration,
    message: String,
    /// Whether there were more than are used.
    too_many: bool,
}

/// Leaves out what the egress policy denies, and what exceeds the limit.
fn usable(answer: Answer, plan: &ClusterPlan) -> Result<Usable, LookupFailure> {
    let Answer { mut addresses, valid_for } = answer;
    let mut denied = Vec::new();
    if let Some(policy) = &plan.egress {
        addresses.retain(|of| {
            let verdict = policy.judge(of.address, hops::is_ours);
            denied.extend(verdict.as_ref().err().map(ToString::to_string));
            verdict.is_ok()
        });
    }
    let denials = denied.join(", ");
    if addresses.is_empty() {
        let message = format!("denied by `egress`: {denials}");
        return Err(LookupFailure { outcome: LookupOutcome::Denied, message });
    }
    match plan.dns.mode {
        // The order of answers rotates, which is no change.
        ResolutionMode::Strict => addresses.sort_by_key(|of| (of.priority, of.address)),
        ResolutionMode::Logical => addresses = families_in_turn(addresses),
    }
    let (found, max) = (addresses.len(), plan.dns.addresses_max);
    addresses.truncate(max);
    let mut message = if found > max {
        format!("{max} of {found} addresses (`limits.{}`)", Limit::ResolvedAddresses.def().name)
    } else {
        format!("{found} addresses")
    };
    if !denied.is_empty() {
        message = format!("{message}; denied by `egress`: {denials}");
    }
    Ok(Usable { addresses, valid_for, message, too_many: found > max })
}

/// Addresses of both families in turn, beginning with that of the first (RFC 8305 §4); priorities stay in order.
fn families_in_turn(addresses: Vec<ResolvedAddress>) -> Vec<ResolvedAddress> {
    let first = addresses.first().map(|of| of.address.is_ipv4());
    let (mut counts, mut placed) = (HashMap::new(), Vec::new());
    for of in addresses {
        let family = Some(of.address.is_ipv4()) != first;
        let count: &mut usize = counts.entry((of.priority, family)).or_default();
        placed.push(((of.priority, *count, family), of));
        *count += 1;
    }
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, of)| of).collect()
}

#[cfg(test)]
mod tests;
