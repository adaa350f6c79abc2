//! Role-based access control.
//!
//! Owns: permissions and principals, for requests and connections. Refuses to know: where the filter stands. Keeps: a
//! condition that cannot be written exactly is an error, for both of a policy's sides.

use sluice_core::Node;

use super::Mapping;
use crate::message::{ProtoMessage, ProtoValue};
use crate::native::{NativeMap, plain, quoted, single};

/// A condition: one that always holds, or a map.
pub(super) enum Condition {
    Always,
    Holds(Node),
}

impl Mapping<'_> {
    /// The filter `rbac` of requests, from `RBAC`.
    pub(super) fn http_rbac(&mut self, config: &ProtoMessage) -> Option<Node> {
        config.without_effect(&[
            "rules_stat_prefix",
            "shadow_rules_stat_prefix",
            "track_per_rule_stats",
        ]);
        self.rbac(config)
    }

    /// The filter `rbac` of connections.
    pub(super) fn network_rbac(&mut self, config: &ProtoMessage) -> Option<Node> {
        config.without_effect(&["stat_prefix", "shadow_rules_stat_prefix"]);
        if &*config.choice("enforcement_type") != "ONE_TIME_ON_FIRST_BYTE" {
            self.unsupported(config, "enforcement_type", "a connection is judged once");
        }
        self.rbac(config)
    }

    fn rbac(&mut self, config: &ProtoMessage) -> Option<Node> {
        let mut native = NativeMap::new(config.span);
        if let Some(matcher) = config.message("matcher") {
            self.policies_of_tree(matcher, &mut native);
        }
        if let Some(rules) = config.message("rules") {
            self.policies(rules, &mut native);
        }
        if let Some(rules) = config.message("shadow_rules") {
            let mut shadow = NativeMap::new(rules.span);
            self.policies(rules, &mut shadow);
            native.map("shadow", shadow);
        } else if let Some(matcher) = config.message("shadow_matcher") {
            let mut shadow = NativeMap::new(matcher.span);
            self.policies_of_tree(matcher, &mut shadow);
            native.map("shadow", shadow);
        }
        // Without rules, the filter lets everything pass.
        (!native.is_empty()).then(|| single("rbac", native.node()))
    }

    fn policies(&mut self, rules: &ProtoMessage, native: &mut NativeMap) {
        let key = match &*rules.choice("action") {
            "DENY" => "deny",
            "LOG" => "log",
            _ => "allow",
        };
        let mut policies = NativeMap::new(rules.span);
        let mut names = super::UniqueNames::default();
        for (name, item) in rules.map("policies") {
            let ProtoValue::Message(policy) = &item.value else { continue };
            let mut native = NativeMap::new(policy.span);
            for (field, key) in [("permissions", "permissions"), ("principals", "principals")] {
                let conditions: Vec<Option<Condition>> =
                    policy.messages(field).map(|of| self.condition(of)).collect();
                // One that always holds makes the others needless.
                if conditions.iter().any(|one| matches!(one, Some(Condition::Always))) {
                    continue;
                }
                let nodes = conditions.into_iter().filter_map(|one| match one {
                    Some(Condition::Holds(node)) => Some(node),
                    _ => None,
                });
                native.list(key, nodes.collect(), policy.place(field));
            }
            policies.push(&names.add(name), native.node());
        }
        if policies.is_empty() {
            if key == "allow" {
                // Envoy denies what no policy allows, and here is none.
                let mut all = NativeMap::new(rules.span);
                all.push("no-policy", NativeMap::new(rules.span).node());
                native.map("deny", all);
            }
            return;
        }
        native.map(key, policies);
    }

    /// A permission or a principal.
    fn condition(&mut self, of: &ProtoMessage) -> Option<Condition> {
        let field = of.fields.iter().find(|field| {
            field.descriptor.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic())
        })?;
        let name = field.descriptor.name();
        match name {
            "any" => {
                of.field(name);
                Some(Condition::Always)
            }
            "and_rules" | "or_rules" | "and_ids" | "or_ids" => self.combined(of, name),
            "not_rule" | "not_id" => match self.condition(of.message(name)?)? {
                Condition::Holds(node) => Some(Condition::Holds(single("not", node))),
                Condition::Always => {
                    self.unsupported(of, name, "nothing would match");
                    None
                }
            },
            _ => self.leaf(of, name).map(Condition::Holds),
        }
    }

    fn combined(&mut self, of: &ProtoMessage, name: &str) -> Option<Condition> {
        let set = of.message(name)?;
        let all = name.starts_with("and");
        let list = if name.ends_with("rules") { "rules" } else { "ids" };
        let mut nodes = Vec::new();
        let mut always = false;
        for inner in set.messages(list) {
            match self.condition(inner) {
                Some(Condition::Holds(node)) => nodes.push(node),
                Some(Condition::Always) => always = true,
                // It is reported; without it, the whole would mean something else.
                None => return None,
            }
        }
        if always && (!all || nodes.is_empty()) {
            return Some(Condition::Always);
        }
        let mut native = NativeMap::new(set.span);
        native.list(if all { "all" } else { "any" }, nodes, set.span);
        Some(Condition::Holds(native.node()))
    }

    fn leaf(&mut self, of: &ProtoMessage, name: &str) -> Option<Node> {
        let span = of.place(name);
        match name {
            "header" => self.header_condition(of.message(name)?),
            "url_path" => {
                let matcher = of.message(name)?.message("path")?;
                self.path_condition(matcher).map(|node| single("path", node))
            }
            "destination_port" => Some(single("port", plain(of.number(name)?, span))),
            "remote_ip" => self.block(of.message(name)?).map(|node| single("source", node)),
            "direct_remote_ip" => self.block(of.message(name)?).map(|node| single("peer", node)),
            "requested_server_name" => {
                let matcher = of.message(name)?;
                match (
                    matcher.text("exact"),
                    matcher.text("suffix").and_then(|text| text.strip_prefix('.')),
                ) {
                    (Some(exact), _) => Some(single("sni", quoted(exact, span))),
                    (_, Some(suffix)) => Some(single("sni", quoted(&format!("*.{suffix}"), span))),
                    _ => {
                        self.unsupported(of, name, "only `exact`, and `suffix` from a dot on, are");
                        None
                    }
                }
            }
            "authenticated" => self.certificate_condition(of.message(name)?),
            "metadata" => {
                let (name, condition) = self.metadata_condition(of.message(name)?)?;
                Some(single("values", single(&name, condition)))
            }
            "source_ip" => {
                self.unsupported(of, name, "write `remote_ip` or `direct_remote_ip`");
                None
            }
            _ => {
                self.unsupported(of, name, "");
                None
            }
        }
    }

    fn certificate_condition(&mut self, of: &ProtoMessage) -> Option<Node> {
        let Some(matcher) = of.message("principal_name") else {
            return Some(single("certificate", quoted("*", of.span)));
        };
        self.only_false(matcher, "ignore_case", "");
        let pattern = if let Some(exact) = matcher.text("exact") {
            exact.to_string()
        } else if let Some(prefix) = matcher.text("prefix") {
            format!("{prefix}*")
        } else if let Some(suffix) = matcher.text("suffix") {
            format!("*{suffix}")
        } else {
            for field in ["contains", "safe_regex", "custom"] {
                if matcher.has(field) {
                    self.unsupported(matcher, field, "write `exact`, `prefix` or `suffix`");
                }
            }
            return None;
        };
        Some(single("certificate", quoted(&pattern, matcher.span)))
    }

    fn header_condition(&mut self, of: &ProtoMessage) -> Option<Node> {
        let name = of.text("name")?.to_ascii_lowercase();
        let value = self.header_match(of)?;
        match name.as_str() {
            ":method" if value.text().is_some() => Some(single("method", value)),
            ":authority" if value.text().is_some() => Some(single("host", value)),
            ":path" | ":method" | ":authority" | ":scheme" => {
                self.unsupported(of, "name", "write `url_path`, or an exact method or host");
                None
            }
            _ => Some(single("headers", single(&name, value))),
        }
    }

    fn path_condition(&mut self, matcher: &ProtoMessage) -> Option<Node> {
        let span = matcher.span;
        if let Some(prefix) = matcher.text("prefix")
            && !matcher.is("ignore_case")
        {
            return Some(single("starts_with", quoted(prefix, span)));
        }
        let node = self.string_match(matcher)?;
        if let Some(exact) = node.text() {
            let escaped = exact.contains('*');
            return Some(if escaped {
                single("regex", quoted(&regex::escape(exact), span))
            } else {
                node
            });
        }
        let part = |key: &str| node.get(key).and_then(|entry| entry.node.text().map(str::to_owned));
        let regex = part("regex")
            .or_else(|| part("suffix").map(|text| format!(".*{}", regex::escape(&text))))
            .or_else(|| part("contains").map(|text| format!(".*{}.*", regex::escape(&text))))?;
        Some(single("regex", quoted(&regex, span)))
    }
}
