//! What a route does.
//!
//! Owns: clusters, redirects, responses, rewrites, time-outs, hashing, mirrors. Refuses to know: which requests it
//! takes. Keeps: a route without a time-out has Envoy's of 15 seconds.

use sluice_core::Node;

use super::conditions::{Both, both};
use super::routes::HostDefaults;
use super::{Mapping, Zero};
use crate::message::ProtoMessage;
use crate::native::{NativeMap, plain, quoted};

impl Mapping<'_> {
    /// The rules of a `Route`; with `conditions`, one of which must hold as well.
    pub(super) fn rule(
        &mut self,
        route: &ProtoMessage,
        defaults: &mut HostDefaults<'_>,
        conditions: Option<&[NativeMap]>,
    ) -> Vec<Node> {
        let Some((matches, connect)) = route.message("match").map(|of| self.route_match(of)) else {
            return Vec::new();
        };
        let Some((rule, mut filters)) = self.rule_of(route, connect, defaults) else {
            return Vec::new();
        };
        let of_route = self.limit_cases(route, &mut filters);
        let matches = match conditions {
            None => vec![matches],
            Some(all) => self.under_conditions(route, &matches, all),
        };
        let mut rules = Vec::new();
        for matches in matches {
            let above = (&*defaults.http.cases, &defaults.filters);
            let own = (of_route.as_slice(), &NativeMap::new(route.span));
            for (matches, filters) in self.split(matches, filters.clone(), own, route) {
                rules.extend(self.split(matches, filters, above, route));
            }
        }
        let rules = rules.into_iter().enumerate().map(|(index, (matches, filters))| {
            let mut rule = rule.clone();
            // Names are unique.
            if index > 0
                && let Some(name) = rule.get("name").and_then(Node::text).map(str::to_owned)
            {
                let name = self.rule_names.add(&name);
                rule.text("name", &name, route.place("name"));
            }
            rule.map("match", matches);
            rule.map("filters", filters);
            rule.node()
        });
        rules.collect()
    }

    fn under_conditions(
        &mut self,
        route: &ProtoMessage,
        matches: &NativeMap,
        conditions: &[NativeMap],
    ) -> Vec<NativeMap> {
        let mut found = Vec::new();
        for condition in conditions {
            match both(condition, matches) {
                Both::As(joined) => found.push(joined),
                Both::Never => {}
                Both::Unclear => {
                    let how = "it cannot be joined with the conditions of the tree";
                    self.unsupported(route, "match", how);
                    return Vec::new();
                }
            }
        }
        found
    }

    /// A rule without its `match`, and its settings for filters.
    fn rule_of(
        &mut self,
        route: &ProtoMessage,
        connect: bool,
        defaults: &mut HostDefaults<'_>,
    ) -> Option<(NativeMap, NativeMap)> {
        let mut rule = NativeMap::new(route.span);
        route.without_effect(&[
            "metadata",
            "decorator",
            "stat_prefix",
            "per_request_buffer_limit_bytes",
            "request_body_buffer_limit",
        ]);
        for field in ["metadata", "decorator"] {
            if let Some(message) = route.message(field) {
                message.all_without_effect();
            }
        }
        if let Some(name) = route.text("name") {
            let name = self.rule_names.add(name);
            rule.text("name", &name, route.place("name"));
        }
        let mut filters = NativeMap::new(route.span);
        let mut edits = NativeMap::new(route.span);
        self.header_edits(route, &mut edits);
        if let Some(action) = route.message("route")
            && defaults.unknown_clusters
            && self.plane.is_none()
            && action.text("cluster").is_some_and(|name| !self.clusters.contains_key(name))
        {
            // What Envoy answers for a cluster that it does not know.
            action.all_without_effect();
            let mut respond = NativeMap::new(action.span);
            respond.word("status", not_found(action), action.place("cluster"));
            rule.map("respond", respond);
        } else if let Some(action) = route.message("route") {
            if connect || defaults.http.connect {
                rule.word("connect", true, action.span);
            }
            let matcher = route.message("match").and_then(|of| of.message("path_match_policy"));
            let config = matcher.and_then(|of| of.message("typed_config"));
            let template = config
                .filter(|config| config.descriptor.name() == "UriTemplateMatchConfig")
                .and_then(|config| config.text("path_template"));
            self.forwarding(action, defaults, template.map(|text| &**text), &mut rule);
        } else if let Some(redirect) = route.message("redirect") {
            let redirect = self.redirect(redirect);
            rule.set("redirect", redirect);
        } else if let Some(response) = route.message("direct_response") {
            let response = self.direct_response(response);
            rule.set("respond", response);
        } else {
            for field in ["filter_action", "non_forwarding_action"] {
                if route.has(field) {
                    self.unsupported(route, field, "");
                }
            }
            return None;
        }
        defaults.edited |= !edits.is_empty();
        filters.map("set_headers", edits);
        self.filter_overrides(route, &mut filters);
        self.script_metadata(route, &mut filters);
        if let Some(action) = route.message("route") {
            let add = action.is("include_vh_rate_limits");
            self.rate_limits(action, add, &mut filters);
        }
        Some((rule, filters))
    }

    fn forwarding(
        &mut self,
        action: &ProtoMessage,
        defaults: &HostDefaults<'_>,
        template: Option<&str>,
        rule: &mut NativeMap,
    ) {
        self.clusters_of(action, rule);
        self.rewrites(action, rule, template);
        self.timeouts(action, defaults, rule);
        self.attempt_count(defaults.host, rule);
        let retry =
            action.message("retry_policy").or_else(|| defaults.host.message("retry_policy"));
        let hedge =
            action.message("hedge_policy").or_else(|| defaults.host.message("hedge_policy"));
        self.retry(retry, hedge, action, rule);
        self.upgrades(action, defaults, rule);
        self.hashing(action, rule);
        self.mirrors(action, defaults.host, rule);
        self.early_data_policy(action);
        self.internal_redirects(action, rule);
        if &*action.choice("priority") == "HIGH" {
            rule.word("priority", "high", action.place("priority"));
        }
        if &*action.choice("cluster_not_found_response_code") != "SERVICE_UNAVAILABLE" {
            // Only a cluster that a header names can be missing: all others are validated.
            self.differs(
                action,
                "cluster_not_found_response_code",
                "the response for an unknown cluster is 503",
            );
        }
    }

    fn clusters_of(&mut self, action: &ProtoMessage, rule: &mut NativeMap) {
        if let Some(name) = action.text("cluster") {
            let name = self.cluster(name, action, "cluster");
            rule.text("cluster", &name, action.place("cluster"));
        }
        if let Some(header) = action.text("cluster_header") {
            if self.clusters.iter().any(|(name, native)| name != native) {
                self.differs(
                    action,
                    "cluster_header",
                    "clusters whose names had to be changed are known by the new ones",
                );
            }
            rule.text("cluster_header", header, action.place("cluster_header"));
        }
        if let Some(weighted) = action.message("weighted_clusters") {
            weighted.without_effect(&["total_weight"]);
            let mut split = NativeMap::new(weighted.span);
            for cluster in weighted.messages("clusters") {
                let Some(name) = cluster.text("name") else { continue };
                let name = self.cluster(name, cluster, "name");
                if split.has(&name) {
                    self.unsupported(cluster, "name", "the cluster is in the list already");
                    continue;
                }
                let weight = cluster.number("weight").unwrap_or(0);
                self.settings_of_share(cluster);
                let mut share = NativeMap::new(cluster.span);
                share.word("weight", weight, cluster.place("weight"));
                if let Some(metadata) = cluster.message("metadata_match")
                    && let Some(values) = self.subset(metadata)
                {
                    share.map("endpoint_metadata", values);
                }
                split.map(&name, share);
            }
            rule.map("split", split);
        }
        let mut values = NativeMap::new(action.span);
        if let Some(metadata) = action.message("metadata_match")
            && let Some(found) = self.subset(metadata)
        {
            values = found;
        }
        self.noted_metadata(action, &mut values);
        rule.map("endpoint_metadata", values);
        if let Some(plugin) = action.message("inline_cluster_specifier_plugin") {
            plugin.without_effect(&["is_optional"]);
            let extension = plugin.message("extension");
            if let Some(config) = extension.and_then(|of| {
                of.without_effect(&["name"]);
                of.message("typed_config")
            }) {
                self.unsupported_type(config);
            }
        }
    }

    fn rewrites(&mut self, action: &ProtoMessage, rule: &mut NativeMap, template: Option<&str>) {
        let mut rewrite = NativeMap::new(action.span);
        if let Some(prefix) = action.text("prefix_rewrite") {
            rewrite.text("replace_prefix", prefix, action.place("prefix_rewrite"));
        }
        if let Some(regex) = action.message("regex_rewrite")
            && let Some(regex) = self.substitution(regex)
        {
            rewrite.set("regex", regex);
        }
        if let Some(policy) = action.message("path_rewrite_policy")
            && let Some(regex) = self.template_rewrite(policy, template)
        {
            rewrite.set("regex", regex);
        }
        if let Some(host) = action.text("host_rewrite_literal") {
            rewrite.text("host", host, action.place("host_rewrite_literal"));
        }
        if action.is("auto_host_rewrite") {
            rewrite.word("host_of_endpoint", true, action.place("auto_host_rewrite"));
        }
        if let Some(header) = action.text("host_rewrite_header") {
            rewrite.text("host_header", header, action.place("host_rewrite_header"));
        }
        if let Some(regex) = action.message("host_rewrite_path_regex")
            && let Some(regex) = self.substitution(regex)
        {
            rewrite.set("host_regex", regex);
        }
        let path = rewrite.has("replace_prefix") || rewrite.has("regex");
        let hosts = ["host", "host_of_endpoint", "host_header", "host_regex"];
        let host = hosts.iter().any(|key| rewrite.has(key));
        let forwarded = host && action.is("append_x_forwarded_host");
        action.without_effect(&["append_x_forwarded_host"]);
        let originals = [("path", path), ("host", host), ("forwarded_host", forwarded)];
        let originals = originals.into_iter().filter(|(_, told)| *told);
        let originals: Vec<Node> = originals.map(|(what, _)| plain(what, action.span)).collect();
        if !originals.is_empty() {
            rewrite.list("originals", originals, action.span);
        }
        rule.map("rewrite", rewrite);
    }

    fn timeouts(
        &mut self,
        action: &ProtoMessage,
        defaults: &HostDefaults<'_>,
        rule: &mut NativeMap,
    ) {
        let mut timeout = NativeMap::new(action.span);
        let response = self.duration(action, "timeout", Zero::Word("none"));
        timeout.set("response", response.unwrap_or_else(|| plain("15s", action.span)));
        let idle = self.duration(action, "idle_timeout", Zero::Word("none"));
        timeout.set("idle", idle.unwrap_or_else(|| defaults.http.idle.clone()));
        if let Some(max) = action.message("max_stream_duration") {
            if let Some(total) = self.duration(max, "max_stream_duration", Zero::Word("none")) {
                timeout.set("total", total);
            }
            if let Some(grpc) = self.duration(max, "grpc_timeout_header_max", Zero::Word("none")) {
                timeout.set("grpc_max", grpc);
            }
            if let Some(offset) = self.duration(max, "grpc_timeout_header_offset", Zero::Kept) {
                timeout.set("grpc_offset", offset);
            }
        }
        for (field, key) in
            [("max_grpc_timeout", "grpc_max"), ("grpc_timeout_offset", "grpc_offset")]
        {
            if let Some(found) = self.duration(action, field, Zero::Kept) {
                timeout.set(key, found);
            }
        }
        rule.map("timeout", timeout);
    }

    fn hashing(&mut self, action: &ProtoMessage, rule: &mut NativeMap) {
        let policies: Vec<&ProtoMessage> = action.messages("hash_policy").collect();
        let mut sources = Vec::new();
        for (index, policy) in policies.iter().enumerate() {
            // Envoy combines the hashes of all policies up to one that is terminal; here the first that has a value counts.
            if index + 1 < policies.len() && !policy.is("terminal") {
                self.unsupported(
                    policy,
                    "terminal",
                    "several policies need `terminal: true` on all but the last",
                );
            }
            policy.without_effect(&["terminal"]);
            let mut source = NativeMap::new(policy.span);
            if let Some(header) = policy.message("header") {
                if let Some(name) = header.text("header_name") {
                    source.text("by", &format!("header:{name}"), header.span);
                }
            } else if let Some(cookie) = policy.message("cookie") {
                if let Some(name) = cookie.text("name") {
                    source.text("by", &format!("cookie:{name}"), cookie.span);
                }
                if let Some(ttl) = self.duration(cookie, "ttl", Zero::Kept) {
                    source.set("ttl", ttl);
                }
                if let Some(path) = cookie.text("path") {
                    source.text("path", path, cookie.place("path"));
                }
            } else if let Some(properties) = policy.message("connection_properties") {
                if properties.is("source_ip") {
                    source.text("by", "source_ip", properties.span);
                }
            } else if let Some(query) = policy.message("query_parameter") {
                if let Some(name) = query.text("name") {
                    source.text("by", &format!("query:{name}"), query.span);
                }
            } else if policy.has("filter_state") {
                self.unsupported(policy, "filter_state", "");
            }
            if !source.is_empty() {
                sources.push(source.node());
            }
        }
        rule.list("hash", sources, action.place("hash_policy"));
    }

    fn mirrors(&mut self, action: &ProtoMessage, host: &ProtoMessage, rule: &mut NativeMap) {
        let own: Vec<&ProtoMessage> = action.messages("request_mirror_policies").collect();
        let all: Vec<&ProtoMessage> =
            if own.is_empty() { host.messages("request_mirror_policies").collect() } else { own };
        let mut mirrors = Vec::new();
        for policy in all {
            let mut mirror = NativeMap::new(policy.span);
            if let Some(name) = policy.text("cluster") {
                let name = self.cluster(name, policy, "cluster");
                mirror.text("cluster", &name, policy.place("cluster"));
            }
            if let Some(header) = policy.text("cluster_header") {
                mirror.text("cluster_header", header, policy.place("cluster_header"));
            }
            if let Some(fraction) = policy.message("runtime_fraction") {
                if let Some(percent) = self.fine_fraction(fraction, "default_value") {
                    mirror.word("share", percent, fraction.span);
                }
                if let Some(key) = fraction.text("runtime_key") {
                    mirror.text("runtime", key, fraction.place("runtime_key"));
                }
            }
            policy.without_effect(&["trace_sampled"]);
            if !policy.is("disable_shadow_host_suffix_append") {
                mirror.text("host_suffix", "-shadow", policy.span);
            }
            mirrors.push(mirror.node());
        }
        rule.list("mirror", mirrors, action.place("request_mirror_policies"));
    }

    /// Envoy's only policy, which lets safe requests leave early, is what clusters over HTTP/3 have anyway.
    fn early_data_policy(&mut self, action: &ProtoMessage) {
        let Some(policy) = action.message("early_data_policy") else { return };
        policy.without_effect(&["name"]);
        match policy.message("typed_config") {
            Some(config) if config.descriptor.name() == "DefaultEarlyDataPolicy" => {}
            Some(config) => self.unsupported_type(config),
            None => self.unsupported(policy, "name", "a policy needs its `typed_config`"),
        }
    }

    fn internal_redirects(&mut self, action: &ProtoMessage, rule: &mut NativeMap) {
        let Some(policy) = action.message("internal_redirect_policy") else { return };
        let mut follow = NativeMap::new(policy.span);
        let statuses =
            policy.list("redirect_response_codes").iter().filter_map(|item| match item.value {
                crate::message::ProtoValue::Int(status) => Some(plain(status, item.span)),
                _ => None,
            });
        follow.list("statuses", statuses.collect(), policy.place("redirect_response_codes"));
        follow.word("max", policy.number("max_internal_redirects").unwrap_or(1), policy.span);
        if policy.is("allow_cross_scheme_redirect") {
            follow.word("scheme", "any", policy.place("allow_cross_scheme_redirect"));
        }
        let headers =
            policy.texts("response_headers_to_copy").map(|(name, span)| quoted(name, span));
        follow.list("copy_headers", headers.collect(), policy.place("response_headers_to_copy"));
        rule.map("follow_redirects", follow);
    }
}

/// The status of a response where the cluster of a route is not known.
fn not_found(action: &ProtoMessage) -> u16 {
    match &*action.choice("cluster_not_found_response_code") {
        "NOT_FOUND" => 404,
        "INTERNAL_SERVER_ERROR" => 500,
        _ => 503,
    }
}
