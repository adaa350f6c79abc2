//! `/clusters` and `/listeners`.
//!
//! Owns: their forms. Refuses to know: how health is found. Keeps: names are those of Envoy's resources; counters that Sluice
//! does not have by endpoint are left out.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use sluice_core::ListenAddress;
use sluice_envoy::stats::names::{ClusterStatNames, StatNames};
use sluice_telemetry::metrics::FamilySnapshot;
use sluice_upstream::endpoint::{EndpointStatus, LoadKind};
use sluice_upstream::plan::BreakerClass;
use sluice_upstream::{Cluster, EndpointState, EndpointTraits};

use super::{EnvoyPages, JSON, PageText, Parameters, TEXT, pretty};

/// Requests to an endpoint, by what became of them.
#[derive(Clone, Copy, Debug, Default)]
struct EndpointCounts {
    total: u64,
    errors: u64,
}

/// By cluster and endpoint.
type AllCounts = HashMap<(Arc<str>, Arc<str>), EndpointCounts>;

impl EnvoyPages {
    pub(super) async fn clusters(&self, parameters: &Parameters) -> PageText {
        let view = self.view().await;
        let names = self.names(&view);
        let mut filter = sluice_envoy::stats::show::StatQuery::default();
        if let Some(regex) = parameters.get("filter") {
            let wrong = |problem| (400, format!("Invalid re2 regex: {problem}"));
            filter.set_filter(regex).map_err(wrong)?;
        }
        let counts = counts(&self.control.registry.snapshot());
        let clusters = self.control.clusters.borrow();
        let named = clusters.iter().filter_map(|of| Some((of, names.cluster(&of.name)?)));
        let mut shown: Vec<(&Arc<Cluster>, &ClusterStatNames)> =
            named.filter(|(_, names)| filter.matches(&names.name)).collect();
        shown.sort_by_key(|(_, names)| &names.name);
        if parameters.get("format") == Some("json") {
            let all: Vec<Value> =
                shown.iter().map(|(of, names)| as_json(of, names, &counts)).collect();
            return Ok((JSON, pretty(&json!({ "cluster_statuses": all }))));
        }
        let mut out = String::new();
        shown.iter().for_each(|(of, names)| text(of, names, &counts, &mut out));
        Ok((TEXT, out))
    }

    pub(super) async fn listeners(&self, parameters: &Parameters) -> PageText {
        let view = self.view().await;
        let names: StatNames = self.names(&view);
        let mut by_name: BTreeMap<Arc<str>, Vec<ListenAddress>> = BTreeMap::new();
        for bound in self.control.sockets.borrow().iter() {
            let own = names.listener(&bound.listener).map(|of| Arc::clone(&of.name));
            let name = own.unwrap_or_else(|| Arc::clone(&bound.listener));
            by_name.entry(name).or_default().push(bound.address.clone());
        }
        if parameters.get("format") == Some("json") {
            let one = |(name, addresses): (&Arc<str>, &Vec<ListenAddress>)| {
                let mut all = addresses.iter().map(address_json);
                let mut item = json!({ "name": &**name, "local_address": all.next() });
                let more: Vec<Value> = all.collect();
                if !more.is_empty() {
                    item["additional_local_addresses"] = more.into();
                }
                item
            };
            let all: Vec<Value> = by_name.iter().map(one).collect();
            return Ok((JSON, pretty(&json!({ "listener_statuses": all }))));
        }
        let mut out = String::new();
        for (name, addresses) in &by_name {
            for address in addresses {
                let _ = writeln!(out, "{name}::{}", plain(address));
            }
        }
        Ok((TEXT, out))
    }
}

/// An address without its scheme.
fn plain(address: &ListenAddress) -> String {
    match address {
        ListenAddress::Tcp(socket) | ListenAddress::Udp(socket) => socket.to_string(),
        ListenAddress::Unix(path) => path.display().to_string(),
    }
}

fn address_json(address: &ListenAddress) -> Value {
    match address {
        ListenAddress::Tcp(socket) => socket_json(*socket, None),
        ListenAddress::Udp(socket) => socket_json(*socket, Some("UDP")),
        ListenAddress::Unix(path) => json!({ "pipe": { "path": path } }),
    }
}

fn socket_json(socket: SocketAddr, protocol: Option<&str>) -> Value {
    let mut item = json!({ "address": socket.ip().to_string(), "port_value": socket.port() });
    if let Some(protocol) = protocol {
        item["protocol"] = protocol.into();
    }
    json!({ "socket_address": item })
}

fn counts(families: &[FamilySnapshot]) -> AllCounts {
    let mut all = AllCounts::new();
    let name = sluice_l7::metrics::ENDPOINT_REQUESTS.name;
    let series = families.iter().filter(|of| of.name == name).flat_map(|of| &of.series);
    for (labels, cells) in series {
        let [cluster, endpoint, class] = &**labels else { continue };
        let count = cells.first().copied().unwrap_or(0);
        let of = all.entry((Arc::clone(cluster), Arc::clone(endpoint))).or_default();
        of.total += count;
        of.errors += if matches!(&**class, "5xx" | "none") { count } else { 0 };
    }
    all
}

/// The limits of a class of requests, by their names.
fn thresholds(cluster: &Cluster, class: BreakerClass) -> Vec<(&'static str, u64)> {
    let plan = cluster.peek_plan();
    let all = [
        ("max_connections", plan.limit_of(LoadKind::Connection, class)),
        ("max_pending_requests", Some(plan.pending_of(class))),
        ("max_requests", plan.limit_of(LoadKind::Request, class)),
        ("max_retries", Some(plan.retries_of(class).0)),
    ];
    let set = all.into_iter().filter_map(|(name, max)| Some((name, max?)));
    set.filter(|(_, max)| *max < u64::MAX).collect()
}

const CLASSES: [(&str, &str, BreakerClass); 2] = [
    ("default_priority", "DEFAULT", BreakerClass::Default),
    ("high_priority", "HIGH", BreakerClass::High),
];

/// Values by their names.
type EndpointValues<const N: usize> = [(&'static str, u64); N];

/// The values of an endpoint: counters, then gauges.
fn values(
    cluster: &Cluster,
    endpoint: &EndpointState,
    counts: &AllCounts,
) -> (EndpointValues<4>, EndpointValues<2>) {
    let key = (Arc::clone(&cluster.name), Arc::clone(&endpoint.name));
    let count = counts.get(&key).copied().unwrap_or_default();
    let counters = [
        ("cx_total", endpoint.total()),
        ("rq_error", count.errors),
        ("rq_success", count.total - count.errors),
        ("rq_total", count.total),
    ];
    (counters, [("cx_active", endpoint.active()), ("rq_active", endpoint.requests())])
}

fn flags(endpoint: &EndpointState, traits: &EndpointTraits) -> String {
    let all = [
        ("/failed_active_hc", endpoint.is_unhealthy()),
        ("/failed_outlier_check", endpoint.is_ejected()),
        ("/failed_eds_health", traits.status == EndpointStatus::Unhealthy),
        ("/degraded_active_hc", endpoint.is_degraded()),
        ("/degraded_eds_health", traits.status == EndpointStatus::Degraded),
        ("/eds_status_draining", traits.status == EndpointStatus::Draining),
        ("/pending_dynamic_removal", endpoint.is_leaving()),
    ];
    let set: String = all.iter().filter(|(_, set)| *set).map(|(flag, _)| *flag).collect();
    if set.is_empty() { "healthy".into() } else { set }
}

/// The address of an endpoint: of a host name, the first that is known.
fn address_of(endpoint: &EndpointState) -> String {
    if endpoint.name.parse::<SocketAddr>().is_ok() {
        return endpoint.name.to_string();
    }
    let known = endpoint.addresses().first().map(ToString::to_string);
    known.unwrap_or_else(|| endpoint.name.to_string())
}

fn locality(traits: &EndpointTraits) -> [(&'static str, &str); 3] {
    let of = traits.locality.as_deref();
    [
        ("region", of.map_or("", |of| &of.region)),
        ("zone", of.map_or("", |of| &of.zone)),
        ("sub_zone", of.map_or("", |of| &of.sub_zone)),
    ]
}

fn text(cluster: &Cluster, names: &ClusterStatNames, counts: &AllCounts, out: &mut String) {
    let name = &names.name;
    let _ = writeln!(out, "{name}::observability_name::{}", names.observability());
    for (word, _, class) in CLASSES {
        for (limit, max) in thresholds(cluster, class) {
            let _ = writeln!(out, "{name}::{word}::{limit}::{max}");
        }
    }
    let _ = writeln!(out, "{name}::added_via_api::{}", names.is_dynamic);
    let members = cluster.members();
    for (endpoint, traits) in members.endpoints.iter().zip(&*members.traits) {
        let address = address_of(endpoint);
        let (counters, gauges) = values(cluster, endpoint, counts);
        for (key, value) in gauges.iter().chain(&counters) {
            let _ = writeln!(out, "{name}::{address}::{key}::{value}");
        }
        let hostname = endpoint.host.as_deref().unwrap_or_default();
        let _ = writeln!(out, "{name}::{address}::hostname::{hostname}");
        let _ = writeln!(out, "{name}::{address}::health_flags::{}", flags(endpoint, traits));
        let _ = writeln!(out, "{name}::{address}::weight::{}", traits.weight);
        for (key, value) in locality(traits) {
            let _ = writeln!(out, "{name}::{address}::{key}::{value}");
        }
        let _ = writeln!(out, "{name}::{address}::priority::{}", traits.priority);
    }
}

fn as_json(cluster: &Cluster, names: &ClusterStatNames, counts: &AllCounts) -> Value {
    let members = cluster.members();
    let endpoint = |(endpoint, traits): (&Arc<EndpointState>, &Arc<EndpointTraits>)| {
        let address = address_of(endpoint);
        let address = address.parse().map_or_else(
            |_| json!({ "pipe": { "path": address } }),
            |socket: SocketAddr| socket_json(socket, None),
        );
        let (counters, gauges) = values(cluster, endpoint, counts);
        let counters =
            counters.map(|(name, value)| json!({ "name": name, "value": value.to_string() }));
        let gauges = gauges.map(
            |(name, value)| json!({ "type": "GAUGE", "name": name, "value": value.to_string() }),
        );
        let status = match traits.status {
            EndpointStatus::Healthy => "HEALTHY",
            EndpointStatus::Degraded => "DEGRADED",
            EndpointStatus::Unhealthy => "UNHEALTHY",
            EndpointStatus::Draining => "DRAINING",
        };
        let mut health = json!({ "eds_health_status": status });
        for (key, set) in [
            ("failed_active_health_check", endpoint.is_unhealthy()),
            ("failed_outlier_check", endpoint.is_ejected()),
            ("failed_active_degraded_check", endpoint.is_degraded()),
            ("pending_dynamic_removal", endpoint.is_leaving()),
        ] {
            if set {
                health[key] = true.into();
            }
        }
        let place = locality(traits).into_iter().filter(|(_, of)| !of.is_empty());
        let place = place.map(|(key, of)| (key.to_owned(), Value::from(of)));
        let mut item = json!({
            "address": address,
            "stats": counters.into_iter().chain(gauges).collect::<Vec<_>>(),
            "health_status": health,
            "weight": traits.weight,
            "locality": Value::Object(place.collect()),
        });
        if let Some(host) = &endpoint.host {
            item["hostname"] = (&**host).into();
        }
        if traits.priority > 0 {
            item["priority"] = traits.priority.into();
        }
        item
    };
    let hosts: Vec<Value> = members.endpoints.iter().zip(&*members.traits).map(endpoint).collect();
    let class = |(_, word, class): (&str, &str, BreakerClass)| {
        let limits = thresholds(cluster, class);
        let mut item: serde_json::Map<String, Value> =
            limits.into_iter().map(|(name, max)| (name.to_owned(), max.into())).collect();
        item.insert("priority".into(), word.into());
        Value::Object(item)
    };
    let mut item = json!({
        "name": &*names.name,
        "host_statuses": hosts,
        "circuit_breakers": { "thresholds": CLASSES.map(class) },
        "observability_name": names.observability(),
    });
    if names.is_dynamic {
        item["added_via_api"] = true.into();
    }
    item
}
