//! The names that clusters and listeners have in Envoy's statistics.
//!
//! Owns: what is read of resources for that. Refuses to know: how they are mapped. Keeps: connection managers of one listener
//! with different prefixes have no statistics by prefix, since what Sluice counts by listener cannot be told apart.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::table::StatScope;
use crate::message::{ProtoMessage, ProtoValue};
use crate::native_names::{native_clusters, native_name};
use crate::parts::{inner, items, text};
use crate::sources::name_by_address;

/// The names of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerStatNames {
    /// Its name.
    pub name: Arc<str>,
    /// `stat_prefix`, or the address.
    pub address: String,
    /// The prefix of its connection managers, if they have one in common.
    pub http: Option<Arc<str>>,
    /// That of its `tcp_proxy` filters.
    pub tcp: Option<Arc<str>>,
    /// That of its `udp_proxy`.
    pub udp: Option<Arc<str>>,
    /// What the names of its decisions by `rbac` begin with, if those of all its requests begin alike and connections have
    /// none.
    pub rbac: Option<RbacStatNames>,
    /// Whether all chains are of one of these kinds.
    pub is_uniform: bool,
    /// Whether its traffic is inbound.
    pub is_inbound: bool,
}

/// What the names of decisions of the filter `rbac` begin with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RbacStatNames {
    /// `rules_stat_prefix` and a dot, or nothing.
    pub rules: Arc<str>,
    /// `shadow_rules_stat_prefix` and a dot, or nothing.
    pub shadow_rules: Arc<str>,
}

/// The names of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatNames {
    /// Its name.
    pub name: Arc<str>,
    /// Its name in statistics: `alt_stat_name` or its name, in which a colon is an underscore.
    pub stat: Arc<str>,
    /// `alt_stat_name`.
    observed: Option<Arc<str>>,
    /// Whether a control plane has sent it.
    pub is_dynamic: bool,
}

impl ClusterStatNames {
    /// Its name as it is shown beside statistics.
    pub fn observability(&self) -> &str {
        self.observed.as_deref().unwrap_or(&self.name)
    }
}

/// The names of all clusters and listeners, by their native names.
#[derive(Clone, Debug, Default)]
pub struct StatNames {
    clusters: HashMap<Arc<str>, Arc<ClusterStatNames>>,
    listeners: HashMap<Arc<str>, Arc<ListenerStatNames>>,
}

/// The name of a cluster or listener of a control plane, with its native name.
#[derive(Clone, Debug)]
pub enum OwnerStatNames {
    /// Of a cluster.
    Cluster(Arc<str>, Arc<ClusterStatNames>),
    /// Of a listener.
    Listener(Arc<str>, Arc<ListenerStatNames>),
}

impl OwnerStatNames {
    /// The names of a resource; `native` is the native name if it is a cluster. `None` for other resources.
    pub fn of(owner: &ProtoMessage, native: impl FnOnce(&str) -> Arc<str>) -> Option<Self> {
        match owner.descriptor.name() {
            "Cluster" => {
                let names = names_of_cluster(owner, true)?;
                Some(Self::Cluster(native(&names.name), names.into()))
            }
            "Listener" => Some(Self::Listener(native_listener(owner)?, listener(owner).into())),
            _ => None,
        }
    }
}

impl StatNames {
    /// The names of what a bootstrap has itself.
    pub fn of_bootstrap(bootstrap: &ProtoMessage) -> Self {
        let mut names = Self::default();
        let Some(resources) = inner(bootstrap, "static_resources") else { return names };
        let natives = native_clusters(resources);
        for cluster in items(resources, "clusters") {
            let Some(of) = names_of_cluster(cluster, false) else { continue };
            let native = natives.get(&of.name).cloned();
            names.clusters.extend(native.map(|native| (native, of.into())));
        }
        for of in items(resources, "listeners") {
            let native = native_listener(of);
            names.listeners.extend(native.map(|native| (native, listener(of).into())));
        }
        names
    }

    /// Adds a resource of a control plane.
    pub fn add(&mut self, owner: &OwnerStatNames) {
        match owner {
            OwnerStatNames::Cluster(native, names) => {
                self.clusters.insert(Arc::clone(native), Arc::clone(names));
            }
            OwnerStatNames::Listener(native, names) => {
                self.listeners.insert(Arc::clone(native), Arc::clone(names));
            }
        }
    }

    /// The names of a cluster.
    pub fn cluster(&self, native: &str) -> Option<&ClusterStatNames> {
        self.clusters.get(native).map(|of| &**of)
    }

    /// The names of a listener.
    pub fn listener(&self, native: &str) -> Option<&ListenerStatNames> {
        self.listeners.get(native).map(|of| &**of)
    }

    /// The native names of listeners, with whether their traffic is inbound.
    pub fn listeners(&self) -> impl Iterator<Item = (&Arc<str>, &ListenerStatNames)> {
        self.listeners.iter().map(|(native, of)| (native, &**of))
    }

    /// Calls `each` with the beginning of every name that there is, and what it is about.
    pub(super) fn declare(&self, each: &mut dyn FnMut(&str, StatScope)) {
        for of in self.clusters.values() {
            each(&format!("cluster.{}.", of.stat), StatScope::Cluster);
        }
        let scopes = [
            StatScope::Listener,
            StatScope::ListenerHttp,
            StatScope::Http,
            StatScope::HttpConnections,
            StatScope::Rbac,
            StatScope::RbacShadow,
            StatScope::Tcp,
            StatScope::Udp,
        ];
        for of in self.listeners.values() {
            for scope in scopes {
                if let Some(prefix) = of.prefix(scope) {
                    each(&prefix, scope);
                }
            }
        }
    }
}

/// The names of a cluster; in statistics, a colon is an underscore.
fn names_of_cluster(cluster: &ProtoMessage, is_dynamic: bool) -> Option<ClusterStatNames> {
    let name = text(cluster, "name")?;
    let observed = text(cluster, "alt_stat_name");
    let stat = escaped(observed.as_deref().unwrap_or(&name)).into();
    Some(ClusterStatNames { name, stat, observed, is_dynamic })
}

fn native_listener(listener: &ProtoMessage) -> Option<Arc<str>> {
    let name = text(listener, "name").or_else(|| name_by_address(listener))?;
    Some(native_name(&name).into())
}

fn listener(of: &ProtoMessage) -> ListenerStatNames {
    let mut kinds: [BTreeSet<Arc<str>>; 3] = Default::default();
    let mut others = false;
    let mut chains = items(of, "filter_chains");
    chains.extend(inner(of, "default_filter_chain"));
    let rbac = rbac(&chains);
    for chain in chains {
        // The last filter is the one that serves the connection.
        others |= !items(chain, "filters").last().is_some_and(|filter| note(filter, &mut kinds));
    }
    for filter in items(of, "listener_filters") {
        note(filter, &mut kinds);
    }
    others |= kinds.iter().filter(|prefixes| !prefixes.is_empty()).count() > 1;
    others |= kinds.iter().any(|prefixes| prefixes.len() > 1);
    let [http, tcp, udp] = kinds.map(|prefixes| {
        let mut all = prefixes.into_iter();
        all.next().filter(|_| all.next().is_none())
    });
    let direction = of.fields.iter().find(|field| field.descriptor.name() == "traffic_direction");
    let inbound = |value: &ProtoValue| matches!(value, ProtoValue::Enum(1, _));
    ListenerStatNames {
        name: text(of, "name").or_else(|| name_by_address(of)).unwrap_or_default(),
        address: text(of, "stat_prefix").map_or_else(|| address(of), |text| escaped(&text)),
        http,
        tcp,
        udp,
        rbac,
        is_uniform: !others,
        is_inbound: direction.is_some_and(|field| inbound(&field.value)),
    }
}

/// What the names of decisions by `rbac` begin with; `None` if series by listener cannot tell them apart, or there are none.
fn rbac(chains: &[&ProtoMessage]) -> Option<RbacStatNames> {
    let mut found: Option<RbacStatNames> = None;
    for filter in chains.iter().flat_map(|chain| items(chain, "filters")) {
        let Some(config) = inner(filter, "typed_config") else { continue };
        if config.descriptor.name() == "RBAC" {
            return None;
        }
        for filter in items(config, "http_filters") {
            let Some(config) = inner(filter, "typed_config") else { continue };
            if config.descriptor.name() != "RBAC" {
                continue;
            }
            let part = |field| match text(config, field) {
                Some(of) if of.ends_with('.') => Arc::from(escaped(&of)),
                Some(of) if !of.is_empty() => Arc::from(escaped(&of) + "."),
                _ => Arc::from(""),
            };
            let own = RbacStatNames {
                rules: part("rules_stat_prefix"),
                shadow_rules: part("shadow_rules_stat_prefix"),
            };
            // Rules that only write to the log are decisions of another kind.
            let logs = ["rules", "shadow_rules"].into_iter().any(|field| {
                let action = inner(config, field).and_then(|rules| rules.peek("action"));
                matches!(action.map(|field| &field.value), Some(ProtoValue::Enum(2, _)))
            });
            if logs || found.as_ref().is_some_and(|found| *found != own) {
                return None;
            }
            found = Some(own);
        }
    }
    found
}

/// Notes the prefix of a filter that serves connections or flows, if it is one.
fn note(filter: &ProtoMessage, [http, tcp, udp]: &mut [BTreeSet<Arc<str>>; 3]) -> bool {
    let Some(config) = inner(filter, "typed_config") else { return false };
    let kind = match config.descriptor.name() {
        "HttpConnectionManager" => http,
        "TcpProxy" => tcp,
        "UdpProxyConfig" => udp,
        _ => return false,
    };
    kind.extend(text(config, "stat_prefix").map(|prefix| Arc::from(escaped(&prefix))));
    true
}

fn address(listener: &ProtoMessage) -> String {
    let Some(address) = inner(listener, "address") else { return String::new() };
    if let Some(pipe) = inner(address, "pipe") {
        return escaped(&text(pipe, "path").unwrap_or_default());
    }
    let Some(socket) = inner(address, "socket_address") else { return String::new() };
    let port = socket.fields.iter().find(|field| field.descriptor.name() == "port_value");
    let port = port.map_or(0, |field| match field.value {
        ProtoValue::Int(port) => port,
        _ => 0,
    });
    let host = text(socket, "address").unwrap_or_default();
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
    escaped(&format!("{host}:{port}"))
}

/// Text as a part of a name.
fn escaped(text: &str) -> String {
    text.replace(':', "_")
}
