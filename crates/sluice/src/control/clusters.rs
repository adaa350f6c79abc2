//! Clusters on the admin pages: their state, and how they would choose an endpoint.
//!
//! Owns: the words. Refuses to know: how a pick is made. Keeps: what is shown is read from the tables that picks use, at
//! one moment of the control thread.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_core::clock::{Clock, rfc3339};
use sluice_upstream::balance::load_balancer::LoadBalancer;
use sluice_upstream::balance::priorities::Share;
use sluice_upstream::balance::subsets::Subset;
use sluice_upstream::balance::zones::ZoneRouting;
use sluice_upstream::cluster::{Eligibility, FALLBACKS_MAX, Ineligible};
use sluice_upstream::endpoint::{EndpointStatus, Http3Facts, LoadKind, ReportedWeight, Trouble};
use sluice_upstream::metadata::MetadataValues;
use sluice_upstream::name_state::NameState;
use sluice_upstream::{Cluster, EndpointMetadata, EndpointState, EndpointTraits};
use tokio::time::Instant;

use super::overrides;

/// Endpoints that an explanation lists.
const LISTED_MAX: usize = 20;

/// The cause of an event and its time.
fn of_trouble(trouble: &Trouble, wall: Duration) -> Value {
    let since = wall.saturating_sub(trouble.since.elapsed());
    json!({ "cause": trouble.cause, "since": rfc3339(since) })
}

/// The state of a name: how its last look-up ended, when it was, when the next is due, and how old the answer is.
fn of_name(state: &NameState, wall: Duration) -> Value {
    let now = Instant::now();
    let past = |at: Instant| rfc3339(wall.saturating_sub(now.saturating_duration_since(at)));
    let mut item = json!({ "state": state.outcome.word(), "message": state.message });
    if let Some(at) = state.looked_up_at {
        item["looked_up_at"] = past(at).into();
    }
    if let Some(at) = state.next_at {
        item["next_at"] = rfc3339(wall + at.saturating_duration_since(now)).into();
    }
    if let Some(at) = state.answered_at {
        item["answered_at"] = past(at).into();
        item["age_seconds"] = now.saturating_duration_since(at).as_secs().into();
    }
    item
}

/// The shares of the priorities, and of the localities in each, in percent of the traffic of the cluster.
fn of_priorities(balancer: &LoadBalancer) -> Value {
    let loads = balancer.locality_loads();
    let one = |(priority, share): &(u32, Share)| {
        let Share { healthy, degraded, panics } = *share;
        let mut item = json!({ "priority": priority, "healthy": healthy, "degraded": degraded, "panic": panics });
        let own = loads.iter().filter(|load| load.priority == *priority);
        let localities: Vec<Value> = own
            .map(|load| {
                let percent = (load.percent * 10.0).round() / 10.0;
                json!({ "locality": load.locality.to_string(), "degraded": load.degraded, "percent": percent })
            })
            .collect();
        if !localities.is_empty() {
            item["localities"] = localities.into();
        }
        item
    };
    balancer.shares.iter().map(one).collect()
}

/// The limits of a cluster that are set.
fn of_breakers(cluster: &Cluster, reserve_percent: u64) -> Value {
    let mut item = Value::Null;
    for breaker in cluster.breakers(reserve_percent) {
        item[breaker.limit] = json!({
            "limit": breaker.max,
            "used": breaker.used,
            "left": breaker.left(),
            "open": breaker.open,
        });
    }
    item
}

/// Why an endpoint is not picked, in words.
fn of_cause(cause: &Ineligible, wall: Duration) -> String {
    let now = Instant::now();
    let past = |at: Instant| rfc3339(wall.saturating_sub(at.elapsed()));
    let coming = |at: Instant| rfc3339(wall + at.saturating_duration_since(now));
    match cause {
        Ineligible::Unhealthy(why) => format!("unhealthy since {}: {}", past(why.since), why.cause),
        Ineligible::Ejected(why, until) => {
            let until = until.map_or_else(String::new, |at| format!(" until {}", coming(at)));
            format!("ejected since {}{until}: {}", past(why.since), why.cause)
        }
        Ineligible::Stated(status) => format!("`status: {}`", status.word()),
        Ineligible::Drained => "drained by an operator".to_owned(),
        Ineligible::Maintenance => "in maintenance by an operator".to_owned(),
        Ineligible::HeldBack(at) => {
            format!("its priority has its traffic back at {} (`failback_delay`)", coming(*at))
        }
        Ineligible::OutsideAperture => "outside the aperture of this process".to_owned(),
        Ineligible::PriorityUnused => "higher priorities take all traffic".to_owned(),
        Ineligible::DegradedUnused => "degraded, and healthy endpoints take all traffic".to_owned(),
        Ineligible::AtLimit(limit, max) => format!("at `limits.{limit}` ({max})"),
    }
}

/// How a cluster would choose an endpoint now, and how the clusters would that serve in its place.
pub(super) fn decision(cluster: &Arc<Cluster>, wall: Duration, reserve_percent: u64) -> Vec<Value> {
    let mut items = Vec::new();
    let mut next = Some(Arc::clone(cluster));
    while let Some(cluster) = next.filter(|_| items.len() <= FALLBACKS_MAX) {
        items.push(of_decision(&cluster, wall, reserve_percent));
        let serves = cluster.has_usable() || cluster.members().balancer.panics();
        next = if serves { None } else { cluster.fallback() };
    }
    items
}

fn of_decision(cluster: &Cluster, wall: Duration, reserve_percent: u64) -> Value {
    let members = cluster.members();
    let mut item = json!({ "cluster": &*cluster.name });
    if !cluster.is_configured() {
        item["result"] = "there is no such cluster: cluster.unknown".into();
        return item;
    }
    if cluster.forwards() {
        item["result"] = "the host that the client names (`forward`)".into();
        item["hosts"] = members.endpoints.len().into();
        return item;
    }
    item["balance"] = cluster.plan().balancing.balance.word().into();
    item["priorities"] = of_priorities(&members.balancer);
    if let Some(zones) = &members.balancer.zones {
        item["zone_aware"] = of_zones(*zones);
    }
    if let Some(subsets) = &members.subsets {
        item["subsets"] = subsets.iter().map(of_subset).collect();
    }
    let all: Vec<(&Arc<EndpointState>, Eligibility)> =
        members.endpoints.iter().zip(cluster.eligibility()).collect();
    let eligible = all.iter().filter(|(_, of)| of.why_not.is_empty()).count();
    item["endpoints"] = json!({ "all": all.len(), "eligible": eligible });
    let not_eligible = all.iter().filter(|(_, of)| !of.why_not.is_empty()).take(LISTED_MAX);
    let why_not = |(endpoint, of): &(&Arc<EndpointState>, Eligibility)| {
        let causes: Vec<String> = of.why_not.iter().map(|cause| of_cause(cause, wall)).collect();
        json!({ "address": &*endpoint.name, "why": causes.join("; ") })
    };
    item["not_eligible"] = not_eligible.map(why_not).collect();
    let warming = all.iter().filter_map(|(endpoint, of)| Some((endpoint, of.slow_start?)));
    let warming: Vec<Value> = warming
        .take(LISTED_MAX)
        .map(|(endpoint, percent)| json!({ "address": &*endpoint.name, "percent": percent }))
        .collect();
    if !warming.is_empty() {
        item["slow_start"] = warming.into();
    }
    let breakers = of_breakers(cluster, reserve_percent);
    if !breakers.is_null() {
        item["breakers"] = breakers;
    }
    item
}

fn of_zones(zones: ZoneRouting) -> Value {
    match zones {
        ZoneRouting::Off(why) => json!({ "active": false, "why": why }),
        ZoneRouting::Own(stays) => {
            json!({ "active": true, "own_zone_percent": f64::from(stays) / 100.0 })
        }
    }
}

/// What is known of HTTP/3 at an endpoint that TCP reaches as well.
fn of_http3(facts: &Http3Facts, clock: &Clock) -> Value {
    let mut item = json!({});
    if let Some(advert) = facts.advertised {
        item["advertised_port"] = advert.port.into();
        item["advertised_until"] = rfc3339(clock.wall(advert.until)).into();
    }
    if let Some(port) = facts.named {
        item["named_port"] = port.into();
    }
    if let Some(broken) = &facts.broken {
        item["failures"] = broken.count.into();
        item["failure"] = (&*broken.cause).into();
        item["retry_at"] = rfc3339(clock.wall(broken.until)).into();
    }
    item
}

fn of_metadata(metadata: &EndpointMetadata) -> Value {
    let entry = |(key, values): &MetadataValues| match &**values {
        [one] => (key.to_string(), (&**one).into()),
        many => (key.to_string(), many.iter().map(|value| Value::from(&**value)).collect()),
    };
    Value::Object(metadata.iter().map(entry).collect())
}

fn of_subset(subset: &Subset) -> Value {
    let metadata = subset.key.iter().map(|(key, value)| (key.to_string(), (&**value).into()));
    json!({
        "metadata": Value::Object(metadata.collect()),
        "endpoints": subset.len,
        "priorities": of_priorities(&subset.balancer),
    })
}

/// A cluster with its endpoints.
pub(super) fn of_cluster(cluster: &Cluster, clock: &Clock, reserve_percent: u64) -> Value {
    let wall = clock.wall(clock.now());
    let (plan, members) = (cluster.plan(), cluster.members());
    let decided = cluster.overrides();
    let eligibility = cluster.eligibility();
    let endpoint =
        |(index, (endpoint, traits)): (usize, (&Arc<EndpointState>, &Arc<EndpointTraits>))| {
            let mut item = json!({
                "address": &*endpoint.name,
                "weight": traits.weight,
                "priority": traits.priority,
                "healthy": endpoint.is_healthy(),
                "degraded": endpoint.is_degraded(),
                "ejected": endpoint.is_ejected(),
                "connections_active": endpoint.active(),
                "requests_active": endpoint.requests(),
                "connections_total": endpoint.total(),
            });
            if endpoint.is_leaving() {
                item["leaving"] = true.into();
            }
            for (key, trouble) in
                [("unhealthy", endpoint.why_unhealthy()), ("ejected", endpoint.why_ejected())]
            {
                if let Some(trouble) = trouble {
                    item["trouble"][key] = of_trouble(&trouble, wall);
                }
            }
            if let Some(until) = endpoint.ejected_until() {
                item["trouble"]["ejected"]["until"] =
                    rfc3339(wall + until.saturating_duration_since(Instant::now())).into();
            }
            if let Some(Eligibility { why_not, slow_start }) = eligibility.get(index) {
                let words: Vec<&str> = why_not.iter().map(Ineligible::word).collect();
                item["not_eligible"] = words.into();
                if let Some(percent) = slow_start {
                    item["slow_start_percent"] = (*percent).into();
                }
            }
            if let Some(one) = decided.get(&endpoint.name) {
                item["override"] = overrides::show_endpoint(one, wall);
            }
            if plan.forward.is_some() {
                item["addresses"] = endpoint.addresses().iter().map(ToString::to_string).collect();
            }
            if let Some(host) = &endpoint.host {
                item["host"] = (&**host).into();
            }
            if traits.status != EndpointStatus::Healthy {
                item["status"] = traits.status.word().into();
            }
            if let Some(locality) = &traits.locality {
                item["locality"] = locality.to_string().into();
            }
            if let Some(latency) = endpoint.latency.peak() {
                item["latency_peak_seconds"] = latency.as_secs_f64().into();
            }
            if let Some(weight) = endpoint.reported().and_then(ReportedWeight::last) {
                item["reported_weight"] = weight.into();
            }
            if let Some(facts) = endpoint.http3.facts() {
                item["http3"] = of_http3(&facts, clock);
            }
            if let Some(metadata) = &traits.metadata {
                item["metadata"] = of_metadata(metadata);
            }
            let loads = [("connections", LoadKind::Connection), ("requests", LoadKind::Request)];
            for (key, load) in loads {
                if let Some(max) = endpoint.limit_of(load, plan.endpoint_limit_of(load)) {
                    item["limits"][key] = max.into();
                }
                if endpoint.waiting(load) > 0 {
                    item["waiting"][key] = endpoint.waiting(load).into();
                }
            }
            item
        };
    let names = cluster.names().into_iter();
    let resolver: serde_json::Map<String, Value> =
        names.map(|(name, state)| (name.to_string(), of_name(&state, wall))).collect();
    let mut item = json!({
        "name": &*cluster.name,
        "balance": plan.balancing.balance.word(),
        "connections_active": cluster.active(),
        "membership": members.version,
        "endpoints": members.endpoints.iter().zip(&*members.traits).enumerate().map(endpoint).collect::<Vec<_>>(),
        "priorities": of_priorities(&members.balancer),
    });
    if let Some(zones) = &members.balancer.zones {
        item["zone_aware"] = of_zones(*zones);
    }
    if let Some(subsets) = &members.subsets {
        item["subsets"] = subsets.iter().map(of_subset).collect();
        item["subsets_left_out"] = subsets.left_out().into();
    }
    match plan.fallback.as_slice() {
        [] => {}
        [one] => item["fallback"] = (&**one).into(),
        all => item["fallback"] = all.iter().map(|name| &**name).collect(),
    }
    let breakers = of_breakers(cluster, reserve_percent);
    if !breakers.is_null() {
        item["breakers"] = breakers;
    }
    if !resolver.is_empty() {
        item["resolver"] = resolver.into();
    }
    item
}
