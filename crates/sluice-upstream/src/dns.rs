//! Host names of endpoints, looked up repeatedly.
//!
//! Owns: the last good answer per host name and the time of the next look-up. Refuses to know: how a query is sent,
//! which is up to hickory. Keeps: a failed look-up leaves the last good answer in force (for `serve_stale`, or
//! forever); the TTL of an answer is respected, within bounds.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::{Resolver, TokioResolver};
use sluice_core::Endpoint;
use sluice_core::limits::Limit;
use sluice_telemetry::{CounterSet, Shard};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::metrics;
use crate::plan::{ClusterPlan, EndpointPlan};

/// The shortest time between look-ups that follow the TTL, even if the TTL is 0.
const REFRESH_MIN: Duration = Duration::from_secs(1);

/// The longest time between look-ups that follow the TTL, however long it is.
const REFRESH_MAX: Duration = Duration::from_secs(300);

/// The first pause after a failed look-up; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The timeout of a look-up, with all servers and retries.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// A host name and its port.
pub type HostPort = (Arc<str>, u16);

/// The host names among `endpoints`, each once.
pub fn hosts_of(endpoints: &[EndpointPlan]) -> Vec<HostPort> {
    let mut hosts: Vec<HostPort> = Vec::new();
    for endpoint in endpoints {
        if let Endpoint::Host(host, port) = &endpoint.address {
            let known = hosts.iter().any(|(other, its)| other == host && its == port);
            if !known {
                hosts.push((Arc::clone(host), *port));
            }
        }
    }
    hosts
}

/// The last good answers of one cluster.
#[derive(Debug, Default)]
pub struct Resolution {
    good: RefCell<HashMap<HostPort, Vec<IpAddr>>>,
    /// The number of host names that have not been looked up yet.
    waiting: Cell<usize>,
    done: Notify,
}

impl Resolution {
    /// The addresses of a host name.
    pub fn addresses(&self, host: &Arc<str>, port: u16) -> Vec<IpAddr> {
        self.good.borrow().get(&(Arc::clone(host), port)).cloned().unwrap_or_default()
    }

    /// Forgets host names that are not in `hosts`, and expects a first look-up of each new one.
    pub(crate) fn keep_only(&self, hosts: &[HostPort]) {
        self.good.borrow_mut().retain(|host, _| hosts.contains(host));
        let new = hosts.iter().filter(|host| !self.good.borrow().contains_key(*host)).count();
        self.waiting.set(new);
        self.done.notify_waiters();
    }

    /// Whether a host name has not been looked up yet.
    pub fn waits(&self) -> bool {
        self.waiting.get() > 0
    }

    /// Waits until every host name has been looked up once, successfully or not.
    pub async fn first_round(&self) {
        while self.waiting.get() > 0 {
            self.done.notified().await;
        }
    }

    fn looked_up(&self) {
        self.waiting.set(self.waiting.get().saturating_sub(1));
        self.done.notify_waiters();
    }
}

/// Looks a host name up forever, and calls `publish` when its addresses change.
pub(crate) async fn keep_resolved(
    cluster: Arc<Cluster>,
    resolution: Rc<Resolution>,
    host: Arc<str>,
    port: u16,
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
    let key = (Arc::clone(&host), port);
    cluster.note_resolver(&host, "not looked up yet".into());
    let (mut first, mut pause, mut good_at) = (true, RETRY_MIN, Instant::now());
    loop {
        let looked_up = lookup(&plan, &host).await;
        let wait = match looked_up {
            Ok(Answer { mut addresses, valid_for }) => {
                count("ok");
                let (found, max) = (addresses.len(), plan.dns.addresses_max);
                addresses.truncate(max);
                let note = if found > max {
                    count("too_many");
                    let limit = Limit::ResolvedAddresses.def().name;
                    format!("{max} of {found} addresses (`limits.{limit}`)")
                } else {
                    format!("{found} addresses")
                };
                cluster.note_resolver(&host, note);
                (pause, good_at) = (RETRY_MIN, Instant::now());
                let changed = resolution.good.borrow().get(&key) != Some(&addresses);
                if changed {
                    tracing::info!(cluster = &*cluster.name, host = &*host, ?addresses, "resolved");
                    resolution.good.borrow_mut().insert(key.clone(), addresses);
                    publish();
                }
                plan.dns.refresh.unwrap_or_else(|| valid_for.clamp(REFRESH_MIN, REFRESH_MAX))
            }
            Err(error) => {
                count("failed");
                let kept = resolution.good.borrow().contains_key(&key);
                let stale = plan.dns.serve_stale.is_some_and(|bound| good_at.elapsed() > bound);
                if kept && stale {
                    resolution.good.borrow_mut().remove(&key);
                    publish();
                }
                let also = if kept && !stale { "; the last good answer is still used" } else { "" };
                cluster.note_resolver(&host, format!("{error}{also}"));
                tracing::warn!(
                    cluster = &*cluster.name,
                    host = &*host,
                    "look-up failed: {error}{also}"
                );
                let wait = pause;
                pause = (pause * 2).min(RETRY_MAX);
                wait
            }
        };
        if std::mem::take(&mut first) {
            resolution.looked_up();
        }
        // Many names with the same TTL must not be looked up in step.
        tokio::time::sleep(wait.mul_f64(0.9 + fastrand::f64() * 0.1)).await;
    }
}

/// What name servers answered.
struct Answer {
    /// In numerical order.
    addresses: Vec<IpAddr>,
    valid_for: Duration,
}

async fn lookup(plan: &ClusterPlan, host: &str) -> Result<Answer, String> {
    // Built for each look-up: it reads resolv.conf again, and caches nothing that we do not see.
    let resolver = resolver(plan)?;
    let answer = tokio::time::timeout(LOOKUP_TIMEOUT, resolver.lookup_ip(host))
        .await
        .map_err(|_| format!("no answer within {} s", LOOKUP_TIMEOUT.as_secs()))?
        .map_err(|error| words(&error))?;
    let valid_for = answer.valid_until().saturating_duration_since(Instant::now().into_std());
    let mut addresses: Vec<IpAddr> = answer.iter().collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(NO_DATA.into());
    }
    Ok(Answer { addresses, valid_for })
}

const NO_DATA: &str = "the name exists but has no address (A or AAAA record)";

/// Describes what went wrong with a look-up.
fn words(error: &NetError) -> String {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NoError => NO_DATA.into(),
            code => of_code(code),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => of_code(*code),
        NetError::Timeout => "the name server did not answer in time".into(),
        NetError::NoConnections => "no name server could be reached".into(),
        NetError::Io(error) => format!("the name server cannot be reached: {error}"),
        other => other.to_string(),
    }
}

/// Describes a response code. Source: RFC 1035 §4.1.1.
fn of_code(code: ResponseCode) -> String {
    match code {
        ResponseCode::NXDomain => "the name does not exist (NXDOMAIN)".into(),
        ResponseCode::ServFail => "the name server failed (SERVFAIL)".into(),
        ResponseCode::Refused => "the name server refused the query (REFUSED)".into(),
        code => format!("the name server answered with an error ({code})"),
    }
}

fn resolver(plan: &ClusterPlan) -> Result<TokioResolver, String> {
    let builder = if plan.dns.servers.is_empty() {
        Resolver::builder_tokio().map_err(|error| {
            format!("the system's resolver configuration cannot be read: {error}")
        })?
    } else {
        let servers = plan.dns.servers.iter().map(|server| {
            let connections =
                [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        Resolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    builder.build().map_err(|error| error.to_string())
}
