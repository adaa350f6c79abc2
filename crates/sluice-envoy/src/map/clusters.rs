//! Clusters and their endpoints.
//!
//! Owns: discovery, endpoints, localities. Refuses to know: balancing, health, limits, protocols. Keeps: a cluster
//! without endpoints is refused.

use std::sync::Arc;

use sluice_core::{Node, Span};

use super::{Mapping, Zero};
use crate::message::{ProtoMessage, ProtoValue};
use crate::native::{NativeMap, plain, quoted};

/// Fields that say how Envoy counts, buffers or starts.
const WITHOUT_EFFECT: [&str; 10] = [
    "alt_stat_name",
    "per_connection_buffer_limit_bytes",
    "metadata",
    "track_timeout_budgets",
    "track_cluster_stats",
    "wait_for_warm_on_init",
    "cleanup_interval",
    "dns_jitter",
    "dns_failure_refresh_rate",
    "connection_pool_per_downstream_connection",
];

impl Mapping<'_> {
    /// A cluster in the native form, with its native name.
    pub(super) fn cluster_resource(&mut self, cluster: &ProtoMessage) -> Option<(Arc<str>, Node)> {
        let name = self.cluster(cluster.text("name")?, cluster, "name");
        let mut native = NativeMap::new(cluster.span);
        self.only_false(cluster, "connection_pool_per_downstream_connection", "");
        cluster.without_effect(&WITHOUT_EFFECT);
        for field in WITHOUT_EFFECT {
            cluster.field(field).into_iter().for_each(|field| {
                field.value.messages(&mut ProtoMessage::all_without_effect);
            });
        }
        self.reports_of_load(cluster, &mut native);
        self.discovery(cluster, &mut native);
        let connect = self.duration(cluster, "connect_timeout", Zero::Refused);
        native.set("connect_timeout", connect.unwrap_or_else(|| plain("5s", cluster.span)));
        self.balancing(cluster, &mut native);
        self.health_checks(cluster, &mut native);
        self.outliers(cluster, &mut native);
        self.limits(cluster, &mut native);
        self.protocol(cluster, &mut native);
        if let Some(socket) = self.socket_of(cluster) {
            self.upstream_socket(socket, &mut native);
        }
        self.upstream_socket_options(cluster, &mut native);
        if cluster.is("close_connections_on_host_health_failure") {
            native.word("on_endpoint_unhealthy", "close", cluster.span);
        }
        let removes = matches!(&*cluster.choice("type"), "EDS" | "STRICT_DNS");
        if native.has("health") && removes && !cluster.is("ignore_health_on_host_removal") {
            let mut health = NativeMap::of(native.take("health"), cluster.span);
            health.word("keep_removed", true, cluster.span);
            native.map("health", health);
        } else {
            cluster.without_effect(&["ignore_health_on_host_removal"]);
        }
        Some((name, native.node()))
    }

    fn discovery(&mut self, cluster: &ProtoMessage, native: &mut NativeMap) {
        let custom = cluster.message("cluster_type");
        if let Some(custom) = custom {
            custom.without_effect(&["name"]);
            match custom.message("typed_config") {
                Some(config) if config.descriptor.name() == "DnsCluster" => {
                    self.dns_cluster(config, native)
                }
                Some(config)
                    if config.descriptor.name() == "ClusterConfig"
                        && config.descriptor.parent_file().package_name()
                            == "envoy.extensions.clusters.aggregate.v3" =>
                {
                    self.aggregate(config, cluster, native);
                    return;
                }
                Some(config) => {
                    self.unsupported_type(config);
                    return;
                }
                None => self.unsupported(
                    cluster,
                    "cluster_type",
                    "a custom type needs its `typed_config`",
                ),
            }
        }
        let kind = cluster.choice("type");
        match &*kind {
            _ if custom.is_some() => {}
            "STATIC" => {
                cluster.without_effect(&[
                    "dns_lookup_family",
                    "dns_refresh_rate",
                    "respect_dns_ttl",
                ]);
            }
            "STRICT_DNS" | "LOGICAL_DNS" => self.dns(cluster, &kind, native),
            "EDS" => {
                if let Some(config) = cluster.message("eds_cluster_config") {
                    config.all_without_effect();
                }
                cluster.without_effect(&["dns_lookup_family"]);
                self.unsupported(
                    cluster,
                    "type",
                    "endpoints from a control plane are not; list them in `load_assignment`",
                );
                return;
            }
            _ => return self.original_destinations(cluster, native),
        }
        let Some(assignment) = cluster.message("load_assignment") else {
            native.word("allow_empty", true, cluster.span);
            return;
        };
        let names_allowed = &*kind != "STATIC" || custom.is_some();
        self.assignment(cluster, assignment, names_allowed, native);
    }

    /// A cluster of clusters: one without endpoints, in whose place they serve.
    fn aggregate(&mut self, config: &ProtoMessage, cluster: &ProtoMessage, native: &mut NativeMap) {
        cluster.without_effect(&["lb_policy"]);
        let how = "all traffic goes to the first cluster with a usable endpoint; Envoy moves it from one to the next by shares";
        self.differs(cluster, "cluster_type", how);
        let mut names: Vec<Node> = Vec::new();
        let listed: Vec<(Arc<str>, Span)> =
            config.texts("clusters").map(|(name, span)| (Arc::clone(name), span)).collect();
        for (name, span) in listed {
            let name = self.cluster(&name, config, "clusters");
            if !names.iter().any(|known| known.text() == Some(&*name)) {
                names.push(quoted(&name, span));
            }
        }
        native.word("allow_empty", true, cluster.span);
        native.list("fallback", names, config.place("clusters"));
    }

    fn dns(&mut self, cluster: &ProtoMessage, kind: &str, native: &mut NativeMap) {
        let mut dns = NativeMap::new(cluster.span);
        dns.word(
            "mode",
            if kind == "LOGICAL_DNS" { "logical" } else { "strict" },
            cluster.place("type"),
        );
        dns.word(
            "family",
            family(&cluster.choice("dns_lookup_family")),
            cluster.place("dns_lookup_family"),
        );
        self.dns_refresh(cluster, &mut dns);
        if cluster.has("typed_dns_resolver_config") {
            self.resolver(cluster, "typed_dns_resolver_config");
        }
        native.map("dns", dns);
    }

    fn dns_cluster(&mut self, config: &ProtoMessage, native: &mut NativeMap) {
        let mut dns = NativeMap::new(config.span);
        let logical = config.is("all_addresses_in_single_endpoint");
        dns.word("mode", if logical { "logical" } else { "strict" }, config.span);
        dns.word("family", family(&config.choice("dns_lookup_family")), config.span);
        self.dns_refresh(config, &mut dns);
        if config.has("typed_dns_resolver_config") {
            self.resolver(config, "typed_dns_resolver_config");
        }
        for field in ["dns_jitter", "dns_failure_refresh_rate"] {
            config.field(field).into_iter().for_each(|field| {
                field.value.messages(&mut ProtoMessage::all_without_effect);
            });
        }
        native.map("dns", dns);
    }

    fn dns_refresh(&mut self, of: &ProtoMessage, dns: &mut NativeMap) {
        let every = self.duration(of, "dns_refresh_rate", Zero::Refused);
        if of.is("respect_dns_ttl") {
            dns.word("refresh", "ttl", of.place("respect_dns_ttl"));
        } else {
            dns.set("refresh", every.unwrap_or_else(|| plain("5s", of.span)));
        }
    }

    /// Which library resolves names makes no difference.
    fn resolver(&mut self, of: &ProtoMessage, field: &str) {
        let Some(resolver) = of.message(field) else { return };
        resolver.without_effect(&["name"]);
        let Some(config) = resolver.message("typed_config") else { return };
        match config.descriptor.name() {
            "GetAddrInfoDnsResolverConfig" => config.all_without_effect(),
            "CaresDnsResolverConfig" if !config.has("resolvers") => config.all_without_effect(),
            _ => self.unsupported_type(config),
        }
    }

    fn assignment(
        &mut self,
        cluster: &ProtoMessage,
        assignment: &ProtoMessage,
        names_allowed: bool,
        native: &mut NativeMap,
    ) {
        assignment.without_effect(&["cluster_name"]);
        let mut endpoints = Vec::new();
        let mut localities = NativeMap::new(assignment.span);
        let weighted = by_locality(cluster)
            && assignment.messages("endpoints").any(|group| group.has("load_balancing_weight"));
        for group in assignment.messages("endpoints") {
            if weighted && group.has("locality") && !group.has("load_balancing_weight") {
                group.all_without_effect();
                let how = "a locality without a weight gets no traffic: its endpoints are left out";
                self.differs(group, "locality", how);
                continue;
            }
            if let Some(metadata) = group.message("metadata") {
                metadata.all_without_effect();
            }
            let priority = group.number("priority").unwrap_or(0);
            let locality = group.message("locality").and_then(|of| self.locality(of));
            if let Some(weight) = group.number("load_balancing_weight")
                && let Some(text) = locality.as_ref().and_then(Node::text)
            {
                localities.word(text, weight, group.place("load_balancing_weight"));
            }
            for endpoint in group.messages("lb_endpoints") {
                endpoints.extend(self.endpoint(
                    endpoint,
                    priority,
                    locality.as_ref(),
                    names_allowed,
                ));
            }
        }
        if weighted {
            native.map("localities", localities);
        }
        if endpoints.is_empty() {
            native.word("allow_empty", true, assignment.span);
        }
        let policy = assignment.message("policy");
        if let Some(policy) = policy {
            self.drops(policy, native);
        }
        let factor = policy.and_then(|policy| policy.number("overprovisioning_factor"));
        let mut failover = NativeMap::new(assignment.span);
        failover.word("overprovisioning", format!("{}%", factor.unwrap_or(140)), assignment.span);
        let common = cluster.message("common_lb_config");
        let panic = common.and_then(|common| self.percent(common, "healthy_panic_threshold"));
        match panic {
            Some(node) if node.is_word("0%") => failover.word("panic", "none", node.span),
            Some(node) => failover.set("panic", node),
            None => failover.word("panic", "50%", assignment.span),
        }
        native.map("failover", failover);
        native.list("endpoints", endpoints, assignment.span);
    }

    /// What part of the traffic is dropped.
    fn drops(&mut self, policy: &ProtoMessage, native: &mut NativeMap) {
        let mut drops = NativeMap::new(policy.place("drop_overloads"));
        for of in policy.messages("drop_overloads") {
            let category = of.text("category").map_or("", |text| text);
            let Some(share) = self.fine_fraction(of, "drop_percentage") else { continue };
            if drops.has(category) {
                let message = format!("two of the `drop_overloads` have the category `{category}`");
                let finding = self.diags.error(
                    "duplicate-name",
                    of.place("category"),
                    of.at("category"),
                    message,
                );
                finding.help("add up their shares");
                continue;
            }
            drops.word(category, share, of.place("drop_percentage"));
        }
        native.map("drop", drops);
    }

    /// What reports of its load contain, and who gets them.
    fn reports_of_load(&mut self, cluster: &ProtoMessage, native: &mut NativeMap) {
        let metrics: Vec<Node> = cluster
            .texts("lrs_report_endpoint_metrics")
            .map(|(text, span)| quoted(text, span))
            .collect();
        native.list("report_metrics", metrics, cluster.place("lrs_report_endpoint_metrics"));
        let Some(server) = cluster.message("lrs_server") else { return };
        server.all_without_effect();
        if !server.has("self") {
            self.unsupported(
                cluster,
                "lrs_server",
                "reports go to the plane that the cluster comes from (`self`), or to `load_stats_config` of the bootstrap",
            );
        } else if self.plane.is_none() {
            let how = "the cluster comes from the file and not from a plane: its load is reported to `load_stats_config` of the bootstrap, if there is one";
            self.differs(cluster, "lrs_server", how);
        }
    }

    fn endpoint(
        &mut self,
        of: &ProtoMessage,
        priority: u64,
        locality: Option<&Node>,
        names_allowed: bool,
    ) -> Option<Node> {
        let endpoint = of.message("endpoint")?;
        let address = endpoint.message("address")?;
        let (_, text) = self.address(address)?;
        let is_name = !text.starts_with("unix://") && text.parse::<std::net::SocketAddr>().is_err();
        if is_name && !names_allowed {
            let text = format!(
                "`{text}` is not an IP address; a cluster with names is of type STRICT_DNS or LOGICAL_DNS"
            );
            self.diags.error("bad-value", address.span, &*address.path, text);
            return None;
        }
        let mut native = NativeMap::new(of.span);
        native.text("address", &text, address.span);
        if let Some(weight) = of.number("load_balancing_weight") {
            native.word("weight", weight, of.place("load_balancing_weight"));
        }
        if priority > 0 {
            native.word("priority", priority, of.span);
        }
        if let Some(locality) = locality {
            native.set("locality", locality.clone());
        }
        if let Some(metadata) = of.message("metadata") {
            let labels = self.labels(metadata);
            native.map("metadata", labels);
        }
        endpoint.without_effect(&["observability_name"]);
        if let Some(name) = endpoint.text("hostname")
            && !text.starts_with(&format!("{name}:"))
        {
            self.differs(endpoint, "hostname", "the name of the endpoint is its address");
        }
        if let Some(check) = endpoint.message("health_check_config") {
            let mut native_check = NativeMap::new(check.span);
            if let Some(port) = check.number("port_value").filter(|port| *port > 0) {
                native_check.word("port", port, check.place("port_value"));
            }
            if let Some(host) = check.text("hostname") {
                native_check.text("host", host, check.place("hostname"));
            }
            native.map("check", native_check);
        }
        let status = match &*of.choice("health_status") {
            "DEGRADED" => Some("degraded"),
            "UNHEALTHY" | "TIMEOUT" => Some("unhealthy"),
            "DRAINING" => Some("draining"),
            _ => None,
        };
        if let Some(status) = status {
            native.word("status", status, of.place("health_status"));
        }
        Some(native.node())
    }

    /// The metadata that subsets tell endpoints apart by.
    fn labels(&mut self, metadata: &ProtoMessage) -> NativeMap {
        let mut labels = NativeMap::new(metadata.span);
        metadata.without_effect(&["typed_filter_metadata"]);
        for (namespace, item) in metadata.map("filter_metadata") {
            let ProtoValue::Json(node) = &item.value else { continue };
            if &**namespace == "envoy.lb" {
                for entry in node.entries().unwrap_or_default() {
                    let values: Vec<Node> = entry
                        .node
                        .items()
                        .iter()
                        .filter_map(|value| Some(quoted(value.text()?, value.span)))
                        .collect();
                    labels.list(&entry.key, values, entry.node.span);
                }
            }
        }
        labels
    }
}

/// Whether localities have weights of their own.
fn by_locality(cluster: &ProtoMessage) -> bool {
    let common = cluster.message("common_lb_config");
    if common.and_then(|common| common.message("locality_weighted_lb_config")).is_some() {
        return true;
    }
    let Some(policy) = cluster.message("load_balancing_policy") else { return false };
    policy.messages("policies").any(|policy| {
        let config =
            policy.message("typed_extension_config").and_then(|of| of.message("typed_config"));
        config.is_some_and(|config| {
            config.descriptor.get_field_by_name("locality_lb_config").is_some()
                && config
                    .message("locality_lb_config")
                    .is_some_and(|of| of.message("locality_weighted_lb_config").is_some())
        })
    })
}

fn family(word: &str) -> &'static str {
    match word {
        "V4_ONLY" => "v4",
        "V6_ONLY" => "v6",
        "V4_PREFERRED" => "v4_preferred",
        "ALL" => "all",
        // Envoy's default: IPv6, and IPv4 if there is none.
        _ => "v6_preferred",
    }
}
