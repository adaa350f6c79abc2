//! One look-up of a name: addresses (A, AAAA), a service and the addresses of its targets (SRV, RFC 2782), or the places that
//! serve a site and their addresses (HTTPS, RFC 9460).
//!
//! Owns: the queries, and what an answer or an error means. Refuses to know: when a name is looked up, and which
//! addresses are used. Keeps: a look-up has one timeout, with all servers, retries and targets; every number in an answer
//! is bounded.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::https::{self, HttpsPlace, HttpsRecords};
use super::{DnsName, ResolvedAddress};
use crate::name_state::LookupOutcome;
use crate::plan::{AddressFamily, DnsPlan, HttpVersion};

/// How many aliases of HTTPS records are followed, RFC 9460 §2.4.2.
const ALIASES_MAX: usize = 4;

/// The timeout of a look-up, with all servers, retries and targets.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// What name servers answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// In the order of the answer; of a service, the best priority first.
    pub(super) addresses: Vec<ResolvedAddress>,
    /// The shortest TTL of all records.
    pub(super) valid_for: Duration,
}

/// A look-up that yields nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LookupFailure {
    pub(super) outcome: LookupOutcome,
    pub(super) message: String,
}

impl LookupFailure {
    fn of(outcome: LookupOutcome, message: &str) -> Self {
        Self { outcome, message: message.to_string() }
    }
}

/// Looks a name up.
pub(super) async fn lookup(plan: &DnsPlan, name: &DnsName) -> Result<Answer, LookupFailure> {
    // Built for each look-up: it reads resolv.conf again, and caches nothing that we do not see.
    let resolver = resolver(plan).map_err(|why| LookupFailure::of(LookupOutcome::Failed, &why))?;
    let found = async {
        match name {
            DnsName::Host(host, port) => match plan.https_records {
                None => of_host(&resolver, host, *port).await,
                Some(version) => of_site(Rc::new(resolver), plan, (host, *port), version).await,
            },
            DnsName::Service(service) => of_service(Rc::new(resolver), plan, service).await,
        }
    };
    tokio::time::timeout(LOOKUP_TIMEOUT, found).await.unwrap_or_else(|_| {
        let message = format!("no answer within {} s", LOOKUP_TIMEOUT.as_secs());
        Err(LookupFailure::of(LookupOutcome::Timeout, &message))
    })
}

async fn of_host(
    resolver: &TokioResolver,
    host: &Arc<str>,
    port: u16,
) -> Result<Answer, LookupFailure> {
    const NO_DATA: &str = "the name exists but has no address (A or AAAA record)";
    let answer = resolver.lookup_ip(&**host).await.map_err(|error| failure(&error, NO_DATA))?;
    let mut seen = BTreeSet::new();
    let new = |ip: &IpAddr| seen.insert(*ip);
    let addresses: Vec<_> =
        answer.iter().filter(new).map(|ip| address(host, SocketAddr::new(ip, port))).collect();
    if addresses.is_empty() {
        return Err(LookupFailure::of(LookupOutcome::NoData, NO_DATA));
    }
    Ok(Answer { addresses, valid_for: left(answer.valid_until()) })
}

/// The places that serve a site, or, without records that can be used, the host itself.
async fn of_site(
    resolver: Rc<TokioResolver>,
    plan: &DnsPlan,
    (site, port): (&Arc<str>, u16),
    version: HttpVersion,
) -> Result<Answer, LookupFailure> {
    let (mut name, mut host) = (https::name_of(site, port), Arc::clone(site));
    for _ in 0..=ALIASES_MAX {
        // Whatever is wrong with the records, the addresses may be found all the same.
        let Ok(answer) = resolver.lookup(&*name, RecordType::HTTPS).await else { break };
        let records = answer.answers().iter().filter_map(|record| match &record.data {
            RData::HTTPS(https) => Some(&https.0),
            _ => None,
        });
        match https::read(records, version, plan.addresses_max) {
            HttpsRecords::Alias(alias) => (name, host) = (alias.to_string(), alias),
            HttpsRecords::Unavailable => {
                const NO_DATA: &str = "an HTTPS record says that the name is not served";
                return Err(LookupFailure::of(LookupOutcome::NoData, NO_DATA));
            }
            HttpsRecords::Places(places) if places.is_empty() => break,
            HttpsRecords::Places(places) => {
                let found = of_places(&resolver, places, &host, port).await;
                let valid_for = found.valid_for.min(left(answer.valid_until()));
                if !found.addresses.is_empty() {
                    let named = |of| ResolvedAddress { host: Arc::clone(site), ..of };
                    let addresses = found.addresses.into_iter().map(named).collect();
                    return Ok(Answer { addresses, valid_for });
                }
                break;
            }
        }
    }
    let Answer { addresses, valid_for } = of_host(&resolver, &host, port).await?;
    // The certificate is that of the site, whatever the name of the host.
    let named = |of| ResolvedAddress { host: Arc::clone(site), ..of };
    Ok(Answer { addresses: addresses.into_iter().map(named).collect(), valid_for })
}

/// The addresses of places, looked up together; without a port of its own, a place has that of the site.
async fn of_places(
    resolver: &Rc<TokioResolver>,
    places: Vec<HttpsPlace>,
    owner: &Arc<str>,
    port: u16,
) -> Answer {
    let mut running = JoinSet::new();
    for (number, place) in places.into_iter().enumerate() {
        let (resolver, owner) = (Rc::clone(resolver), Arc::clone(owner));
        running.spawn_local(async move {
            let host = place.host.clone().unwrap_or(owner);
            let port = place.port.unwrap_or(port);
            (number, of_host(&resolver, &host, port).await, host, port, place)
        });
    }
    let (mut found, mut valid_for) = (Vec::new(), Duration::MAX);
    while let Some(ended) = running.join_next().await {
        let Ok((number, answer, host, port, place)) = ended else { continue };
        let (priority, http3_port) = (place.rank, place.http3.then_some(port));
        let addresses = match answer {
            Ok(answer) => {
                valid_for = valid_for.min(answer.valid_for);
                answer.addresses
            }
            Err(_) => {
                place.hints.iter().map(|ip| address(&host, SocketAddr::new(*ip, port))).collect()
            }
        };
        let of_place = |of| ResolvedAddress { priority, http3_port, ..of };
        found.push((number, addresses.into_iter().map(of_place).collect::<Vec<_>>()));
    }
    found.sort_by_key(|(number, _)| *number);
    let mut seen = BTreeSet::new();
    let mut addresses: Vec<_> = found.into_iter().flat_map(|(_, addresses)| addresses).collect();
    // Where several records lead to one address, the best counts.
    addresses.retain(|of| seen.insert(of.address));
    Answer { addresses, valid_for }
}

fn address(host: &Arc<str>, address: SocketAddr) -> ResolvedAddress {
    ResolvedAddress { address, host: Arc::clone(host), weight: 1, priority: 0, http3_port: None }
}

/// A target of a service.
struct ServiceTarget {
    host: Arc<str>,
    port: u16,
    weight: u16,
    priority: u16,
}

async fn of_service(
    resolver: Rc<TokioResolver>,
    plan: &DnsPlan,
    service: &str,
) -> Result<Answer, LookupFailure> {
    const NO_DATA: &str = "the name exists but names no service (SRV record)";
    let answer = resolver.srv_lookup(service).await.map_err(|error| failure(&error, NO_DATA))?;
    let mut targets = Vec::new();
    for record in answer.answers() {
        let RData::SRV(srv) = &record.data else { continue };
        // The root as target: the service is not available there (RFC 2782).
        if srv.target.is_root() || srv.port == 0 {
            continue;
        }
        let host = srv.target.to_ascii();
        let host = Arc::from(host.trim_end_matches('.').to_ascii_lowercase());
        let (port, weight, priority) = (srv.port, srv.weight, srv.priority);
        targets.push(ServiceTarget { host, port, weight, priority });
    }
    if targets.is_empty() {
        return Err(LookupFailure::of(LookupOutcome::NoData, NO_DATA));
    }
    targets.sort_by(|one, two| (one.priority, &one.host).cmp(&(two.priority, &two.host)));
    let ranks: Vec<u16> =
        targets.iter().map(|target| target.priority).collect::<BTreeSet<_>>().into_iter().collect();
    targets.truncate(plan.addresses_max);
    let mut valid_for = left(answer.valid_until());
    let mut running = JoinSet::new();
    for (place, target) in targets.into_iter().enumerate() {
        let resolver = Rc::clone(&resolver);
        running.spawn_local(async move {
            let found = of_host(&resolver, &target.host, target.port).await;
            (place, target, found)
        });
    }
    let (mut found, mut failed) = (Vec::new(), None);
    while let Some(ended) = running.join_next().await {
        let Ok((place, target, answer)) = ended else { continue };
        match answer {
            Ok(answer) => {
                valid_for = valid_for.min(answer.valid_for);
                found.push((place, target, answer.addresses));
            }
            Err(LookupFailure { outcome, message }) => {
                failed = Some(LookupFailure::of(outcome, &format!("{}: {message}", target.host)));
            }
        }
    }
    found.sort_by_key(|(place, ..)| *place);
    let mut addresses = Vec::new();
    for (_, target, of_target) in found {
        let rank = ranks.partition_point(|priority| *priority < target.priority);
        addresses.extend(of_target.into_iter().map(|of| ResolvedAddress {
            // A weight of 0 asks for as little traffic as possible.
            weight: u32::from(target.weight.max(1)),
            priority: u32::try_from(rank).unwrap_or(u32::MAX),
            ..of
        }));
    }
    match failed {
        Some(failed) if addresses.is_empty() => Err(failed),
        _ => Ok(Answer { addresses, valid_for }),
    }
}

fn left(valid_until: std::time::Instant) -> Duration {
    valid_until.saturating_duration_since(Instant::now().into_std())
}

/// What went wrong with a look-up; `no_data` is said of a name that exists.
fn failure(error: &NetError, no_data: &str) -> LookupFailure {
    let of = LookupFailure::of;
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NoError => of(LookupOutcome::NoData, no_data),
            code => of_code(code),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => of_code(*code),
        NetError::Timeout => of(LookupOutcome::Timeout, "the name server did not answer in time"),
        NetError::NoConnections => {
            of(LookupOutcome::Unreachable, "no name server could be reached")
        }
        NetError::Io(error) => {
            of(LookupOutcome::Unreachable, &format!("the name server cannot be reached: {error}"))
        }
        other => of(LookupOutcome::Failed, &other.to_string()),
    }
}

/// What a response code means. Source: RFC 1035 §4.1.1.
fn of_code(code: ResponseCode) -> LookupFailure {
    let of = LookupFailure::of;
    match code {
        ResponseCode::NXDomain => of(LookupOutcome::NxDomain, "the name does not exist (NXDOMAIN)"),
        ResponseCode::ServFail => of(LookupOutcome::ServFail, "the name server failed (SERVFAIL)"),
        ResponseCode::Refused => {
            of(LookupOutcome::Refused, "the name server refused the query (REFUSED)")
        }
        code => {
            of(LookupOutcome::Failed, &format!("the name server answered with an error ({code})"))
        }
    }
}

fn resolver(plan: &DnsPlan) -> Result<TokioResolver, String> {
    let mut builder = if plan.servers.is_empty() {
        Resolver::builder_tokio().map_err(|error| {
            format!("the system's resolver configuration cannot be read: {error}")
        })?
    } else {
        let servers = plan.servers.iter().map(|server| {
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
    builder.options_mut().ip_strategy = match plan.family {
        AddressFamily::All => LookupIpStrategy::Ipv6AndIpv4,
        AddressFamily::V4 => LookupIpStrategy::Ipv4Only,
        AddressFamily::V6 => LookupIpStrategy::Ipv6Only,
        AddressFamily::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
        AddressFamily::V6Preferred => LookupIpStrategy::Ipv6thenIpv4,
    };
    builder.build().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_own_word() {
        for (code, word) in [
            (ResponseCode::NXDomain, "nxdomain"),
            (ResponseCode::ServFail, "servfail"),
            (ResponseCode::Refused, "refused"),
            (ResponseCode::FormErr, "failed"),
        ] {
            let error = NetError::Dns(DnsError::ResponseCode(code));
            assert_eq!(failure(&error, "").outcome.word(), word);
        }
        assert_eq!(failure(&NetError::Timeout, "").outcome, LookupOutcome::Timeout);
        assert_eq!(failure(&NetError::NoConnections, "").outcome, LookupOutcome::Unreachable);
    }
}
