//! The smallest configuration: a chain with one route, and a cluster with two endpoints.
//!
//! Owns: the plans. Refuses to know: workers. Keeps: what a test does not set has no limit and no time-out but those that
//! every chain has.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::value::HostPattern;
use sluice_upstream::cluster::Member;
use sluice_upstream::plan::{
    ClusterPlan, ClusterSettings, EnforcePlan, HttpVersion, OnRemoved, OutlierPlan,
};
use sluice_upstream::{Cluster, Target};

use super::{BODY_TIMEOUT, Hooks, NAMES, OwnHooks};
use crate::edge::Edge;
use crate::filters::HttpFilterPlan;
use crate::hygiene::Hygiene;
use crate::plan::{HttpOptions, HttpPlan, Versions};
use crate::routes::{
    Action, Override, OverrideSet, Overrides, PathMatch, RouteCell, RouteTable, Rule, RuleOptions,
    VirtualHost,
};

fn cluster_plan(name: &str, protocol: HttpVersion) -> ClusterPlan {
    let bare = ClusterSettings::clone(&ClusterSettings::bare());
    let settings = ClusterSettings { on_endpoint_removed: OnRemoved::Close, protocol, ..bare };
    ClusterPlan { name: name.into(), settings: Arc::new(settings), tls: None }
}

/// Changes the settings of a cluster.
pub(crate) fn configure(cluster: &Cluster, change: impl FnOnce(&mut ClusterSettings)) {
    let mut settings = ClusterSettings::clone(&cluster.peek_plan());
    change(&mut settings);
    let name = Arc::clone(&cluster.name);
    cluster.set_plan(Arc::new(ClusterPlan { name, settings: Arc::new(settings), tls: None }));
}

/// Ejects an endpoint after one failure to connect or one server error.
pub(crate) const fn strict() -> OutlierPlan {
    OutlierPlan {
        connect_failures: 1,
        consecutive_5xx: 1,
        consecutive_gateway_errors: 0,
        connect_failures_as_503: false,
        success_rate: None,
        failure_percentage: None,
        silence: None,
        latency: None,
        enforce: EnforcePlan::ALWAYS,
        interval: Duration::from_secs(10),
        ejection: Duration::from_secs(1000),
        ejection_max: Duration::from_secs(1000),
        ejection_jitter: Duration::ZERO,
        max_ejected_percent: 100,
        readmit_after_check: false,
    }
}

/// A cluster with two endpoints.
pub(crate) fn cluster(name: &str) -> Arc<Cluster> {
    cluster_over(name, HttpVersion::Http1)
}

/// A cluster with two endpoints that are reached over this version.
pub(crate) fn cluster_over(name: &str, protocol: HttpVersion) -> Arc<Cluster> {
    let cluster = Arc::new(Cluster::new(Arc::new(cluster_plan(name, protocol))));
    publish(&cluster);
    cluster
}

/// A cluster whose only endpoint is there.
pub(in crate::exchange::tests) fn cluster_at(name: &str, address: SocketAddr) -> Arc<Cluster> {
    let cluster = Arc::new(Cluster::new(Arc::new(cluster_plan(name, HttpVersion::Http1))));
    cluster.publish(&[member(address)]);
    cluster
}

/// Configures a cluster that a rule refers to, with two endpoints.
pub(crate) fn fill(cluster: &Cluster) {
    cluster.set_plan(Arc::new(cluster_plan(&cluster.name, HttpVersion::Http1)));
    publish(cluster);
}

fn publish(cluster: &Cluster) {
    cluster.publish(&[1, 2].map(|last| member(([192, 0, 2, last], 80).into())));
}

fn member(address: SocketAddr) -> Member {
    Member {
        target: Target::Ip(address),
        host: None,
        name: None,
        alternates: Vec::new(),
        traits: Arc::default(),
    }
}

/// A chain whose routes have these options and lead to the returned cluster; with these filters, and with these rules
/// before the one for every path.
pub(crate) fn plan(
    options: RuleOptions,
    filters: &[Hooks],
    rules: &[(&'static str, &[OwnHooks])],
) -> (HttpPlan, Arc<Cluster>) {
    let cluster = cluster("app");
    let options = Arc::new(options);
    let rule = |path: &'static str, overrides| Rule {
        name: path.into(),
        path: PathMatch::StartsWith(path.into()),
        conditions: None,
        action: Action::Cluster(0),
        options: Arc::clone(&options),
        overrides,
    };
    let mut sets = vec![OverrideSet { owner: "".into(), said: Overrides::new() }];
    let mut built = Vec::new();
    for (path, own) in rules {
        let said = own.iter().map(|(place, hooks)| {
            let instead = |hooks: Hooks| Override::Instead(Arc::new(hooks));
            (NAMES[*place].into(), hooks.map_or(Override::Skip, instead))
        });
        sets.push(OverrideSet { owner: (*path).into(), said: said.collect() });
        built.push(rule(path, u32::try_from(sets.len() - 1).unwrap()));
    }
    // The only rule also takes requests without a path.
    let path = if rules.is_empty() { PathMatch::Any } else { PathMatch::StartsWith("/".into()) };
    built.push(Rule { path, ..rule("/", 0) });
    let host = VirtualHost::new(vec![HostPattern::Any], built);
    let clusters = vec![Arc::clone(&cluster)];
    let table = RouteTable::build(vec![host], clusters, Arc::default(), sets).unwrap();
    let plan = HttpPlan {
        listener: "web".into(),
        owner: "web/default".into(),
        routes: Arc::new(RouteCell::new("main".into(), Arc::new(table))),
        filters: filters
            .iter()
            .zip(NAMES)
            .map(|(hooks, name)| (name.into(), Arc::new(*hooks) as Arc<dyn HttpFilterPlan>))
            .collect(),
        runtime: Arc::default(),
        client_auth: None,
        options: HttpOptions {
            h1: Default::default(),
            h2: Default::default(),
            h3: Default::default(),
            advertise_h3: false,
            proxy_status: None,
            local_replies: None,
            versions: Versions::Any,
            hygiene: Hygiene::default(),
            edge: Edge::default(),
            head_timeout: Duration::from_secs(10),
            body_timeout: BODY_TIMEOUT,
            idle_timeout: None,
            stream_duration_max: None,
            cluster_wait: None,
            hosts_on_demand: None,
            scopes_on_demand: None,
            requests_max: None,
            age_max: None,
            age_jitter_percent: 0,
            delayed_close: Duration::from_secs(1),
            tunnel: None,
        },
    };
    (plan, cluster)
}
