//! HTTP filters, of chains and in their settings for hosts and routes.
//!
//! Owns: which filter of Envoy is which here. Refuses to know: policies (`rbac`). Keeps: a filter that only hosts and
//! routes switch on is left out everywhere else.

use sluice_core::Node;

use super::{Mapping, Zero, guards};
use crate::message::{ProtoDuration, ProtoMessage, ProtoValue};
use crate::native::{NativeMap, plain, quoted, single};

/// Filters that do nothing until a host or a route has settings for them, by the type of these settings.
const SWITCHED_ON_BELOW: [(&str, &str); 5] = [
    ("BandwidthLimit", "bandwidth_limit"),
    ("CorsPolicy", "cors"),
    ("LocalRateLimit", "rate_limit"),
    ("CsrfPolicy", "csrf"),
    ("HTTPFault", "fault"),
];

impl Mapping<'_> {
    /// The filters of a connection manager.
    pub(super) fn http_filters(&mut self, hcm: &ProtoMessage) -> Vec<Node> {
        let mut filters = Vec::new();
        let all: Vec<&ProtoMessage> = hcm.messages("http_filters").collect();
        for (index, filter) in all.iter().enumerate() {
            filter.without_effect(&["name", "is_optional"]);
            let Some(config) = filter.message("typed_config") else {
                if !filter.has("config_discovery") {
                    self.unsupported(filter, "name", "a filter needs its `typed_config`");
                }
                continue;
            };
            let is_router = config.descriptor.name() == "Router";
            if is_router != (index + 1 == all.len()) {
                self.unsupported(filter, "typed_config", "the router is the last filter");
            }
            if filter.is("disabled") {
                self.unsupported(filter, "disabled", "leave the filter out");
                continue;
            }
            filters.extend(self.http_filter(config, hcm));
        }
        if all.is_empty() {
            self.unsupported(hcm, "http_filters", "without a router, every request gets 404");
        }
        filters
    }

    fn http_filter(&mut self, config: &ProtoMessage, hcm: &ProtoMessage) -> Option<Node> {
        match config.descriptor.name() {
            "Router" => {
                config.without_effect(&[
                    "dynamic_stats",
                    "start_child_span",
                    "suppress_envoy_headers",
                    "suppress_grpc_request_failure_code_stats",
                    "strict_check_headers",
                ]);
                None
            }
            "AdaptiveConcurrency" => self.adaptive_concurrency(config),
            "AdmissionControl" => self.admission_control(config),
            "BandwidthLimit" => {
                let own = self.bandwidth_limit(config);
                own.or_else(|| self.first_below(hcm, "BandwidthLimit"))
            }
            "Cors" => self.first_below(hcm, "CorsPolicy"),
            "Buffer" => Some(single("buffer", buffer(config))),
            "HealthCheck" => self.health_check_filter(config),
            "FilterConfig" if config.type_name().contains("grpc_stats") => self.grpc_stats(config),
            "LocalRateLimit" => {
                let own = self.rate_limit(config);
                own.or_else(|| self.first_below(hcm, "LocalRateLimit"))
            }
            "CsrfPolicy" => {
                let own = self.csrf(config);
                own.or_else(|| self.first_below(hcm, "CsrfPolicy"))
            }
            "HTTPFault" => {
                let own = self.fault(config);
                own.or_else(|| self.first_below(hcm, "HTTPFault"))
            }
            "RBAC" => self.http_rbac(config),
            "ExtAuthz" => self.ext_authz(config),
            "HeaderMutation" => self.header_mutation(config),
            _ => {
                self.unsupported_type(config);
                None
            }
        }
    }

    /// The filter with the first settings that a host or route has for it; hosts without any leave it out.
    fn first_below(&mut self, hcm: &ProtoMessage, kind: &str) -> Option<Node> {
        let table = hcm.message("route_config")?;
        let config = settings_below(table, kind)?;
        self.override_of(config).map(|(name, node)| single(name, node))
    }

    /// Adds the settings for filters of a route table, host or route.
    pub(super) fn filter_overrides(&mut self, of: &ProtoMessage, filters: &mut NativeMap) {
        for (_, item) in of.map("typed_per_filter_config") {
            let ProtoValue::Message(config) = &item.value else { continue };
            self.filter_override(config, filters);
        }
    }

    fn filter_override(&mut self, config: &ProtoMessage, filters: &mut NativeMap) {
        if config.type_name() == "envoy.config.route.v3.FilterConfig" {
            config.without_effect(&["is_optional"]);
            if config.is("disabled") {
                self.unsupported(config, "disabled", "the name of a filter says nothing of its type; leave it out with its own settings");
            } else if let Some(inner) = config.message("config") {
                self.filter_override(inner, filters);
            }
            return;
        }
        match self.override_of(config) {
            Some((name, node)) if !filters.has(name) => filters.set(name, node),
            Some((name, _)) => {
                let text = format!("`{name}` has settings here already");
                self.diags.error(crate::coverage::UNSUPPORTED, config.span, &*config.path, text);
            }
            None => {}
        }
    }

    fn override_of(&mut self, config: &ProtoMessage) -> Option<(&'static str, Node)> {
        let skip = || plain("skip", config.span);
        match config.descriptor.name() {
            "CorsPolicy" => Some(("cors", self.cors(config)?)),
            "BandwidthLimit" => {
                let node = self.bandwidth_limit(config);
                Some(("bandwidth_limit", node.map_or_else(skip, inner_of)))
            }
            "BufferPerRoute" => {
                let inner = config.message("buffer").map(buffer);
                config.without_effect(&["disabled"]);
                Some(("buffer", inner.unwrap_or_else(skip)))
            }
            "LocalRateLimit" => {
                let node = self.rate_limit(config);
                Some(("rate_limit", node.map_or_else(skip, inner_of)))
            }
            "CsrfPolicy" => {
                let node = self.csrf(config);
                Some(("csrf", node.map_or_else(skip, inner_of)))
            }
            "HTTPFault" => {
                let node = self.fault(config);
                Some(("fault", node.map_or_else(skip, inner_of)))
            }
            "ExtAuthzPerRoute" => Some(("ext_authz", self.ext_authz_override(config)?)),
            "RBACPerRoute" => match config.message("rbac") {
                Some(rbac) => self.http_rbac(rbac).map(|node| ("rbac", inner_of(node))),
                None => Some(("rbac", skip())),
            },
            "HeaderMutationPerRoute" => {
                self.header_mutation(config).map(|node| ("set_headers", inner_of(node)))
            }
            _ => {
                self.unsupported_type(config);
                None
            }
        }
    }

    /// A limit; `None` if it is off, which is the default.
    fn rate_limit(&mut self, config: &ProtoMessage) -> Option<Node> {
        config.without_effect(&[
            "stat_prefix",
            "stage",
            "vh_rate_limits",
            "always_consume_default_token_bucket",
        ]);
        let bucket = config.message("token_bucket")?;
        if !config.has("filter_enabled") || !self.always(config, "filter_enabled")? {
            bucket.all_without_effect();
            for field in ["filter_enforced", "status"] {
                if let Some(of) = config.message(field) {
                    of.all_without_effect();
                }
            }
            return None;
        }
        let mut native = NativeMap::new(config.span);
        let tokens = bucket.number("tokens_per_fill").unwrap_or(1);
        let every = bucket.duration("fill_interval").unwrap_or(ProtoDuration(0));
        match rate(tokens, every) {
            Some(rate) => native.word("requests", rate, bucket.span),
            None => self.unsupported(
                bucket,
                "fill_interval",
                "the rate must be a whole number a second, minute, hour or day",
            ),
        }
        if let Some(burst) = bucket.number("max_tokens") {
            native.word("burst", burst, bucket.place("max_tokens"));
        }
        let enforced = config.message("filter_enforced");
        let percent = match enforced {
            Some(share) => {
                share.without_effect(&["runtime_key"]);
                self.fraction(share, "default_value").unwrap_or(0)
            }
            None => 0,
        };
        native.word("enforce", format!("{percent}%"), config.place("filter_enforced"));
        if let Some(status) = config.message("status")
            && let Some(field) = status.field("code")
            && let ProtoValue::Enum(code, _) = field.value
        {
            native.word("status", code, status.span);
        }
        if &*config.choice("enable_x_ratelimit_headers") != "OFF" {
            self.differs(
                config,
                "enable_x_ratelimit_headers",
                "the headers are `ratelimit` and `ratelimit-policy`",
            );
            native.word("fields", true, config.span);
        }
        Some(single("rate_limit", native.node()))
    }

    fn health_check_filter(&mut self, config: &ProtoMessage) -> Option<Node> {
        let mut native = NativeMap::new(config.span);
        let mut headers = NativeMap::new(config.place("headers"));
        for matcher in config.messages("headers") {
            let name = matcher.text("name")?.to_ascii_lowercase();
            if name == ":path" {
                let exact = matcher.text("exact_match");
                let exact = exact.or_else(|| matcher.message("string_match")?.text("exact"));
                match exact {
                    Some(path) => native.text("path", path, matcher.span),
                    None => {
                        self.unsupported(matcher, "name", "the path of probes is one (`exact`)")
                    }
                }
            } else if let Some(value) = self.header_match(matcher) {
                headers.set(&name, value);
            }
        }
        if !native.has("path") {
            self.unsupported(config, "headers", "probes have a `:path`");
        }
        native.map("headers", headers);
        if config.is("pass_through_mode") {
            native.word("pass_through", true, config.place("pass_through_mode"));
            if let Some(cache) = self.duration(config, "cache_time", Zero::Refused) {
                native.set("cache", cache);
            }
        }
        let mut healthy = NativeMap::new(config.span);
        for (name, item) in config.map("cluster_min_healthy_percentages") {
            let ProtoValue::Message(percent) = &item.value else { continue };
            let name = self.cluster(name, config, "cluster_min_healthy_percentages");
            healthy.word(
                &name,
                format!("{:.0}%", percent.float("value").unwrap_or(0.0)),
                item.span,
            );
        }
        native.map("min_healthy", healthy);
        Some(single("health_check", native.node()))
    }

    fn grpc_stats(&mut self, config: &ProtoMessage) -> Option<Node> {
        config.without_effect(&[
            "emit_filter_state",
            "enable_upstream_stats",
            "replace_dots_in_grpc_service_name",
        ]);
        let mut native = NativeMap::new(config.span);
        let mut methods = Vec::new();
        if config.is("stats_for_all_methods") {
            methods.push(quoted("*", config.span));
        }
        if let Some(list) = config.message("individual_method_stats_allowlist") {
            for service in list.messages("services") {
                let Some(name) = service.text("name") else { continue };
                for (method, span) in service.texts("method_names") {
                    methods.push(quoted(&format!("{name}/{method}"), span));
                }
            }
        }
        native.list("methods", methods, config.span);
        Some(single("grpc_stats", native.node()))
    }

    fn header_mutation(&mut self, config: &ProtoMessage) -> Option<Node> {
        let mutations = config.message("mutations")?;
        if config.descriptor.name() == "HeaderMutation" {
            config.without_effect(&["most_specific_header_mutations_wins"]);
        }
        let mut native = NativeMap::new(mutations.span);
        for (field, side) in [("request_mutations", "request"), ("response_mutations", "response")]
        {
            let mut removed = Vec::new();
            let mut options = Vec::new();
            for mutation in mutations.messages(field) {
                if let Some(name) = mutation.text("remove") {
                    removed.push(quoted(name, mutation.span));
                }
                options.extend(mutation.message("append"));
                if mutation.has("remove_on_match") {
                    self.unsupported(mutation, "remove_on_match", "name the headers");
                }
            }
            self.header_options(&options, side, &mut native);
            native.list(&format!("remove_{side}"), removed, mutations.place(field));
        }
        Some(single("set_headers", native.node()))
    }

    /// Leaves filters out of a host that has no settings for them, where only hosts and routes switch them on.
    pub(super) fn skip_what_is_off(
        &mut self,
        off: &[&'static str],
        host: &ProtoMessage,
        filters: &mut NativeMap,
    ) {
        for name in off {
            if !filters.has(name) {
                filters.word(name, "skip", host.span);
            }
        }
    }
}

/// The filters of a connection manager that hosts and routes of its table switch on.
pub(super) fn switched_on_below(hcm: &ProtoMessage) -> Vec<&'static str> {
    let Some(table) = hcm.message("route_config") else { return Vec::new() };
    let listed = |kind: &str| {
        hcm.messages("http_filters").any(|filter| {
            filter.message("typed_config").is_some_and(|config| {
                let name = config.descriptor.name();
                match (kind, name) {
                    ("BandwidthLimit", "BandwidthLimit") => {
                        !guards::is_on(config, "runtime_enabled")
                            || &*config.choice("enable_mode") == "DISABLED"
                    }
                    ("CorsPolicy", "Cors") => true,
                    ("LocalRateLimit", "LocalRateLimit") => !config.has("filter_enabled"),
                    ("CsrfPolicy", "CsrfPolicy") => is_off(config),
                    ("HTTPFault", "HTTPFault") => !["delay", "abort", "response_rate_limit"]
                        .iter()
                        .any(|part| config.has(part)),
                    _ => false,
                }
            })
        })
    };
    let on = SWITCHED_ON_BELOW
        .iter()
        .filter(|(kind, _)| listed(kind) && settings_below(table, kind).is_some());
    on.map(|(_, name)| *name).collect()
}

fn is_off(policy: &ProtoMessage) -> bool {
    let value = policy.message("filter_enabled").and_then(|share| share.message("default_value"));
    value.is_none_or(|value| value.number("numerator").unwrap_or(0) == 0)
}

/// The first settings of this type below a message.
fn settings_below<'m>(of: &'m ProtoMessage, kind: &str) -> Option<&'m ProtoMessage> {
    let mut found = None;
    for field in &of.fields {
        field.value.messages(&mut |message| {
            if found.is_none() {
                found = if message.descriptor.name() == kind {
                    Some(message)
                } else {
                    settings_below(message, kind)
                };
            }
        });
        if found.is_some() {
            return found;
        }
    }
    None
}

fn buffer(config: &ProtoMessage) -> Node {
    let mut native = NativeMap::new(config.span);
    if let Some(max) = config.number("max_request_bytes") {
        native.word("max", max, config.place("max_request_bytes"));
    }
    native.node()
}

/// The settings in a filter with its name.
fn inner_of(filter: Node) -> Node {
    match filter.value {
        sluice_core::Value::Map(mut entries) if entries.len() == 1 => entries.remove(0).node,
        value => Node { value, span: filter.span },
    }
}

/// A rate as the native form writes it.
fn rate(tokens: u64, every: ProtoDuration) -> Option<String> {
    const UNITS: [(&str, i128); 4] = [
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
        ("d", 86_400_000_000_000),
    ];
    let units = UNITS
        .iter()
        .filter(|(_, nanos)| every.0 > 0 && (i128::from(tokens) * nanos) % every.0 == 0);
    let (unit, nanos) = units.into_iter().next()?;
    Some(format!("{}/{unit}", i128::from(tokens) * nanos / every.0))
}
