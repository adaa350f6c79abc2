//! HTTP filters, of chains and in their settings for hosts and routes.
//!
//! Owns: which filter of Envoy is which here. Refuses to know: policies (`rbac`), and where a filter is on.

use sluice_core::Node;

use super::cases::FilterCases;
use super::{Mapping, Zero};
use crate::message::{ProtoDuration, ProtoMessage, ProtoValue};
use crate::native::{NativeMap, plain, quoted, single};

impl Mapping<'_> {
    /// The filters of a connection manager.
    pub(super) fn http_filters(&mut self, hcm: &ProtoMessage) -> Vec<Node> {
        self.chain_filters.clear();
        self.rate_stage = None;
        self.filters_off.clear();
        let mut filters: Vec<Node> = Vec::new();
        let all: Vec<&ProtoMessage> = hcm.messages("http_filters").collect();
        for (index, filter) in all.iter().enumerate() {
            filter.without_effect(&["name", "is_optional"]);
            let Some(config) = filter.message("typed_config") else {
                self.filter_without_settings(filter);
                continue;
            };
            let is_router = config.descriptor.name() == "Router";
            if is_router != (index + 1 == all.len()) {
                self.unsupported(filter, "typed_config", "the router is the last filter");
            }
            let mut after = Vec::new();
            if let Some(node) = self.http_filter(config, hcm, &mut after)
                && let Some(node) = self.named_filter(filter, node, &filters)
            {
                self.push_filter(node, filter, &mut filters);
            }
            filters.extend(after);
        }
        if all.is_empty() {
            self.unsupported(hcm, "http_filters", "without a router, every request gets 404");
        }
        filters
    }

    /// The filter that a message is; `after` gets what stands behind it.
    pub(super) fn http_filter(
        &mut self,
        config: &ProtoMessage,
        hcm: &ProtoMessage,
        after: &mut Vec<Node>,
    ) -> Option<Node> {
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
            "OnDemand" => {
                self.hosts_on_demand = true;
                self.clusters_on_demand(config);
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
            "JwtAuthentication" => self.tokens.take(),
            "CredentialInjector" => self.injected(config),
            "RateLimit" if self.rate_stage.is_none() => self.rate_service(config),
            "StatefulSession" => self.stateful_session(config),
            "RBAC" => self.http_rbac(config),
            "ExtAuthz" => self.ext_authz(config),
            "ExternalProcessor" => self.ext_proc(config),
            "HeaderMutation" => self.header_mutation(config),
            "ExtensionWithMatcher" => self.matched.remove(&config.path),
            "Tap" => self.http_tap(config),
            "Lua" => self.script_filter(config),
            "Wasm" => self.guest_filter(config, true),
            "BasicAuth" => self.passwords(config),
            "ApiKeyAuth" => self.api_keys(config),
            "Geoip" => self.geo(config, after),
            "JsonToMetadata" => self.json_to_metadata(config),
            "Config" if config.type_name().contains(".set_metadata.") => self.set_metadata(config),
            "Config" if config.type_name().contains(".http.header_to_metadata.") => {
                let mut removed = Vec::new();
                let node = self.header_to_metadata(config, &mut removed);
                if !removed.is_empty() {
                    let mut edits = NativeMap::new(config.span);
                    edits.list("remove_request", removed, config.span);
                    after.push(single("set_headers", edits.node()));
                }
                node
            }
            _ => {
                self.unsupported_type(config);
                None
            }
        }
    }

    /// How long requests wait for their clusters. Where those come from is read before anything else.
    fn clusters_on_demand(&mut self, config: &ProtoMessage) {
        // Without this, it is about virtual hosts only.
        let Some(odcds) = config.message("odcds") else { return };
        if let Some(source) = odcds.message("source") {
            source.all_without_effect();
        }
        if odcds.text("resources_locator").is_some_and(|text| !text.is_empty()) {
            self.unsupported(
                odcds,
                "resources_locator",
                "name the source of the clusters in `source`",
            );
        }
        let wait = self.duration(odcds, "timeout", Zero::Refused);
        self.on_demand = Some(wait.unwrap_or_else(|| plain("5s", odcds.span)));
    }

    /// Maps the filters whose settings depend on the request, before the routes that have them.
    pub(super) fn filter_cases(&mut self, hcm: &ProtoMessage) -> Vec<FilterCases> {
        let mut cases = self.matched_filters(hcm);
        cases.extend(self.token_cases(hcm));
        cases
    }

    /// Those of the filter that verifies tokens.
    fn token_cases(&mut self, hcm: &ProtoMessage) -> Option<FilterCases> {
        self.requirements.clear();
        self.tokens_by_case = false;
        let configs =
            hcm.messages("http_filters").filter_map(|of| Some((of, of.message("typed_config")?)));
        let mut all = configs.filter(|(_, of)| of.descriptor.name() == "JwtAuthentication");
        let (filter, config) = all.next()?;
        if filter.is("disabled") && config.has("rules") {
            let how = "with `rules`, which are about all requests; name a requirement in routes";
            self.unsupported(filter, "disabled", how);
            return None;
        }
        let tokens = self.tokens(config);
        for (_, another) in all {
            another.all_without_effect();
            let message = "a second JwtAuthentication is not supported";
            self.diags.error(crate::coverage::UNSUPPORTED, another.span, &*another.path, message);
        }
        let tokens = tokens?;
        self.requirements = tokens.by_name;
        self.tokens = Some(tokens.filter);
        self.tokens_by_case = tokens.cases.is_some();
        tokens.cases
    }

    /// The settings of a host or route for a filter, with its native name.
    pub(super) fn override_of(&mut self, config: &ProtoMessage) -> Option<(&'static str, Node)> {
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
            "PerRouteConfig" if config.type_name().contains(".jwt_authn.") => {
                Some(("jwt", self.tokens_override(config)?))
            }
            "LuaPerRoute" => Some(("lua", self.script_override(config)?)),
            "BasicAuthPerRoute" => Some(("basic_auth", self.passwords_override(config)?)),
            "ApiKeyAuthPerRoute" => Some(("api_key", self.api_keys_override(config)?)),
            "RateLimitPerRoute" => Some(("global_rate_limit", self.rate_override(config)?)),
            "StatefulSessionPerRoute" => {
                let own =
                    config.message("stateful_session").and_then(|of| self.stateful_session(of));
                config.without_effect(&["disabled"]);
                Some(("sticky", own.map_or_else(skip, inner_of)))
            }
            "ExtProcPerRoute" => Some(("ext_proc", self.ext_proc_override(config)?)),
            "ExtAuthzPerRoute" => Some(("ext_authz", self.ext_authz_override(config)?)),
            "RBACPerRoute" => match config.message("rbac") {
                Some(rbac) => self.http_rbac(rbac).map(|node| ("rbac", inner_of(node))),
                None => Some(("rbac", skip())),
            },
            "Config" if config.type_name().contains(".http.header_to_metadata.") => {
                self.header_to_metadata_override(config)
            }
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
        self.only_false(config, "local_rate_limit_per_downstream_connection", "");
        if config.has("response_headers_to_add") {
            config.messages("response_headers_to_add").for_each(ProtoMessage::all_without_effect);
            let how = "responses to requests beyond the limit do not have these headers";
            self.differs(config, "response_headers_to_add", how);
        }
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
            None => self.unsupported(bucket, "fill_interval", WHOLE_RATES),
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

/// What is said of a rate that cannot be written.
pub(super) const WHOLE_RATES: &str =
    "the rate must be a whole number a second, minute, hour or day";

/// A rate as the native form writes it.
pub(super) fn rate(tokens: u64, every: ProtoDuration) -> Option<String> {
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
