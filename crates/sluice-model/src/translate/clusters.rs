//! Clusters.

use std::collections::HashSet;
use std::num::NonZeroU64;
use std::sync::Arc;

use sluice_core::fine_percent::FinePercent;
use sluice_core::limits::Limit;
use sluice_core::settings::Short;
use sluice_core::{Cidr, Diags, Name, Path, Spanned};
use sluice_upstream::balance::subsets::{SelectorFallback, SelectorPlan, SubsetFallback};
use sluice_upstream::balance::{
    AperturePlan, BalancePlan, BalancingPlan, FailoverPlan, LocalityPlan, SlowStartPlan,
    SubsetsPlan, ZoneAwarePlan,
};
use sluice_upstream::plan::{
    AddressFamily, ClusterSettings, ConnectBackoffPlan, DnsPlan, DropPlan, HighLimits, Http2Plan,
    Http3Plan, HttpVersion, OnRemoved, OnUnhealthy, ProxyVersion, QueuePlan, ResolutionMode,
    ReusePlan,
};
use sluice_upstream::{EgressPolicy, ForwardPlan, HostNaming, SubsetKey};

use super::{Context, Translated, health, sockets};
use crate::check;
use crate::model::{Cluster, Kind, Resource};
use crate::own_name::own_name;
use crate::provenance::Provenance;
use crate::sections::discovery::{FORWARD_MIN_TTL, ForwardBy, MIN_TTL};
use crate::sections::subsets::{self, Fallback, FallbackOfKeys, SubsetSelector};
use crate::sections::{
    self, Balancer, ClusterLimits, ClusterProtocol, ConnectBackoff, Dns, Egress, Failover, Family,
    Forward, NameMode, OnEndpointRemoved, OnEndpointUnhealthy, OwnNode, ProxyHeader, Queue,
    Refresh, Reuse, SlowStart, Subsets, ZoneAware,
};
use crate::store::Update;

/// Equal values, so that clusters share one allocation of them.
type Interned<T> = HashSet<Arc<T>>;

fn intern<T: Eq + std::hash::Hash>(value: T, known: &mut Interned<T>) -> Arc<T> {
    if let Some(known) = known.get(&value) {
        return Arc::clone(known);
    }
    let new = Arc::new(value);
    known.insert(Arc::clone(&new));
    new
}

impl Context<'_> {
    pub(super) fn clusters(self, all: &mut Translated, diags: &mut Diags) {
        let at = Path::ROOT.key("clusters");
        let routed: HashSet<&Name> =
            check::clusters_of_routes(self.config).map(|cluster| &cluster.value).collect();
        let mut tls = Interned::new();
        all.declared
            .extend(self.config.clusters.names().map(|name| (Kind::Cluster, Arc::clone(name))));
        for (name, section) in self.config.clusters.iter() {
            let inline = self.inline.get(&(Kind::Cluster, Arc::clone(name)));
            let at = inline.map_or_else(|| at.key(name), |place| Path::ROOT.key(place));
            let used = routed.contains(name);
            check_cluster(section, used, &at, diags);
            self.check_aperture(section, &at, diags);
            let stale = &mut all.stale_endpoint_files;
            let endpoints = self.endpoints(name, section, &at, stale, diags);
            let own_tls = match &section.tls {
                None => None,
                Some(of) => match self.client_tls(of, section, used, &at.key("tls"), diags) {
                    Some(of) => Some(intern(of, &mut tls)),
                    None => continue,
                },
            };
            let Some((endpoint_file, endpoints)) = endpoints else { continue };
            let from = Provenance::section(at);
            // Those that are alike are shared where the batch is staged.
            let Some(balance) = self.balance(section, &at, diags) else { continue };
            let settings = Arc::new(self.settings(section, balance));
            let cluster = Cluster { settings, tls: own_tls, endpoint_file };
            let resource = Resource::Cluster(Arc::new(cluster));
            all.updates.push(Update::set(name, resource, from.clone()));
            all.updates.push(Update::set(name, Resource::Endpoints(endpoints), from));
        }
    }

    /// The balancer of a cluster; `None` if its library cannot be used.
    fn balance(
        self,
        section: &sections::Cluster,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<BalancePlan> {
        match &section.balance {
            Balancer::Own(plan) => Some(plan.clone()),
            Balancer::Library(library) => {
                let here = at.key("balance");
                let folder = self.sources.folder;
                let here = here.key(sluice_module::BalancerLibrary::WORD);
                sluice_module::balancer(library, folder, &here, diags).map(BalancePlan::Extension)
            }
        }
    }

    /// The settings of a cluster. Fields are listed by name, here and below, so that a new one cannot be forgotten.
    fn settings(self, section: &sections::Cluster, balance: BalancePlan) -> ClusterSettings {
        let sections::Cluster {
            endpoints: _,
            endpoints_file: _,
            allow_empty: _,
            forward,
            fallback,
            balance: _,
            failover,
            localities,
            zone_aware,
            aperture,
            slow_start,
            subsets,
            protocol,
            max_stream_duration,
            reuse:
                Reuse { idle_timeout, max_age, requests: requests_each, streams, idle, across_changes },
            preconnect,
            http2,
            http3,
            connect_timeout,
            connect_attempts,
            connect_backoff,
            tls: _,
            health,
            outlier,
            limits:
                ClusterLimits {
                    connections,
                    connections_per_endpoint,
                    requests,
                    requests_per_endpoint,
                    queue,
                    pending,
                    retries,
                    retry_share,
                    high,
                },
            on_endpoint_removed,
            on_endpoint_unhealthy,
            dns,
            egress,
            send_proxy_protocol,
            socket,
            drop,
            report_metrics,
        } = section;
        let limits = &self.config.limits.0;
        ClusterSettings {
            balancing: BalancingPlan {
                balance,
                failover: failover_plan(failover),
                localities: match (localities.0.as_slice(), self.zone_aware(zone_aware.as_ref())) {
                    ([], None) => LocalityPlan::Ignored,
                    ([], Some(plan)) => LocalityPlan::ZoneAware(Arc::new(plan)),
                    _ => LocalityPlan::Weighted,
                },
                slow_start: slow_start.as_ref().map(|section| slow_start_plan(section)),
                aperture: aperture.as_ref().map(|size| {
                    AperturePlan::new(size.0, &own_name(self.config).unwrap_or_default())
                }),
                subsets: subsets
                    .as_ref()
                    .map(|section| Arc::new(subsets_plan(section, limits.size(Limit::Subsets)))),
            },
            connect_timeout: *connect_timeout,
            fallback: fallback.iter().map(|name| name.value.clone()).collect(),
            // The addresses of a host are attempted one after the other as it is.
            connect_attempts: if forward.is_some() { 1 } else { connect_attempts.get() },
            connect_backoff: connect_backoff.as_ref().map(|section| {
                let ConnectBackoff { base, max } = section.value;
                ConnectBackoffPlan { base, max }
            }),
            protocol: version_of(*protocol),
            stream_duration_max: max_stream_duration.0,
            reuse: ReusePlan {
                idle_timeout: *idle_timeout,
                age_max: max_age.0,
                requests_max: requests_each.0.map(NonZeroU64::get),
                streams_max: streams.get() as usize,
                idle_max: *idle as usize,
                across_changes: *across_changes,
            },
            preconnect: preconnect.as_ref().map(|section| sockets::preconnect_plan(section)),
            http2: http2.as_ref().map_or_else(Http2Plan::default, |of| sockets::http2_plan(of)),
            http3: http3
                .as_ref()
                .map_or_else(Http3Plan::default, |of| sockets::http3_plan(of, section)),
            requests_max: requests.0.map(NonZeroU64::get),
            endpoint_requests_max: requests_per_endpoint.0.map(NonZeroU64::get),
            queue: queue.as_ref().map(|section| queue_plan(section)),
            high: high_limits(high),
            pending_max: *pending,
            retries_max: *retries,
            retry_percent: retry_share.0,
            health: health.as_ref().map(health::health_plan),
            // A host that fails is the client's choice, and must not be withheld from others.
            outlier: outlier.0.as_ref().filter(|_| forward.is_none()).map(health::outlier_plan),
            connections_max: connections.0.map(NonZeroU64::get),
            endpoint_connections_max: connections_per_endpoint.0.map(NonZeroU64::get),
            on_endpoint_removed: match on_endpoint_removed {
                OnEndpointRemoved::Keep => OnRemoved::Keep,
                OnEndpointRemoved::Close => OnRemoved::Close,
                OnEndpointRemoved::Drain(drain) => OnRemoved::Drain(*drain),
            },
            on_endpoint_unhealthy: match on_endpoint_unhealthy {
                OnEndpointUnhealthy::Keep => OnUnhealthy::Keep,
                OnEndpointUnhealthy::Move => OnUnhealthy::Move,
                OnEndpointUnhealthy::Close => OnUnhealthy::Close,
            },
            dns: dns_plan(
                dns,
                forward.is_some(),
                limits.size(Limit::ResolvedAddresses),
                version_of(*protocol),
            ),
            egress: match egress {
                Some(section) => Some(egress_policy(section)),
                None => {
                    let trusted =
                        |of: &Forward| of.by == ForwardBy::Destination && of.header.is_none();
                    forward.as_ref().filter(|of| !trusted(of)).map(|_| EgressPolicy::default())
                }
            },
            forward: forward.as_ref().map(|section| forward_plan(section)),
            send_proxy: send_proxy_protocol.map(|version| match version {
                ProxyHeader::V1 => ProxyVersion::V1,
                ProxyHeader::V2 => ProxyVersion::V2,
            }),
            socket: socket.as_ref().map(|section| sockets::socket_plan(section)),
            drops: drop.0.iter().filter(|(_, share)| share.0 > 0).map(drop_plan).collect(),
            report_metrics: report_metrics.iter().map(|name| name.value.as_str().into()).collect(),
        }
    }
}

impl Context<'_> {
    /// Checks that this process has a name, which decides about its aperture.
    fn check_aperture(self, section: &sections::Cluster, at: &Path<'_>, diags: &mut Diags) {
        if let Some(size) = &section.aperture
            && own_name(self.config).is_none()
        {
            let message = "the system has no host name, by which processes differ";
            diags
                .error("missing-field", size.span, at.key("aperture"), message)
                .help("give each process a name: `node: { id: NAME }`");
        }
    }

    /// Zone-aware routing of a cluster; `None` if it is off.
    fn zone_aware(self, section: Option<&Spanned<Short<ZoneAware>>>) -> Option<ZoneAwarePlan> {
        let ZoneAware { enabled, min_endpoints, routing } = &section?.0;
        let OwnNode { id: _, locality, cluster } = &self.config.node;
        // Without either, there is an error already.
        let (own, fleet) = locality.as_ref().zip(cluster.as_ref()).filter(|_| *enabled)?;
        Some(ZoneAwarePlan {
            own: Arc::new(own.0.clone()),
            fleet: fleet.value.clone(),
            endpoints_min: min_endpoints.get(),
            routing: routing.0,
        })
    }
}

fn check_cluster(
    section: &Spanned<Short<sections::Cluster>>,
    used: bool,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    if used && section.send_proxy_protocol.is_some() {
        diags
            .error(
                "wrong-kind",
                section.span,
                at.key("send_proxy_protocol"),
                "HTTP cannot send a PROXY header: it names one client, but clients share connections",
            )
            .help("remove it; endpoints find the client's address in x-forwarded-for");
    }
    if !section.drop.0.is_empty() && section.forward.is_some() {
        diags
            .error(
                "wrong-kind",
                section.span,
                at.key("drop"),
                "`drop` does not go with `forward`: the hosts are the choice of clients",
            )
            .help("remove it, or limit clients with a filter such as `rate_limit`");
    }
    for metric in &section.report_metrics {
        if let Err(message) = check_metric(&metric.value) {
            diags
                .error("bad-value", metric.span, at.key("report_metrics"), message)
                .help("write a field of ORCA reports such as `cpu_utilization`, or a map and a name: `named_metrics.queue`, `named_metrics.*`");
        }
    }
    if section.protocol == ClusterProtocol::Auto && section.tls.is_none() {
        diags
            .error(
                "missing-field",
                section.span,
                at.key("tls"),
                "`protocol: auto` is negotiated by TLS and needs `tls`",
            )
            .help("add `tls`, or set `protocol` to http1 or http2");
    }
    if section.protocol == ClusterProtocol::Http3 && section.tls.is_none() {
        diags
            .error(
                "missing-field",
                section.span,
                at.key("tls"),
                "`protocol: http3` uses QUIC, which needs `tls`",
            )
            .help("add `tls: true` to verify endpoints with the system's authorities, or `tls: { ca: FILE }`");
    }
    if section.protocol == ClusterProtocol::Same {
        check_same(section, at, diags);
    }
    if let Some(preconnect) = &section.preconnect {
        sockets::check_preconnect(section, preconnect, &at.key("preconnect"), diags);
    }
    if section.dns.https_records && (section.tls.is_none() || section.forward.is_some()) {
        let message = if section.tls.is_none() {
            "HTTPS records are about TLS, which the cluster does not speak"
        } else {
            "`https_records` cannot be used with `forward`: clients name host and port"
        };
        diags
            .error("wrong-kind", section.span, at.key("dns").key("https_records"), message)
            .help("remove it, or add `tls` to a cluster with endpoints of its own");
    }
    if let Some(http2) = &section.http2 {
        sockets::check_http2(http2, section.protocol, &at.key("http2"), diags);
    }
    if let Some(http3) = &section.http3 {
        sockets::check_http3(section, http3, &at.key("http3"), diags);
    }
    if let Some(socket) = &section.socket {
        sockets::check(socket, section, &at.key("socket"), diags);
    }
    health::check(section, at, diags);
}

/// Whether endpoints may report a metric of this name.
fn check_metric(name: &str) -> Result<(), String> {
    const FIELDS: [&str; 5] =
        ["application_utilization", "cpu_utilization", "eps", "mem_utilization", "rps_fractional"];
    const MAPS: [&str; 3] = ["named_metrics", "request_cost", "utilization"];
    let is_known = match name.split_once('.') {
        None => FIELDS.contains(&name),
        Some((map, key)) => MAPS.contains(&map) && !key.is_empty(),
    };
    if is_known { Ok(()) } else { Err(format!("endpoints report no metric `{name}`")) }
}

/// Reports what does not fit a cluster whose connections speak the version of each request.
fn check_same(section: &Spanned<Short<sections::Cluster>>, at: &Path<'_>, diags: &mut Diags) {
    if section.tls.as_ref().is_some_and(|tls| !tls.alpn.is_empty()) {
        let message =
            "`alpn` does not go with `protocol: same`, which offers the version of each request";
        diags
            .error("wrong-kind", section.span, at.key("tls").key("alpn"), message)
            .help("remove `alpn`, or set another `protocol`");
    }
    if section.adds_http3() && section.tls.is_none() {
        diags
            .error(
                "missing-field",
                section.span,
                at.key("tls"),
                "HTTP/3 uses QUIC, which needs `tls`",
            )
            .help("add `tls`, or remove `http3`: requests over HTTP/3 then go on over HTTP/2");
    }
}

const fn version_of(protocol: ClusterProtocol) -> HttpVersion {
    match protocol {
        ClusterProtocol::Http1 => HttpVersion::Http1,
        ClusterProtocol::Http2 => HttpVersion::Http2,
        ClusterProtocol::Http3 => HttpVersion::Http3,
        ClusterProtocol::Auto => HttpVersion::Auto,
        ClusterProtocol::Same => HttpVersion::Same,
    }
}

fn high_limits(section: &sections::HighLimits) -> HighLimits {
    let sections::HighLimits { connections, requests, pending, retries, retry_share } = section;
    HighLimits {
        connections_max: connections.0.map(NonZeroU64::get),
        requests_max: requests.0.map(NonZeroU64::get),
        pending_max: *pending,
        retries_max: *retries,
        retry_percent: retry_share.0,
    }
}

fn drop_plan((category, share): &(String, FinePercent)) -> DropPlan {
    DropPlan { category: category.as_str().into(), millionths: share.0 }
}

fn queue_plan(section: &Queue) -> QueuePlan {
    let Queue { size, timeout, sticky_timeout } = section;
    QueuePlan { size: size.get(), timeout: *timeout, own_timeout: sticky_timeout.0 }
}

fn forward_plan(section: &Forward) -> ForwardPlan {
    let Forward { by, header, to_port, hosts, ports, max_hosts, host_ttl } = section;
    ForwardPlan {
        named_by: match by {
            ForwardBy::Name => HostNaming::Client,
            ForwardBy::Destination => HostNaming::Destination {
                header: header.as_ref().map(|header| header.value.0.as_str().into()),
                port: to_port.as_ref().map(|port| port.value.get()),
            },
        },
        hosts: hosts.clone(),
        ports: ports.iter().map(|port| port.value).collect(),
        hosts_max: max_hosts.get() as usize,
        host_ttl: *host_ttl,
    }
}

/// The addresses of a host that clients name are one endpoint.
fn dns_plan(section: &Dns, forwards: bool, addresses_max: usize, version: HttpVersion) -> DnsPlan {
    let Dns {
        mode,
        family,
        refresh,
        min_ttl,
        max_ttl,
        retry,
        max_retry,
        serve_stale,
        servers,
        https_records,
    } = section;
    DnsPlan {
        mode: match mode {
            NameMode::Strict if forwards => ResolutionMode::Logical,
            NameMode::Strict => ResolutionMode::Strict,
            NameMode::Logical => ResolutionMode::Logical,
        },
        family: match family {
            Family::All => AddressFamily::All,
            Family::V4 => AddressFamily::V4,
            Family::V6 => AddressFamily::V6,
            Family::V4Preferred => AddressFamily::V4Preferred,
            Family::V6Preferred => AddressFamily::V6Preferred,
        },
        refresh: match refresh {
            Refresh::Ttl => None,
            Refresh::Every(every) => Some(*every),
        },
        ttl_min: min_ttl.unwrap_or(if forwards { FORWARD_MIN_TTL } else { MIN_TTL }),
        ttl_max: *max_ttl,
        retry: *retry,
        retry_max: *max_retry,
        https_records: https_records.then_some(version),
        serve_stale: serve_stale.0.map(|bound| bound.0),
        servers: servers.clone(),
        addresses_max,
    }
}

fn egress_policy(section: &Egress) -> EgressPolicy {
    let Egress { allow, deny, any } = section;
    let blocks = |of: &[Spanned<Cidr>]| of.iter().map(|block| block.value).collect();
    if *any {
        return EgressPolicy::all_but(blocks(deny));
    }
    EgressPolicy::new(blocks(allow), blocks(deny))
}

fn failover_plan(section: &Failover) -> FailoverPlan {
    let Failover { overprovisioning, panic, failback_delay } = section;
    FailoverPlan {
        overprovisioning: overprovisioning.0.map(|factor| factor.0),
        panic: panic.0.map_or(0, |percent| percent.0),
        failback_delay: failback_delay.0,
    }
}

fn subsets_plan(section: &Subsets, count_max: usize) -> SubsetsPlan {
    let Subsets { selectors, fallback, default_subset } = section;
    let usual = |fallback: &Fallback| match fallback {
        Fallback::Refuse => SubsetFallback::Refuse,
        Fallback::AnyEndpoint => SubsetFallback::AnyEndpoint,
        Fallback::DefaultSubset => SubsetFallback::DefaultSubset,
    };
    let selector = |of: &Spanned<Short<SubsetSelector>>| SelectorPlan {
        keys: of.sorted(),
        fallback: of.fallback.as_ref().map(|fallback| match fallback {
            FallbackOfKeys::Usual(fallback) => SelectorFallback::Usual(usual(fallback)),
            FallbackOfKeys::KeysSubset(keys) => SelectorFallback::Keys(subsets::in_order(keys)),
        }),
    };
    let default = default_subset.as_ref().map(|of| of.0.clone());
    SubsetsPlan {
        selectors: selectors.iter().map(selector).collect(),
        fallback: usual(fallback),
        default_subset: default.unwrap_or_else(|| SubsetKey::new([])),
        count_max,
    }
}

fn slow_start_plan(section: &SlowStart) -> SlowStartPlan {
    let SlowStart { window, aggression, min_weight } = section;
    SlowStartPlan { window: *window, aggression: aggression.0, weight_min: min_weight.0 }
}
