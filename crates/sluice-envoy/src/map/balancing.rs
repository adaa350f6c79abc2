//! Load balancing.
//!
//! Owns: policies in both spellings, slow start, zones, subsets. Refuses to know: endpoints.

use sluice_core::Node;

use super::{Mapping, Zero};
use crate::message::ProtoMessage;
use crate::native::{NativeMap, plain, quoted, single};

impl Mapping<'_> {
    /// The `balance` of a cluster, and what goes with it.
    pub(super) fn balancing(&mut self, cluster: &ProtoMessage, native: &mut NativeMap) {
        if let Some(common) = cluster.message("common_lb_config") {
            self.common_balancing(common, native);
        }
        if let Some(subsets) = cluster.message("lb_subset_config") {
            self.subsets(subsets, native);
        }
        if let Some(policy) = cluster.message("load_balancing_policy") {
            cluster.without_effect(&["lb_policy"]);
            if let Some(common) = cluster.message("common_lb_config")
                && let Some(hashing) = common.message("consistent_hashing_lb_config")
            {
                hashing.all_without_effect();
            }
            self.balancing_policy(policy, native);
            return;
        }
        let (field, word) = match &*cluster.choice("lb_policy") {
            "ROUND_ROBIN" => ("round_robin_lb_config", "round_robin"),
            "LEAST_REQUEST" => ("least_request_lb_config", "least_request"),
            "RING_HASH" => ("ring_hash_lb_config", "ring_hash"),
            "MAGLEV" => ("maglev_lb_config", "maglev"),
            "RANDOM" => {
                native.word("balance", "random", cluster.place("lb_policy"));
                return;
            }
            _ => {
                // A type that provides its own balancer is reported where it is named.
                if cluster.has("cluster_type") || &*cluster.choice("type") == "ORIGINAL_DST" {
                    return;
                }
                self.unsupported(cluster, "lb_policy", "");
                return;
            }
        };
        let load = cluster
            .message("common_lb_config")
            .and_then(|common| common.message("consistent_hashing_lb_config"));
        self.balancer(word, cluster.message(field), load, cluster, native);
    }

    fn common_balancing(&mut self, common: &ProtoMessage, native: &mut NativeMap) {
        common.without_effect(&["update_merge_window"]);
        for field in ["zone_aware_lb_config", "locality_weighted_lb_config"] {
            if let Some(of) = common.message(field) {
                // Zones need a local cluster; without one, Envoy ignores them too.
                of.all_without_effect();
            }
        }
        if common.is("ignore_new_hosts_until_first_hc") {
            native.word("unchecked", "wait", common.span);
        }
    }

    fn balancing_policy(&mut self, policy: &ProtoMessage, native: &mut NativeMap) {
        // Envoy takes the first that it knows.
        let Some(first) = policy.messages("policies").next() else {
            self.unsupported(policy, "policies", "an empty list");
            return;
        };
        for other in policy.messages("policies").skip(1) {
            other.all_without_effect();
        }
        let Some(extension) = first.message("typed_extension_config") else { return };
        extension.without_effect(&["name"]);
        let Some(config) = extension.message("typed_config") else { return };
        let word = match config.descriptor.name() {
            "RoundRobin" => "round_robin",
            "LeastRequest" => "least_request",
            "Random" => "random",
            "RingHash" => "ring_hash",
            "Maglev" => "maglev",
            "ClientSideWeightedRoundRobin" => {
                self.load_reports(config, native);
                return;
            }
            "WrrLocality" => {
                if let Some(inner) = config.message("endpoint_picking_policy") {
                    self.balancing_policy(inner, native);
                }
                return;
            }
            _ => {
                self.unsupported_type(config);
                return;
            }
        };
        let has = |field: &str| config.descriptor.get_field_by_name(field).is_some();
        if has("locality_lb_config")
            && let Some(locality) = config.message("locality_lb_config")
        {
            locality.all_without_effect();
        }
        if has("locality_weighted_lb_config")
            && let Some(locality) = config.message("locality_weighted_lb_config")
        {
            locality.all_without_effect();
        }
        let hashing = if has("consistent_hashing_lb_config") {
            config.message("consistent_hashing_lb_config")
        } else {
            None
        };
        self.balancer(word, Some(config), hashing, config, native);
    }

    /// Weights by the load that endpoints report.
    fn load_reports(&mut self, config: &ProtoMessage, native: &mut NativeMap) {
        config.without_effect(&["oob_reporting_period", "oob_reporting_config"]);
        if let Some(of) = config.message("oob_reporting_config") {
            of.all_without_effect();
        }
        let how = "endpoints report with their responses";
        self.only_false(config, "enable_oob_load_report", how);
        let mut settings = NativeMap::new(config.span);
        for (field, key, default) in [
            ("blackout_period", "blackout", "10s"),
            ("weight_expiration_period", "expiry", "3m"),
            ("weight_update_period", "update", "1s"),
        ] {
            let found = self.duration(config, field, Zero::Kept);
            settings.set(key, found.unwrap_or_else(|| plain(default, config.span)));
        }
        if let Some(penalty) = config.float("error_utilization_penalty") {
            settings.word("error_penalty", penalty, config.place("error_utilization_penalty"));
        }
        let field = "metric_names_for_computing_utilization";
        let metrics = config.texts(field).map(|(name, span)| quoted(name, span)).collect();
        settings.list("metrics", metrics, config.place(field));
        if let Some(slow) = config.message("slow_start_config") {
            self.slow_start(slow, native);
        }
        native.set("balance", single("load_reports", settings.node()));
    }

    fn balancer(
        &mut self,
        word: &str,
        config: Option<&ProtoMessage>,
        hashing: Option<&ProtoMessage>,
        place: &ProtoMessage,
        native: &mut NativeMap,
    ) {
        let mut settings = NativeMap::new(config.map_or(place.span, |config| config.span));
        if let Some(config) = config {
            let has = |field: &str| config.descriptor.get_field_by_name(field).is_some();
            if has("choice_count") {
                self.least_request(config, &mut settings);
            }
            for (field, key) in [
                ("minimum_ring_size", "min_size"),
                ("maximum_ring_size", "max_size"),
                ("table_size", "table_size"),
            ] {
                if has(field)
                    && let Some(size) = config.number(field)
                {
                    settings.word(key, size, config.place(field));
                }
            }
            if has("hash_function") && &*config.choice("hash_function") == "MURMUR_HASH_2" {
                self.differs(config, "hash_function", "the hash function is that of Sluice");
            }
            if has("slow_start_config")
                && let Some(slow) = config.message("slow_start_config")
            {
                self.slow_start(slow, native);
            }
        }
        let hashes = matches!(word, "ring_hash" | "maglev");
        if let Some(hashing) = hashing.filter(|_| !hashes) {
            hashing.all_without_effect();
        }
        let hashing = hashing.filter(|_| hashes);
        if let Some(hashing) = hashing
            && let Some(factor) = hashing.number("hash_balance_factor")
        {
            settings.word("max_load", format!("{factor}%"), hashing.span);
        }
        if let Some(hashing) = hashing.filter(|hashing| hashing.is("use_hostname_for_hashing")) {
            settings.word("by_host", true, hashing.place("use_hostname_for_hashing"));
        }
        if settings.is_empty() {
            native.word("balance", word, place.span);
        } else {
            let node = single(word, settings.node());
            native.set("balance", node);
        }
    }

    fn least_request(&mut self, config: &ProtoMessage, settings: &mut NativeMap) {
        let has = |field: &str| config.descriptor.get_field_by_name(field).is_some();
        if let Some(choices) = config.number("choice_count") {
            settings.word("choices", choices, config.place("choice_count"));
        }
        if has("selection_method") && &*config.choice("selection_method") == "FULL_SCAN" {
            settings.word("choices", "none", config.place("selection_method"));
        }
        if has("enable_full_scan") && config.is("enable_full_scan") {
            settings.word("choices", "none", config.place("enable_full_scan"));
        }
        if let Some(bias) = config.message("active_request_bias") {
            if bias.has("runtime_key") {
                bias.without_effect(&["runtime_key"]);
                self.differs(bias, "runtime_key", "the default value counts");
            }
            let value = bias.float("default_value").unwrap_or(0.0);
            settings.word("bias", value, bias.span);
        }
    }

    fn slow_start(&mut self, slow: &ProtoMessage, native: &mut NativeMap) {
        let mut section = NativeMap::new(slow.span);
        let Some(window) = self.duration(slow, "slow_start_window", Zero::Refused) else { return };
        section.set("window", window);
        if let Some(aggression) = slow.message("aggression") {
            aggression.without_effect(&["runtime_key"]);
            section.word(
                "aggression",
                aggression.float("default_value").unwrap_or(1.0),
                aggression.span,
            );
        }
        if let Some(least) = self.percent(slow, "min_weight_percent") {
            section.set("min_weight", least);
        }
        native.map("slow_start", section);
    }

    fn subsets(&mut self, of: &ProtoMessage, native: &mut NativeMap) {
        let mut section = NativeMap::new(of.span);
        let word = |choice: &str| match choice {
            "ANY_ENDPOINT" => "any_endpoint",
            "DEFAULT_SUBSET" => "default_subset",
            _ => "none",
        };
        section.word("fallback", word(&of.choice("fallback_policy")), of.span);
        let mut selectors = Vec::new();
        for selector in of.messages("subset_selectors") {
            let mut native = NativeMap::new(selector.span);
            let keys: Vec<Node> =
                selector.texts("keys").map(|(key, span)| quoted(key, span)).collect();
            native.list("keys", keys, selector.span);
            match &*selector.choice("fallback_policy") {
                "NOT_DEFINED" => {}
                "KEYS_SUBSET" => {
                    let keys: Vec<Node> = selector
                        .texts("fallback_keys_subset")
                        .map(|(key, span)| quoted(key, span))
                        .collect();
                    let mut subset = NativeMap::new(selector.span);
                    subset.list("keys_subset", keys, selector.span);
                    native.map("fallback", subset);
                }
                other => native.set("fallback", plain(word(other), selector.span)),
            }
            self.only_false(selector, "single_host_per_subset", "");
            selectors.push(native.node());
        }
        section.list("selectors", selectors, of.span);
        if let Some(default) = of.json("default_subset") {
            let mut values = NativeMap::new(default.span);
            for entry in default.entries().unwrap_or_default() {
                match entry.node.text() {
                    Some(text) => values.text(&entry.key, text, entry.node.span),
                    None => self.unsupported(of, "default_subset", "only single values are"),
                }
            }
            section.map("default_subset", values);
        }
        of.without_effect(&["list_as_any"]);
        native.map("subsets", section);
    }
}
